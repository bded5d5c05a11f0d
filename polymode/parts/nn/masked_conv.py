"""Masked convolutions: an output pixel sees only pixels before it in raster order, and of its own pixel only the
channels that come before.

van den Oord, Kalchbrenner and Kavukcuoglu 2016, Pixel Recurrent Neural Networks (arXiv:1601.06759, section 3.4):

    rows above and pixels to the left act freely, pixels to the right and below never
    at the pixel itself, a channel of group g acts on channels of groups above g (mask A) or g and above (mask B)

Every channel of an input or output has a group: the colour that it stands for. :class:`MaskedConv2d` holds the masks
and keeps only the part of the kernel that can act. :class:`RowSteps` evaluates the same convolution one row at a time
and :class:`PixelSteps` one pixel at a time, so that a step of a sampler costs one column of one layer: what the rows
above contribute is computed once a row, and the pixel adds what lies to its left.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

Mask = Literal["A", "B"]
#: initial gain before a :func:`gate`, which halves what is small since sigmoid(0) = 1/2: deep stacks start alive
GATE_GAIN = 2.0


class MaskedConv2d(nn.Module):
    """(B, C_in, H, W) -> (B, C_out, H, W) with zeros beyond the border.

    Args:
        in_groups: (C_in,) group of each input channel.
        out_groups: (C_out,) group of each output channel.
        above: rows above the pixel that are seen.
        left, right: columns seen to either side; with a mask, `right` counts in the rows above only.
        mask: "A" or "B", what is seen in the pixel's own row; None sees the whole row, for inputs that are made of
            earlier rows.
        gain: factor on initial weights of variance 1 / (number of weights that act on an output).
    """

    mask: Tensor

    def __init__(
        self,
        in_groups: Int[Tensor, " C_in"],
        out_groups: Int[Tensor, " C_out"],
        *,
        above: int = 0,
        left: int = 0,
        right: int = 0,
        mask: Mask | None = None,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.above, self.left, self.right = above, left, right
        allowed = torch.ones(len(out_groups), len(in_groups), above + 1, left + 1 + right)
        if mask is not None:
            sees = in_groups < out_groups[:, None] if mask == "A" else in_groups <= out_groups[:, None]
            allowed[:, :, above, left] = sees.to(allowed.dtype)
            allowed[:, :, above, left + 1 :] = 0
        self.register_buffer("mask", allowed, persistent=False)
        acting = allowed.sum((1, 2, 3), keepdim=True).clamp(min=1)
        self.weight = nn.Parameter((2 * torch.rand_like(allowed) - 1) * gain * math.sqrt(3) / acting.sqrt())
        self.bias = nn.Parameter(torch.zeros(len(out_groups)))

    @property
    def masked_weight(self) -> Float[Tensor, "C_out C_in rows columns"]:
        """The weights that act; the last row is the pixel's own."""
        return self.weight * self.mask

    def forward(self, x: Float[Tensor, "B C_in H W"]) -> Float[Tensor, "B C_out H W"]:
        if self.above or self.left or self.right:
            x = F.pad(x, (self.left, self.right, self.above, 0))
        return F.conv2d(x, self.masked_weight, self.bias)


class RowSteps:
    """A convolution over whole rows, one output row for each input row: it keeps the rows that later ones need.

    Args:
        weight: (C_out, C_in, rows, columns), the last row acting on the newest input row.
        bias: (C_out,).
        left, right: columns of zeros beside a row; columns = left + 1 + right.
        n, width: how many images, of what width.
    """

    def __init__(self, weight: Tensor, bias: Tensor, left: int, right: int, n: int, width: int) -> None:
        self.weight, self.bias = weight, bias
        self.inside = slice(left, left + width)
        self.window = weight.new_zeros(n, weight.shape[1], weight.shape[2], left + width + right)

    def step(self, row: Float[Tensor, "n C_in 1 W"]) -> Float[Tensor, "n C_out 1 W"]:
        """The output row that belongs to the next input row."""
        self.window = torch.roll(self.window, -1, dims=2)
        self.window[:, :, -1:, self.inside] = row
        return F.conv2d(self.window, self.weight, self.bias)


class PixelSteps:
    """A :class:`MaskedConv2d` evaluated pixel by pixel: `next_row` before each row, then `step` for its columns.

    A column may be stepped again with more of its channels known, and `put` tells an input that became known after
    its last step; what was said last stays. Gradients are not meant to flow through it.
    """

    def __init__(self, conv: MaskedConv2d, n: int, width: int) -> None:
        self.channels, self.left, self.width = conv.weight.shape[1], conv.left, width
        weight = conv.masked_weight
        own = weight[:, :, conv.above, : conv.left + 1]  # (C_out, C_in, left + 1)
        self.own = own.permute(2, 1, 0).flatten(0, 1).contiguous()  # ((left + 1) C_in, C_out), column by column
        self.row = own.new_zeros(n, (conv.left + width) * self.channels)
        self.above = None
        if conv.above:
            self.above = RowSteps(weight[:, :, : conv.above], conv.bias, conv.left, conv.right, n, width)
        self.bias = conv.bias[:, None, None]
        self.shift = conv.bias.expand(width, n, -1)  # (W, n, C_out): all that does not come from this row

    def next_row(self, side: Float[Tensor, "n C_out H W"] | None = None) -> None:
        """Begin a row; `side`, of one row and of width W or 1, is added to its outputs."""
        if self.above is not None:
            inside = self.row[:, self.left * self.channels :].unflatten(1, (self.width, -1))  # (n, W, C_in)
            shift = self.above.step(inside.transpose(1, 2).unsqueeze(2))
            self.shift = _by_column(shift if side is None else shift + side, self.width)
        elif side is not None:
            self.shift = _by_column(side + self.bias, self.width)
        self.row.zero_()

    def step(self, column: int, pixel: Float[Tensor, "n C_in"]) -> Float[Tensor, "n C_out"]:
        """The output at a column, given the input there; columns to the left must be known."""
        self.put(column, pixel)
        start, end = column * self.channels, (column + self.left + 1) * self.channels
        return torch.addmm(self.shift[column], self.row[:, start:end], self.own)

    def put(self, column: int, pixel: Float[Tensor, "n C_in"]) -> None:
        """Tell the input at a column."""
        end = (column + self.left + 1) * self.channels
        self.row[:, end - self.channels : end] = pixel


def _by_column(row: Tensor, width: int) -> Tensor:
    """(n, C, 1, W or 1) -> (W, n, C), so that a column is contiguous."""
    return row.squeeze(2).permute(2, 0, 1).expand(width, -1, -1).contiguous()


def gate(x: Tensor) -> Tensor:
    """tanh(f) . sigmoid(g), where f and g are the halves of the channels (arXiv:1606.05328, eq. 2)."""
    f, g = x.chunk(2, dim=1)
    return f.tanh() * g.sigmoid()


def spread_groups(channels: int, groups: int) -> Int[Tensor, " C"]:
    """Groups 0 .. groups-1, ascending, evenly over the channels."""
    return torch.arange(channels) * groups // channels
