"""Evaluates one model, or many under one protocol: the real side, its ceiling and the floor are measured once.

Samples of a conditional model are drawn under the conditions of the test rows they are compared with, so data and
samples have the same mixture of conditions.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch

from polymode import catalogue
from polymode.core.checkpoint import name_of
from polymode.core.errors import DataError, PolymodeError
from polymode.core.likelihood import Likelihood
from polymode.core.model import GenerativeModel
from polymode.data.dataset import DataSet
from polymode.evaluate.comparison import Comparison, Reference
from polymode.evaluate.diagnostics.collapse import CollapseDetector
from polymode.evaluate.features import features_for
from polymode.evaluate.likelihood import Estimator, Scorer, split_for, split_words
from polymode.evaluate.measurement import Measurement
from polymode.evaluate.metrics import applicable, find, measure
from polymode.evaluate.noise import Noise
from polymode.evaluate.pictures import pictures_for
from polymode.evaluate.report import Report, Row

#: rows on each side, where the caller does not say and the test split has as many
ROWS = 1000


class Evaluator:
    """Measures models of one data set under one protocol.

    Args:
        data: what the models learned from; its test split is compared with.
        n: rows and samples on each side; default all test rows, at most 1000.
        seed: fixes the rows, the samples and every draw of a metric.
        limit: most rows that likelihoods are measured on.
        metrics: names of metrics; None for all that the data and the model allow.
        features: the feature space, see `features_for`.
        num_samples: importance samples of a bound; None for each model's default.
        ceiling: measure real training rows too.
        estimator: of likelihoods, see `log_likelihood`.
    """

    def __init__(
        self,
        data: DataSet,
        *,
        n: int | None = None,
        seed: int = 0,
        limit: int = 2000,
        metrics: Sequence[str] | None = None,
        features: str = "auto",
        num_samples: int | None = None,
        ceiling: bool = True,
        estimator: Estimator = "auto",
    ) -> None:
        if n is not None and n < 2:
            raise PolymodeError(f"n={n}, expected at least 2 samples to measure")
        for name in metrics or ():
            find(name)
        self.data, self.seed, self.limit, self.metrics = data, seed, limit, metrics
        self.num_samples, self.estimator, self._with_ceiling = num_samples, estimator, ceiling
        wanted = min(len(data.test), ROWS if n is None else n)
        self.reference = Reference(data, features_for(data, features, seed=seed), n=wanted, seed=seed, limit=limit)
        #: how many samples of a model are drawn
        self.n = wanted if n is None else n
        self.protocol = {
            "data": data.fingerprint, "n": self.n, "seed": seed, "limit": limit, "num_samples": num_samples,
            "features": self.reference.space.name, "metrics": None if metrics is None else list(metrics),
            "estimator": estimator,
        }  # fmt: skip

    @cached_property
    def ceiling(self) -> Row | None:
        """Real training rows under the same metrics: what a perfect model reaches."""
        if not self._with_ceiling:
            return None
        likelihood = None
        if self.data.log_density is not None:
            x, _ = self.data.test.take(self.limit, self.reference.generator("ceiling"))
            nats = self.data.log_density(x)
            spec = self.data.spec
            split = f"{split_words(self.data, 'test')}, {len(x):,} of {len(self.data.test):,} rows"
            words = f"the data's own density, {split}"
            likelihood = Likelihood("exact", nats, spec.num_dims, spec.is_discrete, protocol=words)
        comparison = Comparison(self.reference, self.reference.train)
        return Row("real data", "ceiling", likelihood, self.measure(comparison))

    @cached_property
    def floor(self) -> Row:
        """Independent noise under the same metrics: what a model must beat."""
        noise = Noise(self.data.spec)
        scorer = Scorer(noise, seed=self.seed)
        named = split_words(self.data, "test")
        likelihood = scorer(split_for(noise, self.data.test), limit=self.limit, named=named)
        # a seed of its own: a Gaussian model would else draw the very same rows
        samples = noise.sample(self.n, generator=self.reference.generator("floor"))
        comparison = Comparison(self.reference, samples, scorer=scorer, likelihood=likelihood)
        return Row(noise.name, "floor", likelihood, self.measure(comparison))

    def report(
        self,
        model: GenerativeModel,
        *,
        name: str | None = None,
        history: Sequence[dict[str, Any]] = (),
        seconds: float | None = None,
        command: str = "",
        options: dict[str, Any] | None = None,
    ) -> Report:
        """Measure one model.

        Args:
            name: what to call it; default its catalogue name.
            history: the log of its training, a dictionary a row, for the curves.
            seconds: what its training took.
            command: what made it, for the facts.
            options: options of its `sample`.

        Raises:
            PolymodeError: the model was made for other data.
        """
        begun = time.perf_counter()
        comparison = self.compare(model, options)
        row = Row(name or name_of(type(model)), "model", comparison.likelihood, self.measure(comparison))
        pictures = tuple(pictures_for(comparison, history))
        facts = self._facts(model, seconds, command, options)
        warnings: tuple[str, ...] = ()
        if self.metrics is None and self._with_ceiling:
            facts["collapse"], collapsed = self._collapse(comparison, row)
            warnings = (facts["collapse"],) * collapsed
        if watched := _watched(history):
            facts["watched while training"] = watched
        facts["seconds to evaluate"] = time.perf_counter() - begun
        return Report(
            row, self.ceiling, self.floor, self.data.spec.kind, self.protocol, facts, pictures, warnings, comparison
        )

    def compare(
        self, model: GenerativeModel, options: dict[str, Any] | None = None, *, scored: bool = True
    ) -> Comparison:
        """A model's samples beside the real side, with its likelihood unless ``scored`` is False.

        Raises:
            PolymodeError: the model was made for other data.
        """
        self._check(model)
        scorer, likelihood, condition = None, None, None
        if scored:
            scorer = Scorer(model, num_samples=self.num_samples, seed=self.seed, estimator=self.estimator)
            named = split_words(self.data, "test")
            likelihood = scorer(split_for(model, self.data.test), limit=self.limit, named=named)
        if model.condition_spec is not None:
            if self.reference.condition is None:
                raise DataError(
                    f"{self.data.name} has no conditions and the model needs them; give what it learned from"
                )
            # more samples than test rows go through the conditions again
            condition = self.reference.condition[torch.arange(self.n) % self.reference.n]
        before = time.perf_counter()
        samples = model.sample(self.n, condition, seed=self.seed, **(options or {}))
        took = time.perf_counter() - before
        return Comparison(self.reference, samples, model, scorer, likelihood, condition, took)

    @cached_property
    def detector(self) -> CollapseDetector:
        """Says whether samples have collapsed, against the same rows as the metrics."""
        return CollapseDetector(self.reference)

    def _collapse(self, comparison: Comparison, row: Row) -> tuple[str, bool]:
        """The detector's sentence and whether it fired; why there is none where rows or samples do not allow one."""
        try:
            verdict = self.detector.judge(comparison, row.measurements)
        except PolymodeError as error:
            return f"not judged: {error}", False
        return verdict.sentence, verdict.fired

    def measure(self, comparison: Comparison) -> tuple[Measurement, ...]:
        """The metrics of samples beside the real side."""
        return tuple(m for metric in applicable(comparison, self.metrics) for m in measure(metric, comparison))

    def _check(self, model: GenerativeModel) -> None:
        if why := model.spec.misfit(self.data.spec):
            raise DataError(
                f"the model was made for {model.spec} and {self.data.name} is {self.data.spec}: {why}; give what it "
                "learned from, or data of the same form"
            )

    def _facts(
        self, model: GenerativeModel, seconds: float | None, command: str, options: dict[str, Any] | None
    ) -> dict[str, Any]:
        row = catalogue.row_of(type(model))
        return {
            "title": "" if row is None else f"{row.title} ({row.paper})",
            "model": name_of(type(model)),
            "arguments": {k: repr(v) for k, v in model.arguments.items()},
            "condition": "none" if model.condition_spec is None else " and ".join(model.condition_spec.kinds),
            "parameters": f"{model.num_parameters:,}",
            "sampling options": {k: repr(v) for k, v in (options or {}).items()},
            "seconds to train": seconds,
            "features": f"{self.reference.space.name}: {self.reference.space.protocol}",
            "seed": str(self.seed),
            "command": command,
            "versions": {
                "polymode": catalogue.VERSION, "torch": torch.__version__, "python": platform.python_version(),
            },
            "data": self.data.summary(),
        }  # fmt: skip


