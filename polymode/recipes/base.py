"""What a recipe is: a training, and what is measured of it. Pure data that imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

#: what a likelihood is given in: nats a datum, nats a symbol, bits a symbol (a dimension of the datum)
Unit = Literal["nats", "nats/symbol", "bits/symbol"]


@dataclass(frozen=True)
class Measure:
    """One thing that is measured of a run.

    Args:
        metric: "likelihood", or the name of a metric as `polymode evaluate --metric` takes it.
        row: the metric's row, where it has several; the first where not said.
        unit: of a likelihood.
        split: of a likelihood.
        rows: of that split, drawn at random; None for all of them.
        n: samples of a metric.
        options: of sampling.
        num_samples: importance samples of a bound; None for the model's default.
        estimator: of likelihoods, "ode" for the probability flow.
        aim: the number that has to be reached; None for one that stands beside.
        better: which side of it.
        published: what the source reports, on its own protocol.
        source: of that number.
    """

    metric: str = "likelihood"
    row: str = ""
    unit: Unit = "nats"
    split: Literal["valid", "test"] = "test"
    rows: int | None = None
    n: int = 1000
    options: dict[str, Any] = field(default_factory=dict)
    num_samples: int | None = None
    estimator: Literal["auto", "ode"] = "auto"
    aim: float | None = None
    better: Literal["lower", "higher"] = "lower"
    published: float | None = None
    source: str = ""


@dataclass(frozen=True)
class Recipe:
    """A training and what is measured of it.

    Args:
        name: also of its file in results/ and its folder in runs/recipes/.
        model, settings: what `create` takes.
        data, reading: what `data.load` takes.
        training: what `fit` takes.
        condition: as `polymode fit --condition`.
        seeds: trainings, of as many seeds; what is measured is their mean. Where labels are withheld, a seed also says
            which.
        cost: about how long, on what; of one training.
    """

    name: str
    model: str
    data: str
    measures: tuple[Measure, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    reading: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    condition: Literal["auto", "none", "label"] = "auto"
    seeds: int = 1
    cost: str = ""


def characters(aim: float | None, published: float | None = None, source: str = "") -> tuple[Measure, ...]:
    """Nats a character, the validation text first, as the published numbers are."""
    return (
        Measure(unit="nats/symbol", split="valid", aim=aim, published=published, source=source),
        Measure(unit="nats/symbol"),
        Measure("perplexity"),
    )


def frames(aim: float, published: float, source: str) -> tuple[Measure, ...]:
    """Nats a frame of whole pieces."""
    return (Measure("frame_nll", aim=aim, published=published, source=source),)


def bound(split: Literal["valid", "test"] = "test", samples: int = 1000, **told: Any) -> Measure:
    """Nats of the importance-weighted bound."""
    return Measure(split=split, num_samples=samples, **told)
