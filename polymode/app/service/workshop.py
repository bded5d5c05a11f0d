"""What a page that is always open needs beside the use cases of a single command: the runs of a folder, models kept in
memory, pictures that bring their recipe back, uploads that are safe to open.

Runs are told by name, never by path: a name that leads out of the folder is refused. A model that was drawn from is
kept until others push it out, so that the next draw costs no loading; its draws are those of `polymode sample` at the
same seed.
"""

from __future__ import annotations

import ast
import inspect
import shutil
import tempfile
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polymode import catalogue
from polymode.app.service import arguments, runs
from polymode.core.errors import DataError, PolymodeError, nearest

if TYPE_CHECKING:
    from torch import Tensor

    from polymode.core.model import GenerativeModel
    from polymode.core.spec import Spec

#: models in memory, and limits of what is uploaded
KEPT, MOST_BYTES, MOST_FILES, MOST_RATIO, MOST_PIXELS = 4, 512 * 2**20, 50_000, 200, 50_000_000
_PACKAGE = Path(__file__).parents[2]


@dataclass(frozen=True)
class Shelf:
    """The runs of a folder.

    Args:
        root: where they are.
    """

    root: Path

    def names(self) -> list[str]:
        """Runs with weights, the latest first."""
        if not self.root.is_dir():
            return []
        found = [p.parent for p in self.root.glob("**/model.safetensors") if (p.parent / runs.CONFIG).is_file()]
        kept = [p for p in found if runs.ATTEMPTS not in p.relative_to(self.root).parts]
        kept.sort(key=lambda p: p.joinpath("model.safetensors").stat().st_mtime, reverse=True)
        return [str(p.relative_to(self.root)) for p in kept]

    def folder(self, name: str) -> Path:
        """The folder of a name, which lies under the root.

        Raises:
            PolymodeError: a name that leads elsewhere, or no such run.
        """
        if not name or not isinstance(name, str):
            raise PolymodeError("no run was chosen; fit a model first, or give --runs DIR")
        path = (self.root / name).resolve()
        if not path.is_relative_to(self.root.resolve()) or Path(name).is_absolute():
            raise PolymodeError(f"{name!r} leads out of the folder of runs; choose one of the list")
        if not runs.is_run(path):
            raise PolymodeError(f"there is no run {name!r}{nearest(name, self.names())}")
        return path

    def new(self, name: str) -> Path:
        """A folder for a new run: letters, digits, dots, dashes, underlines."""
        if not name or not all(c.isalnum() or c in "._-" for c in name) or name.startswith("."):
            raise PolymodeError(f"{name!r} is no name for a run; take letters, digits, dots, dashes and underlines")
        return self.root / name

    def facts(self, name: str) -> list[tuple[str, str]]:
        """What a run is, for people."""
        run = runs.read_run(self.folder(name))
        last = runs.last_entry(run.folder)
        settings = ", ".join(f"{k} = {v}" for k, v in run.arguments.items()) or "the defaults"
        return [
            ("model", run.model), ("settings", settings), ("data", f"{run.name} ({run.fingerprint[:12]})"),
            ("licence of the data", run.licence), ("steps", f"{last.get('step', 0):,}"),
            ("trained for", f"{last.get('seconds', 0.0):.0f} s"), ("state", "finished" if runs.is_finished(run.folder)
                                                                  else "unfinished"),
        ]  # fmt: skip


class Kept:
    """Loaded models, the last used ones."""

    def __init__(self, most: int = KEPT) -> None:
        self.most, self._lock = most, threading.Lock()
        self._models: OrderedDict[tuple[str, int], GenerativeModel] = OrderedDict()

    def __call__(self, folder: Path) -> GenerativeModel:
        """The model of a run; read again where its weights have changed."""
        from polymode.app.service.building import load_model

        weights = folder / "model.safetensors"
        key = (str(folder.resolve()), weights.stat().st_mtime_ns if weights.is_file() else 0)
        with self._lock:
            if key in self._models:
                self._models.move_to_end(key)
                return self._models[key]
        model = load_model(folder)
        with self._lock:
            self._models[key] = model
            while len(self._models) > self.most:
                self._models.popitem(last=False)
        return model


# -- models for people -------------------------------------------------------------------------------------------------
def explained(name: str) -> dict[str, Any]:
    """A model as its file tells it: title, paper, file, the text with the equations, and each option's default and
    meaning."""
    row = catalogue.find(name)
    of = catalogue.load(row)
    parameters = inspect.signature(of.__init__).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    told: dict[str, str] = {}
    for parent in reversed(of.__mro__):  # a class tells more of an option than those it builds on, if not by reference
        told |= {k: v for k, v in _arguments(parent).items() if k not in told or not v.startswith("see ")}
    options = [
        {"option": option, "default": _spelled(defaults.get(option)), "type": kind, "meaning": told.get(option, "")}
        for option, kind in arguments.constructor_options(row.path).items()
    ]
    path = Path(inspect.getfile(of))
    return {
        "name": row.name, "title": row.title, "paper": row.paper, "family": row.family, "options": options,
        "file": str(path.relative_to(_PACKAGE.parent)), "text": inspect.getdoc(inspect.getmodule(of)) or "",
    }  # fmt: skip