def _watched(history: Sequence[dict[str, Any]]) -> str:
    """What the watchers of a training said: how often, and the last sentence."""
    looks = [entry for entry in history if entry.get("kind") == "watch"]
    if not looks:
        return ""
    said = [entry for entry in looks if entry.get("message")]
    if not said:
        return f"{len(looks)} looks, nothing to say"
    return f"{len(said)} of {len(looks)} looks had something to say, the last at step {said[-1]['step']}: " + str(
        said[-1]["message"]
    )


def evaluate(
    model: GenerativeModel,
    data: DataSet,
    *,
    n: int | None = None,
    seed: int = 0,
    limit: int = 2000,
    metrics: Sequence[str] | None = None,
    features: str = "auto",
    num_samples: int | None = None,
    ceiling: bool = True,
    estimator: Estimator = "auto",
    **about: Any,
) -> Report:
    """Measure a model against data: likelihood, sample metrics with intervals, ceiling and floor, pictures.

    Args:
        n, seed, limit, metrics, features, num_samples, ceiling, estimator: as of `Evaluator`.
        about: name, history, seconds, command and options, as of `Evaluator.report`.
    """
    evaluator = Evaluator(
        data, n=n, seed=seed, limit=limit, metrics=metrics, features=features, num_samples=num_samples, ceiling=ceiling,
        estimator=estimator,
    )  # fmt: skip
    return evaluator.report(model, **about)
