"""Complete test rows, or rows of other data of the same form, from the part of them that is shown to a run."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polymode.app.service import data as sources
from polymode.app.service import runs
from polymode.app.service.sample import provenance_of
from polymode.app.service.schemas import CompleteRequest
from polymode.core.errors import PolymodeError

if TYPE_CHECKING:
    from torch import Tensor

    from polymode.core.spec import Spec


def complete(request: CompleteRequest) -> dict[str, Any]:
    """Draws of what is missing, in a file: for pictures a sheet with a row a datum (what is known in front, the datum
    itself behind), for everything else the completed data.

    Raises:
        PolymodeError: no run, a model that completes nothing or not from this part, a file that can't hold the result.
    """
    run = runs.read_run(request.run)

    from polymode.app.service.building import load_model, sample_name
    from polymode.core import rng
    from polymode.data.write import write_samples
    from polymode.evaluate.likelihood import split_for
    from polymode.tasks.completion import completions, known_part

    model = load_model(run.folder, request.device)
    data = sources.load(*sources.source_for(run, request.data, request.reading))
    seed = secrets.randbelow(2**31) if request.seed is None else request.seed
    g = rng.generator(seed)
    x, condition = split_for(model, data.test).take(request.n, g)
    known = known_part(model.spec, request.known, share=request.share, generator=g)
    filled = completions(model, x, known, each=request.each, condition=condition, generator=g, **request.options)
    name = sample_name(model.spec)
    out = Path(request.out) if request.out else run.folder / runs.SAMPLES / f"completions{Path(name).suffix}"
    told = "none" if condition is None else "those of the rows"
    options = request.options | {"known": request.known, "share": request.share}
    provenance = provenance_of(run, filled.shape[0] * filled.shape[1], seed, told, run.licence, options)
    if model.spec.kind == "image" and out.suffix.lower() == ".png":
        path = _sheet(model.spec, x, known, filled, out, provenance)
    else:
        path = write_samples(model.spec, filled.flatten(0, 1), out, provenance=provenance)
    return {
        "run": str(run.folder), "model": run.model, "out": str(path), "n": len(x), "each": request.each, "seed": seed,
        "known": f"{request.known}, {float(known.double().mean()):.0%} of a datum", "what": str(model.spec),
    }  # fmt: skip


def _sheet(spec: Spec, x: Tensor, known: Tensor, filled: Tensor, out: Path, provenance: dict[str, Any]) -> Path:
    """What is known, with grey for what is not, then the draws, then the datum itself, a row a datum."""
    import torch

    from polymode.data.write import to_pixels, write_sheet

    if spec.shape[0] not in (1, 3):
        raise PolymodeError(f"{spec} has {spec.shape[0]} channels, a sheet can show 1 or 3; write .npz")
    whole = to_pixels(spec, x)
    shown = torch.where(known, whole, torch.full_like(whole, 128))
    draws = to_pixels(spec, filled.flatten(0, 1)).view(filled.shape)
    rows = torch.cat([shown.unsqueeze(1), draws, whole.unsqueeze(1)], dim=1)  # (N, each + 2, C, H, W)
    return write_sheet(rows.flatten(0, 1), out, across=rows.shape[1], provenance=provenance)
