"""One affine coupling by a relu perceptron as a single step of autograd: the same numbers, fewer passes over memory.

    h_0 = a,  h_i = relu(W_i h_{i-1} + c_i),  (raw, t) = W_n h_{n-1} + c_n
    s = cap tanh(raw),  b' = b exp(s) + t,  log |det| = sum s

and, with g = dL/db' and l = dL/dlog|det|,

    dL/db = g exp(s),  dL/draw = cap (1 - tanh^2) (g b exp(s) + l),  dL/dt = g,  then back through the perceptron.

The same step serves masked maps, where a and b are one tensor and the weights are masked. Activations are rectified
in place and nothing is kept that can be had from what is kept, which makes a training step about a tenth faster than
the graph of single operations (`benchmarks/flows.py`). A c_i may be one vector, or one a row when a context was added
to it. Derivatives of derivatives are refused by `once_differentiable`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from polymode.parts.nn.masked import MaskedLinear, MaskedMLP
from polymode.parts.nn.mlp import MLP


def can_fuse(net: nn.Module) -> bool:
    """Whether a network is a plain relu perceptron, masked or not."""
    if isinstance(net, MLP):
        return isinstance(net.act, nn.ReLU) and not net.norms
    return isinstance(net, MaskedMLP) and isinstance(net.act, nn.ReLU) and net.direct is None


def layers_of(net: nn.Module, context: Tensor | None) -> list[Tensor]:
    """(W_1, c_1, ..., W_n, c_n) of such a network, a context's part added to the biases of its hidden layers."""
    assert isinstance(net, MLP | MaskedMLP)
    found: list[Tensor] = []
    for i, layer in enumerate([*net.layers, net.last]):
        bias = layer.bias if context is None or layer is net.last else layer.bias + net.contexts[i](context)
        found += [layer.masked_weight if isinstance(layer, MaskedLinear) else layer.weight, bias]
    return found


def columns(a: Tensor, layers: Sequence[Tensor]) -> Tensor:
    """(out, B) of a perceptron without a graph."""
    return torch.addmm(layers[-1].unsqueeze(1), layers[-2], _hidden(a, layers).t())


def scale_shift(a: Tensor, cap: float, layers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """(s, t) without a graph."""
    squashed, shift = _last(_hidden(a, layers), layers[-2], layers[-1])
    return squashed.mul_(cap), shift


def fused_affine(a: Tensor, b: Tensor, cap: float, layers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """(b', log |det|), with a graph where gradients are on."""
    if torch.is_grad_enabled():
        return PerceptronCoupling.apply(a, b, cap, *layers)
    log_scale, shift = scale_shift(a, cap, layers)
    return shift.addcmul_(b, log_scale.exp()), log_scale.sum(1)


def _hidden(a: Tensor, layers: Sequence[Tensor]) -> Tensor:
    """The last hidden layer; every one is rectified in place and dropped as soon as it was read."""
    for weight, bias in zip(layers[:-2:2], layers[1:-2:2], strict=True):
        a = torch.addmm(bias, a, weight.t()).relu_()
    return a


def _last(h: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """(tanh(raw), t). Two products, not one that is cut: elementwise functions are slow on the strided halves."""
    half = len(weight) // 2
    raw = torch.addmm(bias[..., :half], h, weight[:half].t())
    return raw.tanh_(), torch.addmm(bias[..., half:], h, weight[half:].t())


class PerceptronCoupling(torch.autograd.Function):
    """(a, b, cap, W_1, c_1, ..., W_n, c_n) -> (b', log |det|)."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, cap: float, *layers: Tensor) -> tuple[Tensor, Tensor]:
        weights, biases = layers[::2], layers[1::2]
        hidden = [a]
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            hidden.append(torch.addmm(bias, hidden[-1], weight.t()).relu_())
        squashed, shift = _last(hidden[-1], weights[-1], biases[-1])
        log_scale = squashed * cap
        factor = log_scale.exp()
        ctx.cap, ctx.row_biases = cap, [bias.dim() == 2 for bias in biases]
        ctx.save_for_backward(b, squashed, factor, *hidden, *weights)
        return shift.addcmul_(b, factor), log_scale.sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_log_det: Tensor) -> tuple[Tensor | None, ...]:
        b, squashed, factor, *rest = ctx.saved_tensors
        n = len(rest) // 2
        hidden, weights = rest[:n], rest[n:]
        grad_b = grad * factor
        grad_raw = torch.addcmul(grad_log_det.unsqueeze(1), grad_b, b).mul_(ctx.cap)
        grad_raw = torch.ops.aten.tanh_backward(grad_raw, squashed)
        flowing = torch.cat([grad_raw, grad], dim=1)
        found: list[Tensor | None] = []
        for i in range(n - 1, -1, -1):
            found += [flowing if ctx.row_biases[i] else flowing.sum(0), flowing.t() @ hidden[i]]
            if i:
                flowing = flowing @ weights[i]
                # relu's derivative, from its output, written over the fresh product
                torch.ops.aten.threshold_backward.grad_input(flowing, hidden[i], 0, grad_input=flowing)
        grad_a = flowing @ weights[0] if ctx.needs_input_grad[0] else None
        return grad_a, grad_b if ctx.needs_input_grad[1] else None, None, *reversed(found)
