"""Four ways to tell a network its condition, behind one choice `condition_by`.

    concat       [x, W c]                             Mirza and Osindero 2014 (arXiv:1411.1784)
    film         (1 + gamma(c)) h + beta(c)           Perez et al. 2018 (arXiv:1709.07871)
    adain        sd(c) (h - mean(h)) / sd(h) + m(c)   Huang and Belongie 2017 (arXiv:1703.06868, eq. 8)
    attention    h + softmax(q(h) k(c)^T / sqrt(d)) v(c)    Vaswani et al. 2017 (arXiv:1706.03762); Rombach et al. 2022
                                                      (arXiv:2112.10752, section 3.3)

The first three are told a vector (B, W), the last one tokens (B, T, W), some of which may be hidden. `film`, `adain`
and `CrossAttention` hold them; features are (B, C) or (B, C, *space). `nn/time.py` and `nn/unet.py` are built of these.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core.errors import require_choice

ConditionBy = Literal["film", "concat", "adain", "attention"]


def require_way(condition_by: str) -> None:
    """Raise unless it is one of the four."""
    require_choice("condition_by", condition_by, get_args(ConditionBy))


def film(h: Tensor, modulation: Float[Tensor, "B M"]) -> Tensor:
    """h scaled by 1 + gamma and shifted by beta, channel by channel; [gamma, beta] of zeros leaves it as it is."""
    gamma, beta = over_space(modulation, h).chunk(2, dim=1)
    return h * (1 + gamma) + beta


def adain(h: Float[Tensor, "B C *space"], mean: Tensor, sd: Tensor) -> Float[Tensor, "B C *space"]:
    """h whose every channel has, over space, the mean (B, C) and the standard deviation (B, C) of a style."""
    dims = tuple(range(2, h.dim()))
    centred = h - h.mean(dims, keepdim=True)
    # a channel that is even over space has no deviation to divide by, and stays even
    unit = centred / centred.square().mean(dims, keepdim=True).sqrt().clamp(min=1e-6)
    return over_space(sd, h) * unit + over_space(mean, h)


def over_space(v: Float[Tensor, "B C"], h: Tensor) -> Tensor:
    """(B, C) with as many further dimensions of one as h has."""
    return v.view(*v.shape, *(1,) * (h.dim() - 2))


class Style(nn.Module):
    """AdaIN of channels by a vector: the style's mean and deviation are linear, and log-linear, in it."""

    def __init__(self, channels: int, context_features: int) -> None:
        super().__init__()
        self.statistics = nn.Linear(context_features, 2 * channels)

    def forward(self, h: Float[Tensor, "B C *space"], context: Float[Tensor, "B W"]) -> Float[Tensor, "B C *space"]:
        mean, log_sd = self.statistics(context).chunk(2, dim=1)
        return adain(h, mean, log_sd.exp())


class CrossAttention(nn.Module):
    """Every place of h (B, C) or (B, C, *space) reads the tokens, and adds what it read.

    Args:
        channels: C.
        context_features: W of a token.
        heads: number of heads, a divisor of C.
    """

    def __init__(self, channels: int, context_features: int, heads: int = 1) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.query = nn.Linear(channels, channels, bias=False)
        self.key_value = nn.Linear(context_features, 2 * channels, bias=False)
        self.out = nn.Linear(channels, channels)

    def forward(self, h: Tensor, tokens: Float[Tensor, "B T W"], seen: Bool[Tensor, "B T"] | None = None) -> Tensor:
        """``seen`` is False where a token is hidden: it has a weight of exactly 0; one at least has to be seen."""
        places = h.flatten(2).transpose(1, 2) if h.dim() > 2 else h.unsqueeze(1)  # (B, N, C)
        q = self._split(self.query(self.norm(places)))
        k, v = map(self._split, self.key_value(tokens).chunk(2, dim=-1))
        mask = None if seen is None else seen[:, None, None, :]
        read = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # (B, heads, N, C / heads)
        told = self.out(read.transpose(1, 2).flatten(2))  # (B, N, C)
        return h + told.transpose(1, 2).reshape(h.shape)

    def _split(self, v: Float[Tensor, "B N C"]) -> Float[Tensor, "B heads N D"]:
        return v.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def as_planes(context: Float[Tensor, "B W"], like: Float[Tensor, "B C *space"]) -> Float[Tensor, "B W *space"]:
    """A vector at every place, to be put beside the channels of `like`."""
    return over_space(context, like).expand(-1, -1, *like.shape[2:])


def beside(x: Tensor, context: Float[Tensor, "B W"]) -> Tensor:
    """[x, c] along the channels."""
    return torch.cat([x, as_planes(context, x)], 1)
