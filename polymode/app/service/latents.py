"""What a run's codes are good for: rows seen through them, moved through them, or written out as them."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polymode.app.service import data as sources
from polymode.app.service import runs
from polymode.app.service.conditions import label_index
from polymode.app.service.sample import provenance_of
from polymode.app.service.schemas import LatentsRequest
from polymode.core.errors import ConditionError, DataError, PolymodeError

if TYPE_CHECKING:
    from torch import Tensor

    from polymode.core.condition import Condition
    from polymode.core.model import GenerativeModel
    from polymode.data.dataset import DataSet, Split
    from polymode.tasks.directions import Direction

#: rows that are shown where nobody says how many
SHOWN = 8
#: training rows that directions, means and deviations are learned from
LEARNED = 2000


def latents(request: LatentsRequest, *, load: Callable[[Path], GenerativeModel] | None = None) -> dict[str, Any]:
    """One verb on the codes of a run, in a file: for pictures a sheet with a row a datum (the datum in front), for
    everything else the data in order, all of one row before those of the next.

    Args:
        request: what is asked.
        load: gives the model of a run's folder; by default it is read from there.

    Raises:
        PolymodeError: no run, a model without codes, a dimension, label or direction that there is not, a file that
            can't hold the result.
    """
    run = runs.read_run(request.run)
    source, reading = sources.source_for(run, request.data, request.reading)

    from polymode.app.service.building import load_model
    from polymode.core import rng
    from polymode.core.capabilities import HasLatents, require
    from polymode.evaluate.likelihood import split_for

    model = load_model(run.folder, request.device, load)
    require(model, HasLatents, "code")
    data = sources.load(source, reading)
    if why := model.spec.misfit(data.spec):
        raise DataError(f"the model was made for {model.spec} and {data.name} is {data.spec}: {why}")
    g = rng.generator(request.seed)
    if request.verb == "embed":
        return _embed(request, run, model, getattr(data, request.split), g)
    wanted = (SHOWN if request.n is None else request.n) * (2 if request.verb == "interpolate" else 1)
    x, condition = split_for(model, data.test).take(wanted, g)
    found, told = _done(request, run, model, data, x, condition, g)  # (N, S, *shape)
    path = _write(request, run, model, x[: len(found)], found, told)
    return {
        "run": str(run.folder), "model": run.model, "verb": request.verb, "out": str(path), "n": len(found),
        "each": found.shape[1], "what": str(model.spec), "seed": request.seed, **told,
    }  # fmt: skip


def _done(
    request: LatentsRequest, run: runs.RunConfig, model: GenerativeModel, data: DataSet, x: Tensor,
    condition: Condition | None, g: Any,
) -> tuple[Tensor, dict[str, Any]]:  # fmt: skip
    """(what became of each datum (N, S, *shape), what there is to say about it)."""
    from polymode.evaluate.likelihood import split_for
    from polymode.tasks import latents as verbs

    match request.verb:
        case "reconstruct":
            return verbs.reconstruct(model, x, condition).unsqueeze(1), {}
        case "denoise":
            from polymode.tasks.denoising import denoise

            return denoise(model, x, condition).unsqueeze(1), {}
        case "interpolate":
            half = len(x) // 2
            if half == 0:
                raise DataError(f"{data.name} has {len(x)} test rows, and a line needs two; give more rows")
            ends = (None, None) if condition is None else (condition[:half], condition[half : 2 * half])
            found = verbs.interpolate(
                model, x[:half], x[half : 2 * half], steps=request.steps, how=request.how, condition=ends[0],
                condition_b=ends[1],
            )  # fmt: skip
            return found, {"how": request.how}
        case "traverse":
            codes = verbs.embed(model, *split_for(model, data.train).take(LEARNED, g))
            dims = request.dims or verbs.most_active(codes, request.count)
            found = verbs.traverse(
                model, x, dims, span=request.span, steps=request.steps, among=codes, condition=condition
            )
            return found.flatten(1, 2), {"dims": dims, "span": request.span}
        case _:
            edit = edit_of(request, run, model, data, x, condition, g)
            return edit.moved(request.strengths), {
                "direction": edit.name, "strengths": request.strengths if edit.is_graded else []
            }  # fmt: skip


@dataclass(frozen=True)
class Edit:
    """Data to be moved along a direction.

    Args:
        moved: gives them (N, S, *shape), moved by S strengths.
        name: of the direction.
        is_graded: whether strengths matter; not where a model that is conditioned on an attribute decodes them under
            it.
    """

    moved: Callable[[Sequence[float]], Tensor]
    name: str
    is_graded: bool = True


def edit_of(
    request: LatentsRequest, run: runs.RunConfig, model: GenerativeModel, data: DataSet, x: Tensor,
    condition: Condition | None, g: Any,
) -> Edit:  # fmt: skip
    """How data x (N, *shape) are edited: along a direction, which is learned here, or by another label."""
    from polymode.core.condition import label as by_label
    from polymode.tasks import latents as verbs

    if (request.attribute is None) == (request.direction is None):
        raise PolymodeError("give --attribute LABEL, or --direction principal:1 or weight:1, and not both")
    if request.attribute is not None and condition is not None and model.condition_spec is not None:
        if model.condition_spec.kinds != ("label",):
            raise ConditionError(f"{run.folder} is conditioned on {' and '.join(condition.kinds)}, which has no label")
        new = by_label(label_index(model.condition_spec, request.attribute), len(x))
        name = f"decoded under the label {request.attribute}"
        return Edit(lambda _: verbs.recondition(model, x, condition, new).unsqueeze(1), name, is_graded=False)
    rows, given = data.train.take(LEARNED, g)
    codes = verbs.embed(model, rows, None if model.condition_spec is None else given)
    direction = _direction(request, model, data, codes, given)
    return Edit(lambda strengths: verbs.edit(model, x, direction, strengths, condition), direction.name)


def _direction(
    request: LatentsRequest, model: GenerativeModel, data: DataSet, codes: Tensor, given: Condition | None
) -> Direction:
    from polymode.tasks.directions import attribute_direction, principal_directions, weight_directions

    if request.attribute is not None:
        if data.condition_spec is None or data.condition_spec.label is None or given is None or given.label is None:
            raise DataError(f"{data.name} has no labels, so no attribute can be learned; take --direction principal:1")
        index = label_index(data.condition_spec, request.attribute)
        return attribute_direction(codes, given.label == index, method=request.method, name=request.attribute)
    assert request.direction is not None
    kind, _, place = request.direction.partition(":")
    if kind not in ("principal", "weight") or not (place or "1").isdecimal() or int(place or "1") < 1:
        raise PolymodeError(f"--direction {request.direction}: expected principal:K or weight:K, K from 1")
    rank = int(place or "1")
    found = principal_directions(codes, rank) if kind == "principal" else weight_directions(model, rank, codes)
    return found[-1]


def _write(
    request: LatentsRequest, run: runs.RunConfig, model: GenerativeModel, x: Tensor, found: Tensor, told: dict[str, Any]
) -> Path:
    """The result as a file."""
    import torch

    from polymode.app.service.building import sample_name
    from polymode.data.write import to_pixels, write_samples, write_sheet

    spec = model.spec
    named = f"{request.verb}{Path(sample_name(spec)).suffix}"
    out = Path(request.out).expanduser() if request.out else run.folder / runs.SAMPLES / named
    condition = "none" if model.condition_spec is None else "those of the rows"
    provenance = provenance_of(run, found.shape[0] * found.shape[1], request.seed, condition, run.licence, told)
    if spec.kind != "image" or out.suffix.lower() != ".png":
        return write_samples(spec, found.flatten(0, 1), out, provenance=provenance)
    if request.verb == "traverse":  # a row a dimension, the datum in front of each
        found = found.unflatten(1, (-1, request.steps)).flatten(0, 1)
        x = x.repeat_interleave(len(found) // len(x), dim=0)
    rows = torch.cat([x.unsqueeze(1).to(found.dtype), found], dim=1)  # (N, S + 1, C, H, W)
    return write_sheet(to_pixels(spec, rows.flatten(0, 1)), out, across=rows.shape[1], provenance=provenance)


def _embed(
    request: LatentsRequest, run: runs.RunConfig, model: GenerativeModel, split: Split, g: Any
) -> dict[str, Any]:
    """Codes of a split's rows in its order, with their labels where it has some: .npz, or .csv."""
    import numpy as np
    import torch

    from polymode.core.checkpoint import write_atomically
    from polymode.tasks.latents import embed

    out = Path(request.out).expanduser() if request.out else run.folder / runs.SAMPLES / "codes.npz"
    if out.suffix.lower() not in (".npz", ".csv"):
        raise PolymodeError(f"--out {out}: codes are an array or a table, expected a name that ends in .npz or .csv")
    x, condition = split.batch(slice(0, request.n), g)
    z = embed(model, x, None if model.condition_spec is None else condition).numpy()
    labels = None if condition is None or condition.label is None else condition.label.to(torch.int64).numpy()
    out.parent.mkdir(parents=True, exist_ok=True)

    def write(temporary: Path) -> None:
        if out.suffix.lower() == ".npz":
            with temporary.open("wb") as stream:
                np.savez_compressed(stream, codes=z, **({} if labels is None else {"labels": labels}))
            return
        with temporary.open("w", encoding="utf-8", newline="") as table:
            writer = csv.writer(table, lineterminator="\n")
            writer.writerow([*(f"z{d}" for d in range(z.shape[1])), *([] if labels is None else ["label"])])
            for i, row in enumerate(z.tolist()):
                writer.writerow([*(f"{v:.8g}" for v in row), *([] if labels is None else [int(labels[i])])])

    write_atomically(out, write)
    return {
        "run": str(run.folder), "model": run.model, "verb": "embed", "out": str(out), "n": len(z),
        "what": f"codes of {z.shape[1]} dimensions, the {request.split} split", "seed": request.seed,
    }  # fmt: skip
