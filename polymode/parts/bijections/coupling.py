"""Affine coupling: one half of the channels is scaled and shifted by functions of the other half.

Dinh, Sohl-Dickstein and Bengio 2017 (arXiv:1605.08803, eq. 4-8), in the direction of density estimation:

    b' = b exp(s(a)) + t(a),   a' = a,   log |det| = sum s(a);     b = (b' - t(a)) exp(-s(a))
    s = cap tanh(raw)

Halves stay two tensors that swap roles from coupling to coupling, so nothing is masked, copied or concatenated
between two of them; one network output holds both raw and t. The last layer of a network starts at zero, and so a
stack starts as the identity up to its permutations. Without scale the map is additive and keeps volume (Dinh, Krueger
and Bengio 2014, arXiv:1410.8516, eq. 9).
Deviation: the paper's factor of the tanh is learned; here it is a constant, so that no scale leaves
[exp(-cap), exp(cap)] and both directions stay finite far from the data.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from polymode.parts.bijections.base import Bijection
from polymode.parts.bijections.fused import PerceptronCoupling, scale_shift
from polymode.parts.bijections.rearrange import Permutation
from polymode.parts.nn.mlp import MLP

#: makes the network of one coupling: (channels in, channels out) -> module of (half, context) -> (B, channels out, ...)
MakeNet = Callable[[int, int], nn.Module]
#: largest log-scale of one coupling
CAP = 2.0


class AffineCoupling(nn.Module):
    """Transforms `b` given `a`, two halves of one datum split along axis 1.

    Args:
        net: (a, context) -> raw scales and shifts along axis 1, or shifts alone without scale.
        scale: affine when True, additive when False.
        cap: largest log-scale.
    """

    def __init__(self, net: nn.Module, *, scale: bool = True, cap: float = CAP) -> None:
        super().__init__()
        self.net, self.scale, self.cap = net, scale, cap
        self.fusible = isinstance(net, MLP) and isinstance(net.act, nn.ReLU)

    def _fused(self, a: Tensor) -> bool:
        return self.fusible and not torch.is_autocast_enabled(a.device.type)

    def _scale_shift(self, a: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        if self._fused(a) and not torch.is_grad_enabled():
            return scale_shift(a, self.cap, _layers(self.net, context))
        # under autocast the network answers in half precision; the map itself stays in that of the data
        raw, shift = self.net(a, context).to(a.dtype).chunk(2, dim=1)
        return torch.tanh(raw) * self.cap, shift

    def to_base(self, a: Tensor, b: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(b', log |det|)."""
        if not self.scale:
            return b + self.net(a, context).to(b.dtype), b.new_zeros(len(b))
        if self._fused(a) and torch.is_grad_enabled():
            return PerceptronCoupling.apply(a, b, self.cap, *_layers(self.net, context))
        log_scale, shift = self._scale_shift(a, context)
        return torch.addcmul(shift, b, log_scale.exp()), log_scale.flatten(1).sum(1)

    def from_base(self, a: Tensor, b: Tensor, context: Tensor | None = None) -> Tensor:
        """The b that `to_base` would map to this one."""
        if not self.scale:
            return b - self.net(a, context).to(b.dtype)
        log_scale, shift = self._scale_shift(a, context)
        return (b - shift) * torch.exp(-log_scale)


def _layers(net: nn.Module, context: Tensor | None) -> list[Tensor]:
    """(W_1, c_1, ..., W_n, c_n) of a perceptron, a context's part added to the biases of its hidden layers."""
    assert isinstance(net, MLP)
    found: list[Tensor] = []
    for i, layer in enumerate(net.layers):
        found += [layer.weight, layer.bias if context is None else layer.bias + net.contexts[i](context)]
    return [*found, net.last.weight, net.last.bias]


class Couplings(Bijection):
    """A stack of couplings over the two halves of axis 1, in turn, with a fixed permutation after every second one.

    After two couplings every channel was transformed once; the permutation then deals the halves anew. Two channels
    have one split only and are not permuted.

    Args:
        channels: size of axis 1, at least 2.
        make_net: makes the network of one coupling.
        layers: couplings.
        scale: affine or additive.
        permute: draw permutations; False keeps one split throughout (checkerboards).
        generator: where permutations are drawn from.
    """

    def __init__(
        self,
        channels: int,
        make_net: MakeNet,
        *,
        layers: int,
        generator: torch.Generator,
        scale: bool = True,
        permute: bool = True,
    ) -> None:
        super().__init__()
        self.sizes = [channels // 2, channels - channels // 2]
        outputs = 2 if scale else 1
        self.couplings = nn.ModuleList(
            AffineCoupling(make_net(self.sizes[i % 2], outputs * self.sizes[1 - i % 2]), scale=scale)
            for i in range(layers)
        )
        drawn = (layers - 1) // 2 if permute and channels > 2 else 0
        self.permutations = nn.ModuleList(Permutation.drawn(channels, generator) for _ in range(drawn))

    def to_base(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        halves = list(x.split(self.sizes, dim=1))
        log_det = x.new_zeros(len(x))
        for i, coupling in enumerate(self.couplings):
            if i and i % 2 == 0 and self.permutations:
                halves = self._dealt(halves, self.permutations[i // 2 - 1].to_base)
            halves[1 - i % 2], change = coupling.to_base(halves[i % 2], halves[1 - i % 2], context)
            log_det = log_det + change
        return torch.cat(halves, dim=1), log_det

    def from_base(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        halves = list(z.split(self.sizes, dim=1))
        for i in reversed(range(len(self.couplings))):
            halves[1 - i % 2] = self.couplings[i].from_base(halves[i % 2], halves[1 - i % 2], context)
            if i and i % 2 == 0 and self.permutations:
                halves = self._dealt(halves, lambda y, p=self.permutations[i // 2 - 1]: (p.from_base(y), None))
        return torch.cat(halves, dim=1)

    def _dealt(self, halves: list[Tensor], permuted: Callable[[Tensor], tuple[Tensor, Tensor | None]]) -> list[Tensor]:
        return list(permuted(torch.cat(halves, dim=1))[0].split(self.sizes, dim=1))
