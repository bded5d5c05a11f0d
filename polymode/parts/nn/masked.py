"""Masked networks: perceptrons in which an output sees only the inputs that come before it in an order.

Germain et al. 2015, MADE (arXiv:1502.03509). Every input feature and every output has a rank (its dimension's place
in the order), every hidden unit a degree m:

    input -> unit where rank <= m;   unit -> unit where m' <= m;   unit -> output where m < rank      (section 4)

so an output of rank r is a function of inputs of ranks below r. :class:`MaskedMLP` holds the masks, of one order or of
several that the same weights serve in turn (section 4.2),
:class:`Stepwise` evaluates the same network one rank at a time: a unit of degree m is final once rank m is known, so
every unit is computed once and a whole sampled datum costs the arithmetic of one ordinary pass.
Deviation: degrees are spread evenly instead of drawn at random, so that no rank is left without units by chance and
units sorted by degree can be cut by slices. With a context, some units have degree -1: they see the context only,
which is all that an output of rank 0 may look at.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core.errors import PolymodeError
from polymode.parts.nn.mlp import Activation, activation


class MaskedLinear(nn.Linear):
    """x (W * mask)^T + b.

    Args:
        mask: (out, in), True where a weight may act.
        bias: whether there is a b.
    """

    mask: Tensor

    def __init__(self, mask: Tensor, *, bias: bool = True) -> None:
        super().__init__(mask.shape[1], mask.shape[0], bias=bias)
        self.register_buffer("mask", mask.to(self.weight.dtype), persistent=False)

    @property
    def masked_weight(self) -> Tensor:
        """W * mask, (out, in)."""
        return self.weight * self.mask

    def forward(self, input: Tensor, mask: Tensor | None = None) -> Tensor:  # (the name that nn.Linear gives it)
        return F.linear(input, self.masked_weight if mask is None else self.weight * mask, self.bias)


class MaskedMLP(nn.Module):
    """(B, F) -> (B, P), where outputs of rank r depend on inputs of rank below r only.

    Args:
        in_ranks: (F,) rank of each input feature, or (M, F) in each of M orders.
        out_ranks: (P,) or (M, P) rank of each output.
        hidden: widths of the hidden layers, one at least.
        context_features: width of a context (B, C) that every output may see; 0 for none.
        act: the activation.
        direct: masked weights from inputs to outputs beside the hidden layers.

    Raises:
        PolymodeError: no hidden layer, or one without units.
    """

    in_ranks: Tensor
    out_ranks: Tensor

    def __init__(
        self,
        in_ranks: Int[Tensor, "*M F"],
        out_ranks: Int[Tensor, "*M P"],
        hidden: Sequence[int] = (128, 128),
        *,
        context_features: int = 0,
        act: Activation = "relu",
        direct: bool = False,
    ) -> None:
        super().__init__()
        if not hidden or min(hidden) < 1:
            raise PolymodeError(f"hidden={tuple(hidden)}: expected the widths of one hidden layer or more")
        self.num_ranks = int(out_ranks.max()) + 1
        self.register_buffer("in_ranks", torch.atleast_2d(in_ranks), persistent=False)
        self.register_buffer("out_ranks", torch.atleast_2d(out_ranks), persistent=False)
        lowest = -1 if context_features or self.num_ranks == 1 else 0
        self.degrees = [spread_degrees(width, lowest, self.num_ranks - 2) for width in hidden]
        first, last, across = self._masks(0)
        inner = [a <= b.unsqueeze(1) for a, b in pairwise(self.degrees)]
        self.layers = nn.ModuleList(MaskedLinear(mask) for mask in (first, *inner))
        self.contexts = nn.ModuleList(nn.Linear(context_features, b, bias=False) for b in hidden if context_features)
        self.act = activation(act)
        self.last = MaskedLinear(last)
        self.direct = MaskedLinear(across, bias=False) if direct else None
        if self.direct is not None:
            nn.init.zeros_(self.direct.weight)

    def _masks(self, order: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of inputs to the first units, of the last units to outputs, and of inputs to outputs."""
        inputs, outputs = self.in_ranks[order], self.out_ranks[order].unsqueeze(1)
        lowest, highest = self.degrees[0].to(inputs.device), self.degrees[-1].to(inputs.device)
        return inputs <= lowest.unsqueeze(1), highest < outputs, inputs < outputs

    def body(self, x: Float[Tensor, "B F"], context: Tensor | None = None, first: Tensor | None = None) -> Tensor:
        """The last hidden layer's units, the inputs masked by `first` where it is given."""
        for i, layer in enumerate(self.layers):
            x = layer(x, first if i == 0 else None)
            if context is not None:
                x = x + self.contexts[i](context)
            x = self.act(x)
        return x

    def forward(
        self, x: Float[Tensor, "B F"], context: Float[Tensor, "B C"] | None = None, order: int = 0
    ) -> Float[Tensor, "B P"]:
        # the masks of the first order are kept; those of others cost a comparison a weight
        first, last, across = (None, None, None) if order == 0 else self._masks(order)
        out = self.last(self.body(x, context, first), last)
        return out if self.direct is None else out + self.direct(x, across)

    def columns(self, x: Float[Tensor, "B F"], context: Float[Tensor, "B C"] | None = None) -> Float[Tensor, "P B"]:
        """The outputs in the first order, each over the whole batch in one piece of memory."""
        out = torch.addmm(self.last.bias.unsqueeze(1), self.last.masked_weight, self.body(x, context).t())
        return out if self.direct is None else out + self.direct(x).t()

    def stepwise(self, n: int, context: Float[Tensor, "B C"] | None = None, order: int = 0) -> Stepwise:
        """The network on n rows whose inputs become known rank by rank."""
        return Stepwise(self, n, context, order)


