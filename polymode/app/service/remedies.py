"""Training that is judged and, where samples collapsed or training diverged, tried again with a remedy.

Each attempt is a run of its own in OUT/attempts, made by `fit` with the same data, seed and budget; the same command
goes on with those that were interrupted. The first healthy one is copied to OUT, or, where none is, the one that
covers most of the data; OUT/remedies.json has every verdict.
"""

from __future__ import annotations

import inspect
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polymode import catalogue
from polymode.app.service import data as sources
from polymode.app.service import runs
from polymode.app.service.fit import fit, plan_for
from polymode.app.service.progress import Progress
from polymode.app.service.schemas import FitRequest, FitResult
from polymode.core.errors import PolymodeError, TrainingError


@dataclass(frozen=True)
class Remedy:
    """Options that keep an adversarial network from collapsing or diverging.

    Args:
        name: of the attempt's folder.
        settings: of the model.
        source: where it is from.
    """

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    source: str = ""


#: cheap ones first
REMEDIES = (
    Remedy("r1-penalty", {"penalty": "r1"}, "Mescheder et al. 2018, arXiv:1801.04406"),
    Remedy("two-time-scales", {"critic_rate": 4.0}, "Heusel et al. 2017, arXiv:1706.08500"),
    Remedy("minibatch-deviation", {"minibatch": "deviation"}, "Karras et al. 2018, arXiv:1710.10196"),
    Remedy("mixture-noise", {"noise_components": 100}, "Gurumurthy et al. 2017, arXiv:1706.02071"),
    Remedy("packing", {"pack": 4}, "Lin et al. 2018, arXiv:1712.04086"),
    Remedy("spectral-norm", {"norm": "spectral", "objective": "hinge"}, "Miyato et al. 2018, arXiv:1802.05957"),
    Remedy("wasserstein-gp", {"objective": "wasserstein", "penalty": "gp", "critic_steps": 5},
           "Gulrajani et al. 2017, arXiv:1704.00028"),
    Remedy("unrolling", {"unroll": 5}, "Metz et al. 2017, arXiv:1611.02163"),
)  # fmt: skip


def remedies_for(model: str, settings: dict[str, Any]) -> list[Remedy]:
    """Those whose options a model has and that change what it was asked to be.

    Raises:
        PolymodeError: a model that has none of these options.
    """
    row = catalogue.find(model)
    parameters = inspect.signature(catalogue.load(row).__init__).parameters
    found = []
    for remedy in REMEDIES:
        if remedy.settings.keys() <= parameters.keys():
            now = {name: settings.get(name, parameters[name].default) for name in remedy.settings}
            if now != remedy.settings:
                found.append(remedy)
    if not found:
        raise PolymodeError(f"--remedy auto is for adversarial networks, and came with {model}, which has no remedy")
    return found


def fit_with_remedies(request: FitRequest, *, progress: Progress | None = None) -> FitResult:
    """`fit`, judged by the collapse detector; remedies are tried in order until samples are healthy.

    Raises:
        PolymodeError: a mistake in the request, or a model without remedies.
    """
    progress = progress or Progress(quiet=True)
    plan = plan_for(request)
    if plan.resumed is not None and runs.is_finished(plan.folder):
        return fit(request, progress=progress)
    remedies = remedies_for(plan.model, plan.settings)
    if request.fresh:
        shutil.rmtree(plan.folder / runs.ATTEMPTS, ignore_errors=True)
    verdicts: list[dict[str, Any]] = []
    for i, remedy in enumerate((Remedy("as-asked"), *remedies)):
        folder = plan.folder / runs.ATTEMPTS / f"{i}-{remedy.name}"
        if "pack" in remedy.settings and runs.read_run(verdicts[0]["run"]).conditional:
            continue  # rows judged together would need the same condition
        progress.say(f"attempt {i + 1}: {remedy.name.replace('-', ' ')}")
        asked = request.model_copy(
            update={
                "data": plan.source, "model": plan.model, "out": str(folder), "report": False, "fresh": False,
                "settings": plan.settings | remedy.settings, "resume": runs.is_run(folder), "remedy": "none",
            }
        )  # fmt: skip
        verdict = {"attempt": remedy.name, "settings": remedy.settings, "source": remedy.source, "run": str(folder)}
        try:
            result = fit(asked, progress=progress)
        except TrainingError as error:
            verdicts.append(verdict | {"healthy": False, "covered": 0.0, "sentence": str(error)})
            continue
        if result.stopped:
            return result
        verdicts.append(verdict | _judged(folder, plan.source or "", plan.reading))
        progress.say(str(verdicts[-1]["sentence"]))
        if verdicts[-1]["healthy"]:
            break
    best = max(verdicts, key=lambda v: (v["healthy"], v["covered"]))
    if not (Path(best["run"]) / "model.safetensors").is_file():
        raise TrainingError(f"every attempt diverged; the last said: {verdicts[-1]['sentence']}")
    _take(Path(best["run"]), plan.folder)
    (plan.folder / runs.VERDICTS).write_text(json.dumps(verdicts, indent=1) + "\n", encoding="utf-8")
    kept = request.model_copy(
        update={"out": str(plan.folder), "settings": {}, "resume": True, "fresh": False, "remedy": "none"}
    )
    return _told(_finish(kept, plan.folder, progress), plan.folder, verdicts, best)


def _judged(folder: Path, source: str, reading: dict[str, Any]) -> dict[str, Any]:
    from polymode.app.service.building import load_model
    from polymode.evaluate.diagnostics.collapse import CollapseDetector

    model, data = load_model(folder, "cpu"), sources.load(source, reading)
    detector = CollapseDetector(data)
    condition = None if model.condition_spec is None else detector.reference.condition
    verdict = detector(model.sample(detector.reference.n, condition, seed=0), condition)
    told = f"mode collapse: {'; '.join(verdict.reasons)}" if verdict.fired else verdict.sentence
    healthy = verdict.like_data and not verdict.fired
    return {"healthy": healthy, "covered": verdict["coverage"].value, "sentence": told}


def _take(run: Path, folder: Path) -> None:
    """The files of an attempt become those of the run."""
    runs.clear(folder)
    for name in runs.FILES:
        if (run / name).is_dir():
            shutil.copytree(run / name, folder / name)
        elif (run / name).is_file():
            shutil.copy2(run / name, folder / name)


def _finish(request: FitRequest, folder: Path, progress: Progress) -> FitResult:
    """What `fit` says of a finished run, with the report where one was asked for."""
    result = fit(request, progress=progress)
    if not request.report:
        return result
    from polymode.app.service.evaluate import evaluate
    from polymode.app.service.schemas import EvaluateRequest

    made = evaluate(EvaluateRequest(run=str(folder)), progress=progress)
    return result.model_copy(update={"files": result.files | {"report": made["report"]}})


def _told(result: FitResult, folder: Path, verdicts: list[dict[str, Any]], best: dict[str, Any]) -> FitResult:
    notes = [f"{v['attempt'].replace('-', ' ')}: {v['sentence']}" for v in verdicts]
    name = best["attempt"].replace("-", " ")
    what = f"{name}: healthy, and kept" if best["healthy"] else (
        f"no remedy made it healthy; {name} covers most and was kept"
    )  # fmt: skip
    files = result.files | {"verdicts": str(folder / runs.VERDICTS)}
    return result.model_copy(update={"notes": [*notes, what], "files": files})
