"""Transformers that are told the time: of patches of images and sequences (DiT), and of symbols.

Peebles and Xie 2023, Scalable diffusion models with transformers (arXiv:2212.09748), section 3.2:

    c = time(t) + context,   (g_1, b_1, a_1, g_2, b_2, a_2) = W silu(c),   W = 0 at first           (adaLN-zero)
    h <- h + a_1 attention((1 + g_1) LN(h) + b_1)
    h <- h + a_2 perceptron((1 + g_2) LN(h) + b_2)

so that every block is the identity at first, and so is the output zero. `DiT` cuts (B, C, *S) of one or two axes of
space into patches, which have sines and cosines of their places on each axis (Vaswani et al. 2017, arXiv:1706.03762,
section 3.5); sides that patches do not divide are padded with their edge, and the output is cropped. `SymbolDiT` reads
symbols by an embedding, with learned places and what each head adds to attention at each distance
(`parts.nn.transformer.sides`), and says `outputs` numbers of each.
Deviation: a condition of any kind is the vector of its encoder, added to the time's, where the paper has classes.
Cost of T patches: T^2 W + T W^2 a block.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core.errors import PolymodeError
from polymode.parts.nn.time import TimeEncoder
from polymode.parts.nn.transformer import CausalAttention, distances, sides, sinusoids


class DiTBlock(nn.Module):
    """Attention of all places to all and a perceptron, each of them scaled, shifted and gated by c (B, W)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.attention = CausalAttention(width, heads, 0.0, causal=False)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.modulation = _zero(nn.Linear(width, 6 * width))

    def forward(self, h: Tensor, c: Tensor, bias: Tensor | None = None) -> Tensor:
        g1, b1, a1, g2, b2, a2 = self.modulation(c).unsqueeze(1).chunk(6, dim=2)  # (B, 1, W) each
        h = h + a1 * self.attention((1 + g1) * self.norm(h) + b1, 0, 0, None, bias)
        return h + a2 * self.down(F.gelu(self.up((1 + g2) * self.norm(h) + b2)))


