"""Losses that are least at the score of data, s(y) = grad log p(y), whose normaliser nobody needs.

    implicit     tr grad s(y) + 1/2 |s(y)|^2                                       Hyvarinen 2005 (JMLR 6), theorem 1
    sliced       v^T grad(v^T s(y)) + 1/2 |s(y)|^2,   v of entries +-1   Song et al. 2019 (arXiv:1905.07088), SSM-VR
    denoising    1/2 |sigma s(y + sigma eps) + eps|^2                          Vincent 2011, Neural Comp. 23, eq. 9

Functions of a callable `score(y)`, (B, F) -> (B, F), nats of each row. The sliced loss is the implicit one on average
over v. On y + sigma eps the first two, times sigma^2, differ from the third by a constant on average: all three are
least at the score of the noisy data. Their gradients reach the score's parameters where gradients are on.
Cost: backward passes through the score: F for the implicit loss, one a direction for the sliced, none for the third.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Score = Callable[[Tensor], Tensor]
Nats = Float[Tensor, " B"]


def implicit(score: Score, y: Float[Tensor, "B F"]) -> Nats:
    """Hyvarinen's loss, its trace exact."""
    axes = torch.eye(y.shape[1], dtype=y.dtype, device=y.device).unsqueeze(1).expand(-1, len(y), -1)  # (F, B, F)
    return _with_curvature(score, y, axes, "sum")


def sliced(score: Score, y: Float[Tensor, "B F"], directions: Float[Tensor, "S B F"]) -> Nats:
    """The mean over directions of unit covariance (`parts.solvers.divergence.probes`)."""
    return _with_curvature(score, y, directions, "mean")


def denoising(score: Score, y: Float[Tensor, "B F"], sigma: float | Tensor, eps: Float[Tensor, "B F"]) -> Nats:
    """Vincent's loss times sigma^2; sigma of all rows, or (B, 1)."""
    return 0.5 * (sigma * score(y + sigma * eps) + eps).square().sum(1)


def _with_curvature(score: Score, y: Tensor, directions: Tensor, over: str) -> Nats:
    tracked = torch.is_grad_enabled()
    with torch.enable_grad():
        y = y.detach().requires_grad_()
        s = score(y)
        curves = []
        for v in directions:
            (slope,) = torch.autograd.grad(
                (v * s).sum(), y, create_graph=tracked, retain_graph=True, materialize_grads=True
            )
            curves.append((v * slope).sum(1))
        curve = torch.stack(curves)
        loss = (curve.sum(0) if over == "sum" else curve.mean(0)) + 0.5 * s.square().sum(1)
    return loss if tracked else loss.detach()