def _spelled(value: Any) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _arguments(of: type) -> dict[str, str]:
    """The Args section of a class's own docstring, a sentence an argument; "a, b: text" tells of both."""
    _, found, rest = inspect.cleandoc(of.__dict__.get("__doc__") or "").partition("Args:\n")
    told: dict[str, str] = {}
    names: list[str] = []
    for line in rest.splitlines() if found else ():
        if not line.startswith("    "):
            break
        body = line[4:]
        if not body.startswith(" ") and ":" in body:
            head, _, sentence = body.partition(":")
            names = [part.strip() for part in head.split(",")]
            told |= dict.fromkeys(names, sentence.strip())
        else:
            told |= {n: f"{told[n]} {body.strip()}" for n in names}
    return told


def sampling_options(model: GenerativeModel) -> list[dict[str, str]]:
    """What `sample` of a model takes beside n, condition and seed: option, default, type."""
    parameters = inspect.signature(model._sample).parameters.values()
    return [
        {"option": p.name, "default": repr(p.default), "type": str(p.annotation)}
        for p in parameters
        if p.kind is p.KEYWORD_ONLY and p.name not in ("negative", "allowed")
    ]


# -- uploads -----------------------------------------------------------------------------------------------------------
def opened(path: str | Path, into: Path | None = None) -> Path:
    """An uploaded file as a source of data: an archive as a folder of its files, anything else as it is.

    Raises:
        DataError: an archive with paths that lead out of it, links, too many or too large files, or one that blows up;
            a picture that says it has more pixels than fit in memory.
    """
    path = Path(path)
    if path.suffix.lower() != ".zip":
        if path.stat().st_size > MOST_BYTES:
            raise DataError(f"{path.name} has {path.stat().st_size >> 20} MiB, at most {MOST_BYTES >> 20} are taken")
        check_picture(path)
        return path
    folder = Path(tempfile.mkdtemp(prefix="polymode-", dir=into))
    try:
        with zipfile.ZipFile(path) as archive:
            _check_archive(archive, path)
            for member in archive.infolist():
                check_picture(_extract(archive, member, folder, path.name))
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise DataError(f"{path.name} is no archive that can be read ({error}); pack it again") from None
    except DataError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    inside = [p for p in folder.iterdir() if p.name != "__MACOSX"]
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder


def _check_archive(archive: zipfile.ZipFile, path: Path) -> None:
    members = archive.infolist()
    if len(members) > MOST_FILES:
        raise DataError(f"{path.name} holds {len(members):,} files, at most {MOST_FILES:,} are taken")
    total, packed = sum(m.file_size for m in members), max(1, path.stat().st_size)
    if total > MOST_BYTES or total > MOST_RATIO * packed:
        raise DataError(
            f"{path.name} of {packed:,} bytes would become {total:,}; at most {MOST_BYTES >> 20} MiB and {MOST_RATIO} "
            "times its size are taken"
        )
    for member in members:
        parts = Path(member.filename.replace("\\", "/")).parts
        is_link = (member.external_attr >> 16) & 0o170000 == 0o120000
        if is_link or ".." in parts or member.filename.startswith(("/", "\\")) or ":" in member.filename:
            raise DataError(f"{path.name} holds {member.filename!r}, which leads out of it; pack plain files only")


def _extract(archive: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path, name: str) -> Path:
    """One file, counted as it grows: what an archive says of its sizes may be a lie."""
    target = folder / member.filename.replace("\\", "/")
    if member.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    left = member.file_size
    with archive.open(member) as source, target.open("wb") as out:
        while piece := source.read(1 << 20):
            left -= len(piece)
            if left < 0:
                raise DataError(f"{member.filename!r} in {name} is larger than it says; pack it again")
            out.write(piece)
    return target


def check_picture(path: Path) -> None:
    """Raise unless a picture's own header says that it is of a size that fits in memory; other files pass."""
    from polymode.data.assemble import need
    from polymode.data.loader import PICTURES

    if path.suffix.lower() not in PICTURES or not path.is_file():
        return
    image = need("PIL.Image", "pillow", "demo", "reading pictures")
    try:
        with image.open(path) as picture:
            width, height = picture.size
    except (OSError, ValueError, image.DecompressionBombError) as error:
        raise DataError(f"{path.name} can't be read as a picture ({error})") from None
    if width * height > MOST_PIXELS:
        raise DataError(f"{path.name} is {width}x{height}, at most {MOST_PIXELS:,} pixels are taken")


