"""Make a study of trained runs: draw what is shown, under shared conditions, and write it all into one file."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polymode import catalogue
from polymode.app.service import data as sources
from polymode.app.service import runs
from polymode.app.service.progress import Progress
from polymode.app.service.schemas import StudyRequest
from polymode.app.service.study import tables
from polymode.app.service.study.design import CHECK_NOISE, CHECK_REAL, Design
from polymode.core.errors import DataError, PolymodeError

if TYPE_CHECKING:
    from torch import Tensor

    from polymode.core.condition import Condition
    from polymode.core.model import GenerativeModel
    from polymode.data.dataset import DataSet

CONSENT = (
    "I take part of my own free will and may stop at any time. My answers and the seconds they take are kept under a "
    "random code, without my name, and may be published."
)
_VERBS = {"tokens": "read", "waveform": "sound"}
_TRIALS = 40


def create(request: StudyRequest, *, progress: Progress | None = None) -> dict[str, Any]:
    """Write the study and say what is in it.

    Raises:
        PolymodeError: no run, runs of different data, a design that can't be balanced, or a file in the way.
    """
    progress = progress or Progress(quiet=True)
    out = Path(request.out).expanduser()
    if out.exists():
        raise PolymodeError(f"{out} is there already, and answers may be in it; give another --out")
    found = [runs.read_run(folder) for folder in request.runs]
    names = _names(found, real=request.real)
    checks = min(4, max(1, _trials(request) // 10)) if request.checks is None else request.checks
    design = Design(request.design, len(names), _trials(request), request.units, checks, request.seed)
    source = sources.source_of(found[0])

    from polymode.app.service.building import load_model

    models = [load_model(run.folder, request.device) for run in found]
    data = sources.load(*source)
    notes = _same_data(found, models, data)
    made, matched = _stimuli(design, models, data, request, progress)
    if 0 < sum(m.condition_spec is not None for m in models) < len(models):
        notes.append("some runs are conditional and others are not: only the conditional ones share conditions")
    facts = _facts(request, design, data, matched=matched, notes=notes)
    items = {i: _item(names[i], run) for i, run in enumerate(found)}
    if request.real:
        items[len(found)] = {"name": names[-1], "kind": "real", "data": data.fingerprint}
    if design.checks:
        items[CHECK_REAL] = {"name": "check: real data", "kind": "check"}
        items[CHECK_NOISE] = {"name": "check: noise", "kind": "check"}
    out.parent.mkdir(parents=True, exist_ok=True)
    tables.create(out, facts, items, made)
    return {
        "out": str(out), "names": names, "what": str(data.spec), "stimuli": len(made), "matched": matched,
        "question": facts["question"], "notes": notes, "design": _plain(design),
    }  # fmt: skip


def _trials(request: StudyRequest) -> int:
    if request.trials is not None:
        return request.trials
    # every pair as often as the others: 40 judgements, or the multiple of the kinds of unit that comes next
    k = len(request.runs) + request.real
    groups = max(1, k * (k - 1) // 2 if request.design == "pairs" else k)
    return -(-_TRIALS // groups) * groups


def _names(found: Sequence[runs.RunConfig], *, real: bool) -> list[str]:
    """Folder names; whole paths where two are alike."""
    short = [run.folder.resolve().name for run in found]
    names = short if len(set(short)) == len(short) else [str(run.folder) for run in found]
    if len({run.folder.resolve() for run in found}) < len(found):
        raise PolymodeError("a run was given twice; give each run once")
    if real:
        names.append("real data")
    if len(set(names)) < len(names):
        raise PolymodeError(f"two items have the same name ({', '.join(names)}); rename a run's folder")
    return names


def _same_data(found: Sequence[runs.RunConfig], models: Sequence[GenerativeModel], data: DataSet) -> list[str]:
    """Notes on how far the runs are comparable."""
    for run, model in zip(found, models, strict=True):
        if model.spec != data.spec:
            raise DataError(
                f"{run.folder} makes {model.spec}, but {data.name} holds {data.spec}; compare runs of the same data"
            )
        kinds = () if model.condition_spec is None else model.condition_spec.kinds
        if kinds and (data.condition_spec is None or data.condition_spec.kinds != kinds):
            raise DataError(f"{run.folder} needs {' and '.join(kinds)}, which {data.name} does not give")
    return [
        f"{run.folder} learned from other data (fingerprint {run.fingerprint}, here {data.fingerprint})"
        for run in found if run.fingerprint != data.fingerprint
    ]  # fmt: skip


def _stimuli(
    design: Design, models: Sequence[GenerativeModel], data: DataSet, request: StudyRequest, progress: Progress
) -> tuple[list[tables.Made], bool]:
    """(everything that is shown, whether all items of a slot share a condition)."""
    import torch

    from polymode.app.service.study.stimuli import renderer, rows_a_stimulus
    from polymode.core import rng
    from polymode.evaluate.noise import Noise

    many = rows_a_stimulus(data.spec)
    rows = _test_rows(data, design.num_units + design.checks, many, request.seed)
    x, conditions = data.test.batch(slice(None), rng.generator(request.seed))
    media, render = renderer(data.spec, x)
    conditional = [model.condition_spec is not None for model in models]
    matched = all(conditional) and data.test.condition is not None
    made: list[tables.Made] = []

    def put(item: int, slots: Sequence[int], drawn: Tensor, at: Tensor) -> None:
        for slot, one, of in zip(slots, drawn.split(many), at.split(many), strict=True):
            told = _told(data, conditions, of) if matched and item >= 0 else ""
            made.append(tables.Made(item, slot, media, render(one), told))

    for item in range(design.items):
        slots = design.slots(item)
        at = rows[torch.tensor(slots)].flatten()
        if item == len(models):
            put(item, slots, x[at], at)
            continue
        progress.say(f"drawing {len(at):,} of {request.runs[item]}")
        condition = conditions[at] if conditional[item] and conditions is not None else None
        # one seed an item, else two runs of one model would show the same samples
        drawn = models[item].sample(len(at), condition, seed=(request.seed + 7919 * (item + 1)) % 2**31)
        put(item, slots, drawn, at)
    if design.checks:
        at = rows[design.num_units :].flatten()
        put(CHECK_REAL, range(design.checks), x[at], at)
        noise = Noise(data.spec).sample(len(at), seed=request.seed)
        put(CHECK_NOISE, range(design.checks), noise, at)
    return made, matched


def _test_rows(data: DataSet, stimuli: int, many: int, seed: int) -> Tensor:
    """(stimuli, many) rows of the test split: each row once, or a fresh subset for stimuli of many rows."""
    import torch

    from polymode.core import rng

    g, n = rng.generator(seed), len(data.test)
    if stimuli * many <= n:
        return torch.randperm(n, generator=g)[: stimuli * many].view(stimuli, many)
    if many == 1 or many > n:
        raise DataError(
            f"the test split of {data.name} has {n} rows, {many if many > n else stimuli} are needed; give fewer "
            "--trials, or more data"
        )
    return torch.stack([torch.randperm(n, generator=g)[:many] for _ in range(stimuli)])


def _told(data: DataSet, conditions: Condition | None, rows: Tensor) -> str:
    """The label of a stimulus in words, where it has one label."""
    from polymode.app.service.study.stimuli import text_of_condition

    spec = data.condition_spec
    if conditions is None or conditions.label is None or spec is None or len(rows) > 1:
        return ""
    return text_of_condition(spec.label_names, int(conditions.label[rows[0]]))


def _facts(request: StudyRequest, design: Design, data: DataSet, *, matched: bool, notes: list[str]) -> dict[str, Any]:
    import torch

    from polymode.app.service.study.stimuli import is_sharp

    verb = _VERBS.get(data.spec.kind, "look")
    default = f"Which one {verb}s more real?" if design.kind == "pairs" else f"How real does this {verb}?"
    return {
        "question": request.question or default,
        "consent": request.consent or CONSENT,
        "ties": request.ties and design.kind == "pairs",
        "design": _plain(design),
        "matched": matched,
        "sharp": is_sharp(data.spec),
        "data": data.summary(),
        "notes": notes,
        "versions": {
            "polymode": catalogue.VERSION, "torch": torch.__version__, "python": platform.python_version(),
        },
        "command": request.command,
    }  # fmt: skip


def _plain(design: Design) -> dict[str, Any]:
    return {
        "kind": design.kind, "items": design.items, "trials": design.trials, "units": design.num_units,
        "checks": design.checks, "seed": design.seed,
    }  # fmt: skip


def _item(name: str, run: runs.RunConfig) -> dict[str, Any]:
    """A run's identity: what it is, what it learned from, and the sha256 of its weights."""
    weights = run.folder / "model.safetensors"
    with weights.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {
        "name": name, "kind": "run", "folder": str(run.folder), "model": run.model, "arguments": run.arguments,
        "conditional": run.conditional, "data": run.fingerprint, "weights": digest[:16], "command": run.command,
    }  # fmt: skip