class Stepwise:
    """A :class:`MaskedMLP` evaluated in order: ask `outputs(0)`, tell `put(0, ...)`, ask `outputs(1)`, and so on.

    Inputs and outputs are kept sorted by rank, hidden units are sorted by degree, so that what is known is always a
    leading slice; rows of the batch come last, so that it is one piece of memory. Gradients are not meant to flow
    through it.
    """

    def __init__(self, net: MaskedMLP, n: int, context: Tensor | None, order: int) -> None:
        # what it is given is new, so it may be written over; a module's call costs as much as these few units
        self.act = torch.relu_ if isinstance(net.act, nn.ReLU) else net.act.forward
        first, last, across = net._masks(order)
        in_ranks, out_ranks = net.in_ranks[order], net.out_ranks[order]
        in_order, out_order = in_ranks.argsort(stable=True), out_ranks.argsort(stable=True)
        self.in_ends = _ends(in_ranks, net.num_ranks)
        self.out_ends = _ends(out_ranks, net.num_ranks)
        self.unit_ends = [_ends(degrees, net.num_ranks) for degrees in net.degrees]
        self.last, self.last_bias = (net.last.weight * last)[out_order], net.last.bias[out_order].unsqueeze(1)
        weights = [layer.masked_weight for layer in net.layers[1:]]
        self.weights = [(net.layers[0].weight * first)[:, in_order], *weights]
        self.direct = None if net.direct is None else (net.direct.weight * across)[out_order][:, in_order]
        self.shifts = [layer.bias.unsqueeze(1) for layer in net.layers]  # (width, 1 or n): bias and context
        if context is not None:
            self.shifts = [s + c(context).t() for s, c in zip(self.shifts, net.contexts, strict=True)]
        self.x = self.last.new_zeros(len(in_order), n)
        self.units = [self.last.new_zeros(len(shift), n) for shift in self.shifts]
        self._settle(-1)

    def columns(self, rank: int) -> Float[Tensor, "P_rank n"]:
        """The outputs of one rank, in their order of the full network; ranks below must have been put."""
        rows = slice(self.out_ends[rank], self.out_ends[rank + 1])
        known, final = self.in_ends[rank], self.unit_ends[-1][rank]
        out = torch.addmm(self.last_bias[rows], self.last[rows, :final], self.units[-1][:final])
        return out if self.direct is None else torch.addmm(out, self.direct[rows, :known], self.x[:known])

    def outputs(self, rank: int) -> Float[Tensor, "n P_rank"]:
        """`columns`, a row of the batch a row."""
        return self.columns(rank).t()

    def put(self, rank: int, features: Float[Tensor, "n F_rank"]) -> None:
        """Tell the inputs of one rank in their order of the full network."""
        self.x[self.in_ends[rank] : self.in_ends[rank + 1]] = features.t()
        self._settle(rank)

    def _settle(self, degree: int) -> None:
        """Compute the units of one degree in every layer; all that they see is known."""
        source, known = self.x, self.in_ends[degree + 1]
        for weight, shift, h, ends in zip(self.weights, self.shifts, self.units, self.unit_ends, strict=True):
            start, end = (0 if degree < 0 else ends[degree]), ends[degree + 1]
            if end > start:
                h[start:end] = self.act(torch.addmm(shift[start:end], weight[start:end, :known], source[:known]))
            source, known = h, end


def spread_degrees(width: int, lowest: int, highest: int) -> Int[Tensor, " width"]:
    """Degrees lowest .. highest, ascending, over the units of a layer: equally many of each, or evenly spaced ones
    with both ends where there are fewer units than degrees."""
    count = highest - lowest + 1
    if width >= count:
        return torch.arange(width) * count // width + lowest
    return torch.linspace(lowest, highest, width, dtype=torch.float64).round().long()


def _ends(values: Tensor, count: int) -> list[int]:
    """For r = 0 .. count: how many values are below r."""
    steps = torch.arange(count + 1, device=values.device)
    return torch.searchsorted(values.sort().values, steps).tolist()
