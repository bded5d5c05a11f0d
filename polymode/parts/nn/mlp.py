"""Multi-layer perceptron with an optional context that is added to every hidden layer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from polymode.core.errors import require_choice

Activation = Literal["relu", "silu", "gelu", "tanh", "elu", "leaky_relu"]
_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU, "tanh": nn.Tanh, "elu": nn.ELU, "leaky_relu": nn.LeakyReLU,
}  # fmt: skip


def activation(name: Activation) -> nn.Module:
    """The activation module of a name; an unknown one is refused with the list."""
    require_choice("activation", name, _ACTIVATIONS)
    return nn.LeakyReLU(0.2) if name == "leaky_relu" else _ACTIVATIONS[name]()


class MLP(nn.Module):
    """(B, in_features) -> (B, out_features); `context` (B, context_features) is projected onto each hidden layer.

    Args:
        hidden: widths of the hidden layers.
        zero_last: start from an output of zero (identity flows, calm heads).
        norm: layer normalisation before each activation (Ba, Kiros and Hinton 2016, arXiv:1607.06450).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden: Sequence[int] = (128, 128),
        *,
        context_features: int = 0,
        act: Activation = "relu",
        zero_last: bool = False,
        norm: bool = False,
    ) -> None:
        super().__init__()
        widths = [in_features, *hidden]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.contexts = nn.ModuleList(nn.Linear(context_features, b, bias=False) for b in hidden if context_features)
        self.norms = nn.ModuleList(nn.LayerNorm(b) for b in hidden if norm)
        self.act = activation(act)
        self.last = nn.Linear(widths[-1], out_features)
        if zero_last:
            nn.init.zeros_(self.last.weight)
            nn.init.zeros_(self.last.bias)

    def body(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The last hidden layer's units."""
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if len(self.norms):
                x = self.norms[i](x)
            if context is not None:
                x = x + self.contexts[i](context)
            x = self.act(x)
        return x

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.last(self.body(x, context))

    def columns(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The outputs (out_features, B): each over the whole batch in one piece of memory."""
        return torch.addmm(self.last.bias.unsqueeze(1), self.last.weight, self.body(x, context).t())
