"""Conformal p-values: how unusual a score is among scores of rows that are known to be normal.

Vovk, Gammerman and Shafer 2005, "Algorithmic learning in a random world", chapter 2. With scores s_1 .. s_n of rows
that are exchangeable with a normal row, its p-value

    p = (1 + #{s_i >= s}) / (n + 1)

has P(p <= a) <= a for every a, whatever the score, with equality at a = k / (n + 1) where scores do not tie.
`conformal_p` holds it, `threshold_at` the score above which p <= a. Cost (n + B) log n.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from polymode.core.errors import PolymodeError


def conformal_p(calibration: Tensor, values: Tensor) -> Tensor:
    """(1 + #{calibration >= value}) / (n + 1) of each value, float64.

    Raises:
        PolymodeError: nothing to calibrate on, or nan.
    """
    if len(calibration) == 0:
        raise PolymodeError("p-values need calibration scores, none came; give rows that the model did not learn from")
    for name, scores in (("calibration scores", calibration), ("scores", values)):
        if bool(scores.isnan().any()):
            raise PolymodeError(f"{int(scores.isnan().sum())} of {len(scores)} {name} are nan; give numbers")
    below = torch.searchsorted(calibration.sort().values, values)  # calibration scores strictly below
    return (1 + len(calibration) - below).double() / (len(calibration) + 1)


def threshold_at(calibration: Tensor, false_alarms: float) -> float:
    """The score above which p <= false_alarms: the k-th largest of n, k = floor(false_alarms (n + 1)).

    Raises:
        PolymodeError: a rate outside (0, 1), or too few rows for it.
    """
    if not 0 < false_alarms < 1:
        raise PolymodeError(f"false_alarms={false_alarms}, expected a rate between 0 and 1, such as 0.05")
    n = len(calibration)
    # the tolerance keeps 0.05 * 20 = 1 from falling below 1 by rounding, and p-values are compared with the same
    k = int(false_alarms * (n + 1) + 1e-9)
    if k < 1:
        least = math.ceil(1 / false_alarms - 1e-9) - 1
        raise PolymodeError(
            f"false_alarms={false_alarms:g} needs at least {least} calibration rows and there are {n}; allow more "
            "false alarms, or give a larger validation split"
        )
    return float(calibration.sort(descending=True).values[k - 1])
