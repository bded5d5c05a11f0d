"""Coupling: one half of the channels is mapped by functions of the other half.

Dinh, Sohl-Dickstein and Bengio 2017 (arXiv:1605.08803, eq. 4-8), in the direction of density estimation:

    b' = f(b; theta(a)),   a' = a,   log |det| = sum log f';     b = f^-1(b'; theta(a))

with any elementwise f: affine, additive (Dinh, Krueger and Bengio 2014, arXiv:1410.8516, eq. 9), splines (Durkan et
al. 2019, arXiv:1906.04032). Halves stay two tensors that swap roles from coupling to coupling, so nothing is masked,
copied or concatenated between two of them; one network output holds all parameters. The last layer of a network
starts at zero, and so a stack starts as the identity up to its permutations.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from polymode.parts.bijections.base import Bijection
from polymode.parts.bijections.elementwise import Affine, Elementwise
from polymode.parts.bijections.fused import can_fuse, columns, fused_affine, layers_of, scale_shift
from polymode.parts.bijections.rearrange import Permutation
from polymode.parts.nn.mlp import MLP

#: makes the network of one coupling: (channels in, channels out) -> module of (half, context) -> (B, channels out, ...)
MakeNet = Callable[[int, int], nn.Module]


class Coupling(nn.Module):
    """Maps `b` given `a`, two halves of one datum split along axis 1.

    Args:
        net: (features of a, context) -> raw parameters along axis 1, those of one kind for all channels together.
        transform: what is done to each element of b; None for `Affine`.
        seen: the map of a's elements, which says how the network sees them; None for as they are.
    """

    def __init__(self, net: nn.Module, transform: Elementwise | None = None, seen: Elementwise | None = None) -> None:
        super().__init__()
        self.net, self.transform, self.seen = net, transform or Affine(), seen
        self.fusible = can_fuse(net)

    def _fused(self, a: Tensor) -> bool:
        return self.fusible and not torch.is_autocast_enabled(a.device.type)

    def _params(self, a: Tensor, context: Tensor | None, dtype: torch.dtype) -> Tensor:
        """(P, C, ..., B). Under autocast the network answers in half precision; the map stays in that of the data."""
        a = a if self.seen is None else self.seen.features(a)
        if self._fused(a) and not torch.is_grad_enabled():
            params = columns(a, layers_of(self.net, context))
        elif isinstance(self.net, MLP):
            params = self.net.columns(a, context)
        else:
            params = self.net(a, context).movedim(0, -1)
        return params.to(dtype).unflatten(0, (self.transform.num_params, -1))

    def to_base(self, a: Tensor, b: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(b', log |det|)."""
        if isinstance(self.transform, Affine) and self._fused(a):
            return fused_affine(a, b, self.transform.cap, layers_of(self.net, context))
        z, log_slope = self.transform.to_base(b.movedim(0, -1), self._params(a, context, b.dtype))
        return z.movedim(-1, 0), log_slope.flatten(0, -2).sum(0)

    def from_base(self, a: Tensor, b: Tensor, context: Tensor | None = None) -> Tensor:
        """The b that `to_base` would map to this one."""
        if isinstance(self.transform, Affine) and self._fused(a) and not torch.is_grad_enabled():
            log_scale, shift = scale_shift(a, self.transform.cap, layers_of(self.net, context))
            return (b - shift).mul_(log_scale.neg_().exp_())
        x = self.transform.from_base(b.movedim(0, -1), self._params(a, context, b.dtype))
        return x.movedim(-1, 0)


class Couplings(Bijection):
    """A stack of couplings over the two halves of axis 1, in turn, with a fixed permutation after every second one.

    After two couplings every channel was transformed once; the permutation then deals the halves anew. Two channels
    have one split only and are not permuted.

    Args:
        channels: size of axis 1, at least 2.
        make_net: makes the network of one coupling.
        layers: couplings.
        transform: what is done to each element; None for `Affine`.
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
        transform: Elementwise | None = None,
        permute: bool = True,
    ) -> None:
        super().__init__()
        self.sizes = [channels // 2, channels - channels // 2]
        drawn = (layers - 1) // 2 if permute and channels > 2 else 0
        self.permutations = nn.ModuleList(Permutation.drawn(channels, generator) for _ in range(drawn))
        self.couplings = nn.ModuleList()
        transform, dims = transform or Affine(), torch.arange(channels)
        for i in range(layers):
            if i and i % 2 == 0 and drawn:
                dims = dims[self.permutations[i // 2 - 1].order]
            halves = dims.split(self.sizes)
            seen, mapped = transform.of(halves[i % 2]), transform.of(halves[1 - i % 2])
            ins, outs = len(seen.owner(len(halves[i % 2]))), mapped.num_params * len(halves[1 - i % 2])
            self.couplings.append(Coupling(make_net(ins, outs), mapped, seen))

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
