"""Whether a generator has collapsed: it draws a part of the data, or the same few data, over and over.

What is looked at is what the literature looks at: modes hit (Srivastava et al. 2017, arXiv:1705.07761; Lin et al. 2018,
arXiv:1712.04086), bins (Richardson and Weiss 2018, arXiv:1805.12462), recall and coverage (Kynkaanniemi et al. 2019;
Naeem et al. 2020), mean distances. A number alone says little, since all of them depend on n, on the features and on
how well a model draws what it draws; so each stands against its ceiling, the same number of other real rows. With
[a, b] 95 % intervals of samples and [A, B] those of real rows on real rows, the detector fires when

    modes         a mode has b < A / 4 of its share, among samples of high quality             (where modes are known)
    neighbours    recall and coverage both have b < 3/4 A: a quarter of the data is never drawn; asked only where
                  precision has b >= A / 2, since samples unlike the data miss them without having collapsed
    duplicates    a > (1 + B) / 2, the share of samples that have another one within a quarter of the median distance
                  between real neighbours
    diversity     b < A / 2, mean distance between samples, both in the features and between data as they are

NDB/K is shown and fires nothing: it counts poor samples as well as missing ones. The four fractions are the same for
all data; everything else comes from the intervals. A loss of less than a quarter of the data without known modes stays
unnoticed, and so does one that n rows can't show.

`CollapseDetector` holds the rules, `collapse_watcher` asks it while a model trains. Cost of a verdict: n^2 distances,
0.2 s at n = 1000.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.condition import Condition
from polymode.core.errors import PolymodeError
from polymode.core.model import GenerativeModel
from polymode.data.dataset import DataSet, Split
from polymode.evaluate.comparison import Comparison, Reference
from polymode.evaluate.features import features_for
from polymode.evaluate.measurement import Measurement
from polymode.evaluate.metrics import diversity, modes, ndb, prdc
from polymode.evaluate.metrics.memorisation import plain_real, plain_samples, plain_space
from polymode.evaluate.statistics import nearest, share_interval

#: fewest rows on a side
LEAST_ROWS = 40
#: what a mode keeps of its share; what neighbourhoods keep; what precision, and what diversity must reach of real data
MODE_SHARE, KEPT, LIKE_DATA, HALF = 0.25, 0.75, 0.5, 0.5
#: of the median distance between real neighbours
NEAR = 0.25
REMEDY_ALL_ALIKE = (
    "the generator has all but stopped: go back to an earlier checkpoint and lower its learning rate; for a GAN, a "
    "larger penalty_weight and more critic_steps"
)
REMEDY_PART = (
    "the model never draws a part of the data: train longer; for a GAN, a larger penalty_weight, "
    "objective='wasserstein' with penalty='gp', more critic_steps or a lower learning rate"
)


@dataclass(frozen=True)
class Collapse:
    """A verdict.

    Args:
        fired: whether the samples have collapsed.
        evidence: what was measured of the samples.
        ceiling: the same of other real rows.
        reasons: the rules that fired, in words; empty where none did.
        sentence: the verdict in one sentence.
        remedy: what to try; empty where nothing fired.
        like_data: whether samples are near enough to data for the loss of a part to show.
    """

    fired: bool
    evidence: tuple[Measurement, ...]
    ceiling: tuple[Measurement, ...]
    reasons: tuple[str, ...]
    sentence: str
    remedy: str
    like_data: bool

    def __getitem__(self, name: str) -> Measurement:
        for m in self.evidence:
            if m.metric == name:
                return m
        raise PolymodeError(f"there is no evidence {name!r}; there are: {', '.join(m.metric for m in self.evidence)}")

    def to_dict(self) -> dict[str, Any]:
        """A dictionary for JSON."""
        return {
            "fired": self.fired, "sentence": self.sentence, "reasons": list(self.reasons), "remedy": self.remedy,
            "evidence": [m.to_dict() for m in self.evidence], "ceiling": [m.to_dict() for m in self.ceiling],
        }  # fmt: skip


class CollapseDetector:
    """Says whether samples have collapsed.

    Args:
        data: a data set, whose training rows are split into a real side and a ceiling (no test row is touched, so it
            may be asked while training); or a reference, which is taken as it is.
        n: rows on each side, where a data set is given.
        features: the feature space, see `features_for`.
        seed: fixes which rows.

    Raises:
        PolymodeError: fewer than 40 rows on a side, or data that are all equal.
    """

    def __init__(self, data: DataSet | Reference, *, n: int = 1000, features: str = "auto", seed: int = 0) -> None:
        self.reference = data if isinstance(data, Reference) else _reference(data, n, features, seed)
        if min(self.reference.n, len(self.reference.train)) < LEAST_ROWS:
            raise PolymodeError(
                f"a collapse can't be told from {min(self.reference.n, len(self.reference.train))} real rows on a side;"
                f" give at least {LEAST_ROWS}"
            )
        self.ceiling = _evidence(Comparison(self.reference, self.reference.train))

    def __call__(self, samples: Tensor, condition: Condition | None = None) -> Collapse:
        """The verdict on samples (M, *shape) in data space, M >= 40.

        Raises:
            DataError: samples that are not data of this kind.
            PolymodeError: too few of them.
        """
        self.reference.data.spec.check(samples, name="the samples")
        if len(samples) < LEAST_ROWS:
            raise PolymodeError(f"a collapse can't be told from {len(samples)} samples; give at least {LEAST_ROWS}")
        if len(samples) < self.reference.n:
            # radii and coverage depend on the number of rows, so the real side must not have more
            r = self.reference
            fewer = Reference(r.data, r.space, n=len(samples), seed=r.seed, limit=r.limit)
            return CollapseDetector(fewer)(samples, condition)
        return self.judge(Comparison(self.reference, samples, condition=condition))

    def judge(self, c: Comparison, measured: Sequence[Measurement] = ()) -> Collapse:
        """The verdict on a comparison with this reference; what was `measured` of it is not measured again."""
        if len(c.samples) > self.reference.n:
            c, measured = Comparison(self.reference, c.samples[: self.reference.n]), ()
        evidence = _evidence(c, measured)
        of, real = {m.metric: m for m in evidence}, {m.metric: m for m in self.ceiling}
        alike, part = _all_alike(of, real), _part(of, real)
        if c.data.modes is not None and (lost := lost_modes(c)):
            part.insert(0, f"{lost} of {len(c.data.modes)} modes have less than a quarter of their share")
        reasons = (*alike, *part)
        if reasons:
            remedy = REMEDY_ALL_ALIKE if alike else REMEDY_PART
            sentence = f"mode collapse: {'; '.join(reasons)}; {remedy}"
        else:
            remedy = ""
            sentence = f"no sign of mode collapse in {len(c.samples)} samples"
            if not _like_data(of, real):
                sentence += ", but they are so unlike the data that the loss of a part would not show"
        return Collapse(bool(reasons), evidence, self.ceiling, reasons, sentence, remedy, _like_data(of, real))


def _reference(data: DataSet, n: int, features: str, seed: int) -> Reference:
    """Two disjoint sets of at most n training rows."""
    order = torch.randperm(len(data.train), generator=rng.generator(seed))
    half = min(n, len(order) // 2)
    if half < LEAST_ROWS:
        raise PolymodeError(
            f"{data.name} has {len(order)} training rows, a collapse can be told with at least {2 * LEAST_ROWS}"
        )

    def part(rows: Tensor) -> Split:
        # rows that are drawn afresh at every visit are drawn once, so that the two sides stay what they are
        return Split(*data.train.batch(rows, rng.generator(seed)))

    halves = replace(data, test=part(order[:half]), train=part(order[half : 2 * half]))
    return Reference(halves, features_for(data, features, seed=seed), n=half, seed=seed, limit=half)


def _evidence(c: Comparison, measured: Sequence[Measurement] = ()) -> tuple[Measurement, ...]:
    """What the rules look at, and NDB/K."""
    found = {m.metric: m for m in measured if not m.refusal}
    for metric, names in (
        (prdc, ("precision", "recall", "coverage")), (ndb, ("NDB/K",)), (diversity, ("diversity",)),
    ):  # fmt: skip
        if not set(names) <= found.keys():
            found |= {m.metric: m for m in metric.measure(c)}
    names = ["precision", "recall", "coverage", "NDB/K", "diversity"]
    if c.data.modes is not None:
        if "modes hit" not in found:
            found |= {m.metric: m for m in modes.measure(c)}
        names.insert(0, "modes hit")
    return (*(found[name] for name in names), _plain_diversity(c), _duplicates(c))


def _plain_diversity(c: Comparison) -> Measurement:
    value, low, high = diversity.ratio(plain_real(c), plain_samples(c))
    protocol = "mean distance between samples over that between real rows, of data as they are"
    return Measurement("plain diversity", value, low, high, c.n, None, protocol, features=plain_space(c).name)


def _duplicates(c: Comparison) -> Measurement:
    """The share of samples that have another within a quarter of the median distance between real neighbours."""
    real, samples = plain_real(c), plain_samples(c)
    # the nearest of all is the row itself; rounding leaves a distance of nothing between equal rows
    within = c.reference.cached(
        "near", lambda: NEAR * float(nearest(real, real, 2)[0][:, 1].median()) + 1e-6 * float(real.std())
    )
    near = nearest(samples, samples, 2)[0][:, 1] <= within
    value, low, high = share_interval(float(near.sum()), len(samples))
    protocol = f"samples with another within {within:.3g}, a quarter of the median distance between real neighbours"
    return Measurement("duplicates", value, low, high, c.n, "lower", protocol, features=plain_space(c).name)


def lost_modes(c: Comparison) -> int:
    """Modes whose share among samples of high quality is below a quarter of that among real rows, beyond intervals."""
    assert c.data.modes is not None
    centres = c.data.modes.double()

    def counts(x: Tensor) -> Tensor:
        distance, which = nearest(x.flatten(1).double(), centres, 1)
        good = distance[:, 0] <= modes.WITHIN * deviation
        return torch.bincount(which[good, 0], minlength=len(centres))

    deviation = modes.deviation_of(c)
    of_real, of_samples = counts(c.reference.real), counts(c.samples)
    n, m = int(of_real.sum()), int(of_samples.sum())
    if m == 0:
        return 0  # nothing lies near any mode: that is no loss of some of them
    return sum(
        share_interval(got, m)[2] < MODE_SHARE * share_interval(wanted, n)[1]
        for got, wanted in zip(of_samples.tolist(), of_real.tolist(), strict=True)
    )


def _all_alike(of: dict[str, Measurement], real: dict[str, Measurement]) -> list[str]:
    reasons = []
    m, r = of["duplicates"], real["duplicates"]
    if m.low > (1 + r.high) / 2:
        reasons.append(f"{m.value:.0%} of the samples have a near-duplicate among them (real rows: {r.value:.0%})")
    if all(of[name].high < HALF * real[name].low for name in ("diversity", "plain diversity")):
        reasons.append(f"samples are {of['diversity'].value:.2g} times as far from each other as real rows")
    return reasons


def _part(of: dict[str, Measurement], real: dict[str, Measurement]) -> list[str]:
    if _like_data(of, real) and all(of[name].high < KEPT * real[name].low for name in ("recall", "coverage")):
        told = ", ".join(f"{name} {of[name].value:.2f} (real rows: {real[name].value:.2f})"
                         for name in ("recall", "coverage"))  # fmt: skip
        return [f"more than a quarter of the data is never drawn: {told}"]
    return []


def _like_data(of: dict[str, Measurement], real: dict[str, Measurement]) -> bool:
    return of["precision"].high >= LIKE_DATA * real["precision"].low


def collapse_watcher(
    data: DataSet, *, n: int = 500, features: str = "auto", seed: int = 0
) -> Callable[[GenerativeModel, int], tuple[dict[str, float], str]]:
    """A watcher for `fit(..., watch=[collapse_watcher(data)])`: numbers at every look, a sentence when it fires.

    Args:
        data: what the model learns from.
        n: samples a look, and real rows on each side.
        features, seed: as of `CollapseDetector`.
    """
    detector = CollapseDetector(data, n=n, features=features, seed=seed)
    reference = detector.reference

    def watch(model: GenerativeModel, step: int) -> tuple[dict[str, float], str]:
        condition = None
        if model.condition_spec is not None and reference.condition is not None:
            condition = reference.condition
        samples = model.sample(reference.n, condition, seed=seed)
        try:
            verdict = detector(samples, condition)
        except PolymodeError as error:  # a model in the middle of its training may draw what is no data
            return {}, f"collapse can't be told: {error}"
        values = {
            name.replace(" ", "_"): verdict[name].value
            for name in ("recall", "coverage", "diversity", "duplicates")
            if not math.isnan(verdict[name].value)
        }
        return {"collapsed": float(verdict.fired), **values}, verdict.sentence if verdict.fired else ""

    return watch
