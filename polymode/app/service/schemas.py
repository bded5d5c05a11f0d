"""What use cases are asked and what they answer, checked before anything heavy is imported.

`DataOptions` mirrors the arguments of `polymode.data.load` and `FitSettings` those of `polymode.train.options`; tests
keep them equal. None means that nothing was said.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from polymode.core.errors import PolymodeError, nearest

ConditionChoice = Literal["auto", "none", "label"]
#: what ended a training early, if anything did
Stop = Literal["", "SIGINT", "SIGTERM"]


class Schema(BaseModel):
    """Unknown names are refused, numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

    def said(self) -> dict[str, Any]:
        """The fields that are not None, as plain values."""
        return {k: v for k, v in self.model_dump().items() if v is not None}


class DataOptions(Schema):
    """How a source is read; each reader takes those that concern it and refuses the others."""

    kind: (
        Literal["images", "table", "series", "text", "arrays", "audio", "smiles", "pairs", "midi", "python"] | None
    ) = Field(None, description="the reader, where the path does not say it")
    columns: dict[str, str] | list[str] | None = Field(
        None, description="a column's type: numeric, integer, real, categorical or drop (repeatable)"
    )
    labels: str | bool | None = Field(None, description="the column or array that becomes the condition")
    missing: Literal["model", "drop", "mean"] | None = Field(
        None, description="missing numbers are modelled, their rows dropped, or the mean put in"
    )
    size: int | None = Field(None, gt=0, description="centre-crop and resize pictures to size x size")
    levels: int | None = Field(None, ge=2, description="levels of pixels or samples (2 = binary)")
    length: int | None = Field(None, gt=0, description="length of windows or strings")
    stride: int | None = Field(None, gt=0, description="distance of two training windows")
    strict: bool | None = Field(None, description="refuse unreadable files instead of leaving them out with a note")
    valid_fraction: float | None = Field(None, gt=0, lt=1, description="share of validation rows (default 0.1)")
    test_fraction: float | None = Field(None, gt=0, lt=1, description="share of test rows (default 0.1)")
    seed: int | None = Field(None, ge=0, description="of the random split (default 0)")
    licence: str | None = Field(None, description="of the data, where their source does not state it")
    target: str | None = Field(None, description="the column that samples of a table are judged by (metric tstr)")
    labelled: int | None = Field(None, gt=0, description="training rows that keep their label, the others' withheld")
    into: str | None = Field(None, description="a second folder of pictures, which the first one's are to become")
    paired: bool | None = Field(None, description="pictures of one name in the two folders belong together")
    shrink: int | None = Field(None, gt=1, description="pictures are given smaller ones, by so many pixels a side")
    more: dict[str, Any] = Field({}, description="any further option of the reader (repeatable)")

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of `polymode.data.load`."""
        said = self.said()
        if self.into is not None:
            said["into"] = str(Path(self.into).expanduser().resolve())  # so that a run can find it from anywhere
        return {k: v for k, v in said.items() if k != "more"} | self.more


class FitSettings(Schema):
    """How long and how to train; None leaves it to the model's own defaults."""

    minutes: float | None = Field(None, gt=0, description="train for so many minutes (default 1 without any budget)")
    steps: int | None = Field(None, gt=0, description="train for so many steps")
    epochs: float | None = Field(None, gt=0, description="train for so many passes over the data")
    seed: int | None = Field(None, ge=0, description="of initial weights, order of data and draws (default 0)")
    learning_rate: float | None = Field(None, gt=0, description="of the optimiser")
    batch_size: int | None = Field(None, gt=0, description="rows a step, in each process")
    weight_decay: float | None = Field(None, ge=0, description="of AdamW")
    ema: float | None = Field(None, ge=0, lt=1, description="decay of the moving average of weights, 0 = none")
    clip: float | None = Field(None, gt=0, description="largest norm of the gradient")
    schedule: Literal["cosine", "constant"] | None = Field(None, description="of the learning rate")
    warmup: int | None = Field(None, ge=0, description="steps over which the rate rises")
    optimizer: Literal["adamw", "sgd"] | None = Field(None, description="what moves the weights")
    precision: Literal["fp32", "bf16", "fp16"] | None = Field(None, description="of arithmetic (default fp32)")
    validate_every: int | None = Field(None, ge=0, description="steps between validations, 0 = never")
    validation_rows: int | None = Field(None, gt=0, description="rows used for validation (default 2000)")
    watch_every: int | None = Field(None, ge=0, description="steps between looks of --watch, 0 = only at the end")
    patience: int | None = Field(None, gt=0, description="stop after so many validations without improvement")
    keep_best: bool | None = Field(None, description="keep the weights of the best validation, or the last")
    checkpoint_seconds: float | None = Field(None, ge=0, description="seconds between checkpoints (default 30)")
    checkpoint_every: int | None = Field(None, gt=0, description="steps between checkpoints, instead of seconds")
    log_every: int | None = Field(None, gt=0, description="steps between entries of metrics.jsonl")
    tensorboard: bool | None = Field(None, description="log for TensorBoard, too")
    labelled_share: float | None = Field(
        None, ge=0, lt=1, description="least share of a batch with labels, where some are withheld"
    )
    device: str | None = Field(None, description="cpu, cuda, cuda:1, mps; by default what there is")


