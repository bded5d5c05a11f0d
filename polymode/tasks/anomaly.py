"""Anomaly and out-of-distribution detection: a score a row (higher = more anomalous), and flags at a stated rate.

Bishop 1994, "Novelty detection and neural network validation", scores a row by its likelihood under a model of normal
data. Nalisnick et al. 2019, "Do deep generative models know what they don't know?", arXiv:1810.09136, show where that
fails: smooth or constant data may be likelier than the training data itself. The other scores mend it:

    likelihood         -log p(x)
    bound              -log of a lower bound on p(x)
    estimate           -log of an estimate of p(x), of series whose frames have normalisers of their own
    energy             E(x), which is -log p(x) up to a constant
    reconstruction     1/D |f(x) - f(decode(encode(x)))|^2, f the scaled features of `parts.features`
    likelihood-ratio   log q(x) - log p(x), q a background model (Ren et al. 2019, arXiv:1906.02845, eq. 3)
    typicality         |-log p(x) - mean of -log p over training rows| (Nalisnick et al. 2019, arXiv:1906.02994, eq. 4)
    complexity         -log p(x) - L(x), L the length of x under a general compressor (Serra et al. 2020,
                       arXiv:1909.11480, eq. 3)

`anomaly_scores` holds them. `detect` puts a threshold on one: with calibration rows s_1 .. s_n that the model did not
learn from, a row's conformal p-value is (1 + #{s_i >= s}) / (n + 1) (Vovk, Gammerman and Shafer 2005), uniform on
normal data whatever the model, so that flagging p <= a raises false alarms at a rate of at most a.

Deviations: typicality is taken of single rows, a batch of one in the paper. Ren et al. train the background on inputs
mutated uniformly; `training_sets.perturbed` does so on lattices only. The compressor is raw deflate, after the row
filters of PNG on images, where the paper takes PNG, JPEG 2000 and FLIF. Ratio, typicality and complexity take a bound
or an energy for log p where a model has no better; an energy's missing constant moves no ranking.

Cost: one scoring of the rows; two for the ratio; typicality scores up to 1000 reference rows besides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.capabilities import HasBound, HasEnergy, HasFrameEstimate, HasLatents, HasLogProb
from polymode.core.condition import Condition
from polymode.core.errors import CapabilityError, DataError, PolymodeError, require_choice
from polymode.core.model import GenerativeModel
from polymode.data.dataset import DataSet, Split
from polymode.evaluate.likelihood import Scorer, split_for
from polymode.evaluate.statistics import auroc
from polymode.parts.features import Features
from polymode.tasks.conformal import conformal_p, threshold_at
from polymode.tasks.deflate import compressed_bits

ScoreName = Literal[
    "auto", "likelihood", "bound", "estimate", "energy", "reconstruction", "likelihood-ratio", "typicality",
    "complexity",
]  # fmt: skip
SCORES: tuple[ScoreName, ...] = (
    "likelihood", "bound", "estimate", "energy", "reconstruction", "likelihood-ratio", "typicality", "complexity",
)  # fmt: skip
#: training rows that the typical likelihood is a mean of
REFERENCE_ROWS = 1000
#: validation rows that a threshold is calibrated on
CALIBRATION_ROWS = 2000
LN2 = 0.6931471805599453


@dataclass(frozen=True)
class Scores:
    """Anomaly scores.

    Args:
        values: (B,) float64, higher = more anomalous; infinite where the model gives a row no probability at all.
        name: which score, of `SCORES`.
        protocol: how it was made, in words.
    """

    values: Tensor
    name: str
    protocol: str

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class Detection:
    """What `detect` found of B rows.

    Args:
        scores: of the rows.
        p_values: (B,) conformal: the share of normal rows that score as high.
        flags: (B,) bool, True where p <= false_alarms, which is where the score is above the threshold.
        threshold: the score above which a row is flagged.
        false_alarms: the rate at which normal rows may be flagged.
        calibration: (n,) scores of the rows that p-values are made of, ascending.
    """

    scores: Scores
    p_values: Tensor
    flags: Tensor
    threshold: float
    false_alarms: float
    calibration: Tensor


def offered(model: GenerativeModel) -> tuple[str, ...]:
    """The scores that a model can give on its data, best first; those of `auto` come in this order."""
    scores = {"likelihood": HasLogProb, "bound": HasBound, "estimate": HasFrameEstimate, "energy": HasEnergy}
    likely = [name for name, capability in scores.items() if isinstance(model, capability)]
    found = [*likely, *(("reconstruction",) if isinstance(model, HasLatents) else ())]
    if likely:
        found += ["likelihood-ratio", "typicality", *(("complexity",) if model.spec.levels is not None else ())]
    return tuple(found)


def choose(model: GenerativeModel, score: str, *, background: bool, reference: bool) -> str:
    """The score that is meant: `auto` takes what a background or reference asks for, else the best that the model has.

    Raises:
        CapabilityError: the model can't give it.
        PolymodeError: no score of that name, or one that lacks its background or reference.
    """
    require_choice("score", score, ("auto", *SCORES))
    can = offered(model)
    if score == "auto":
        wanted = "likelihood-ratio" if background else "typicality" if reference else (can or ("likelihood",))[0]
        return choose(model, wanted, background=background, reference=reference)
    if score not in can:
        listed = ", ".join(can) or "none, as it only samples"
        raise CapabilityError(
            f"{type(model).__name__} on {model.spec} can't give the score {score!r}; scores that it can give: {listed}"
        )
    if score == "likelihood-ratio" and not background:
        raise PolymodeError("the score 'likelihood-ratio' needs background=, a second model of the same data; give one")
    if score == "typicality" and not reference:
        raise PolymodeError("the score 'typicality' needs reference=, rows that the model learned from; give some")
    if background and score != "likelihood-ratio":
        raise PolymodeError(f"a background came beside the score {score!r}; only 'likelihood-ratio' takes one")
    return score


def anomaly_scores(
    model: GenerativeModel,
    x: Tensor,
    condition: Condition | None = None,
    *,
    score: ScoreName = "auto",
    background: GenerativeModel | None = None,
    reference: Split | Tensor | None = None,
    seed: int = 0,
) -> Scores:
    """How anomalous each row is under a model; see the module for the scores.

    Args:
        x: (B, *shape) in data space.
        condition: one row a datum, for a conditional model.
        score: which; "auto" is the ratio where a background is given, typicality where reference rows are, and else
            the first that the model has of likelihood, bound, estimate, energy and reconstruction.
        background: a second model of the same data, for the ratio.
        reference: rows that the model learned from, for typicality; a split brings its conditions.
        seed: of the draws of a bound.

    Raises:
        CapabilityError: the model can't give this score; the sentence lists those that it can.
        PolymodeError: data or conditions that do not fit, a missing background or reference, scores that are nan.
    """
    name = choose(model, score, background=background is not None, reference=reference is not None)
    model.spec.check(x)
    values, protocol = _score(name, model, x, condition, background, reference, seed)
    if bool(values.isnan().any()):
        raise PolymodeError(
            f"{int(values.isnan().sum())} of {len(values)} scores under {type(model).__name__} are nan; the model has "
            "diverged, so train it again"
        )
    return Scores(values, name, protocol)


def _score(
    name: str, model: GenerativeModel, x: Tensor, condition: Condition | None,
    background: GenerativeModel | None, reference: Split | Tensor | None, seed: int,
) -> tuple[Tensor, str]:  # fmt: skip
    if name == "reconstruction":
        return _reconstruction(model, x, condition), "squared error of scaled features after encode and decode, per dim"
    using = name if name in ("likelihood", "bound", "estimate", "energy") else offered(model)[0]
    log_p, told = _log_p(model, x, condition, seed, using)
    match name:
        case "likelihood-ratio":
            assert background is not None
            given = None if background.condition_spec is None else condition
            log_q, of_q = _log_p(background, x, given, seed + 1, _check_background(model, background))
            # where the model excludes a row the background can't excuse it
            ratio = torch.where(log_p == -torch.inf, torch.inf, log_q - log_p)
            return ratio, f"log q(x) - log p(x); q: {type(background).__name__}, {of_q}; p: {told}"
        case "typicality":
            assert reference is not None
            entropy, n = _typical(model, reference, seed + 1, using)
            return (
                -log_p - entropy
            ).abs(), f"distance of -log p(x) from {entropy:.4g} nats, its mean on {n} rows; {told}"
        case "complexity":
            bits = compressed_bits(x, model.spec)
            return -log_p - LN2 * bits, f"-log p(x) less the length of x under raw deflate; {told}"
        case _:
            return -log_p, told if name == "energy" else f"minus {told}"


def _log_p(model: GenerativeModel, x: Tensor, condition: Condition | None, seed: int, using: str) -> tuple[Tensor, str]:
    """(log p(x) by the named capability, how it was made), in float64 on the CPU."""
    if using == "energy":
        assert isinstance(model, HasEnergy)
        pieces = [-model.energy(part, given).cpu() for part, given in _batches(model, x, condition)]
        return torch.cat(pieces).double(), "E(x), without log Z"
    if using == "bound" and isinstance(model, HasLogProb):  # the scorer would take the exact one
        assert isinstance(model, HasBound)
        s, draws = model.default_num_samples, rng.generator(seed)
        pieces = [
            model.iwae_bound(part, s, given, generator=draws).cpu() for part, given in _batches(model, x, condition)
        ]
        return torch.cat(pieces).double(), f"iwae-{s}, {model.bound_name}"
    found = Scorer(model, seed=seed)(Split(x, condition))
    assert found.nats is not None
    return found.nats.cpu().double(), found.protocol


def _batches(
    model: GenerativeModel, x: Tensor, condition: Condition | None
) -> Iterator[tuple[Tensor, Condition | None]]:
    """Rows and their conditions, some at a time, so that memory is bounded."""
    rows = model.rows_at_once
    for i in range(0, len(x), rows):
        yield x[i : i + rows], None if condition is None else condition[i : i + rows]


def _check_background(model: GenerativeModel, background: GenerativeModel) -> str:
    """The likelihood that the background has, where it is one of the same data."""
    if why := model.spec.misfit(background.spec):
        raise PolymodeError(f"the background was not made for the model's data ({why}); give one of the same data")
    if "likelihood-ratio" not in (can := offered(background)):
        raise CapabilityError(
            f"the background {type(background).__name__} has no likelihood, bound or energy; give another model"
        )
    return can[0]


def _typical(model: GenerativeModel, reference: Split | Tensor, seed: int, using: str) -> tuple[float, int]:
    """(mean -log p over at most 1000 reference rows, how many)."""
    split = Split(reference) if isinstance(reference, Tensor) else split_for(model, reference)
    if len(split) == 0:
        raise DataError("the reference holds no rows; give rows that the model learned from")
    model.spec.check(split.x, name="the reference")
    rows, condition = split.take(REFERENCE_ROWS, rng.generator(seed))
    log_p, _ = _log_p(model, rows, condition, seed, using)
    if not bool(log_p.isfinite().all()):
        bad = int((~log_p.isfinite()).sum())
        raise PolymodeError(
            f"{bad} of {len(rows)} reference rows have no finite log-likelihood, so there is no typical one; use "
            "another score"
        )
    return -float(log_p.mean()), len(rows)


def _reconstruction(model: GenerativeModel, x: Tensor, condition: Condition | None) -> Tensor:
    """Squared error of features between data and decode(encode(data)), over the number of dimensions, (B,)."""
    assert isinstance(model, HasLatents)
    features = Features(model.spec)
    found = []
    for part, given in _batches(model, x, condition):
        z = model.encode(part, given)
        if z[0].numel() >= model.spec.num_dims:
            raise CapabilityError(
                f"{type(model).__name__} has a code of {z[0].numel()} numbers for data of {model.spec.num_dims}, "
                "through which anything passes, so its reconstruction tells nothing; use a smaller code or another "
                f"score of: {', '.join(n for n in offered(model) if n != 'reconstruction')}"
            )
        error = features(part.cpu()).double() - features(model.decode(z, given).cpu()).double()
        found.append(error.square().sum(1) / model.spec.num_dims)
    return torch.cat(found)


def detect(
    model: GenerativeModel,
    data: DataSet,
    x: Tensor,
    condition: Condition | None = None,
    *,
    score: ScoreName = "auto",
    background: GenerativeModel | None = None,
    false_alarms: float = 0.05,
    seed: int = 0,
) -> Detection:
    """Flag the rows of x that are unlike what the model learned from, at a stated rate of false alarms.

    Args:
        data: what the model learned from: its validation rows calibrate, its training rows are typicality's reference.
        x, condition, score, background, seed: as in `anomaly_scores`; "auto" takes the ratio where a background is
            given, else the first that the model has of likelihood, bound, estimate, energy and reconstruction.
        false_alarms: the share of normal rows that may be flagged.

    The validation rows may have stopped the training or chosen a bandwidth; that makes p-values a little too small,
    by as much as the model is better on them than on fresh rows.

    Raises:
        PolymodeError: what `anomaly_scores` raises, data of another form, or too few validation rows for the rate.
    """
    name = choose(model, score, background=background is not None, reference=score == "typicality")
    if (model.spec.signature, model.spec.shape) != (data.spec.signature, data.spec.shape):
        raise DataError(f"the model was made for {model.spec}, {data.name} holds {data.spec}; give the data it learned")
    reference = data.train if name == "typicality" else None
    rows, given = split_for(model, data.valid).take(CALIBRATION_ROWS, rng.generator(seed))
    shared = {"score": name, "background": background, "reference": reference}
    # other draws than those of the rows, so that normal and calibration rows are exchangeable
    calibration = anomaly_scores(model, rows, given, **shared, seed=seed + 1000).values.sort().values
    threshold = threshold_at(calibration, false_alarms)
    scores = anomaly_scores(model, x, condition, **shared, seed=seed)
    protocol = f"{scores.protocol}; calibrated on {len(calibration)} validation rows"
    return Detection(
        replace(scores, protocol=protocol), conformal_p(calibration, scores.values), scores.values > threshold,
        threshold, false_alarms, calibration,
    )  # fmt: skip


def ood_auroc(inliers: Scores | Tensor, outliers: Scores | Tensor) -> tuple[float, float, float]:
    """(area, low, high) under the ROC curve of telling outliers from inliers by their scores; 0.5 is chance.

    Raises:
        PolymodeError: scores of two kinds, none, or nan.
    """
    if isinstance(inliers, Scores) and isinstance(outliers, Scores) and inliers.name != outliers.name:
        raise PolymodeError(
            f"inliers have the score {inliers.name!r} and outliers {outliers.name!r}; give one score on both sides"
        )
    low, high = (s.values if isinstance(s, Scores) else s for s in (inliers, outliers))
    return auroc(high, low)
