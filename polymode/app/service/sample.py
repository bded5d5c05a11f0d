"""Draw from a run and write the samples in a form that suits their kind."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polymode import catalogue
from polymode.app.service import data as sources
from polymode.app.service import runs
from polymode.app.service.conditions import condition_of_samples, needs_data, negative_of
from polymode.app.service.schemas import SampleRequest, SampleResult
from polymode.core.errors import ConditionError, PolymodeError
from polymode.data.provenance import check_release, stated_by_user

if TYPE_CHECKING:
    from torch import Tensor

    from polymode.core.condition import Condition
    from polymode.core.model import GenerativeModel


def sample(request: SampleRequest, *, load: Callable[[Path], GenerativeModel] | None = None) -> SampleResult:
    """Draw n data from the model of a run; without a seed, one is drawn and told.

    Args:
        request: what is asked.
        load: gives the model of a run's folder; by default it is read from there.

    Raises:
        PolymodeError: no run, an unknown label or option, a file that can't hold such samples, or a release of what a
            run learned from data whose licence nobody has stated.
    """
    run = runs.read_run(request.run)
    licence = run.licence if request.licence is None else stated_by_user(request.licence, run.licence, run.name)
    if request.for_release:
        check_release(licence, run.name)
    if request.label is not None and not run.conditional:
        raise ConditionError(f"{run.folder} was trained without labels, so --label means nothing; leave it out")
    given = request.given | ({} if request.label is None else {"label": request.label})

    from polymode.app.service.building import load_model, sample_name

    model = load_model(run.folder, request.device, load)
    name = sample_name(model.spec) if request.movie is None else "chains.gif"
    out = Path(request.out) if request.out else run.folder / runs.SAMPLES / name
    seed = secrets.randbelow(2**31) if request.seed is None else request.seed
    data = sources.load(*sources.source_of(run)) if needs_data(model.condition_spec, given) else None
    condition, told = condition_of_samples(model, request.n, given, data=data, seed=seed)
    options, said = dict(request.options), dict(request.options)
    negative, led_from = negative_of(model, condition, request.negative, request.n)
    if negative is not None:
        options["negative"] = negative
    if request.grammar is not None:
        from polymode.tasks.grammar import allowed

        options["allowed"], said["grammar"] = allowed(request.grammar, model.spec), request.grammar
    begun = time.perf_counter()
    if request.movie is not None:
        return _movie(request, model, condition, out, provenance_of(run, request.n, seed, told, licence, said))
    try:
        x = model.sample(request.n, condition, seed=seed, batch_size=request.batch_size, **options)
    except TypeError as error:
        if not said:
            raise
        given = ", ".join(f"{k}={v!r}" for k, v in said.items())
        raise PolymodeError(f"{run.model} can't sample with {given} ({error})") from None
    seconds = time.perf_counter() - begun
    provenance = provenance_of(run, len(x), seed, told, licence, said)
    provenance |= {k: v for k, v in (("given", given), ("negative", request.negative)) if v}
    path = write_drawn(model, x, condition, out, provenance)
    return SampleResult(
        run=str(run.folder), out=str(path), n=len(x), seed=seed,
        condition=f"{told}; away from {led_from}" if led_from else told, what=str(model.spec),
        seconds=round(seconds, 3), licence=licence,
    )  # fmt: skip


def _movie(
    request: SampleRequest, model: GenerativeModel, condition: Condition | None, out: Path, provenance: dict[str, Any]
) -> SampleResult:
    """The model's chains on their way, as one animated picture."""
    from polymode.core.capabilities import WalksChains
    from polymode.core.model import require
    from polymode.data.write import write_movie

    if said := provenance["sampling options"]:
        raise PolymodeError(f"a movie of chains takes no sampling options, and {', '.join(said)} came; leave them out")
    require(model, WalksChains, "chains to watch")
    assert isinstance(model, WalksChains)
    assert request.movie is not None
    begun, seed = time.perf_counter(), provenance["seed"]
    frames = model.watch(request.n, request.movie, condition, every=request.every, seed=seed)
    provenance |= {"frames": request.movie, "steps between frames": request.every}
    path = write_movie(model.spec, frames, out, provenance=provenance)
    return SampleResult(
        run=request.run, out=str(path), n=request.n, seed=seed, condition=provenance["condition"],
        what=f"chains of {model.spec}, {request.movie} frames", seconds=round(time.perf_counter() - begun, 3),
        licence=provenance["data licence"],
    )  # fmt: skip


def write_drawn(
    model: GenerativeModel, x: Tensor, condition: Condition | None, path: Path, provenance: dict[str, Any]
) -> Path:
    """Write samples; a sheet of pictures that were made of others shows those, too."""
    from polymode.app.service.translate import before_and_after
    from polymode.data.write import write_samples

    source = None if model.condition_spec is None else model.condition_spec.source
    if source is None or condition is None or condition.image is None or path.suffix.lower() != ".png":
        return write_samples(model.spec, x, path, provenance=provenance)
    return before_and_after(path, source, condition.image, model.spec, x, provenance)


def provenance_of(
    run: runs.RunConfig, n: int, seed: int, condition: str, licence: str, options: dict[str, Any]
) -> dict[str, Any]:
    """What a file of samples says about itself; names only, no path."""
    return {
        "synthetic": True, "model": run.model, "run": run.folder.resolve().name, "data": run.name,
        "data fingerprint": run.fingerprint, "data licence": licence, "n": n, "seed": seed, "condition": condition,
        "sampling options": {k: repr(v) for k, v in options.items()}, "library": f"polymode {catalogue.VERSION}",
    }  # fmt: skip
