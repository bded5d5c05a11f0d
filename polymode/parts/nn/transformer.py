"""Transformers: blocks of attention and perceptrons, causal or of encoder and decoder, and what is kept between steps.

Vaswani et al. 2017, Attention Is All You Need (arXiv:1706.03762), in the pre-norm order of Radford et al. 2019 (GPT-2):

    h <- h + W_o softmax(q k^T / sqrt(d_h) + mask) v,   (q, k, v) = W_qkv LN(h)         (eq. 1, section 3.2)
    h <- h + W_2 gelu(W_1 LN(h))                                                        (section 3.3)

with the exact gelu, which is quicker on a CPU than the approximation by tanh that GPT-2 has.

A decoder's block attends to an encoder's output z, too, whose keys and values are made once (`Attention.read`):

    h <- h + W_o softmax(W_q LN(h) (W_k z)^T / sqrt(d_h) + mask) W_v z                  (section 3.2.3)

`Cache` holds the keys and values of what was read, so that a step reads one position: the numbers are those of reading
everything again. Cost of T positions: T^2 W + T W^2 a block at once, and T W + W^2 a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import copy
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core.errors import PolymodeError

Approximate = Literal["none", "tanh"]


class Cache:
    """Keys and values of the positions read so far, for each block.

    Args:
        like: any tensor of the model's device and dtype.
        length: most positions.
    """

    def __init__(self, layers: int, n: int, heads: int, length: int, head_width: int, like: Tensor) -> None:
        shape = (layers, n, heads, length, head_width)
        self.keys, self.values = like.new_empty(shape), like.new_empty(shape)

    def rows(self, index: Tensor) -> Cache:
        """The cache of some of the sequences, in their order."""
        chosen = copy(self)
        chosen.keys, chosen.values = self.keys[:, index], self.values[:, index]
        return chosen

    def extend(self, layer: int, start: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Put (B, H, t, C) at positions start, start + 1, ...; returns all up to their end."""
        end = start + keys.shape[2]
        self.keys[layer, :, :, start:end], self.values[layer, :, :, start:end] = keys, values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]


class CausalAttention(nn.Module):
    """Self-attention of (B, t, W) to itself and to what a cache holds of earlier positions.

    Args:
        causal: positions see themselves and those before them; else all see all, and there is no cache.
    """

    def __init__(self, width: int, heads: int, dropout: float, causal: bool = True) -> None:
        super().__init__()
        if width % heads:
            raise PolymodeError(f"width={width} and heads={heads}: expected a width that is a multiple of the heads")
        self.heads, self.dropout, self.causal = heads, dropout, causal
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, h: Tensor, layer: int, start: int, cache: Cache | None, bias: Tensor | None = None) -> Tensor:
        b, t, w = h.shape
        q, k, v = (z.view(b, t, self.heads, -1).transpose(1, 2) for z in self.qkv(h).split(w, 2))  # (B, H, t, C) each
        if cache is not None:
            k, v = cache.extend(layer, start, k, v)
        mask = bias
        if self.causal and 1 < t < k.shape[2]:
            # several positions after some that were read before: each sees all of those, and its own past
            mask = torch.ones(t, k.shape[2], dtype=torch.bool, device=h.device).tril(k.shape[2] - t)
        dropout, whole = self.dropout if self.training else 0.0, 1 < t == k.shape[2]
        found = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=self.causal and whole
        )
        return self.out(found.transpose(1, 2).reshape(b, t, w))  # (B, t, W)


class Block(nn.Module):
    """Pre-norm attention and a perceptron four times as wide."""

    def __init__(
        self, width: int, heads: int, dropout: float, causal: bool = True, approximate: Approximate = "none"
    ) -> None:
        super().__init__()
        self.approximate = approximate
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = CausalAttention(width, heads, dropout, causal)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, layer: int, start: int, cache: Cache | None, bias: Tensor | None = None) -> Tensor:
        h = h + self.dropout(self.attention(self.norm_1(h), layer, start, cache, bias))
        return h + self.dropout(self.down(F.gelu(self.up(self.norm_2(h)), approximate=self.approximate)))


class CausalTransformer(nn.Module):
    """(B, t, W) of the positions from `start` on to (B, t, W) after all blocks and the last norm.

    Args:
        width: W, a multiple of heads.
        layers, heads: of attention.
        dropout: of attention weights and of what blocks add.
        causal: False for an encoder, whose positions see one another whichever way (Devlin et al. 2019).
        approximate: of the gelu.
    """

    def __init__(
        self,
        width: int,
        *,
        layers: int,
        heads: int,
        dropout: float = 0.0,
        causal: bool = True,
        approximate: Approximate = "none",
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads, dropout, causal, approximate) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                # what 2 L sums add grows with their number, so their last weights start smaller (Radford et al. 2019)
                last = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * layers) if last else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(
        self,
        h: Float[Tensor, "B t W"],
        start: int = 0,
        cache: Cache | None = None,
        bias: Float[Tensor, "H t t"] | None = None,
    ) -> Float[Tensor, "B t W"]:
        """The result; ``bias`` is added to the logits of every block's attention, in an encoder only."""
        for layer, block in enumerate(self.blocks):
            h = block(h, layer, start, cache, bias)
        return self.norm(h)

    def empty_cache(self, n: int, length: int) -> Cache:
        """A cache of at most `length` positions of n sequences."""
        attention = self.blocks[0].attention
        width = attention.out.in_features
        return Cache(
            len(self.blocks), n, attention.heads, length, width // attention.heads, attention.out.weight.detach()
        )


