"""NADE's conditionals of bits: a hidden layer for every dimension, so tied that all of them cost one pass of one layer.

Larochelle and Murray 2011, The Neural Autoregressive Distribution Estimator (AISTATS); Uria, Côté, Gregor, Murray and
Larochelle 2016 (JMLR 17, arXiv:1605.02226, section 2):

    logit_d = b_d + V_d act(a_d),   a_1 = c,   a_{d+1} = a_d + W_d x_d

`conditionals` holds V_d act(a_d) for all d, with its gradients; `draw` is the recurrence. Both take b and c a row, so
a condition, or the past of a sequence, may set them. The (D, B, H) activations are never kept: `_Conditionals` goes
over dimensions a few at a time, adds up what a chunk sees within itself as one small product, keeps a_d at the starts
of chunks only and computes the rest again on the way back. `sparse_conditionals` are the same numbers for rows of few
ones: a_d changes behind a one only, so m ones make m + 1 hidden layers instead of D. Cost: O(D H) a row, of which D H
activations, or (m + 1) H for few ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

Act = Literal["sigmoid", "relu"]
#: dimensions at a time: activations of a chunk stay in a processor's cache, and the products within it stay small
CHUNK = 8
#: an activation and its derivative as a function of its value
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "sigmoid": (torch.sigmoid, lambda h: torch.addcmul(h, h, h, value=-1)),  # h - h h in one pass
    "relu": (torch.relu, lambda h: (h > 0).to(h.dtype)),
}


def conditionals(
    x: Float[Tensor, "B D"], c: Float[Tensor, "B H"], w: Float[Tensor, "D H"], v: Float[Tensor, "D H"], act: Act
) -> Float[Tensor, "B D"]:
    """V_d act(c + sum_{e<d} x_e W_e) for all d."""
    # sums over hundreds of terms: mixed precision would round them, and the two ways of `_Conditionals` differently
    with torch.autocast(x.device.type, enabled=False):
        return _Conditionals.apply(x, c, w, v, act, torch.is_grad_enabled())


def sparse_conditionals(
    x: Float[Tensor, "B D"], c: Float[Tensor, "B H"], w: Float[Tensor, "D H"], v: Float[Tensor, "D H"], act: Act
) -> Float[Tensor, "B D"]:
    """`conditionals` of bits, by the hidden layers between ones; quick where no row has many."""
    before = x.long().cumsum(1) - x.long()  # (B, D) ones before each dimension
    most = int((before[:, -1] + x[:, -1].long()).max())
    with torch.autocast(x.device.type, enabled=False):
        place = torch.arange(x.shape[1], device=x.device) - x.shape[1] * x  # ones first, each in order
        where = place.topk(most, dim=1, largest=False).indices  # (B, M), zeros at the end of rows with fewer
        added = w[where] * x.gather(1, where).unsqueeze(2)  # (B, M, H)
        a = c.unsqueeze(1) + torch.cat([torch.zeros_like(c).unsqueeze(1), added.cumsum(1)], 1)  # (B, M + 1, H)
        return (ACTIVATIONS[act][0](a) @ v.T).gather(1, before.unsqueeze(1))[:, 0]  # (B, M + 1, D) -> (B, D)


def draw(
    b: Float[Tensor, "B D"],
    c: Float[Tensor, "B H"],
    w: Float[Tensor, "D H"],
    v: Float[Tensor, "D H"],
    act: Act,
    flip: Callable[[Tensor], Tensor],
) -> Float[Tensor, "B D"]:
    """Bits, one dimension after the other; ``flip`` turns logits (B,) into bits (B,)."""
    a, bits = c.clone(), torch.empty_like(b)
    for d in range(b.shape[1]):
        bits[:, d] = flip(b[:, d] + ACTIVATIONS[act][0](a) @ v[d])
        a.addr_(bits[:, d], w[d])
    return bits


class _Conditionals(torch.autograd.Function):
    """`conditionals`; `keep` says that a way back may follow."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, start: Tensor, w: Tensor, v: Tensor, act: Act, keep: bool) -> Tensor:
        outputs, starts = [], []
        for i in range(0, x.shape[1], CHUNK):
            bits, rows = x[:, i : i + CHUNK], w[i : i + CHUNK]
            if keep:
                starts.append(start)
            h = ACTIVATIONS[act][0](_preactivations(bits, rows, start))
            outputs.append(torch.bmm(h, v[i : i + CHUNK].unsqueeze(2)).squeeze(2))  # (C, B, H) (C, H, 1) -> (C, B)
            start = torch.addmm(start, bits, rows)
        ctx.save_for_backward(x, w, v, *starts)
        ctx.act = act
        return torch.cat(outputs).T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, w, v, *starts = ctx.saved_tensors
        act, slope = ACTIVATIONS[ctx.act]
        grad = grads[0].T  # (D, B)
        grad_w, grad_v = torch.empty_like(w), torch.empty_like(v)
        grad_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        later = torch.zeros_like(starts[0])  # (B, H): the gradient of a_d, summed over the chunks behind
        for i in reversed(range(0, x.shape[1], CHUNK)):
            chunk = slice(i, i + CHUNK)
            bits, rows, g = x[:, chunk], w[chunk], grad[chunk]
            h = act(_preactivations(bits, rows, starts[i // CHUNK]))
            grad_v[chunk] = torch.bmm(g.unsqueeze(1), h).squeeze(1)  # (C, 1, B) (C, B, H) -> (C, H)
            grad_a = slope(h).mul_(v[chunk].unsqueeze(1)).mul_(g.unsqueeze(2))  # (C, B, H)
            flat = grad_a.flatten(0, 1)  # (C * B, H)
            grad_w[chunk] = torch.addmm(bits.T @ later, _seen(bits).flatten(0, 1).T, flat)
            if grad_x is not None:
                within = (flat @ rows.T).view(len(g), len(x), len(g))  # (C, B, C)
                grad_x[:, chunk] = later @ rows.T + (within * _before(bits).unsqueeze(1)).sum(0)
            later = later + grad_a.sum(0)
        return grad_x, later, grad_w, grad_v, None, None


def _before(bits: Tensor) -> Tensor:
    """(C, C): 1 where the column's dimension comes before the row's."""
    return bits.new_ones(bits.shape[1], bits.shape[1]).tril(-1)


def _seen(bits: Tensor) -> Tensor:
    """What each dimension of a chunk sees of the chunk: (B, C) -> (C, B, C), zeros at itself and behind."""
    return bits * _before(bits).unsqueeze(1)


def _preactivations(bits: Tensor, rows: Tensor, start: Tensor) -> Tensor:
    """a_d of the dimensions of a chunk, (C, B, H)."""
    return (_seen(bits) @ rows).add_(start)
