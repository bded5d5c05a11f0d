"""A causal transformer: blocks of self-attention and perceptrons, and the keys and values kept between steps.

Vaswani et al. 2017, Attention Is All You Need (arXiv:1706.03762), in the pre-norm order of Radford et al. 2019 (GPT-2):

    h <- h + W_o softmax(q k^T / sqrt(d_h) + mask) v,   (q, k, v) = W_qkv LN(h)         (eq. 1, section 3.2)
    h <- h + W_2 gelu(W_1 LN(h))                                                        (section 3.3)

`Cache` holds the keys and values of what was read, so that a step reads one position: the numbers are those of reading
everything again. Cost of T positions: T^2 W + T W^2 a block at once, and T W + W^2 a step.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core.errors import PolymodeError


class Cache:
    """Keys and values of the positions read so far, for each block.

    Args:
        like: any tensor of the model's device and dtype.
        length: most positions.
    """

    def __init__(self, layers: int, n: int, heads: int, length: int, head_width: int, like: Tensor) -> None:
        shape = (layers, n, heads, length, head_width)
        self.keys, self.values = like.new_empty(shape), like.new_empty(shape)

    def extend(self, layer: int, start: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Put (B, H, t, C) at positions start, start + 1, ...; returns all up to their end."""
        end = start + keys.shape[2]
        self.keys[layer, :, :, start:end], self.values[layer, :, :, start:end] = keys, values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]


class CausalAttention(nn.Module):
    """Self-attention of (B, t, W) to itself and to what a cache holds of earlier positions."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise PolymodeError(f"width={width} and heads={heads}: expected a width that is a multiple of the heads")
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, h: Tensor, layer: int, start: int, cache: Cache | None) -> Tensor:
        b, t, w = h.shape
        q, k, v = self.qkv(h).view(b, t, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4)  # (B, H, t, C) each
        if cache is not None:
            k, v = cache.extend(layer, start, k, v)
        mask = None
        if 1 < t < k.shape[2]:
            # several positions after some that were read before: each sees all of those, and its own past
            mask = torch.ones(t, k.shape[2], dtype=torch.bool, device=h.device).tril(k.shape[2] - t)
        found = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=self.dropout if self.training else 0.0, is_causal=1 < t == k.shape[2]
        )
        return self.out(found.transpose(1, 2).reshape(b, t, w))  # (B, t, W)


class Block(nn.Module):
    """Pre-norm attention and a perceptron four times as wide."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = CausalAttention(width, heads, dropout)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, layer: int, start: int, cache: Cache | None) -> Tensor:
        h = h + self.dropout(self.attention(self.norm_1(h), layer, start, cache))
        return h + self.dropout(self.down(F.gelu(self.up(self.norm_2(h)), approximate="tanh")))


class CausalTransformer(nn.Module):
    """(B, t, W) of the positions from `start` on to (B, t, W) after all blocks and the last norm.

    Args:
        width: W, a multiple of heads.
        layers, heads: of attention.
        dropout: of attention weights and of what blocks add.
    """

    def __init__(self, width: int, *, layers: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                # what 2 L sums add grows with their number, so their last weights start smaller (Radford et al. 2019)
                last = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * layers) if last else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, h: Float[Tensor, "B t W"], start: int = 0, cache: Cache | None = None) -> Float[Tensor, "B t W"]:
        for layer, block in enumerate(self.blocks):
            h = block(h, layer, start, cache)
        return self.norm(h)

    def empty_cache(self, n: int, length: int) -> Cache:
        """A cache of at most `length` positions of n sequences."""
        attention = self.blocks[0].attention
        width = attention.out.in_features
        return Cache(
            len(self.blocks), n, attention.heads, length, width // attention.heads, attention.out.weight.detach()
        )