class FitRequest(Schema):
    """What `fit` is asked."""

    data: str | None = None
    model: str | None = None
    settings: dict[str, Any] = {}
    out: str | None = None
    condition: ConditionChoice = "auto"
    resume: bool = False
    fresh: bool = False
    report: bool = True
    watch: list[Literal["collapse"]] = []
    remedy: Literal["none", "auto"] = "none"
    reading: DataOptions = DataOptions()
    training: FitSettings = FitSettings()
    command: str = ""


class FitResult(Schema):
    """What `fit` answers; `stopped` says by what training was ended early."""

    run: str
    model: str
    data: str
    fingerprint: str
    condition: str
    parameters: int | None = None
    steps: int
    seconds: float
    stopped: Stop = ""
    likelihood: dict[str, Any] | None = None
    accuracy: list[dict[str, Any]] = []
    files: dict[str, str] = {}
    notes: list[str] = []
    next: list[str] = []


class SampleRequest(Schema):
    """What `sample` is asked; `movie` frames of the chains on their way, `every` so many steps, in place of samples.
    `given` and `negative` are parts of a condition in words, see `conditions`; `label` is short for one of them.
    """

    run: str
    n: int = Field(64, gt=0)
    out: str | None = None
    seed: int | None = Field(None, ge=0)
    label: str | None = None
    given: dict[str, str] = {}
    negative: dict[str, str] = {}
    grammar: str | None = None
    movie: int | None = Field(None, gt=1)
    every: int = Field(1, gt=0)
    options: dict[str, Any] = {}
    batch_size: int = Field(1024, gt=0)
    device: str = "cpu"
    for_release: bool = False
    licence: str | None = None


class GenerateRequest(Schema):
    """What `generate` is asked; `length` counts symbols after the prompt."""

    run: str
    prompt: str = ""
    length: int | None = Field(None, gt=0)
    n: int = Field(1, gt=0)
    seed: int | None = Field(None, ge=0)
    label: str | None = None
    grammar: str | None = None
    options: dict[str, Any] = {}
    device: str = "cpu"


class CompleteRequest(Schema):
    """What `complete` is asked; `known` is a part of a datum, `share` how much of it, or "cells" of a table.

    Of a table: `given` are the cells of one row, by column; `quantiles` shares between 0 and 1, for numbers instead of
    filled rows. None means: cells of a table that is named by `data`, else the first part; 8 rows, or all of a file;
    6 draws of each, or 1 of a table's rows.
    """

    run: str
    known: str | None = None
    share: float = Field(0.5, gt=0, lt=1)
    n: int | None = Field(None, gt=0)
    each: int | None = Field(None, gt=0)
    given: dict[str, str] = {}
    quantiles: list[float] = []
    data: str | None = None
    reading: DataOptions = DataOptions()
    out: str | None = None
    seed: int | None = Field(None, ge=0)
    options: dict[str, Any] = {}
    device: str = "cpu"


