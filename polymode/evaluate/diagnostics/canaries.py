"""Canaries: random data planted among the training rows; a model that finds them likelier than others has memorised.

Carlini, Liu, Erlingsson, Kos and Song 2019, "The secret sharer: evaluating and testing unintended memorization in
neural networks", arXiv:1802.08232, sections 4.1 to 4.3. With R the reference canaries, drawn like those planted and
shown to nobody, and rank the place of a planted one among all of them by the model's score, likeliest first:

    exposure = log2 |R| - log2 rank              (definition 5, by sampling)

A canary that was never learned has a rank that is uniform, hence an exposure of about 1/ln 2 = 1.44 bits on average,
whatever the model; log2 |R| is the most that |R| references can show. Nothing that a model learns about the data helps
it here, as canaries are noise: only repeating them does. That is a trace of single rows and no verdict of overfitting:
noise is an outlier, and a model that generalises may learn outliers early, so compare models at equal training.

`plant` makes the data set, `exposure` the numbers. Canaries are drawn from independent noise over the data's range
(`Noise`): uniform on lattices and for tokens, normal for reals. The score is the exact log-likelihood, else its bound,
else minus the energy, else minus the reconstruction error. Deviation: canaries have no format around the random part,
since data here are of every kind; ties count half; a rank of 1 counts as 1.
Cost: |R| + n scores of an unconditional model, n |R| of a conditional one, as each canary keeps its condition.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.capabilities import HasBound, HasEnergy, HasFrameEstimate, HasLatents, HasLogProb, capabilities
from polymode.core.condition import Condition
from polymode.core.errors import CapabilityError, DataError, PolymodeError
from polymode.core.model import GenerativeModel
from polymode.core.spec import Spec
from polymode.data.dataset import DataSet, Split
from polymode.evaluate.measurement import Measurement
from polymode.evaluate.noise import Noise
from polymode.evaluate.statistics import mean_interval
from polymode.parts.features import Features

#: the mean exposure of canaries that were never seen, in bits: E[-log2 U], U uniform
CHANCE = 1 / math.log(2)
#: rows scored at once
BATCH = 256


@dataclass(frozen=True)
class Canaries:
    """What was planted.

    Args:
        spec: what one datum is.
        x, condition: the n canaries and their conditions, (n, *shape).
        repeats: how often each stands among the training rows.
        seed: what they were drawn with.
    """

    spec: Spec
    x: Tensor
    condition: Condition | None
    repeats: int
    seed: int

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Exposure:
    """How well a model knows canaries.

    Args:
        bits: (n,) of each canary.
        mean, low, high: their mean with a 95 % interval (Student's t).
        references: |R|.
        score: what ranked them.
    """

    bits: Tensor
    mean: float
    low: float
    high: float
    references: int
    score: str

    @property
    def most(self) -> float:
        """log2 |R|, the most that can be seen."""
        return math.log2(self.references)

    @property
    def memorised(self) -> bool:
        """Whether the mean is above that of canaries never seen, beyond the interval."""
        return self.low > CHANCE

    def measurement(self) -> Measurement:
        """The number for a report."""
        protocol = (
            f"bits, mean of {len(self.bits)} canaries among {self.references} references by {self.score}; "
            f"{CHANCE:.2f} where nothing was memorised, {self.most:.1f} at most"
        )
        return Measurement("exposure", self.mean, self.low, self.high, len(self.bits), None, protocol)


def plant(data: DataSet, *, n: int = 8, repeats: int = 1, seed: int = 0) -> tuple[DataSet, Canaries]:
    """A data set whose training split also holds n random canaries, each `repeats` times, and the canaries.

    Canaries of data with conditions take those of random training rows. The stored rows are copied, also where they
    are windows of one text.

    Raises:
        PolymodeError: fewer than 2 canaries or 1 repetition.
        DataError: training rows that are drawn afresh at every visit, among which a canary could not stay itself; or
            data of so few values that noise meets rows that are there already.
    """
    if n < 2 or repeats < 1:
        raise PolymodeError(f"n={n} and repeats={repeats}, expected at least 2 canaries and 1 repetition")
    train = data.train
    if train.draw is not None:
        raise DataError(f"the rows of {data.name} are drawn afresh at every visit; give a data set of fixed rows")
    g = rng.generator(seed)
    x = _strangers(data, n, g)
    condition = None
    if train.condition is not None:
        condition = train.condition[rng.randint(len(train), (n,), g)]
    # the trainer permutes rows, so it does not matter that canaries come last
    which = torch.arange(n).repeat(repeats)
    rows = torch.cat([train.x, x[which].to(train.x.dtype)])
    joined = None
    if train.condition is not None:
        assert condition is not None
        joined = _join(train.condition, condition[which])
    note = f"{n} random canaries were planted among the training rows, {repeats} times each (seed {seed})"
    planted = replace(data, train=Split(rows, joined), notes=(*data.notes, note))
    return planted, Canaries(data.spec, x, condition, repeats, seed)


def _strangers(data: DataSet, n: int, g: torch.Generator) -> Tensor:
    """n different draws of noise that are no training rows."""
    found: list[Tensor] = []
    for x in Noise(data.spec).sample(4 * n, generator=g):
        if len(found) < n and not any(
            bool(_equals(rows, x).any()) for rows in (data.train.x, *(f[None] for f in found))
        ):
            found.append(x)
    if len(found) < n:
        raise DataError(
            f"noise of {data.spec} meets training rows of {data.name} too often to stand out; data of more dimensions "
            "or more values can hold canaries"
        )
    return torch.stack(found)


def _equals(rows: Tensor, x: Tensor) -> Tensor:
    """(N,): rows that are x, missing cells equal."""
    same = rows == x
    if rows.is_floating_point():
        same |= rows.isnan() & x.isnan()
    return same.flatten(1).all(1)


def _join(a: Condition, b: Condition) -> Condition:
    return Condition(**{kind: torch.cat([getattr(a, kind), getattr(b, kind)]) for kind in a.kinds})


def exposure(model: GenerativeModel, canaries: Canaries, *, references: int = 1024, seed: int = 0) -> Exposure:
    """How much likelier a model finds the canaries than others like them.

    Args:
        references: |R|, how many others.
        seed: fixes them and the draws of a bound.

    Raises:
        CapabilityError: a model that scores nothing.
        DataError: canaries of other data.
    """
    if references < 2:
        raise PolymodeError(f"references={references}, expected at least 2")
    if why := model.spec.misfit(canaries.spec):
        raise DataError(f"the canaries are not of the model's data ({why}); give its own")
    name = score_name(model)
    # a stream of its own, so that no reference is a planted one by construction
    g = rng.generator(seed + 7919 * (canaries.seed + 1))
    others = Noise(canaries.spec).sample(references, generator=g)
    if model.condition_spec is None or canaries.condition is None:
        scores = score(model, torch.cat([canaries.x, others]), None, seed=seed)
        mine, theirs = scores[: len(canaries)], scores[len(canaries) :].expand(len(canaries), -1)
    else:
        rows = []
        for i in range(len(canaries)):
            given = canaries.condition[torch.full((references + 1,), i)]
            rows.append(score(model, torch.cat([canaries.x[i : i + 1], others]), given, seed=seed))
        mine, theirs = torch.stack(rows)[:, 0], torch.stack(rows)[:, 1:]
    if mine.isnan().any() or theirs.isnan().any():
        raise PolymodeError(f"{type(model).__name__} scores canaries with nan; train it again")
    bits = exposures(mine, theirs)
    return Exposure(bits, *mean_interval(bits), references, name)


def exposures(canaries: Tensor, references: Tensor) -> Tensor:
    """Bits (n,) from scores of canaries (n,) and of their references (n, R), higher being likelier."""
    above = (references > canaries[:, None]).double().sum(1)
    tied = (references == canaries[:, None]).double().sum(1)
    rank = 1 + above + tied / 2
    # |R| + 1 are ranked, the last of whom would be just below zero bits
    return (math.log2(references.shape[1]) - rank.log2()).clamp(min=0.0)


def score_name(model: GenerativeModel) -> str:
    """What a model is scored by.

    Raises:
        CapabilityError: nothing.
    """
    for capability, name in (
        (HasLogProb, "log-likelihood"), (HasBound, "lower bound"),
        (HasFrameEstimate, "estimated log-likelihood"), (HasEnergy, "minus the energy"),
        (HasLatents, "minus the reconstruction error"),
    ):  # fmt: skip
        if isinstance(model, capability):
            return name
    can = ", ".join(capabilities(model)) or "sampling only"
    raise CapabilityError(
        f"{type(model).__name__} scores no data (it has: {can}), so canaries can't be ranked; look at memorisation "
        "and C_T of its samples"
    )


def score(model: GenerativeModel, x: Tensor, condition: Condition | None, *, seed: int) -> Tensor:
    """How likely a model finds data: (N,) float64, comparable between rows of one condition."""
    score_name(model)
    g, found = rng.generator(seed), []
    for rows in torch.arange(len(x)).split(BATCH):
        part, given = x[rows], None if condition is None else condition[rows]
        if isinstance(model, HasLogProb):
            nats = model.log_prob(part, given)
        elif isinstance(model, HasBound):
            nats = model.iwae_bound(part, model.default_num_samples, given, generator=g)
        elif isinstance(model, HasFrameEstimate):
            nats = model.frame_estimate(part, None, given, generator=g).nats.sum(1)
        elif isinstance(model, HasEnergy):
            nats = -model.energy(part, given)
        else:
            assert isinstance(model, HasLatents)
            features = Features(model.spec)
            back = model.decode(model.encode(part, given), given).cpu()
            nats = -(features(back) - features(part)).double().square().sum(1)
        found.append(nats.cpu().double())
    return torch.cat(found)
