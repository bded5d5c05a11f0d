"""Networks that are told the time: the sinusoidal embedding of t, and a residual perceptron that uses it.

    embedding(t)_j = cos(1000 t w_j), sin(1000 t w_j),   w_j = 10000^(-j / J)

(Vaswani et al. 2017, arXiv:1706.03762, section 3.5, with 1000 t in the place of the position, as Ho, Jain and Abbeel
2020, arXiv:2006.11239, appendix B). `TimeMLP` is the backbone of vectors and tables; images have `nn/unet.py`.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


def time_embedding(t: Float[Tensor, " B"], features: int) -> Float[Tensor, "B E"]:
    """Cosines and sines of 1000 t at `features` / 2 frequencies from 1 to 1/10000; t in [0, 1]."""
    half = features // 2
    frequencies = torch.exp(-math.log(10_000) / half * torch.arange(half, dtype=t.dtype, device=t.device))
    angles = 1000 * t.unsqueeze(1) * frequencies  # (B, E / 2)
    return torch.cat([angles.cos(), angles.sin()], 1)


class TimeEncoder(nn.Module):
    """t (B,) and perhaps a condition's vector (B, W) to one vector (B, width) that a network is modulated by."""

    def __init__(self, width: int, context_features: int = 0) -> None:
        super().__init__()
        self.features = max(8, width // 2)
        self.first = nn.Linear(2 * (self.features // 2), width)
        self.second = nn.Linear(width, width)
        self.context = nn.Linear(context_features, width, bias=False) if context_features else None

    def forward(self, t: Float[Tensor, " B"], context: Tensor | None = None) -> Float[Tensor, "B W"]:
        h = self.second(F.silu(self.first(time_embedding(t, self.features))))
        return h if context is None or self.context is None else h + self.context(context)


class TimeMLP(nn.Module):
    """(B, features), t (B,), context -> (B, features_out): residual blocks, shifted and scaled by time and context.

    Args:
        features: F, of input and output.
        width: of the hidden layers.
        blocks: number of residual blocks.
        context_features: W of the condition's vector, 0 for none.
        features_out: of the output; the same by default.
    """

    def __init__(
        self,
        features: int,
        width: int = 128,
        blocks: int = 3,
        *,
        context_features: int = 0,
        features_out: int | None = None,
    ) -> None:
        super().__init__()
        self.time = TimeEncoder(width, context_features)
        self.stem = nn.Linear(features, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(blocks))
        self.films = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(blocks))
        self.inner = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.outer = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.last = nn.Linear(width, features if features_out is None else features_out)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Float[Tensor, "B F"], t: Tensor, context: Tensor | None = None) -> Float[Tensor, "B F"]:
        modulation = F.silu(self.time(t, context))
        h = self.stem(x)
        for norm, film, inner, outer in zip(self.norms, self.films, self.inner, self.outer, strict=True):
            scale, shift = film(modulation).chunk(2, dim=1)
            h = h + outer(F.silu(inner(norm(h) * (1 + scale) + shift)))
        return self.last(F.silu(h))
