"""Binary draws with a gradient: back-propagation goes through the draw as if it were smooth.

Gregor, Danihelka, Mnih, Blundell and Wierstra 2014, Deep AutoRegressive Networks (arXiv:1310.8499, section 4.3); Gu,
Levine, Sutskever and Mnih 2016 (arXiv:1511.05176, section 3.4) name it the 1/2 estimator. For h ~ Bernoulli(p), p =
sigmoid(a),

    d/dp E[f(h)] = f(1) - f(0) ~ (f'(0) + f'(1)) / 2 = E[f'(h) / (2 P(h))]          exact where f is quadratic in h
    da: f'(h) dp/da / (2 P(h)) = f'(h) |h - p| / 2                                   `_Half.backward`

so its bias is that of the trapezium rule, one unit at a time, and its variance far below the score function's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from polymode.core import rng


def half_draw(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Bits of probability sigmoid(logits), of its shape and dtype, through which gradients flow to the logits."""
    return _Half.apply(logits, rng.rand(logits.shape, generator, logits))


class _Half(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, u: Tensor) -> Tensor:
        probs = logits.sigmoid()
        h = (u < probs).to(logits.dtype)
        ctx.save_for_backward(probs, h)
        return h

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        probs, h = ctx.saved_tensors
        return grads[0] * (h - probs).abs_().mul_(0.5), None
