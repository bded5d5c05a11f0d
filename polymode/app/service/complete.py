"""Complete test rows, or rows of other data of the same form, from the part of them that is shown to a run; fill the
empty cells of a table, or draw rows some of whose cells are given."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polymode.app.service import data as sources
from polymode.app.service import runs
from polymode.app.service.conditions import condition_of_rows
from polymode.app.service.sample import provenance_of
from polymode.app.service.schemas import CompleteRequest
from polymode.core.errors import ConditionError, DataError, PolymodeError, nearest

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from polymode.core.model import GenerativeModel
    from polymode.core.spec import Spec
    from polymode.data.dataset import DataSet

#: draws that quantiles are made of
DRAWS = 1000
CELLS = "cells"


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
    if request.given or request.quantiles or _of_cells(request, model.spec):
        return _fill(request, run, model)
    part = request.known or "first"
    data = sources.load(*sources.source_for(run, request.data, request.reading))
    seed = secrets.randbelow(2**31) if request.seed is None else request.seed
    g = rng.generator(seed)
    x, condition = split_for(model, data.test).take(request.n or 8, g)
    known = known_part(model.spec, part, share=request.share, generator=g)
    filled = completions(model, x, known, each=request.each or 6, condition=condition, generator=g, **request.options)
    name = sample_name(model.spec)
    out = Path(request.out) if request.out else run.folder / runs.SAMPLES / f"completions{Path(name).suffix}"
    told = "none" if condition is None else "those of the rows"
    options = request.options | {"known": part, "share": request.share}
    provenance = provenance_of(run, filled.shape[0] * filled.shape[1], seed, told, run.licence, options)
    if model.spec.kind == "image" and out.suffix.lower() == ".png":
        path = _sheet(model.spec, x, known, filled, out, provenance)
    else:
        path = write_samples(model.spec, filled.flatten(0, 1), out, provenance=provenance)
    return {
        "run": str(run.folder), "model": run.model, "out": str(path), "n": len(x), "each": filled.shape[1],
        "seed": seed, "known": f"{part}, {float(known.double().mean()):.0%} of a datum", "what": str(model.spec),
    }  # fmt: skip


def picture_of(folder: Path, row: int, *, least: int = 0) -> np.ndarray:
    """A test picture of a run's data, (H, W, 3) uint8, enlarged by a whole factor to at least `least` pixels a side.

    Raises:
        DataError: the run learned no pictures, or has no such row.
    """
    from polymode.data.write import to_pixels

    run = runs.read_run(folder)
    data = sources.load(*sources.source_of(run))
    pixels = to_pixels(data.spec, _test_picture(data, row))[0]
    shown = pixels.expand(3, -1, -1).permute(1, 2, 0).numpy()
    factor = max(1, -(-least // min(shown.shape[:2])))
    return shown.repeat(factor, 0).repeat(factor, 1)


def is_same_picture(picture: np.ndarray, back: np.ndarray) -> bool:
    """Whether a picture (H, W, 3) has come back, (H, W, 3 or 4), from a canvas, which may round its colours."""
    colours = back[..., :3]
    return picture.shape == colours.shape and int(abs(picture.astype(int) - colours.astype(int)).max()) <= 8


def complete_drawn(
    folder: Path,
    row: int,
    painted: np.ndarray,
    out: Path,
    *,
    picture: np.ndarray | None = None,
    given: Mapping[str, str] | None = None,
    each: int = 6,
    seed: int = 0,
    options: dict[str, Any] | None = None,
    load: Callable[[Path], GenerativeModel] | None = None,
) -> dict[str, Any]:
    """Draws of the part of a picture that was painted over, as a sheet: the hole, the draws, the picture.

    Args:
        row: the test picture, where no other is given.
        painted: (h, w) bool of any size of the picture's shape, True where it is to be drawn anew; a pixel is unknown
            where more than half of it was painted.
        picture: (H, W, 3) or, with transparency, (H, W, 4) uint8; cropped at its centre and resized to what the model
            draws, and what was painted with it.
        given: parts of the condition in words, see `service.conditions`; the others are those of the row.
        load: gives the model of a run's folder; by default it is read from there.

    Raises:
        PolymodeError: nothing or everything was painted, or a model that completes nothing, or that needs a condition
            which no one gives.
    """
    from polymode.app.service.building import load_model
    from polymode.core import rng
    from polymode.evaluate.likelihood import split_for
    from polymode.tasks.completion import completions

    run = runs.read_run(folder)
    model = load_model(folder, kept=load)
    condition, what = None, {"row": row}
    if picture is None:
        data = sources.load(*sources.source_of(run))
        x = _test_picture(data, row)
        _, condition = split_for(model, data.test).batch(slice(row, row + 1), rng.generator(seed))
    else:
        x = _given_picture(picture, model.spec)
        what = {"picture": "{1}x{0}, fitted to {3}x{2}".format(*picture.shape[:2], *x.shape[-2:])}
    condition = condition_of_rows(model, condition, given or {}, 1)
    known = ~_fitted_mask(painted, model.spec).expand(model.spec.shape)
    if bool(known.all()) or not bool(known.any()):
        part = "nothing" if bool(known.all()) else "everything"
        raise PolymodeError(f"{part} was painted over; paint over a part of the picture")
    filled = completions(
        model, x, known, each=each, condition=condition, generator=rng.generator(seed), **(options or {})
    )
    said = (given or {}) | {"known": "drawn by hand"} | what | (options or {})
    provenance = provenance_of(run, each, seed, "that of the row" if picture is None else "given", run.licence, said)
    _sheet(model.spec, x, known, filled, out, provenance)
    changed = bool((filled[:, :, known] != x.unsqueeze(1)[:, :, known]).any())
    return {"draws": each, "seed": seed, "unknown": f"{1 - float(known.double().mean()):.0%} of the picture",
            "what is known": "changed" if changed else "unchanged"} | what  # fmt: skip


def _given_picture(picture: np.ndarray, spec: Spec) -> Tensor:
    """A picture of any size as a datum (1, C, H, W)."""
    from polymode.data.assemble import need
    from polymode.data.readers.images import as_datum

    if picture.ndim != 3 or picture.shape[2] not in (3, 4) or str(picture.dtype) != "uint8":
        raise DataError(f"the picture is {picture.dtype} of shape {picture.shape}, expected (H, W, 3) uint8")
    pil = need("PIL.Image", "pillow", "demo", "reading pictures")
    return as_datum(pil.fromarray(picture), spec).unsqueeze(0)


def _fitted_mask(painted: np.ndarray, spec: Spec) -> Tensor:
    """(H, W) bool: pixels that were painted over by more than a half, cropped as pictures are."""
    import numpy as np
    import torch

    from polymode.data.assemble import need

    pil = need("PIL.Image", "pillow", "demo", "reading pictures")
    ops = need("PIL.ImageOps", "pillow", "demo", "reading pictures")
    height, width = spec.shape[-2:]
    mask = pil.fromarray(painted.astype("float32"))
    return torch.from_numpy(np.array(ops.fit(mask, (width, height), method=pil.Resampling.BOX)) > 0.5)


def _test_picture(data: DataSet, row: int) -> Tensor:
    """One test picture (1, C, H, W)."""
    from polymode.core import rng

    if data.spec.kind != "image":
        raise DataError(f"{data.name} is {data.spec}, and only pictures can be painted on")
    if not 0 <= row < len(data.test):
        raise DataError(f"{data.name} has test pictures 0 to {len(data.test) - 1}, and {row} was asked for")
    return data.test.batch(slice(row, row + 1), rng.generator(0))[0]


def _of_cells(request: CompleteRequest, spec: Spec) -> bool:
    """Whether the empty cells of a table are to be filled: where that is said, or its file named and no part."""
    if request.known == CELLS:
        return True
    return (
        spec.kind == "table" and request.known is None and request.data is not None and Path(request.data).suffix != ""
    )


def _fill(request: CompleteRequest, run: runs.RunConfig, model: GenerativeModel) -> dict[str, Any]:
    """A table with its gaps filled, or quantiles of what is missing."""
    from polymode.app.service.building import sample_name
    from polymode.core.spec import Columns
    from polymode.data.write import write_samples
    from polymode.tasks.tabular import impute

    if not isinstance(model.spec.support, Columns):
        raise DataError(f"cells are given or missing of tables, and the run learned {model.spec}; give --known instead")
    if model.condition_spec is not None:
        kinds = " and ".join(model.condition_spec.kinds)
        raise ConditionError(f"the run is conditioned on {kinds}; cells are filled by a run of --condition none")
    if request.known not in (None, CELLS) or request.options:
        raise PolymodeError("--known and --set are of parts of a datum, and cells were asked for; leave them out")
    seed = secrets.randbelow(2**31) if request.seed is None else request.seed
    name = "quantiles.csv" if request.quantiles else f"completions{Path(sample_name(model.spec)).suffix}"
    out = Path(request.out) if request.out else run.folder / runs.SAMPLES / name
    x, known = _cells(request, model.spec)
    told = {"known": "cells", "given": dict(request.given)}
    answer = {"run": str(run.folder), "model": run.model, "n": len(x), "seed": seed, "what": str(model.spec)}
    share = f"cells, {float(known.double().mean()):.0%} of a row"
    if request.quantiles:
        rows, how = _quantiles(model, x, known, request.quantiles, seed)
        _write_csv(rows, out)
        return answer | {"out": str(out), "each": DRAWS, "known": share, "how": how, "quantiles": rows}
    each = request.each or (6 if request.given else 1)
    filled, found = impute(model, x, known, times=each, seed=seed)
    provenance = provenance_of(run, len(x) * each, seed, "none", run.licence, told)
    path = write_samples(model.spec, filled.flatten(0, 1), out, provenance=provenance)
    return answer | {"out": str(path), "each": each, "known": share, "how": found.protocol}


def _cells(request: CompleteRequest, spec: Spec) -> tuple[Tensor, Tensor]:
    """(rows, which of their cells are known): of a file, or one by the cells that are given."""
    from polymode.data.rows import cells_of
    from polymode.tasks.tabular import blank_row

    if request.given and request.data is not None:
        raise PolymodeError("--given describes one row and --data names others; give one of the two")
    if request.given:
        x = blank_row(spec).unsqueeze(0)
        return x, _given(request.given, spec, x)
    if request.data is None:
        raise DataError("which cells are known was not said; give --given COLUMN=VALUE, or --data FILE with gaps in it")
    sources.check_source(request.data)
    x, known = cells_of(Path(request.data).expanduser(), spec)
    return x[: request.n], known[: request.n]


def _given(given: dict[str, str], spec: Spec, x: Tensor) -> Tensor:
    """What is known of x (1, D), which gets the given values."""
    import torch

    from polymode.core.spec import Categorical, Columns

    assert isinstance(spec.support, Columns)
    names, known = [c.name for c in spec.support.columns], torch.zeros_like(x, dtype=torch.bool)
    for name, value in given.items():
        if name not in names:
            hint = nearest(name, names) or f"; there are {', '.join(names[:20])}"
            raise PolymodeError(f"--given {name}={value}: there is no column {name!r}{hint}")
        j = names.index(name)
        column = spec.support.columns[j]
        if isinstance(column, Categorical):
            if value not in column.categories:
                hint = nearest(value, column.categories) or f"; there are {', '.join(column.categories[:20])}"
                raise PolymodeError(f"--given {name}={value}: {name!r} is a category{hint}")
            x[0, j] = column.categories.index(value)
        else:
            try:
                x[0, j] = float(value)
            except ValueError:
                raise PolymodeError(f"--given {name}={value}: {name!r} holds numbers, expected one") from None
        known[0, j] = True
    spec.check(x, name="what is given")
    return known


def _quantiles(
    model: GenerativeModel, x: Tensor, known: Tensor, at: list[float], seed: int
) -> tuple[list[dict[str, Any]], str]:
    """A record a missing number: its row, its column, its quantiles, and how many draws they are worth."""
    from polymode.core.spec import Columns, Numeric
    from polymode.tasks.tabular import conditional

    assert isinstance(model.spec.support, Columns)
    numeric = [j for j, c in enumerate(model.spec.support.columns) if isinstance(c, Numeric)]
    if bool(known[:, numeric].all()):
        raise DataError("no number is missing, and categories have no quantiles; leave --quantiles out")
    records = []
    some = (~known).any(1).nonzero()[:, 0]
    found = conditional(model, x[some], known[some], draws=DRAWS, seed=seed)
    effective = found.effective.tolist()
    for j in numeric:
        values = found.quantiles(j, at)[..., 0].tolist()
        for i, row in enumerate(some.tolist()):
            if not known[row, j]:
                shares = {f"q{q:g}": v for q, v in zip(at, values[i], strict=True)}
                name = model.spec.support.columns[j].name
                records.append({"row": row + 1, "column": name, **shares, "effective_draws": round(effective[i], 1)})
    return sorted(records, key=lambda r: r["row"]), found.protocol


def _write_csv(records: list[dict[str, Any]], path: Path) -> None:
    """Records of equal fields as a .csv."""
    import csv

    if path.suffix.lower() != ".csv":
        raise DataError(f"quantiles are written as .csv, and --out names {path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}")
    with beside.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(records[0]))
        writer.writeheader()
        writer.writerows(records)
    beside.replace(path)


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
