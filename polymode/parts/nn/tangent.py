"""Perceptrons that carry derivatives along with values: J v of many v, a forward pass each, themselves differentiable.

    h = phi(W h' + b + U c),   dh = phi'(W h' + b + U c) (W dh')

Log-determinants and divergences need J of a map and gradients through it. By these rules they cost ordinary passes and
ordinary autograd, with no graph of gradients of gradients.
`BoundedMLP` divides each W by its largest singular value wherever that exceeds c, so that its map of x has a Lipschitz
constant of at most c^(number of layers), as no activation here is steeper than one (Behrmann et al. 2019,
arXiv:1811.00995, eq. 2; Chen et al. 2019, arXiv:1906.02735, appendix C: LipSwish is x sigmoid(beta x) / 1.1).
Deviation: the singular value is the exact one and not that of some power iterations, which stay below it, so that the
bound holds whatever the parameters are; beta begins at 10 in place of 0.97, as units under a bounded matrix see sums of
some tenths, where a gentle curve is a line and nothing is learned beyond a Gaussian.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Smooth = Literal["tanh", "softplus", "lipswish"]
#: takes tangents v (..., B, D_in) to J v (..., B, D_out)
Push = Callable[[Tensor], Tensor]
#: the steepest slope of x sigmoid(beta x) is 1.0998 for every beta
SWISH_SLOPE = 1.1
#: where the steepness beta = softplus(.) of lipswish begins
STEEPNESS = 10.0


class TangentMLP(nn.Module):
    """(B, in_features) -> (B, out_features), with its derivative; a context (B, W) is added to each hidden layer.

    Args:
        hidden: widths of the hidden layers.
        act: "tanh", "softplus", or "lipswish" with a learned steepness a layer.
        zero_last: start from an output of zero.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden: Sequence[int],
        *,
        context_features: int = 0,
        act: Smooth = "tanh",
        zero_last: bool = False,
    ) -> None:
        super().__init__()
        self.act = act
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise([in_features, *hidden, out_features]))
        self.contexts = nn.ModuleList(nn.Linear(context_features, b, bias=False) for b in hidden if context_features)
        self.steepness = nn.ParameterList(nn.Parameter(torch.full((), STEEPNESS)) for _ in hidden if act == "lipswish")
        if zero_last:
            nn.init.zeros_(self.layers[-1].weight)
            nn.init.zeros_(self.layers[-1].bias)

    def weights(self) -> list[Tensor]:
        """The matrix of each layer, as it is applied."""
        return [layer.weight for layer in self.layers]

    def forward(self, x: Tensor, context: Tensor | None = None, weights: list[Tensor] | None = None) -> Tensor:
        """The values alone; ``weights`` are those of `weights()`, where many passes share them."""
        return self._run(x, context, self.weights() if weights is None else weights, None)

    def linearise(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Push]:
        """(values, J at x as a function of tangents)."""
        weights, slopes = self.weights(), list[Tensor]()
        value = self._run(x, context, weights, slopes)
        return value, partial(_pushed, weights, slopes)

    def _run(self, x: Tensor, context: Tensor | None, weights: list[Tensor], slopes: list[Tensor] | None) -> Tensor:
        for i, (layer, weight) in enumerate(zip(self.layers, weights, strict=True)):
            x = F.linear(x, weight, layer.bias)
            if i + 1 < len(self.layers):
                if context is not None and len(self.contexts):
                    x = x + self.contexts[i](context)
                x, slope = self._activate(x, i, slopes is not None)
                if slopes is not None and slope is not None:
                    slopes.append(slope)
        return x

    def _activate(self, a: Tensor, layer: int, sloped: bool) -> tuple[Tensor, Tensor | None]:
        """(phi(a), phi'(a) where it is wanted)."""
        match self.act:
            case "tanh":
                h = torch.tanh(a)
                return h, 1 - h.square() if sloped else None
            case "softplus":
                return F.softplus(a), a.sigmoid() if sloped else None
        scaled = F.softplus(self.steepness[layer]) * a
        gate = scaled.sigmoid()
        return a * gate / SWISH_SLOPE, (gate * (1 + scaled * (1 - gate))) / SWISH_SLOPE if sloped else None


def _pushed(weights: list[Tensor], slopes: list[Tensor], v: Tensor) -> Tensor:
    """J v, layer by layer."""
    for weight, slope in zip(weights[:-1], slopes, strict=True):
        v = F.linear(v, weight) * slope
    return F.linear(v, weights[-1])


class BoundedMLP(TangentMLP):
    """A `TangentMLP` of (B, D) into itself that is no steeper than `lipschitz` in x, whatever its parameters are.

    Args:
        lipschitz: the bound, shared equally by the layers.
    """

    def __init__(
        self,
        dims: int,
        hidden: Sequence[int],
        *,
        lipschitz: float,
        context_features: int = 0,
        act: Smooth = "lipswish",
    ) -> None:
        super().__init__(dims, dims, hidden, context_features=context_features, act=act)
        self.most = lipschitz ** (1 / (len(hidden) + 1))

    def weights(self) -> list[Tensor]:
        weights = super().weights()
        return [w * (self.most / torch.linalg.matrix_norm(w, 2).clamp(min=self.most)) for w in weights]
