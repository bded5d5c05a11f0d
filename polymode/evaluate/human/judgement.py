"""What people's choices and ratings say: strengths from paired comparisons, mean opinion scores, both with intervals.

Bradley and Terry 1952, Rank analysis of incomplete block designs, Biometrika 39; fitted by the MM algorithm of Hunter
2004, MM algorithms for generalized Bradley-Terry models, Annals of Statistics 32. Mean opinion scores as in ITU-T
Recommendation P.800 (1996). Clusters: Liang and Zeger 1986, Longitudinal data analysis using generalized linear
models, Biometrika 73.

    P(i beats j) = p_i / (p_i + p_j),  theta_i = log p_i,  sum_i theta_i = 0            `bradley_terry`
    p_i <- W_i / sum_j n_ij / (p_i + p_j),  W_i wins of i, n_ij meetings of i and j     `_mm`
    I = diag(sum_j w_ij) - w,  w_ij = n_ij P(i beats j) P(j beats i)                    `_information`
    V = B (R / (R - 1) sum_r s_r s_r') B,  B = I^+,  s_r the score of rater r           `_clustered`
    MOS = sum of ratings / their number, its variance from the sums of raters           `mean_opinion`

Ties count half a win for each side. The maximum exists only where every item can be reached from every other along
wins (Ford 1957); elsewhere (an item that never lost, groups that never met) a weak prior stands in, and the result says
so: every item also won and lost half a comparison against an average item, of strength 1.

Deviation: the intervals are Wald's on the log scale. Fisher's treats answers as independent; from five raters on, the
raters are the clusters, and no interval is narrower than Fisher's. Cost: k^2 a step of `_mm`, some hundred steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from polymode.core.errors import PolymodeError
from polymode.evaluate.statistics import share_interval, student_quantile

#: raters from which on an interval speaks of people like them, not of these answers alone
LEAST_RATERS = 5
#: half a win and half a loss against an average item, where the likelihood has no maximum
WEAK_PRIOR = 0.5
#: largest gap between wins and expected wins at which `_mm` stops, per comparison
TOLERANCE = 1e-13
STEPS = 200_000
_NORMAL = 1.959963984540054


@dataclass(frozen=True)
class Strengths:
    """Log-strengths of k items, relative to their mean.

    Args:
        value, low, high: (k,) log-odds of beating an item of average strength, with a 95 % interval.
        covariance: (k, k) of the values.
        prior: half-wins and half-losses against an average item that were added; 0 where none were needed.
        interval: what the interval takes as independent.
        note: what a reader must know; empty where there is nothing.
    """

    value: Tensor
    low: Tensor
    high: Tensor
    covariance: Tensor
    prior: float
    interval: str
    note: str


def bradley_terry(wins: Tensor, *, prior: float | None = None) -> Strengths:
    """Strengths from wins (k, k) of all raters together, or (R, k, k) a rater; a tie is half a win on both sides.

    Args:
        wins: wins[..., i, j] says how often i was preferred to j.
        prior: pseudo-comparisons as above; None means 0 where the maximum exists and `WEAK_PRIOR` elsewhere.

    Raises:
        PolymodeError: no comparisons, or counts that can't be.
    """
    each = _checked(wins)
    total = each.sum(0)
    note = "" if _strongly_connected(total > 0) else _why_not(total)
    if prior is None:
        prior = WEAK_PRIOR if note else 0.0
    if prior < 0 or not math.isfinite(prior) or (prior == 0 and note):
        raise PolymodeError(f"prior={prior}, expected a positive number here ({note or 'or 0'}); leave it out")
    theta = _mm(total, prior)
    bread = _bread(_information(total, theta, prior), prior)
    theta = theta - theta.mean()
    asked = int((each.sum((1, 2)) > 0).sum())
    if asked >= LEAST_RATERS:
        covariance, quantile = _clustered(each, theta, bread), student_quantile(asked - 1)
        interval = f"{asked} raters as clusters"
    else:
        covariance, quantile, interval = bread, _NORMAL, "answers as independent"
    half = quantile * covariance.diagonal().clamp(min=0).sqrt()
    if note:
        note += f"; {prior:g} wins and {prior:g} losses against an average item were added to each item"
    return Strengths(theta, theta - half, theta + half, covariance, prior, interval, note)


def log_likelihood(wins: Tensor, theta: Tensor) -> float:
    """sum_ij wins_ij log P(i beats j) in nats, for wins (k, k)."""
    return float((wins.double() * torch.nn.functional.logsigmoid(theta[:, None] - theta[None, :]).double()).sum())


def win_shares(wins: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(share, low, high), (k, k) each: how often i was preferred to j, with Wilson's interval; nan where they never
    met. A tie is half a win; answers are taken as independent."""
    total = _checked(wins).sum(0)
    k = len(total)
    found = torch.full((3, k, k), math.nan, dtype=torch.float64)
    for i in range(k):
        for j in range(k):
            if (n := float(total[i, j] + total[j, i])) > 0:
                found[:, i, j] = torch.tensor(share_interval(float(total[i, j]), n), dtype=torch.float64)
    return found[0], found[1], found[2]