class TranslateRequest(Schema):
    """What `translate` is asked; without sources, test rows of the run."""

    run: str
    sources: list[str] = []
    out: str | None = None
    to: str | None = None
    n: int = Field(16, gt=0)
    seed: int | None = Field(None, ge=0)
    options: dict[str, Any] = {}
    device: str = "cpu"


class RestoreRequest(Schema):
    """What `restore` is asked; without sources, test rows of the run are damaged first. Each task looks at its own:
    `factor`; `noise`, in levels, a tenth of their range by default; `blur`, in pixels; `known` and `share`; `strength`.
    `given` are parts of the condition in words, in place of the rows' own.
    """

    run: str
    task: Literal["upscale", "denoise", "deblur", "colourise", "complete", "vary"] = "upscale"
    sources: list[str] = []
    out: str | None = None
    factor: int = Field(2, ge=2)
    noise: float | None = Field(None, gt=0)
    blur: float = Field(1.0, gt=0)
    known: str = "top"
    share: float = Field(0.5, gt=0, lt=1)
    strength: float = Field(0.5, ge=0, le=1)
    given: dict[str, str] = {}
    n: int = Field(16, gt=0)
    seed: int | None = Field(None, ge=0)
    options: dict[str, Any] = {}
    device: str = "cpu"


class CompressRequest(Schema):
    """What `compress` is asked; `sources` are files, folders or named sets."""

    run: str
    sources: list[str] = Field(min_length=1)
    out: str
    method: Literal["auto", "autoregressive", "bits-back"] = "auto"
    reading: DataOptions = DataOptions()
    seed: int = Field(0, ge=0)
    check: bool = True


class DecompressRequest(Schema):
    """What `decompress` is asked; the archive says its run, `run` is for one that has moved."""

    archive: str
    out: str
    run: str | None = None
    force: bool = False


class LatentsRequest(Schema):
    """What `latents` is asked; beside the first eight, each verb looks at its own."""

    verb: Literal["reconstruct", "denoise", "interpolate", "traverse", "edit", "embed"]
    run: str
    data: str | None = None
    reading: DataOptions = DataOptions()
    n: int | None = Field(None, gt=0)
    out: str | None = None
    seed: int = Field(0, ge=0)
    device: str = "cpu"
    steps: int = Field(8, gt=1)
    how: Literal["linear", "spherical"] = "linear"
    dims: list[int] = []
    count: int = Field(4, gt=0)
    span: float = Field(2.5, gt=0)
    attribute: str | None = None
    direction: str | None = None
    method: Literal["logistic", "mean-difference"] = "logistic"
    strengths: list[float] = [-3.0, -1.5, 0.0, 1.5, 3.0]
    split: Literal["train", "valid", "test"] = "test"


class ClassifyRequest(Schema):
    """What `classify` is asked; prior "counts" is the share of each label among training rows."""

    run: str
    data: str | None = None
    reading: DataOptions = DataOptions()
    split: Literal["auto", "all", "train", "valid", "test"] = "auto"
    prior: Literal["counts", "uniform"] = "counts"
    num_samples: int | None = Field(None, gt=0)
    limit: int | None = Field(None, gt=0)
    out: str | None = None
    seed: int = Field(0, ge=0)
    device: str = "cpu"


class SampleResult(Schema):
    """What `sample` answers; the seed repeats the draw."""

    run: str
    out: str
    n: int
    seed: int
    condition: str
    what: str
    seconds: float
    licence: str = "not stated"


class EvaluateRequest(Schema):
    """What `evaluate` is asked."""

    run: str
    data: str | None = None
    reading: DataOptions = DataOptions()
    n: int | None = Field(None, gt=1)
    seed: int = Field(0, ge=0)
    limit: int = Field(2000, gt=1)
    metrics: list[str] = []
    features: str = "auto"
    num_samples: int | None = Field(None, gt=0)
    options: dict[str, Any] = {}
    estimator: Literal["auto", "ode"] = "auto"
    against: str | None = None
    sweep: str | None = None
    out: str | None = None
    device: str = "cpu"