def distances(d: int) -> Tensor:
    """(D, D): how far the column's place is behind the row's, counted from -(D - 1) as 0."""
    places = torch.arange(d)
    return places - places.unsqueeze(1) + d - 1


def sides(heads: int, d: int) -> Tensor:
    """(H, 2 D - 1): what each head may begin with adding to attention at each distance.

    Heads look to the left and to the right in turn, each pair further: on a head's own side attention falls by
    e^-slope with each place, on the other side by e^-(4 slope).
    """
    distance = torch.arange(1 - d, d)
    slope = 0.5 ** (1 + torch.arange(heads) // 2).unsqueeze(1)  # (H, 1): 1/2, 1/2, 1/4, 1/4, ...
    left = torch.arange(heads).unsqueeze(1) % 2 == 0
    own = (distance <= 0) == left
    return -distance.abs() * torch.where(own, slope, 4 * slope)


# -- encoder and decoder -------------------------------------------------------------------------------------------
class Attention(nn.Module):
    """Attention of (B, t, W) to a memory (B, S, W), whose keys and values are made once and read at every step."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise PolymodeError(f"width={width} and heads={heads}: expected a width that is a multiple of the heads")
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def read(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, S, C) of a memory."""
        b, s, w = memory.shape
        keys, values = self.key_value(memory).view(b, s, 2, self.heads, w // self.heads).permute(2, 0, 3, 1, 4)
        return keys, values

    def forward(self, h: Tensor, read: tuple[Tensor, Tensor], seen: Tensor | None) -> Tensor:
        """`seen` (B, 1, 1, S) says which positions of the memory are there; each row has one at least."""
        b, t, w = h.shape
        q = self.query(h).view(b, t, self.heads, w // self.heads).transpose(1, 2)  # (B, H, t, C)
        found = F.scaled_dot_product_attention(
            q, *read, attn_mask=seen, dropout_p=self.dropout if self.training else 0.0
        )
        return self.out(found.transpose(1, 2).reshape(b, t, w))  # (B, t, W)


class Residual(nn.Module):
    """LN(h + f(h)) as in Vaswani et al. 2017, section 3.1, or h + f(LN(h)) where the norm comes first."""

    def __init__(self, width: int, dropout: float, *, norm_first: bool) -> None:
        super().__init__()
        self.norm, self.dropout, self.norm_first = nn.LayerNorm(width), nn.Dropout(dropout), norm_first

    def forward(self, h: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        if self.norm_first:
            return h + self.dropout(f(self.norm(h)))
        return self.norm(h + self.dropout(f(h)))


def _perceptron(width: int) -> nn.Sequential:
    """max(0, x W_1 + b_1) W_2 + b_2 (Vaswani et al. 2017, eq. 2)."""
    return nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))


class EncoderBlock(nn.Module):
    """Attention of every position to all that are there, and a perceptron."""

    def __init__(self, width: int, heads: int, dropout: float, *, norm_first: bool = True) -> None:
        super().__init__()
        self.attention, self.perceptron = Attention(width, heads, dropout), _perceptron(width)
        self.residuals = nn.ModuleList(Residual(width, dropout, norm_first=norm_first) for _ in range(2))

    def forward(self, h: Float[Tensor, "B S W"], seen: Tensor | None) -> Float[Tensor, "B S W"]:
        h = self.residuals[0](h, lambda x: self.attention(x, self.attention.read(x), seen))
        return self.residuals[1](h, self.perceptron)


class DecoderBlock(nn.Module):
    """Causal attention, attention to the encoder's memory, and a perceptron."""

    def __init__(self, width: int, heads: int, dropout: float, *, norm_first: bool = True) -> None:
        super().__init__()
        self.attention, self.cross = CausalAttention(width, heads, dropout), Attention(width, heads, dropout)
        self.perceptron = _perceptron(width)
        self.residuals = nn.ModuleList(Residual(width, dropout, norm_first=norm_first) for _ in range(3))

    def forward(
        self, h: Tensor, read: tuple[Tensor, Tensor], seen: Tensor | None, layer: int, start: int, cache: Cache | None
    ) -> Tensor:
        """(B, t, W) of the positions from `start` on; `read` are the keys and values of the memory."""
        h = self.residuals[0](h, lambda x: self.attention(x, layer, start, cache))
        h = self.residuals[1](h, lambda x: self.cross(x, read, seen))
        return self.residuals[2](h, self.perceptron)


def sinusoids(length: int, width: int) -> Float[Tensor, "T W"]:
    """PE(t, 2i) = sin(t / 10000^(2i/W)), PE(t, 2i+1) = cos of the same (Vaswani et al. 2017, section 3.5)."""
    rate = 10_000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angle = torch.arange(length, dtype=torch.float64).unsqueeze(1) * rate  # (T, W / 2)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :width].float()
