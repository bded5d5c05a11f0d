"""Pictures of files, or of test rows that are damaged first, mended by a run: enlarged, cleaned of noise, deblurred,
coloured, completed; or varied."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polymode.app.service import data as sources
from polymode.app.service import runs
from polymode.app.service.conditions import condition_of_rows
from polymode.app.service.schemas import RestoreRequest
from polymode.app.service.translate import before_and_after, pictures
from polymode.core.errors import DataError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from polymode.core.condition import Condition
    from polymode.core.model import GenerativeModel
    from polymode.core.spec import Spec

#: where restored pictures of a folder go
FOLDER, SHEET = "restored", "restored.png"
#: decibels that stand for equal pictures, in a mean
EQUAL = 99.0


def restore(
    request: RestoreRequest, *, load: Callable[[Path], GenerativeModel] | None = None, sheet: Path | None = None
) -> dict[str, Any]:
    """What damaged pictures become: one .png a picture, of its name, in a folder; or a sheet of before and after in one
    .png. Of test rows, how near they are to what they were, with A^+ y beside.

    Args:
        request: what is asked.
        load: gives the model of a run's folder; by default it is read from there.
        sheet: a .png for before and after, beside pictures in a folder.

    Raises:
        PolymodeError: no run, a model that has no such verb, no pictures, a damage that does not fit them, a file that
            can't hold the result.
    """
    run = runs.read_run(request.run)

    from polymode.app.service.building import load_model
    from polymode.app.service.sample import provenance_of
    from polymode.core import rng
    from polymode.data.write import write_samples
    from polymode.evaluate.fidelity import psnr

    model = load_model(run.folder, request.device, load)
    if model.spec.kind != "image" or model.spec.levels is None:
        raise DataError(f"pictures are mended by a run that learned pictures, and {run.folder} learned {model.spec}")
    seed = secrets.randbelow(2**31) if request.seed is None else request.seed
    g = rng.generator(seed)
    operator, before = _damage(request, model.spec, g)
    clean: Tensor | None = None
    names: list[str] = []
    condition: Condition | None = None
    if request.sources:
        y, names = pictures(request.sources, before)
    else:
        clean, condition = _test_rows(run, model, request.n, g)
        y = _damaged(request, clean, operator, before, g)
    if request.given or not _is_told_by_picture(request, model):
        condition = condition_of_rows(model, condition, request.given, len(y))
    x = _mended(request, model, y, operator, condition, g)
    out = Path(request.out).expanduser() if request.out else run.folder / runs.SAMPLES / (FOLDER if names else SHEET)
    told = {"task": request.task} | request.given | request.options
    provenance = provenance_of(run, len(x), seed, "pictures given", run.licence, told)
    if out.suffix.lower() == ".png" and not (len(names) == 1 and request.out):
        path = before_and_after(out, before, y, model.spec, x, provenance)
    else:
        path = write_samples(model.spec, x, out, provenance=provenance, names=names or None)
        if sheet is not None:
            before_and_after(sheet, before, y, model.spec, x, provenance)
    answer = {
        "run": str(run.folder), "model": run.model, "out": str(path), "n": len(x), "task": request.task, "seed": seed,
        "from": names[:20] or "test rows", "what": str(model.spec),
    }  # fmt: skip
    if operator is not None:
        from polymode.tasks.restoration import consistency

        answer["consistency"] = _mean(consistency(x, y, operator, model.spec))
        if clean is not None:
            plain = operator.back(y.double()).round().clamp(0, model.spec.levels - 1)
            answer["psnr"], answer["psnr_plain"] = (_mean(psnr(clean, v, model.spec)) for v in (x, plain))
    return answer


def _damage(request: RestoreRequest, spec: Spec, g: torch.Generator) -> tuple[Any, Spec]:
    """(the operator of a task, what damaged pictures are); None for variants, which nothing was done to."""
    from dataclasses import replace

    from polymode.tasks.completion import known_part
    from polymode.tasks.restoration import damage

    if request.task == "vary":
        return None, spec
    known = known_part(spec, request.known, share=request.share, generator=g) if request.task == "complete" else None
    operator = damage(request.task, spec, factor=request.factor, blur=request.blur, known=known)
    (channels, height, width), factor = spec.shape, request.factor if request.task == "upscale" else 1
    shape = (1 if request.task == "colourise" else channels, height // factor, width // factor)
    return operator, replace(spec, shape=shape)


def _test_rows(
    run: runs.RunConfig, model: GenerativeModel, n: int, g: torch.Generator
) -> tuple[Tensor, Condition | None]:
    from polymode.evaluate.likelihood import split_for

    data = sources.load(*sources.source_of(run))
    return split_for(model, data.test).take(n, g)


def _is_told_by_picture(request: RestoreRequest, model: GenerativeModel) -> bool:
    """Whether a model learned the very task, so that the picture is its whole condition."""
    from polymode.tasks.restoration import learned_source

    return request.task in ("upscale", "colourise") and learned_source(model) is not None


def _damaged(request: RestoreRequest, x: Tensor, operator: Any, before: Spec, g: torch.Generator) -> Tensor:
    """Test rows as a file would hold them, damaged."""
    from polymode.core import rng

    if operator is None:
        return x
    y = operator(x.float())
    if request.task == "denoise":
        y = y + _noise(request, before) * rng.randn(y.shape, g, y)
    return y.round().clamp(0, (before.levels or 2) - 1).to(before.dtype)


def _noise(request: RestoreRequest, spec: Spec) -> float:
    """Its standard deviation in levels; a tenth of the range where nobody says."""
    return ((spec.levels or 2) - 1) / 10 if request.noise is None else request.noise


def _mended(
    request: RestoreRequest, model: GenerativeModel, y: Tensor, operator: Any,
    condition: Condition | None, g: torch.Generator,
) -> Tensor:  # fmt: skip
    from polymode.tasks import restoration as tasks

    told: dict[str, Any] = {"generator": g, **request.options}
    learned = _is_told_by_picture(request, model)
    match request.task:
        case "upscale":
            return tasks.upscale(model, y, request.factor, None if learned else condition, **told)
        case "deblur":
            return tasks.deblur(model, y, request.blur, condition, **told)
        case "colourise":
            return tasks.colourise(model, y, None if learned else condition, **told)
        case "denoise":
            return tasks.denoise(model, y, condition, noise=_noise(request, model.spec), **told)
        case "complete":
            return tasks.completions(model, y, operator.known, condition=condition, **told).flatten(0, 1)
    return tasks.vary(model, y, request.strength, condition, **told)


def _mean(decibels: Tensor) -> float:
    return float(decibels.clamp(max=EQUAL).mean())