class ReproduceRequest(Schema):
    """What `reproduce` is asked: `seeds` trainings, from `seed` on, as many as the recipe says by default.

    The run of the first is in a folder of the recipe's name under `out`, the others are beside it.
    """

    recipe: str
    out: str = "runs/recipes"
    results: str = "results"
    seed: int = Field(0, ge=0)
    seeds: int | None = Field(None, gt=0)
    fresh: bool = False
    device: str | None = None


class DetectRequest(Schema):
    """What `detect` is asked."""

    run: str
    data: str
    reading: DataOptions = DataOptions()
    score: str = "auto"
    background: str | None = None
    against: str | None = None
    false_alarms: float = Field(0.05, gt=0, lt=1)
    split: Literal["auto", "all", "train", "valid", "test"] = "auto"
    out: str | None = None
    seed: int = Field(0, ge=0)
    device: str = "cpu"


class ForensicsRequest(Schema):
    """What `forensics` is asked; the data are those that the runs learned from."""

    runs: list[str]
    n: int = Field(1000, gt=1)
    features: str = "auto"
    out: str | None = None
    seed: int = Field(0, ge=0)
    device: str = "cpu"


class CompareRequest(Schema):
    """What `compare` is asked; `models` are names, none of them means every model that takes the data."""

    data: str
    models: list[str] = []
    settings: dict[str, dict[str, Any]] = {}
    out: str
    condition: ConditionChoice = "none"
    fresh: bool = False
    n: int | None = Field(None, gt=1)
    reading: DataOptions = DataOptions()
    training: FitSettings = FitSettings()
    command: str = ""


class CompareResult(Schema):
    """What `compare` answers: a row a model, sorted by one metric, then real data and noise."""

    data: str
    out: str
    report: str
    sort: str
    metrics: list[str]
    rows: list[dict[str, Any]]
    failures: dict[str, str]
    stopped: Stop = ""


class StudyRequest(Schema):
    """What `study create` is asked; None leaves a number or a text to the design."""

    runs: list[str] = Field(min_length=1)
    real: bool = False
    out: str
    design: Literal["pairs", "opinion"] = "pairs"
    trials: int | None = Field(None, gt=0)
    units: int | None = Field(None, gt=0)
    checks: int | None = Field(None, ge=0)
    question: str | None = Field(None, max_length=500)
    consent: str | None = Field(None, max_length=5000)
    ties: bool = True
    seed: int = Field(0, ge=0)
    device: str = "cpu"
    command: str = ""


S = TypeVar("S", bound=Schema)


def make(schema: type[S], values: dict[str, Any], spell: Callable[[str], str] = str) -> S:
    """A schema from values, or PolymodeError with the first thing that is wrong; ``spell`` names fields to the user."""
    try:
        return schema(**values)
    except ValidationError as error:
        raise PolymodeError(_sentence(error, schema, spell)) from None


def _sentence(error: ValidationError, schema: type[Schema], spell: Callable[[str], str]) -> str:
    first = error.errors(include_url=False)[0]
    name, about = str(first["loc"][0]), first.get("ctx", {})
    match first["type"]:
        case "extra_forbidden":
            return f"there is no option {name!r}{nearest(name, schema.model_fields)}"
        case "missing":
            return f"{spell(name)} is missing"
        case "int_parsing" | "int_type" | "int_from_float":
            wanted = "a whole number"
        case "float_parsing" | "float_type":
            wanted = "a number"
        case "finite_number":
            wanted = "a finite number"
        case "bool_parsing" | "bool_type":
            wanted = "true or false"
        case "greater_than":
            wanted = f"a number above {about['gt']:g}"
        case "greater_than_equal":
            wanted = f"at least {about['ge']:g}"
        case "less_than":
            wanted = f"a number below {about['lt']:g}"
        case "literal_error":
            wanted = f"one of {about['expected']}"
        case _:
            wanted = f"something else ({first['msg']})"
    return f"{spell(name)}={first['input']}, expected {wanted}"