class DiTBody(nn.Module):
    """(B, T, W), t (B,), context (B, W') -> (B, T, outputs): the blocks and a last layer, zero at first."""

    def __init__(self, width: int, layers: int, heads: int, outputs: int, context_features: int = 0) -> None:
        super().__init__()
        if min(width, layers, heads) < 1:
            raise PolymodeError(f"width={width}, layers={layers}, heads={heads}: expected sizes of at least 1")
        self.time = TimeEncoder(width, context_features)
        self.blocks = nn.ModuleList(DiTBlock(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = _zero(nn.Linear(width, 2 * width))
        self.last = _zero(nn.Linear(width, outputs))

    def forward(
        self, h: Float[Tensor, "B T W"], t: Float[Tensor, " B"], context: Tensor | None, bias: Tensor | None = None
    ) -> Float[Tensor, "B T O"]:
        c = F.silu(self.time(t, context))
        for block in self.blocks:
            h = block(h, c, bias)
        gain, shift = self.modulation(c).unsqueeze(1).chunk(2, dim=2)
        return self.last((1 + gain) * self.norm(h) + shift)


class DiT(nn.Module):
    """(B, C, *S), t (B,), context (B, W) -> (B, channels_out, *S), of one or two axes of space and any size.

    Args:
        channels: C of the data.
        channels_out: of the output; the same by default.
        patch: side of a patch.
        width: of the residual stream, a multiple of heads.
        layers: blocks.
        heads: of attention in each block.
        context_features: W of the condition's vector, 0 for none.
        dims: axes of space, 1 or 2.

    Raises:
        PolymodeError: sizes below one, a width that is no multiple of heads, or another number of axes.
    """

    def __init__(
        self,
        channels: int,
        channels_out: int | None = None,
        *,
        patch: int = 2,
        width: int = 128,
        layers: int = 4,
        heads: int = 4,
        context_features: int = 0,
        dims: int = 2,
    ) -> None:
        super().__init__()
        if dims not in (1, 2) or patch < 1:
            raise PolymodeError(f"dims={dims}, patch={patch}: expected 1 or 2 axes and a patch of at least 1")
        self.patch, self.dims, self.width = patch, dims, width
        self.channels_out = channels if channels_out is None else channels_out
        self.stem = nn.Linear(channels * patch**dims, width)
        self.body = DiTBody(width, layers, heads, self.channels_out * patch**dims, context_features)

    def forward(self, x: Float[Tensor, "B C *S"], t: Tensor, context: Tensor | None = None) -> Float[Tensor, "B C2 *S"]:
        space, p = x.shape[2:], self.patch
        if any(side % p for side in space):
            x = F.pad(x, [n for side in reversed(space) for n in (0, -side % p)], mode="replicate")
        cells = [side // p for side in x.shape[2:]]
        h = self.stem(self._cut(x, cells)) + self.places(cells).to(x)
        y = self.body(h, t, context)
        return self._join(y, cells)[(..., *(slice(side) for side in space))]

    def places(self, cells: list[int]) -> Float[Tensor, "T W"]:
        """Sines and cosines of each axis's place, in an equal share of the width."""
        share = math.ceil(self.width / len(cells))
        tables = [sinusoids(n, share) for n in cells]  # (n, share) each
        if len(cells) == 2:
            rows, columns = tables
            grid = torch.cat([rows.unsqueeze(1).expand(-1, cells[1], -1), columns.expand(cells[0], -1, -1)], 2)
            return grid.flatten(0, 1)[:, : self.width]
        return tables[0]

    def _cut(self, x: Tensor, cells: list[int]) -> Float[Tensor, "B T P"]:
        """Patches in reading order, each with its channels."""
        b, c, p = len(x), x.shape[1], self.patch
        if self.dims == 1:
            return x.reshape(b, c, cells[0], p).transpose(1, 2).flatten(2)  # (B, T, C p)
        x = x.reshape(b, c, cells[0], p, cells[1], p).permute(0, 2, 4, 1, 3, 5)  # (B, h, w, C, p, p)
        return x.reshape(b, cells[0] * cells[1], -1)

    def _join(self, y: Tensor, cells: list[int]) -> Tensor:
        """The inverse of `_cut`, for the output's channels."""
        b, c, p = len(y), self.channels_out, self.patch
        if self.dims == 1:
            return y.view(b, cells[0], c, p).transpose(1, 2).flatten(2)
        y = y.view(b, *cells, c, p, p).permute(0, 3, 1, 4, 2, 5)  # (B, C, h, p, w, p)
        return y.reshape(b, c, cells[0] * p, cells[1] * p)


class SymbolDiT(nn.Module):
    """Symbols (B, T), t (B,), context (B, W) -> (B, T, outputs).

    Args:
        symbols: how many there are.
        length: T.
        outputs: numbers said of each place.
        width, layers, heads, context_features: see `DiT`.
    """

    distance: Tensor

    def __init__(
        self,
        symbols: int,
        length: int,
        outputs: int,
        *,
        width: int = 128,
        layers: int = 4,
        heads: int = 4,
        context_features: int = 0,
    ) -> None:
        super().__init__()
        self.embedding, self.positions = nn.Embedding(symbols, width), nn.Embedding(length, width)
        self.distances = nn.Parameter(sides(heads, length))
        self.register_buffer("distance", distances(length), persistent=False)
        self.body = DiTBody(width, layers, heads, outputs, context_features)
        nn.init.normal_(self.positions.weight, std=0.02)

    def forward(self, x: Int[Tensor, "B T"], t: Tensor, context: Tensor | None = None) -> Float[Tensor, "B T O"]:
        h = self.embedding(x) + self.positions.weight
        return self.body(h, t, context, self.distances[:, self.distance])


def _zero(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