# -- recipes of pictures -----------------------------------------------------------------------------------------------
def recipe_of(path: str | Path, shelf: Shelf) -> dict[str, Any]:
    """The settings that a file of samples was drawn with: run, n, seed, given and negative conditions, options.

    Raises:
        PolymodeError: a file without a recipe, or of a run that is not here.
    """
    from polymode.data.provenance import read_provenance

    found = read_provenance(path)
    if found is None or "seed" not in found:
        raise PolymodeError(f"{Path(path).name} carries no recipe; drop a file that polymode has written")
    name = next((n for n in shelf.names() if Path(n).name == found["run"]), None)
    if name is None:
        raise PolymodeError(f"{Path(path).name} was drawn from the run {found['run']!r}, which is not in this folder")
    said = str(found.get("condition", ""))  # all that files of labelled samples told before they told what was given
    label = {"label": said.removeprefix("label ")} if said.startswith("label ") else {}
    return {
        "run": name, "n": int(found["n"]), "seed": int(found["seed"]), "given": found.get("given", label),
        "negative": found.get("negative", {}),
        "options": {k: ast.literal_eval(v) for k, v in found.get("sampling options", {}).items()},
    }  # fmt: skip


# -- neighbours --------------------------------------------------------------------------------------------------------
def neighbours(
    folder: Path, work: Path, n: int, seed: int, *, nearest_rows: int = 5, load: Callable[[Path], GenerativeModel]
) -> Path:
    """n samples of a run, each with the training rows that lie nearest, as `metrics.memorisation` measures it, as a
    file.

    Raises:
        PolymodeError: no run, or samples that are not of the kind of what was learned.
    """
    import torch

    from polymode.app.service import data as sources
    from polymode.app.service.conditions import condition_of_samples
    from polymode.app.service.sample import provenance_of
    from polymode.evaluate.metrics.memorisation import plain_features
    from polymode.evaluate.statistics import nearest as nearest_of

    run = runs.read_run(folder)
    model, data = load(folder), sources.load(*sources.source_of(run))
    condition, told = condition_of_samples(model, n, {}, data=data, seed=seed)
    x = model.sample(n, condition, seed=seed)
    learned = data.train.x if data.train.draw is None else data.train.batch(slice(None), _generator(seed))[0]
    space = plain_features(data)
    _, at = nearest_of(space(x).float(), space(learned).float(), min(nearest_rows, len(learned)))
    both = torch.cat([x.unsqueeze(1), learned[at].to(x.dtype)], 1)  # (n, 1 + nearest_rows, *shape)
    about = provenance_of(run, n, seed, told, run.licence, {"nearest training rows": nearest_rows})
    return _written(model.spec, both.flatten(0, 1), work, both.shape[1], about)


def variants(
    folder: Path, work: Path, which: int, strength: float, *, n: int, seed: int, given: dict[str, str],
    options: dict[str, Any], count: int = 8, load: Callable[[Path], GenerativeModel],
) -> Path:  # fmt: skip
    """One of the n samples that `polymode sample` draws with these settings, and variants of it, as a file.

    Raises:
        PolymodeError: no such sample, or a model that varies nothing.
    """
    import torch

    from polymode.app.service import data as sources
    from polymode.app.service.conditions import condition_of_samples, needs_data
    from polymode.app.service.sample import provenance_of
    from polymode.tasks.restoration import vary

    run = runs.read_run(folder)
    model = load(folder)
    if not 0 <= which < n:
        raise PolymodeError(f"there are samples 0 to {n - 1}, and {which} was asked for")
    data = sources.load(*sources.source_of(run)) if needs_data(model.condition_spec, given) else None
    condition, told = condition_of_samples(model, n, given, data=data, seed=seed)
    x = model.sample(n, condition, seed=seed, **options)[which : which + 1]
    own = None if condition is None else condition[slice(which, which + 1)].repeat_interleave(count)
    found = vary(model, x.repeat_interleave(count, 0), strength, own, seed=seed)
    about = provenance_of(run, len(found), seed, told, run.licence, {"variants of sample": which, "strength": strength})
    return _written(model.spec, torch.cat([x, found]), work, 3, about)


def _written(spec: Spec, x: Tensor, work: Path, across: int, about: dict[str, Any]) -> Path:
    """Data in a file of their own: pictures on a sheet of so many across."""
    from polymode.app.service.building import sample_name
    from polymode.data.write import to_pixels, write_samples, write_sheet

    out = Path(tempfile.mkdtemp(dir=work)) / sample_name(spec)
    if out.suffix == ".png":
        return write_sheet(to_pixels(spec, x), out, across=across, provenance=about)
    return write_samples(spec, x, out, provenance=about)


def _generator(seed: int) -> Any:
    from polymode.core import rng

    return rng.generator(seed)
