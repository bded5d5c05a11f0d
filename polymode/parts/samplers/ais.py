"""Annealed importance sampling, from a known base up to a target and from the target back down.

Neal 2001, Annealed importance sampling, Statistics and Computing 11 (arXiv:physics/9803008), eqs. 5-11; Grosse,
Ghahramani and Adams 2015, Sandwiching the marginal likelihood using bidirectional Monte Carlo (arXiv:1511.02543).
With unnormalised f_0 (of known Z_0) .. f_K on the geometric path log f_b = (1 - b) log f_0 + b log f_1:

    forward   v_0 ~ p_0,  log w = sum_k log f_k(v_k-1) - log f_k-1(v_k-1),  v_k ~ T_k(. | v_k-1),  E w = Z_1 / Z_0
    reverse   the same from v ~ p_1 with the temperatures falling,  E w = Z_0 / Z_1
    E log mean w_forward <= log Z_1 / Z_0 <= -E log mean w_reverse                           (Jensen's inequality)

`anneal` is one run in either direction, a function of a callable `step`; `estimate` makes a log-mean-exp of its
weights with a standard error by the delta method and the effective sample size (sum w)^2 / sum w^2; `forward` and
`reverse` put both together. The reverse side is a bound only where its starts are exact draws of the target; from the
ends of chains it is approximate, is labelled so, and may lie below the truth. `Sandwich` is the pair.
Cost: one transition of every chain at each temperature.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from polymode.core.condition import Condition
from polymode.core.errors import PolymodeError

#: (v, from, to) -> (log f_to(v) - log f_from(v), v moved by a transition that leaves p_to as it is)
Step = Callable[[Tensor, float, float], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Annealed:
    """log Z of the target by one direction.

    Args:
        log_z: the estimate, nats.
        std_error: its standard error by the delta method.
        effective: the effective sample size of the weights, from 1 to the number of chains; nan where it is not known.
        chains: S, the number of weights; 0 where it is not known.
        exact_starts: the chains began at independent draws of where they should begin.
    """

    log_z: float
    std_error: float
    effective: float = math.nan
    chains: int = 0
    exact_starts: bool = True


@dataclass(frozen=True)
class Sandwich:
    """Both directions on one target."""

    forward: Annealed
    reverse: Annealed

    @property
    def width(self) -> float:
        """Reverse less forward, nats: near 0 where both have converged."""
        return self.reverse.log_z - self.forward.log_z

    def __str__(self) -> str:
        starts = "exact samples" if self.reverse.exact_starts else "chain samples, approximate"
        return (
            f"AIS forward log Z {_told(self.forward)}, reverse {_told(self.reverse)} ({starts}), "
            f"sandwich width {self.width:.2g} nats"
        )


class HasReverseAIS(ABC):
    """A model whose log Z can also be annealed from above."""

    @abstractmethod
    def reverse_log_partition(
        self, condition: Condition | None = None, *, generator: torch.Generator | None = None, seed: int | None = None
    ) -> Annealed:
        """log Z by reverse annealing from the model's own samples; ``condition`` is one row."""


class HasRowPartitions(ABC):
    """A model whose condition has a log Z of its own, many of which are found at once."""

    @abstractmethod
    def log_partitions(
        self, condition: Condition, *, generator: torch.Generator | None = None, seed: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """(log Z, its standard error) of every row, (B,) each."""


def temperatures(stages: int, power: float = 1.0) -> Tensor:
    """Inverse temperatures (j / J)^power for j = 0 .. J, float64; a power above 1 puts them closest to the base."""
    if stages < 1:
        raise PolymodeError(f"temperatures={stages}, expected at least 1")
    return torch.tensor([(j / stages) ** power for j in range(stages + 1)], dtype=torch.float64)


def anneal(v: Tensor, betas: Tensor, step: Step) -> tuple[Tensor, Tensor]:
    """One run along ``betas``, which rise from the base (0) to the target (1), or fall from the target to the base.

    Args:
        v: (S, ...) independent draws of the distribution at the first temperature.
        step: see `Step`.

    Returns:
        The log weights (S,) in float64, whose mean in exp is Z_last / Z_first, and the last states.
    """
    log_weights = torch.zeros(len(v), dtype=torch.float64, device=v.device)
    for start, end in pairwise(betas.tolist()):
        gain, v = step(v, start, end)
        log_weights += gain.double()
    return log_weights, v


def estimate(log_weights: Tensor) -> tuple[float, float, float]:
    """(log of the mean of exp, its standard error by the delta method, the effective sample size).

    Raises:
        PolymodeError: fewer than two weights, or weights that are not numbers, or all of them zero.
    """
    if len(log_weights) < 2:
        raise PolymodeError(f"{len(log_weights)} weights came to annealed importance sampling, expected at least 2")
    top = log_weights.max()
    if not torch.isfinite(top):  # also where one is nan, which max passes on
        raise PolymodeError(
            f"the largest log weight of annealed importance sampling is {float(top)}, expected a finite one; "
            "take more temperatures, or look for infinite energies"
        )
    ratios = (log_weights - top).exp()
    mean = ratios.mean()
    error = ratios.std() / mean / math.sqrt(len(ratios))
    return float(top + mean.log()), float(error), float(ratios.sum().square() / ratios.square().sum())


def estimate_rows(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """`estimate` of many targets at once: (log of the mean of exp, its standard error), (R,) each, of weights (R, S).

    The log of a mean of few weights is too low by half its squared standard error, to second order in Taylor's
    expansion of log. One target's is lost in its own noise; that of the sum over many is not, and would make a model
    look better by it, so it is added here.

    Raises:
        PolymodeError: as `estimate`.
    """
    if log_weights.shape[1] < 2:
        raise PolymodeError(f"{log_weights.shape[1]} weights a row came to annealed importance sampling, expected 2")
    top = log_weights.amax(1, keepdim=True)
    if not torch.isfinite(top).all():
        bad = int((~torch.isfinite(top)).sum())
        raise PolymodeError(
            f"the largest log weight of annealed importance sampling is not finite in {bad} of {len(top)} rows; take "
            "more temperatures, or look for infinite energies"
        )
    ratios = (log_weights - top).exp()
    mean = ratios.mean(1)
    error = ratios.std(1) / mean / math.sqrt(ratios.shape[1])
    return top.squeeze(1) + mean.log() + 0.5 * error.square(), error


def forward(v: Tensor, betas: Tensor, step: Step, *, log_z_base: float = 0.0) -> Annealed:
    """log Z of the target from draws ``v`` of the base: below the truth in expectation."""
    log_ratio, error, effective = estimate(anneal(v, betas, step)[0])
    return Annealed(log_z_base + log_ratio, error, effective, len(v))


def reverse(v: Tensor, betas: Tensor, step: Step, *, log_z_base: float = 0.0, exact_starts: bool) -> Annealed:
    """log Z of the target from its own draws ``v``: above the truth in expectation where they are exact.

    Args:
        betas: the rising temperatures of the forward run; they are walked downwards.
        exact_starts: whether v are independent exact draws, or only the ends of chains.
    """
    log_ratio, error, effective = estimate(anneal(v, betas.flip(0), step)[0])
    return Annealed(log_z_base - log_ratio, error, effective, len(v), exact_starts)


def _told(side: Annealed) -> str:
    sample_size = f" (ESS {side.effective:.3g} of {side.chains})" if side.chains else ""
    return f"{side.log_z:.6g} ± {side.std_error:.2g}{sample_size}"
