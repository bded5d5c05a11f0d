"""Modes hit, share of high-quality samples, and how evenly modes are drawn, for data whose modes are known.

Srivastava et al. 2017, "VEEGAN", arXiv:1705.07761, section 4.1, and Lin et al. 2018, "PacGAN", arXiv:1712.04086:

    a sample is of high quality when it is within 4 standard deviations of a mode; a mode is hit when such a sample
    has it as its nearest; KL = sum_m p_m log(p_m / q_m), p of samples and q of real rows over nearest modes

`count_modes` holds them. The standard deviation of a mode is the data set's own where it is told, else measured on the
test rows around their nearest modes. Deviation: q has half a count added to each mode, so that a mode without test
rows does not make the divergence infinite.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from polymode.evaluate.comparison import Comparison
from polymode.evaluate.measurement import Measurement
from polymode.evaluate.statistics import nearest, share_interval

#: standard deviations within which a sample is of high quality
WITHIN = 4.0
RESAMPLES = 200


@dataclass(frozen=True)
class ModeCount:
    """hit: modes hit; good: samples of high quality; shares (M,): samples by nearest mode."""

    hit: int
    good: int
    shares: Tensor


def count_modes(x: Tensor, modes: Tensor, deviation: float) -> ModeCount:
    """From data (N, D), modes (M, D) and the standard deviation of a mode in one dimension."""
    distance, which = nearest(x, modes, 1)
    good = distance[:, 0] <= WITHIN * deviation
    counts = torch.bincount(which[:, 0], minlength=len(modes)).double()
    return ModeCount(len(which[good, 0].unique()), int(good.sum()), counts / len(x))


def mode_deviation(real: Tensor, modes: Tensor) -> float:
    """The root mean square distance to the nearest mode in one dimension."""
    return float((nearest(real, modes, 1)[0].square().mean() / real.shape[1]).sqrt())


def deviation_of(c: Comparison) -> float:
    """The standard deviation of a mode: the data set's own where it is told, else measured on the test rows."""
    assert c.data.modes is not None
    measured = mode_deviation(c.reference.real.flatten(1).double(), c.data.modes.double())
    return float(c.data.extra.get("sigma") or measured)


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) over the last axis; 0 log 0 = 0."""
    return torch.special.xlogy(p, p / q).sum(-1)


def divergence_interval(p: Tensor, q: Tensor, n: int, generator: torch.Generator) -> tuple[float, float, float]:
    """(KL(p || q), low, high) of the shares p (M,) of n samples, by a bootstrap of the samples."""
    kl = float(divergence(p, q))
    drawn = torch.multinomial(p.expand(RESAMPLES, -1), n, replacement=True, generator=generator)
    again = torch.zeros(RESAMPLES, len(p), dtype=torch.float64)
    again.scatter_add_(1, drawn, torch.full(drawn.shape, 1.0 / n, dtype=torch.float64))
    # resampling adds the bias of a plug-in estimate a second time; the basic bootstrap takes it off again
    ends = torch.quantile(2 * kl - divergence(again, q), torch.tensor([0.025, 0.975], dtype=torch.float64))
    return kl, max(0.0, float(ends[0])), max(kl, float(ends[1]))


def measure(c: Comparison) -> list[Measurement]:
    """The row of the report; see the module."""
    assert c.data.modes is not None
    modes = c.data.modes.double()
    real, samples = c.reference.real.flatten(1).double(), c.samples.flatten(1).double()
    deviation = deviation_of(c)
    found, n = count_modes(samples, modes, deviation), len(samples)
    q = count_modes(real, modes, deviation).shares * len(real) + 0.5
    q = q / q.sum()
    kl, low, high = divergence_interval(found.shares, q, n, c.generator("modes"))
    share, share_low, share_high = share_interval(found.good, n)
    told = f"sd of a mode {deviation:.3g}"
    return [
        Measurement("modes hit", found.hit, torch.nan, torch.nan, n, "higher", f"of {len(modes)}; {told}"),
        Measurement("high quality", share, share_low, share_high, n, "higher", f"within {WITHIN:g} sd; {told}"),
        Measurement("mode KL", kl, low, high, n, "lower", "nats, samples against real rows; 95 % by bootstrap"),
    ]
