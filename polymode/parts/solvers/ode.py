"""Explicit Runge-Kutta integrators of dy/dt = f(t, y), as plain functions on callables.

    y_{n+1} = y_n + h sum_i b_i k_i,   k_i = f(t_n + c_i h, y_n + h sum_{j < i} a_ij k_j)      (Butcher 1963)

Heun 1900 (order 2), Kutta 1901 (RK4, order 4) with fixed steps; Dormand and Prince 1980, A family of embedded
Runge-Kutta formulae, J. Comp. Appl. Math. 6, with steps chosen so that the difference of its orders 5 and 4 stays
below a tolerance (Hairer, Norsett and Wanner 1993, section II.4). `Tableau` holds the numbers, `rk_step` the one step
that all share, `fixed` and `adaptive` the loops, `integrate` chooses. Time may run either way.
The error of a step is the largest over rows of the root mean square of its entries, so that no row hides behind others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from polymode.core.errors import PolymodeError, require_choice

#: f(t, y), of y's shape
Derivative = Callable[[float, Tensor], Tensor]
Method = Literal["heun", "rk4", "dopri5"]
#: how much a step may shrink or grow at once, and how far below the tolerance it aims
SHRINK, GROW, SAFETY = 0.2, 5.0, 0.9


@dataclass(frozen=True)
class Tableau:
    """Coefficients of an explicit method: `a` row by row, weights `b`, those of the embedded method `b_low`."""

    order: int
    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    b_low: tuple[float, ...] = ()


HEUN = Tableau(2, (0.0, 1.0), ((), (1.0,)), (0.5, 0.5))
RK4 = Tableau(4, (0.0, 0.5, 0.5, 1.0), ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6))
DORMAND_PRINCE = Tableau(
    5,
    (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
    (
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0),
    (5179 / 57600, 0.0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40),
)
_TABLEAUS = {"heun": HEUN, "rk4": RK4, "dopri5": DORMAND_PRINCE}


@dataclass(frozen=True)
class Solution:
    """The end of a path: y, how often f was called, and how many steps were taken and refused."""

    y: Tensor
    evaluations: int
    steps: int
    refused: int = 0


def rk_step(
    tableau: Tableau, f: Derivative, t: float, y: Tensor, h: float, first: Tensor | None = None
) -> tuple[Tensor, list[Tensor]]:
    """(y at t + h, the stages k); ``first`` is f(t, y) where it is known."""
    stages = [f(t, y) if first is None else first]
    for c, row in zip(tableau.c[1:], tableau.a[1:], strict=True):
        stages.append(f(t + c * h, _weighted(y, h, row, stages)))
    return _weighted(y, h, tableau.b, stages), stages


def fixed(f: Derivative, y: Tensor, start: float, end: float, *, tableau: Tableau, steps: int) -> Solution:
    """Equal steps from ``start`` to ``end``."""
    if steps < 1:
        raise PolymodeError(f"steps={steps} of a solver, expected at least 1")
    h = (end - start) / steps
    for i in range(steps):
        y, _ = rk_step(tableau, f, start + i * h, y, h)
    return Solution(y, steps * len(tableau.c), steps)


def adaptive(
    f: Derivative, y: Tensor, start: float, end: float, *, rtol: float, atol: float, most_steps: int = 10_000
) -> Solution:
    """Dormand and Prince's pair; its last stage is the first of the next step.

    Args:
        rtol, atol: a step's error stays below atol + rtol |y|.
        most_steps: accepted and refused ones together.

    Raises:
        PolymodeError: the tolerance can't be met within so many steps, or at any step.
    """
    if min(rtol, atol) <= 0:
        raise PolymodeError(f"rtol={rtol}, atol={atol} of a solver, expected both above 0")
    t, h, taken, refused = start, (end - start) / 100, 0, 0
    stage, evaluations = f(t, y), 1
    while t != end:
        if taken + refused >= most_steps or abs(h) <= 1e-12 * abs(end - start):
            raise PolymodeError(
                f"the path can't be followed beyond t = {t:.6g} of {start:g} to {end:g} within {taken + refused} steps "
                f"at rtol={rtol:g}; the derivative is rough or not finite: take a larger tolerance or fixed steps"
            )
        last = abs(h) >= abs(end - t)
        h = end - t if last else h
        ahead, stages = rk_step(DORMAND_PRINCE, f, t, y, h, stage)
        evaluations += len(stages) - 1
        low = _weighted(y, h, DORMAND_PRINCE.b_low, stages)
        error = _scaled(ahead - low, y, ahead, rtol, atol)
        factor = SHRINK
        if error <= 1:
            t, y, stage, taken = (end if last else t + h), ahead, stages[-1], taken + 1
            factor = min(GROW, SAFETY * error ** (-1 / 5)) if error > 0 else GROW
        else:
            refused += 1
            if math.isfinite(error):
                factor = max(SHRINK, SAFETY * error ** (-1 / 5))
        h *= factor
    return Solution(y, evaluations, taken, refused)


def integrate(
    f: Derivative, y: Tensor, start: float, end: float, *, method: Method = "dopri5", steps: int = 100,
    tolerance: float = 1e-5,
) -> Solution:  # fmt: skip
    """The end of the path of dy/dt = f(t, y) from ``y`` at ``start``.

    Args:
        method: "heun" and "rk4" take ``steps`` equal steps, "dopri5" as many as ``tolerance`` needs.
        tolerance: absolute and relative.
    """
    require_choice("method", method, get_args(Method))
    if method == "dopri5":
        return adaptive(f, y, start, end, rtol=tolerance, atol=tolerance)
    return fixed(f, y, start, end, tableau=_TABLEAUS[method], steps=steps)


def _weighted(y: Tensor, h: float, weights: tuple[float, ...], stages: list[Tensor]) -> Tensor:
    """y + h sum of weights times stages."""
    for weight, stage in zip(weights, stages, strict=True):
        if weight:
            y = torch.add(y, stage, alpha=h * weight)
    return y


def _scaled(difference: Tensor, before: Tensor, after: Tensor, rtol: float, atol: float) -> float:
    """A step's error in units of the tolerance, of the worst row; infinite where it is no number."""
    allowed = atol + rtol * torch.maximum(before.abs(), after.abs())
    rows = (difference / allowed).detach().flatten(1).square().mean(1).sqrt()
    worst = float(rows.max())
    return worst if math.isfinite(worst) else math.inf