def mean_opinion(ratings: Tensor, raters: Tensor) -> tuple[float, float, float]:
    """(mean, low, high) of ratings (N,) whose raters (N,) are the clusters; nan for the interval of a single rater.

    With t_r the sum and n_r the number of rater r's ratings and m the mean of all N, the variance of m is
    R / (R - 1) sum_r (t_r - m n_r)^2 / N^2, with R - 1 degrees of freedom. Where all raters rate equally often, this is
    Student's interval of the raters' means.
    """
    if len(ratings) == 0 or len(ratings) != len(raters) or not bool(torch.isfinite(ratings.double()).all()):
        raise PolymodeError(
            f"{len(ratings)} ratings of {len(raters)} raters came, expected one finite rating a rater and at least one"
        )
    values = ratings.double()
    mean = values.mean()
    known, who = raters.unique(return_inverse=True)
    r = len(known)
    if r < 2:
        return float(mean), math.nan, math.nan
    sums = torch.zeros(r, dtype=torch.float64).index_add_(0, who, values - mean)
    error = math.sqrt(r / (r - 1) * float(sums.square().sum())) / len(values)
    half = student_quantile(r - 1) * error
    return float(mean), float(mean) - half, float(mean) + half


# -- parts ---------------------------------------------------------------------------------------------------------
def _checked(wins: Tensor) -> Tensor:
    """(R, k, k) in double precision."""
    each = wins.double()
    each = each[None] if each.dim() == 2 else each
    if each.dim() != 3 or each.shape[1] != each.shape[2] or each.shape[1] < 2:
        raise PolymodeError(f"wins have shape {tuple(wins.shape)}, expected (k, k) or (R, k, k) of at least two items")
    if not bool(torch.isfinite(each).all()) or bool((each < 0).any()):
        raise PolymodeError("wins hold negative numbers or nan, expected counts, with halves for ties")
    if bool(each.diagonal(dim1=1, dim2=2).any()):
        raise PolymodeError("an item was compared with itself; leave such comparisons out")
    if float(each.sum()) == 0:
        raise PolymodeError("there are no comparisons to fit strengths to; collect some answers first")
    return each


def _reach(beats: Tensor) -> Tensor:
    """(k, k): whether j can be reached from i along the arrows, by repeated squaring."""
    reach = beats | torch.eye(len(beats), dtype=torch.bool)
    for _ in range(len(beats).bit_length()):
        reach = (reach.double() @ reach.double()) > 0
    return reach


def _strongly_connected(beats: Tensor) -> bool:
    """Ford's condition: from every item to every other along wins."""
    return bool(_reach(beats).all())


def _why_not(total: Tensor) -> str:
    """Which of the three ways Ford's condition failed, in words."""
    met = (total + total.T) > 0
    if not bool(met.any(1).all()):
        return "some items were never compared"
    if not bool(_reach(met).all()):
        return "some groups of items never met, so that their order rests on the prior"
    return "some items won every comparison with the others, so that the size of their lead rests on the prior"


def _mm(wins: Tensor, prior: float) -> Tensor:
    """The maximum of the likelihood, with the prior's, as log-strengths (k,); Hunter 2004, eq. 3."""
    w = wins.numpy()
    met, won = w + w.T, w.sum(1) + prior
    p = won * 0 + 1.0
    for _ in range(STEPS):
        weights = (met / (p[:, None] + p)).sum(1) + 2 * prior / (p + 1)
        if abs(won - p * weights).max() < TOLERANCE * max(1.0, won.sum()):
            return torch.from_numpy(p).log()
        p = won / weights
        if prior == 0:  # the scale is free
            p = p / p.max()
    raise PolymodeError(
        f"strengths did not settle in {STEPS} steps: items are linked by too few comparisons; give prior={WEAK_PRIOR}"
    )


def _information(wins: Tensor, theta: Tensor, prior: float) -> Tensor:
    """Fisher's information of theta (k, k); the ghost of the prior has theta = 0."""
    chance = torch.sigmoid(theta[:, None] - theta[None, :])
    weight = (wins + wins.T) * chance * (1 - chance)
    against = torch.sigmoid(theta)
    return torch.diag(weight.sum(1) + 2 * prior * against * (1 - against)) - weight


def _bread(information: Tensor, prior: float) -> Tensor:
    """The covariance of theta less its mean: the inverse on the plane sum theta = 0.

    Without a prior the information is singular along (1, ..., 1); a constant added there makes it invertible and is
    removed again by the centring. (A pseudo-inverse would have to guess which eigenvalue is zero.)
    """
    k = len(information)
    if prior == 0:
        information = information + information.diagonal().mean() / k
    centre = torch.eye(k, dtype=torch.float64) - 1 / k
    return centre @ torch.linalg.inv(information) @ centre


def _clustered(each: Tensor, theta: Tensor, bread: Tensor) -> Tensor:
    """The covariance with raters as clusters; variances never fall below those of independent answers.

    With few raters V can be too small by chance, and to zero where all agree: a row is scaled up to Fisher's then.
    """
    each = each[each.sum((1, 2)) > 0]
    chance = torch.sigmoid(theta[:, None] - theta[None, :])
    score = (each - (each + each.transpose(1, 2)) * chance).sum(2)  # (R, k)
    raters = len(each)
    found = bread @ (raters / (raters - 1) * score.T @ score) @ bread
    wide = (bread.diagonal() > found.diagonal()).double()
    return found + torch.diag(wide * (bread.diagonal() - found.diagonal()))
