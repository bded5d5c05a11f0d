"""How far each part of a code stands for one known cause of the data: MIG, FactorVAE score, DCI, SAP.

Codes z (N, Z) are what a model encodes test rows as (the posterior's mean, where it has one), factors v (N, K) what
made them (`DataSet.factors`).

    MIG     1/K sum_k (I(z_a; v_k) - I(z_b; v_k)) / H(v_k), a and b the two codes that know most of v_k
            Chen et al. 2018, arXiv:1802.04942, eq. 6: `mig`
    FactorVAE score   rows that share one factor; the code that varies least among them votes; the accuracy of the
            majority's factor a code: Kim and Mnih 2018, arXiv:1802.05983, section 4: `factor_vae_score`
    DCI     P_zk the share of code z in predicting v_k; D = sum_z w_z (1 - H_K(P_z.)), C = mean_k (1 - H_Z(P_.k)),
            w_z the code's share of all; I the accuracy: Eastwood and Williams 2018, ICLR: `dci`, `balance`
    SAP     mean_k of the gap between the two codes that predict v_k best on their own; R² of a line for factors in
            order, balanced accuracy of thresholds for classes: Kumar et al. 2018, arXiv:1711.00848, section 3: `sap`

I and the thresholds are of histograms of 20 bins of equal width over a code's range. The histogram's I is too high by
about (bins - 1)(values - 1) / 2N nats (Miller 1955), for all codes alike, so that the gap is hardly biased: noise of
864 rows has a MIG of 0.003. DCI's predictor is a forest of bagged trees, fitted on one half of the rows, scored on
the other. Every number stands beside that of the factors themselves as codes, the ceiling (1, but for SAP, whose
balanced accuracy is 1/classes at chance), and of Gaussian noise, the floor (of the FactorVAE score about 1/K).
Deviations: Chen et al. take I from samples of the posterior, here it is of its mean, as in Locatello et al. 2019,
arXiv:1811.12359; thresholds are the edges of the bins; no code is left out for varying little.

Intervals are normal, of the standard deviation over resamples of the rows, the model as it is; of DCI Student's, as its
resamples are few. Cost 11 forests a factor, and twice as many again for ceiling and floor, which models share.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.capabilities import HasLatents
from polymode.core.errors import PolymodeError
from polymode.core.model import GenerativeModel
from polymode.data.dataset import DataSet
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.measurement import Measurement
from polymode.evaluate.statistics import check_features, student_quantile

BINS = 20
#: votes to learn the majority from, and as many to score it; rows a vote
VOTES, VOTE_ROWS = 800, 64
#: resamples of the rows, of the scores and of DCI
RESAMPLES, FEW_RESAMPLES = 200, 10
TREES = 10
#: most test rows, and the fewest
MOST_ROWS, FEWEST_ROWS = 5000, 200

Scores = dict[str, float]


def mutual_information(codes: Tensor, factors: Tensor, *, bins: int = BINS) -> Tensor:
    """I(z_i; v_k) in nats by histograms, (Z, K); see the module for its bias."""
    p = joint(binned(codes, bins), factors, bins)
    independent = p.sum(2, keepdim=True) * p.sum(3, keepdim=True)
    return torch.where(p > 0, p * (p / independent).log(), 0.0).sum((2, 3))


def mig(codes: Tensor, factors: Tensor, *, bins: int = BINS) -> float:
    """The mutual information gap, 0 to 1 (Chen et al. 2018, eq. 6); a lone code is compared with none."""
    _check(codes, factors)
    information = mutual_information(codes, factors, bins=bins)
    entropy = torch.stack([_entropy(torch.bincount(v).double() / len(v)) for v in factors.T])
    return float((_gap(information) / entropy).mean())


def sap(codes: Tensor, factors: Tensor, *, ordered: list[bool] | None = None, bins: int = BINS) -> float:
    """Separated attribute predictability, 0 to 1 (Kumar et al. 2018).

    Args:
        codes: (N, Z).
        factors: (N, K) integers.
        ordered: which factors are in order, by default all; the others are classes.
        bins: of the thresholds.
    """
    _check(codes, factors)
    z, v = (_standardised(a.double()) for a in (codes, factors))
    found = (z.T @ v / len(z)).square()  # (Z, K), R² of a line
    p = joint(binned(codes, bins), factors, bins)
    for k, in_order in enumerate(ordered or []):
        if not in_order:
            within = p[:, k] / p[:, k].sum(1, keepdim=True).clamp(min=1e-300)  # p(bin | class); 0 where there is none
            classes = int((p[0, k].sum(0) > 0).sum())
            found[:, k] = within.amax(2).sum(1) / classes
    return float(_gap(found).mean())


def factor_vae_score(codes: Tensor, factors: Tensor, *, generator: torch.Generator) -> float:
    """Accuracy of the majority vote, 0 to 1 (Kim and Mnih 2018, section 4); chance is about 1/K.

    A vote holds one factor at the value of a random row, takes 64 of the rows that share it, and is for the code whose
    variance among them is the least part of its variance among all. A constant code gets no votes.
    """
    _check(codes, factors)
    spread = codes.double().var(0, correction=0)
    if not bool((spread > 0).any()):
        raise PolymodeError("all codes are constant, so none can vote; the model's posterior has collapsed")
    scaled = (codes.double() / spread.sqrt().clamp(min=1e-300)).masked_fill(spread == 0, 0)
    counts = torch.zeros(2, codes.shape[1], factors.shape[1])
    for k in range(factors.shape[1]):
        values, order = factors[:, k].sort(stable=True)
        _, of, sizes = values.unique_consecutive(return_inverse=True, return_counts=True)
        starts = sizes.cumsum(0) - sizes
        for half in range(2):
            n = VOTES // factors.shape[1]
            shared = of[rng.randint(len(codes), (n,), generator)]
            draws = rng.rand((n, VOTE_ROWS), generator, spread) * sizes[shared, None]
            alike = order[starts[shared, None] + draws.long()]  # (n, 64) rows that share the factor's value
            # a few votes at a time, so that wide codes take no more memory
            for rows in alike.split(max(1, (1 << 22) // (VOTE_ROWS * codes.shape[1]))):
                least = scaled[rows].var(1).masked_fill(spread == 0, torch.inf).argmin(1)
                counts[half, :, k] += torch.bincount(least, minlength=codes.shape[1])
    majority = counts[0].argmax(1)
    return float(counts[1].gather(1, majority[:, None]).sum() / counts[1].sum())


def dci(codes: Tensor, factors: Tensor, *, generator: torch.Generator, resample: bool = False) -> Scores:
    """Disentanglement, completeness and informativeness, 0 to 1 each (Eastwood and Williams 2018).

    Args:
        codes: (N, Z).
        factors: (N, K) integers.
        generator: of the two halves, the trees and the resamples.
        resample: draw the rows of each half again with replacement, so that no row is on both sides.
    """
    from sklearn.ensemble import RandomForestClassifier

    _check(codes, factors)
    halves = torch.randperm(len(codes), generator=generator).tensor_split(2)
    if resample:
        halves = tuple(half[rng.randint(len(half), (len(half),), generator)] for half in halves)
    (z, v), (z_test, v_test) = ((codes[half].double().numpy(), factors[half].numpy()) for half in halves)
    importance, right = torch.zeros(codes.shape[1], factors.shape[1], dtype=torch.float64), 0.0
    for k in range(factors.shape[1]):
        # every split looks at all codes: else trees that are not shown the right one give others its part
        forest = RandomForestClassifier(
            TREES, max_features=None, min_samples_leaf=2, random_state=int(rng.randint(2**31 - 1, (1,), generator))
        ).fit(z, v[:, k])
        importance[:, k] = torch.from_numpy(forest.feature_importances_)
        right += float((forest.predict(z_test) == v_test[:, k]).mean())
    disentanglement, completeness = balance(importance)
    return {
        "DCI disentanglement": disentanglement,
        "DCI completeness": completeness,
        "DCI informativeness": right / factors.shape[1],
    }


def balance(importance: Tensor) -> tuple[float, float]:
    """(disentanglement, completeness) of the importance (Z, K) of each code for each factor.

    Entropies are in units of their largest, log K and log Z; a code counts by its share of all importance, a factor
    like any other. With one factor, or one code, there is nothing to mix: 1.
    """
    codes, factors = importance.shape
    total = importance.sum()
    if not total > 0:
        return 0.0, 0.0
    weight = importance.sum(1) / total
    by_code = importance / importance.sum(1, keepdim=True).clamp(min=1e-300)
    by_factor = importance / importance.sum(0, keepdim=True).clamp(min=1e-300)
    mixed = torch.stack([_entropy(row) for row in by_code]) / math.log(max(factors, 2))
    spread = torch.stack([_entropy(row) for row in by_factor.T]) / math.log(max(codes, 2))
    used = importance.sum(0) > 0  # what no code predicts is not complete
    return float((weight * (1 - mixed)).sum()), float(((1 - spread) * used).mean())


def resampled(
    score: Callable[[Tensor, Tensor], float], codes: Tensor, factors: Tensor, generator: torch.Generator
) -> tuple[float, float, float]:
    """(value, low, high) of a score between 0 and 1, over resamples of the rows."""
    again = []
    for _ in range(RESAMPLES):
        rows = rng.randint(len(codes), (len(codes),), generator)
        again.append(score(codes[rows], factors[rows]))
    return _interval(score(codes, factors), again, 1.96)


def intervals(
    codes: Tensor, factors: Tensor, ordered: list[bool], generator: torch.Generator
) -> dict[str, tuple[float, float, float]]:
    """(value, low, high) of every score by name, over resamples of the rows."""

    def vote(z: Tensor, v: Tensor) -> float:
        return factor_vae_score(z, v, generator=generator)

    whole = dci(codes, factors, generator=generator)
    again = [dci(codes, factors, generator=generator, resample=True) for _ in range(FEW_RESAMPLES)]
    quantile = student_quantile(FEW_RESAMPLES - 1)
    return {
        "MIG": resampled(mig, codes, factors, generator),
        "FactorVAE score": resampled(vote, codes, factors, generator),
        "SAP": resampled(lambda z, v: sap(z, v, ordered=ordered), codes, factors, generator),
        **{name: _interval(value, [one[name] for one in again], quantile) for name, value in whole.items()},
    }


def rows_of(data: DataSet, generator: torch.Generator) -> Tensor:
    """The test rows that codes are looked at on, at most 5,000."""
    if not data.factors or data.test.factors is None:
        raise PolymodeError(f"the factors of {data.name} are not known; use a set that has them, such as sprites")
    if len(data.test) < FEWEST_ROWS:
        raise PolymodeError(
            f"{data.name} has {len(data.test)} test rows, expected at least {FEWEST_ROWS} to find codes of its factors"
        )
    return torch.randperm(len(data.test), generator=generator)[:MOST_ROWS]


def measure(c: Comparison) -> list[Measurement]:
    """The rows of the report; see the module."""
    model, data = c.model, c.data
    assert isinstance(model, GenerativeModel)
    assert isinstance(model, HasLatents)
    rows = rows_of(data, c.generator("disentanglement rows"))
    assert data.test.factors is not None
    factors, ordered = data.test.factors[rows], [f.ordered for f in data.factors]
    x, condition = data.test.batch(rows, c.generator("disentanglement draw"))
    given = condition if model.condition_spec is not None else None
    codes = torch.cat([
        model.encode(x[part], None if given is None else given[part]).flatten(1).cpu().double()
        for part in torch.arange(len(x)).split(512)
    ])  # fmt: skip

    def beside(what: str, others: Tensor) -> dict[str, tuple[float, float, float]]:
        return c.reference.cached(what, lambda: intervals(others, factors, ordered, c.generator(what)))

    noise = rng.randn(codes.shape, c.generator("disentanglement noise"), codes)
    told = {
        "": intervals(codes, factors, ordered, c.generator("disentanglement")),
        ", factors as codes": beside("disentanglement of factors", factors.double()),
        ", noise as codes": beside(f"disentanglement of noise of {codes.shape[1]}", noise),
    }
    protocol = (
        f"{codes.shape[1]} codes of {len(rows)} test rows, factors {', '.join(f.name for f in data.factors)}; {BINS} "
        f"equal bins; {VOTES} votes of {VOTE_ROWS} rows; {TREES} bagged trees a forest; 95 % over resampled rows"
    )
    return [
        Measurement(f"{name}{which}", *found[name], len(rows), None if which else "higher", protocol)
        for name in told[""]
        for which, found in told.items()
    ]


def binned(codes: Tensor, bins: int) -> Tensor:
    """The bin of every code, (N, Z): equal widths over its range; a constant code is in the first."""
    low, high = codes.amin(0), codes.amax(0)
    width = (high - low) / bins
    return ((codes - low) / torch.where(width > 0, width, torch.ones_like(width))).long().clamp(max=bins - 1)


def joint(bin_of: Tensor, factors: Tensor, bins: int) -> Tensor:
    """The share of rows with each bin of each code and each value of each factor: (Z, K, bins, values)."""
    (n, codes), known, values = bin_of.shape, factors.shape[1], int(factors.max()) + 1
    pair = torch.arange(codes)[:, None] * known + torch.arange(known)  # (Z, K)
    cell = (pair * bins + bin_of[:, :, None]) * values + factors[:, None, :]  # (N, Z, K)
    counts = torch.bincount(cell.flatten(), minlength=codes * known * bins * values)
    return counts.view(codes, known, bins, values).double() / n


def _gap(score: Tensor) -> Tensor:
    """The best code's score less the second's, (K,), of (Z, K)."""
    best = score.sort(0, descending=True).values
    return best[0] - best[1] if len(best) > 1 else best[0]


def _entropy(p: Tensor) -> Tensor:
    return -torch.special.xlogy(p, p).sum()


def _standardised(a: Tensor) -> Tensor:
    """Columns with mean 0 and variance 1; constant ones are 0."""
    centred = a - a.mean(0)
    scale = centred.square().mean(0).sqrt()
    return torch.where(scale > 0, centred / scale.clamp(min=1e-300), 0.0)


def _interval(value: float, again: list[float], quantile: float) -> tuple[float, float, float]:
    half = quantile * float(torch.tensor(again, dtype=torch.float64).std())
    return value, max(0.0, value - half), min(1.0, value + half)


def _check(codes: Tensor, factors: Tensor) -> None:
    """Refuse codes that are no finite (N, Z), factors that are no (N, K) of integers, and a factor of one value."""
    check_features(least=2, codes=codes)
    if factors.dim() != 2 or len(factors) != len(codes) or factors.is_floating_point() or int(factors.min()) < 0:
        raise PolymodeError(
            f"factors have shape {tuple(factors.shape)} and dtype {factors.dtype}, expected ({len(codes)}, K) of whole "
            "numbers from 0, a row for each of the codes"
        )
    if bool((factors == factors[0]).all(0).any()):
        column = int((factors == factors[0]).all(0).nonzero()[0])
        raise PolymodeError(f"factor {column} has the same value in all {len(factors)} rows; leave it out")
