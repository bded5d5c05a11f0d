"""Networks that are told the time: the sinusoidal embedding of t, and a residual perceptron that uses it.

    embedding(t)_j = cos(1000 t w_j), sin(1000 t w_j),   w_j = 10000^(-j / J)

(Vaswani et al. 2017, arXiv:1706.03762, section 3.5, with 1000 t in the place of the position, as Ho, Jain and Abbeel
2020, arXiv:2006.11239, appendix B). `TimeMLP` is the backbone of vectors and tables; images have `nn/unet.py`. Time
always scales and shifts (FiLM); the condition is told in one of the four ways of `nn/conditioning.py`.

    octaves(x) = x, sin(2^k x), cos(2^k x),   k = 0, ..., K - 1

A perceptron learns smooth functions of few numbers first and steep ones late; shown their octaves it learns both
(Tancik et al. 2020, Fourier features, arXiv:2006.10739).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.parts.nn.conditioning import ConditionBy, CrossAttention, Style, beside, film, require_way

#: channels that AdaIN parts the hidden units of a perceptron into: statistics need several of each
STYLED = 8


def time_embedding(t: Float[Tensor, " B"], features: int) -> Float[Tensor, "B E"]:
    """Cosines and sines of 1000 t at `features` / 2 frequencies from 1 to 1/10000; t in [0, 1]."""
    half = features // 2
    frequencies = torch.exp(-math.log(10_000) / half * torch.arange(half, dtype=t.dtype, device=t.device))
    angles = 1000 * t.unsqueeze(1) * frequencies  # (B, E / 2)
    return torch.cat([angles.cos(), angles.sin()], 1)


def octaves_of(x: Float[Tensor, "B F"], octaves: int) -> Float[Tensor, "B E"]:
    """x beside its sines and cosines at `octaves` frequencies, E = F (1 + 2 K); x itself for none."""
    if not octaves:
        return x
    angles = (x.unsqueeze(2) * 2.0 ** torch.arange(octaves, dtype=x.dtype, device=x.device)).flatten(1)
    return torch.cat([x, angles.sin(), angles.cos()], 1)


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
    """(B, features), t (B,), context -> (B, features_out): residual blocks, shifted and scaled by the time.

    Args:
        features: F, of input and output.
        width: of the hidden layers.
        blocks: number of residual blocks.
        context_features: W of the condition's vector, or of its tokens; 0 for none.
        features_out: of the output; the same by default.
        octaves: K, frequencies at which the features are shown too.
        condition_by: how the condition is told.
    """

    def __init__(
        self,
        features: int,
        width: int = 128,
        blocks: int = 3,
        *,
        context_features: int = 0,
        features_out: int | None = None,
        octaves: int = 0,
        condition_by: ConditionBy = "film",
    ) -> None:
        super().__init__()
        require_way(condition_by)
        self.condition_by = condition_by if context_features else "film"
        self.time = TimeEncoder(width, context_features if self.condition_by == "film" else 0)
        self.octaves = octaves
        beside_them = context_features if self.condition_by == "concat" else 0
        self.stem = nn.Linear(features * (1 + 2 * octaves) + beside_them, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(blocks))
        self.films = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(blocks))
        self.inner = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.outer = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        if self.condition_by == "adain":
            self.norms = nn.ModuleList(Style(math.gcd(STYLED, width), context_features) for _ in range(blocks))
        if self.condition_by == "attention":
            self.readers = nn.ModuleList(CrossAttention(width, context_features) for _ in range(blocks))
        self.last = nn.Linear(width, features if features_out is None else features_out)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(
        self, x: Float[Tensor, "B F"], t: Tensor, context: Tensor | None = None, seen: Tensor | None = None
    ) -> Float[Tensor, "B F2"]:
        """``context`` (B, W), or with attention (B, T, W) of which the tokens `seen` (B, T) are read."""
        modulation = F.silu(self.time(t, context))
        x = octaves_of(x, self.octaves)
        h = self.stem(beside(x, context) if self.condition_by == "concat" and context is not None else x)
        for i, (norm, scale_shift) in enumerate(zip(self.norms, self.films, strict=True)):
            if self.condition_by == "adain":
                normed = norm(h.view(len(h), math.gcd(STYLED, h.shape[1]), -1), context).flatten(1)
            else:
                normed = norm(h)
            h = h + self.outer[i](F.silu(self.inner[i](film(normed, scale_shift(modulation)))))
            if self.condition_by == "attention":
                h = self.readers[i](h, context, seen)
        return self.last(F.silu(h))
