"""Tell the samples of runs from real data, and see whether a detector of one run knows the samples of another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from polymode.app.service import data as sources
from polymode.app.service import runs
from polymode.app.service.progress import Progress
from polymode.app.service.schemas import ForensicsRequest
from polymode.core.errors import PolymodeError

if TYPE_CHECKING:
    from polymode.core.condition import Condition
    from polymode.core.model import GenerativeModel
    from polymode.data.dataset import DataSet


def forensics(request: ForensicsRequest, *, progress: Progress | None = None) -> dict[str, Any]:
    """The matrix of detectors trained on one run and tested on another; a page where the request names one.

    Raises:
        PolymodeError: no run, runs of different data, or too few rows.
    """
    progress = progress or Progress(quiet=True)
    if not request.runs:
        raise PolymodeError("no run came; give the folders of one or more runs")
    found = [runs.read_run(folder) for folder in request.runs]
    out = None if request.out is None else Path(request.out).expanduser()
    if out is not None and out.suffix.lower() != ".html":
        raise PolymodeError(f"--out {out}: the matrix is a page, expected a name that ends in .html")
    for run in found[1:]:
        if run.fingerprint != found[0].fingerprint:
            raise PolymodeError(
                f"{run.folder} learned from {run.name} ({run.fingerprint}) and {found[0].folder} from {found[0].name} "
                f"({found[0].fingerprint}); give runs on the same data"
            )

    from polymode.app.service.building import load_model
    from polymode.core import rng
    from polymode.core.checkpoint import write_atomically
    from polymode.tasks.forensics import cross_generator_matrix

    data = sources.load(*sources.source_of(found[0]))
    samples = {}
    for name, run in zip(_names(found), found, strict=True):
        model = load_model(run.folder, request.device)
        progress.say(f"{name}: {request.n:,} samples")
        samples[name] = model.sample(request.n, _conditions(model, data, request.n, request.seed), seed=request.seed)
    half = max(1, request.n // 2)
    matrix = cross_generator_matrix(
        data.spec, data.train.take(half, rng.generator(request.seed))[0],
        data.test.take(half, rng.generator(request.seed + 1))[0], samples,
        features=request.features, seed=request.seed,  # type: ignore[arg-type]
    )  # fmt: skip
    if out is not None:
        facts = {"data": f"{data.name}, {data.spec}"} | {
            name: f"{run.model} in {run.folder}" for name, run in zip(samples, found, strict=True)
        }
        page = matrix.to_html(f"Real or generated: {data.name}", facts)
        write_atomically(out, lambda p: p.write_text(page, encoding="utf-8"))
    return matrix.to_dict() | {
        "data": data.name, "runs": dict(zip(samples, (str(run.folder) for run in found), strict=True)),
        "out": None if out is None else str(out),
    }  # fmt: skip


def _names(found: list[runs.RunConfig]) -> list[str]:
    """Folder names, or whole paths where two are equal."""
    short = [run.folder.resolve().name for run in found]
    names = short if len(set(short)) == len(short) else [str(run.folder) for run in found]
    if len(set(names)) < len(names):
        raise PolymodeError(f"a run came twice ({', '.join(names)}); give each once")
    return names


def _conditions(model: GenerativeModel, data: DataSet, n: int, seed: int) -> Condition | None:
    """Conditions of training rows, so that samples have the mixture of classes of the data."""
    if model.condition_spec is None:
        return None
    from polymode.core import rng
    from polymode.core.errors import ConditionError

    if data.train.condition is None:
        wanted = " and ".join(model.condition_spec.kinds)
        raise ConditionError(f"the model is conditioned on {wanted}, which {data.name} does not give")
    return data.train.condition[rng.randint(len(data.train), (n,), rng.generator(seed + 2))]
