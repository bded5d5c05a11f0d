"""Edits for a page whose slider moves: what a direction needs is learned once, and each strength costs a decoding."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polymode.app.service import data as sources
from polymode.app.service import runs
from polymode.app.service.schemas import LatentsRequest
from polymode.core.errors import PolymodeError

if TYPE_CHECKING:
    from torch import Tensor

    from polymode.app.service.latents import Edit
    from polymode.core.model import GenerativeModel

#: edits in memory, and principal directions that are offered
KEPT, PRINCIPAL = 4, 5


def directions(folder: Path) -> list[str]:
    """What data of a run can be moved along: the names of its labels, then principal:1, principal:2, ..."""
    data = sources.load(*sources.source_of(runs.read_run(folder)))
    spec = data.condition_spec
    labels = [] if spec is None or spec.label is None else list(spec.label_names or map(str, range(spec.label)))
    return [*labels, *(f"principal:{k}" for k in range(1, min(PRINCIPAL, data.spec.num_dims) + 1))]


def named(direction: str) -> dict[str, str]:
    """A direction of the list as the field of `LatentsRequest` that asks for it."""
    kind = direction.partition(":")[0]
    return {"direction" if kind in ("principal", "weight") else "attribute": direction}


@dataclass(frozen=True)
class _Begun:
    run: runs.RunConfig
    model: GenerativeModel
    x: Tensor
    edit: Edit


class Edits:
    """Test rows of runs, moved along directions; those of `polymode latents edit` at the same seed.

    Args:
        load: gives the model of a run's folder.
    """

    def __init__(self, load: Callable[[Path], GenerativeModel]) -> None:
        self.load, self._lock = load, threading.Lock()
        self._begun: OrderedDict[tuple[Any, ...], _Begun] = OrderedDict()

    def __call__(self, request: LatentsRequest) -> dict[str, Any]:
        """A sheet of two rows, data above and what they become below, for each strength; anything but pictures as what
        it becomes.

        Raises:
            PolymodeError: no run, a model without codes, a label or direction that there is not.
        """
        import torch

        from polymode.app.service.sample import provenance_of
        from polymode.data.write import to_pixels, write_samples, write_sheet

        if request.out is None:
            raise PolymodeError("an edit needs a file to be written to; give out")
        begun = self._started(request)
        found = begun.edit.moved(request.strengths)  # (N, S, *shape)
        told = {"direction": begun.edit.name, "strengths": request.strengths if begun.edit.is_graded else []}
        condition = "none" if begun.model.condition_spec is None else "those of the rows"
        n = found.shape[0] * found.shape[1]
        provenance = provenance_of(begun.run, n, request.seed, condition, begun.run.licence, told)
        spec, out = begun.model.spec, Path(request.out)
        if spec.kind == "image" and out.suffix.lower() == ".png":
            rows = torch.cat([begun.x.unsqueeze(0).to(found.dtype), found.transpose(0, 1)])  # (1 + S, N, C, H, W)
            write_sheet(to_pixels(spec, rows.flatten(0, 1)), out, across=len(begun.x), provenance=provenance)
        else:
            write_samples(spec, found.flatten(0, 1), out, provenance=provenance)
        return {"out": str(out), "n": len(found), "seed": request.seed, **told}

    def _started(self, request: LatentsRequest) -> _Begun:
        from polymode.app.service.latents import SHOWN, edit_of
        from polymode.core import rng
        from polymode.core.capabilities import HasLatents, require
        from polymode.evaluate.likelihood import split_for

        run = runs.read_run(request.run)
        model = self.load(run.folder)  # the same object for as long as its weights are
        asked = request.model_dump(exclude={"out", "strengths", "verb"})
        key = (id(model), repr(sorted(asked.items())))
        with self._lock:
            if (begun := self._begun.get(key)) is not None and begun.model is model:
                self._begun.move_to_end(key)
                return begun
        require(model, HasLatents, "code")
        data = sources.load(*sources.source_for(run, request.data, request.reading))
        g = rng.generator(request.seed)
        x, condition = split_for(model, data.test).take(SHOWN if request.n is None else request.n, g)
        begun = _Begun(run, model, x, edit_of(request, run, model, data, x, condition, g))
        with self._lock:
            self._begun[key] = begun
            while len(self._begun) > KEPT:
                self._begun.popitem(last=False)
        return begun
