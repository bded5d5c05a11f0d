"""Independent bits as signs, -1 and 1: drawn, and weighed in few passes over memory.

    log p(s) = sum_j log sigmoid(s_j a_j),   s_j in {-1, 1},   a the logits that s_j = 1

Nets of stochastic bits spend most of their time here, beside their products. `log_bits` takes one exponential and one
logarithm an entry and keeps the sigmoid for the way back; a binary cross entropy and its sum cost half as much again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from polymode.core import rng

#: a smaller sigmoid has lost digits in float32, or is zero
LEAST = 1e-35


def log_bits(signs: Tensor, logits: Tensor) -> Tensor:
    """log p(signs) under logits, (..., D) each and broadcast to each other, summed over the last axis.

    Gradients flow to both.
    """
    return _LogBits.apply(signs, logits)


def draw_signs(logits: Tensor, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
    """Signs of probability sigmoid(logits / temperature) to be 1, without gradient."""
    with torch.no_grad():
        cold = logits if temperature == 1 else logits / max(temperature, 1e-6)  # 0 would divide by zero
        u = rng.rand(logits.shape, generator, logits)
        # straight to 0.0 and 1.0: by way of bool takes several times as long
        return torch.lt(u, cold.sigmoid(), out=u).mul_(2).sub_(1)


class _LogBits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, signs: Tensor, logits: Tensor) -> Tensor:
        on = (signs * logits).sigmoid_()
        ctx.save_for_backward(signs, logits, on)
        if on.numel() and on.min() < LEAST:
            return F.logsigmoid(signs * logits).sum(-1)
        # exact in its relative error, so its logarithm is exact where it is far from one, and near zero where it is not
        return on.log().sum(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        signs, logits, on = ctx.saved_tensors
        slope = torch.rsub(on, 1).mul_(grads[0].unsqueeze(-1))
        to_signs, to_logits = ctx.needs_input_grad
        of_signs = (slope * logits).sum_to_size(signs.shape) if to_signs else None
        return of_signs, slope.mul_(signs).sum_to_size(logits.shape) if to_logits else None
