"""Run recipes: train, measure, and record what was obtained beside what was to be reached."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polymode.app.service import data as sources
from polymode.app.service import fit as fitting
from polymode.app.service import records, runs
from polymode.app.service.progress import Progress
from polymode.app.service.schemas import DataOptions, FitRequest, FitSettings, ReproduceRequest
from polymode.core.errors import PolymodeError
from polymode.recipes import RECIPES, Measure, Recipe, find

if TYPE_CHECKING:
    from polymode.core.model import GenerativeModel
    from polymode.data.dataset import DataSet

PACKAGES = ("torch", "numpy")


def recipes() -> list[dict[str, Any]]:
    """The table: what each trains, on what, at what cost, to which number."""
    found = []
    for r in RECIPES:
        first = r.measures[0]
        told = {"name": r.name, "model": r.model, "data": r.data, "cost": r.cost}
        aims = {"aim": first.aim, "better": first.better, "published": first.published, "source": first.source}
        found.append(told | {"measures": [m.metric for m in r.measures]} | aims)
    return found


def reproduce(request: ReproduceRequest, *, progress: Progress | None = None) -> dict[str, Any]:
    """Train a recipe, or go on with it, measure it, and write results/<recipe>.json; of several seeds the means.

    Returns:
        ``measurements`` as they are in the file, ``file``, ``run`` (of the first seed), and ``reached``: whether every
        aim was.

    Raises:
        PolymodeError: an unknown recipe, data that are not there, a training that was interrupted.
    """
    progress = progress or Progress(quiet=True)
    recipe = find(request.recipe)
    count = request.seeds or recipe.seeds
    of_seeds = [_of_seed(recipe, request, seed, progress) for seed in range(request.seed, request.seed + count)]
    entries = [_mean(each) for each in zip(*of_seeds, strict=True)] if count > 1 else of_seeds[0]
    for entry, measure in zip(entries, recipe.measures, strict=True):
        entry |= _aims(measure, entry["value"])
    file = Path(request.results).expanduser() / f"{recipe.name}.json"
    records.save(file, entries)
    reached = [e["reached"] for e in entries if e["reached"] is not None]
    folder = _folder(recipe, request, request.seed)
    return {"measurements": entries, "file": str(file), "run": str(folder), "reached": all(reached)}


def _of_seed(recipe: Recipe, request: ReproduceRequest, seed: int, progress: Progress) -> list[dict[str, Any]]:
    """One training and what is measured of it; the curve of its validations stands with the first."""
    folder, reading = _folder(recipe, request, seed), _reading(recipe, seed)
    fitted = fitting.fit(_request(recipe, folder, reading, request, seed), progress=progress)
    if fitted.stopped:
        raise PolymodeError(f"{recipe.name} was stopped by {fitted.stopped}; give the same command to go on with it")

    from polymode.app.service.building import load_model
    from polymode.train.history import read_history

    run = runs.read_run(folder)
    model, data = load_model(folder, request.device or "cpu"), sources.load(recipe.data, reading)
    told = {
        "recipe": recipe.name, "model": recipe.model, "data": recipe.data, "seeds": [seed],
        "command": f"polymode reproduce {recipe.name}", "hardware": records.hardware(),
        "seconds": round(float(runs.last_entry(run.folder).get("seconds", 0.0)), 1),
        "versions": records.versions(PACKAGES), "commit": records.commit(),
    }  # fmt: skip
    entries = []
    for measure in recipe.measures:
        progress.say(f"measuring {measure.metric}")
        found = _likelihood if measure.metric == "likelihood" else _metric
        entries.append(told | found(measure, model, data, seed))
    curve = [(e["seconds"], e["loss"]) for e in read_history(folder) if e["kind"] == "validation"]
    if entries:
        entries[0]["curve"] = curve  # (seconds, loss) of the validations
    return entries


def _mean(each: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    """One measurement of several trainings: the mean of its values, and the standard error of that."""
    values = [e["value"] for e in each]
    known = [v for v in values if v is not None]
    error = statistics.stdev(known) / math.sqrt(len(known)) if len(known) == len(values) else None
    return each[0] | {
        "seeds": [e["seeds"][0] for e in each], "seconds": round(sum(e["seconds"] for e in each), 1),
        "value": statistics.mean(known) if len(known) == len(values) else None, "std_error": error, "values": values,
        "protocol": f"{each[0]['protocol']}; mean of {len(each)} trainings, the error is over them",
    }  # fmt: skip


def _folder(recipe: Recipe, request: ReproduceRequest, seed: int) -> Path:
    name = recipe.name if seed == request.seed else f"{recipe.name}-{seed}"
    return Path(request.out).expanduser() / name


def _reading(recipe: Recipe, seed: int) -> dict[str, Any]:
    """How the data are read; where labels are withheld, the seed says which."""
    return recipe.reading | ({"seed": seed} if "labelled" in recipe.reading else {})


def _request(recipe: Recipe, folder: Path, reading: dict[str, Any], request: ReproduceRequest, seed: int) -> FitRequest:
    """The training as `fit` is asked; one that has begun is gone on with."""
    going = runs.is_run(folder) and not request.fresh
    training = FitSettings(**(recipe.training | {"seed": seed, "device": request.device}))
    return FitRequest(
        data=recipe.data, model=recipe.model, settings=recipe.settings, out=str(folder), condition=recipe.condition,
        resume=going, fresh=request.fresh, report=False, reading=DataOptions(more=reading), training=training,
        command=f"polymode reproduce {recipe.name}",
    )  # fmt: skip


def _likelihood(measure: Measure, model: GenerativeModel, data: DataSet, seed: int) -> dict[str, Any]:
    """A negative log-likelihood of rows of a split."""
    from polymode.core import rng
    from polymode.data.dataset import Split
    from polymode.evaluate.likelihood import log_likelihood

    if measure.rows is not None:
        drawn = Split(*getattr(data, measure.split).take(measure.rows, rng.generator(seed)))
        data = replace(data, **{measure.split: drawn})
    found = log_likelihood(
        model, data, split=measure.split, num_samples=measure.num_samples, seed=seed, estimator=measure.estimator
    )
    dims = found.num_dims
    scale = {"nats": 1.0, "nats/symbol": 1 / dims, "bits/symbol": 1 / dims / math.log(2)}[measure.unit]
    return {
        "metric": f"negative log-likelihood, {measure.unit}", "split": measure.split, "protocol": found.protocol,
        "kind": found.kind, "value": -found.mean * scale, "std_error": found.mean_std_error * scale,
        "n": 0 if found.nats is None else len(found.nats),
    }  # fmt: skip


def _metric(measure: Measure, model: GenerativeModel, data: DataSet, seed: int) -> dict[str, Any]:
    """One row of a metric on the test split; its standard error is a quarter of the 95 % interval."""
    from polymode.evaluate import Evaluator, metrics

    evaluator = Evaluator(
        data, n=measure.n, seed=seed, limit=len(data.test), metrics=[measure.metric], ceiling=False,
        estimator=measure.estimator,
    )  # fmt: skip
    scored = "likelihood" in metrics.find(measure.metric).needs
    rows = evaluator.measure(evaluator.compare(model, measure.options, scored=scored))
    chosen = [m for m in rows if not measure.row or m.metric == measure.row]
    if not chosen:
        raise PolymodeError(f"{measure.metric} gave {[m.metric for m in rows]}, expected {measure.row or 'a row'}")
    m = chosen[0]
    return {
        "metric": m.metric, "split": "test", "protocol": m.refusal or m.protocol, "kind": m.kind or "sample metric",
        "value": None if math.isnan(m.value) else m.value,
        "std_error": None if math.isnan(m.low) else (m.high - m.low) / 3.92, "n": m.n,
    }  # fmt: skip


def _aims(measure: Measure, value: float | None) -> dict[str, Any]:
    """What was to be reached, whether it was, and what was published."""
    reached = None
    if measure.aim is not None:
        reached = value is not None and (value <= measure.aim if measure.better == "lower" else value >= measure.aim)
    reference = {"value": measure.published, "source": measure.source}
    return {"aim": measure.aim, "better": measure.better, "reached": reached, "reference": reference}
