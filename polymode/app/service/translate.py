"""Pictures of files, or of test rows, turned into those of another domain by a run."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polymode.app.service import data as sources
from polymode.app.service import runs
from polymode.app.service.schemas import TranslateRequest
from polymode.core.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from polymode.core.model import GenerativeModel
    from polymode.core.spec import Spec

#: where the translations of a folder go
FOLDER, SHEET = "translated", "translated.png"
#: pairs of a picture and what it becomes, in a row of a sheet
ACROSS = 4


def translate(request: TranslateRequest) -> dict[str, Any]:
    """What pictures become: one .png a picture, of its name, in a folder; or a sheet of before and after in one .png.

    Raises:
        PolymodeError: no run, a model that translates nothing or not there, no pictures, two of one name, a file that
            can't hold the result.
    """
    run = runs.read_run(request.run)

    from polymode.app.service.building import load_model
    from polymode.app.service.sample import provenance_of
    from polymode.core.capabilities import Translates, require
    from polymode.data.write import write_samples
    from polymode.tasks.translation import translate_pictures

    model = load_model(run.folder, request.device)
    require(model, Translates, "translation")
    assert isinstance(model, Translates)
    to = next(iter(model.routes)) if request.to is None else request.to
    if to not in model.routes:
        raise DataError(f"{run.folder} has no way to {to!r}, expected one of {', '.join(model.routes)}")
    before, after = model.routes[to]
    seed = secrets.randbelow(2**31) if request.seed is None else request.seed
    if request.sources:
        x, names = pictures(request.sources, before)
    else:
        x, names = _test_rows(model, run, to, request.n, seed), []
    y = translate_pictures(model, x, to, seed=seed, **request.options)
    out = Path(request.out).expanduser() if request.out else run.folder / runs.SAMPLES / (FOLDER if names else SHEET)
    provenance = provenance_of(run, len(y), seed, f"pictures given, to {to}", run.licence, request.options)
    if out.suffix.lower() == ".png" and not (len(names) == 1 and request.out):
        path = before_and_after(out, before, x, after, y, provenance)
    else:
        path = write_samples(after, y, out, provenance=provenance, names=names or None)
    return {
        "run": str(run.folder), "model": run.model, "out": str(path), "n": len(y), "to": to, "seed": seed,
        "from": names[:20] or "test rows", "what": str(after),
    }  # fmt: skip


def pictures(paths: Sequence[str], spec: Spec) -> tuple[Tensor, list[str]]:
    """The pictures of files and folders as data of a spec, and their names without a suffix."""
    import torch

    from polymode.data.readers.images import SUFFIXES, fitted

    found: dict[str, Path] = {}
    for given in paths:
        path = Path(given).expanduser()
        if not path.exists():
            raise DataError(f"there is no file or folder {path}; check the path")
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
        if not inside:
            raise DataError(f"{path} holds no pictures ({', '.join(SUFFIXES)}); give a folder that does")
        for file in inside:
            name = str((file.relative_to(path) if path.is_dir() else Path(file.name)).with_suffix(""))
            if name in found:
                raise DataError(f"{found[name]} and {file} would both be written as {name}.png; translate them apart")
            found[name] = file
    return torch.stack([fitted(file, spec) for file in found.values()]), list(found)


def _test_rows(model: GenerativeModel, run: runs.RunConfig, to: str, n: int, seed: int) -> Tensor:
    """Test rows of the domain that a way begins in: data, or the pictures that they are given."""
    from polymode.core import rng

    data = sources.load(*sources.source_of(run))
    x, condition = data.test.take(n, rng.generator(seed))
    if to != "b":
        return x
    if condition is None or condition.image is None:
        raise DataError(f"{data.name} has no source pictures; give files or a folder")
    return condition.image


def before_and_after(
    path: Path, before: Spec, x: Tensor, after: Spec, y: Tensor, provenance: dict[str, Any] | None = None
) -> Path:
    """A sheet of pictures, each with what it becomes at its right."""
    import torch
    from torch.nn import functional as F

    from polymode.data.write import to_pixels, write_sheet

    sides = [to_pixels(before, x), to_pixels(after, y)]
    channels, height, width = (max(side.shape[i] for side in sides) for i in (1, 2, 3))
    alike = [
        F.interpolate(side.expand(-1, channels, -1, -1).float(), size=(height, width), mode="nearest") for side in sides
    ]
    rows = torch.stack(alike, 1).to(torch.uint8)  # (N, 2, C, H, W)
    return write_sheet(rows.flatten(0, 1), path, across=2 * min(ACROSS, len(x)), provenance=provenance)
