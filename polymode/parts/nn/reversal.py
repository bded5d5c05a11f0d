"""Gradient reversal: nothing on the way forward, the gradient turned round and weighed on the way back.

Ganin et al. 2016, Domain-adversarial training of neural networks (arXiv:1505.07818):

    R(x) = x,  dR/dx = -I                                                                      (eq. 16 and 17)
    lambda(p) = 2 / (1 + exp(-10 p)) - 1 at share p of the training                            (section 5.2.2)
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.weight * gradients[0], None


def reverse_gradient(x: Tensor, weight: float = 1.0) -> Tensor:
    """x, whose gradient comes back times -weight."""
    return _Reversal.apply(x, weight)  # type: ignore[no-any-return]


def ramp(share: float, steepness: float = 10.0) -> float:
    """lambda(p), from 0 to nearly 1: what is learned of domains first is noise."""
    return 2 / (1 + math.exp(-steepness * share)) - 1
