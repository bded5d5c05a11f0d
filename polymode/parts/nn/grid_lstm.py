"""LSTMs whose state walks over a grid of pixels: whole rows from the top, or whole diagonals from a corner.

van den Oord, Kalchbrenner and Kavukcuoglu 2016, Pixel Recurrent Neural Networks (arXiv:1601.06759, sections 3.1, 3.2):

    [o, i, f, g] = [sigmoid, sigmoid, sigmoid, tanh](K_ss * h_before + x),   x = K_is * input           (eq. 3)
    c = f . c_before + i . g,   h = o . tanh(c)

`by_rows`: before a pixel come its neighbours in the row above, K_ss is a row of taps, and the cell is that of the pixel
above. `by_diagonals`: before it come its left and its upper neighbour, two taps, and the cell is that of the left one.
The papers' skewed map is never made: pixels are sorted by step, so that every step and what each tap reads of the step
before it are contiguous ranges (:class:`Walk`), and no arithmetic is spent on padding.

`_Recurrence` is the loop with its gradient written out: a step costs a product a tap, backwards too, and the gradient
of all taps' weights is one product a tap after the loop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

#: first site that reads, one past the last, first site that is read; sites follow one another in both
Link = tuple[int, int, int]


@dataclass(frozen=True)
class Walk:
    """The order in which a grid is walked over.

    Attributes:
        sites: the pixel, counted row by row, of each site; sites of a step lie together.
        steps: (first site, one past the last) of each step.
        taps: for each step, the link of each tap to the step before, None where nothing is in reach.
        cell: the tap whose site hands over its cell.
    """

    sites: tuple[int, ...]
    steps: tuple[tuple[int, int], ...]
    taps: tuple[tuple[Link | None, ...], ...]
    cell: int


def by_rows(height: int, width: int, kernel: int) -> Walk:
    """A row a step; tap j reads the pixel above and j - kernel // 2 to the right."""
    taps: list[tuple[Link | None, ...]] = [(None,) * kernel]
    for start in range(width, height * width, width):
        links: list[Link | None] = []
        for shift in range(-(kernel // 2), kernel // 2 + 1):
            first, end = max(0, -shift), width - max(0, shift)
            links.append((start + first, start + end, start - width + first + shift) if first < end else None)
        taps.append(tuple(links))
    steps = tuple((r * width, (r + 1) * width) for r in range(height))
    return Walk(tuple(range(height * width)), steps, tuple(taps), kernel // 2)


def by_diagonals(height: int, width: int) -> Walk:
    """A diagonal a step, its rows downwards; tap 0 reads the pixel to the left, tap 1 the one above."""
    sites: list[int] = []
    steps: list[tuple[int, int]] = []
    taps: list[tuple[Link | None, ...]] = []
    before = range(0)  # rows of the diagonal before
    for d in range(height + width - 1):
        rows, start = range(max(0, d - width + 1), min(height, d + 1)), len(sites)
        last = steps[-1][0] if steps else 0
        links: list[Link | None] = []
        for up in (0, 1):
            readers = [r for r in rows if r - up in before]
            at = start - rows.start
            links.append((readers[0] + at, readers[-1] + 1 + at, readers[0] - up - before.start + last)
                         if readers else None)  # fmt: skip
        sites += [r * width + d - r for r in rows]
        steps.append((start, len(sites)))
        taps.append(tuple(links))
        before = rows
    return Walk(tuple(sites), tuple(steps), tuple(taps), 0)


class GridLSTM(nn.Module):
    """(B, 4 h, H, W), what the input says to the gates o, i, f, g, to the hidden states (B, h, H, W).

    Args:
        units: h.
        walk: the order of the pixels of an H x W grid.
    """

    sites: Tensor
    back: Tensor

    def __init__(self, units: int, walk: Walk) -> None:
        super().__init__()
        self.walk = walk
        taps = len(walk.taps[0])
        self.weight = nn.Parameter((2 * torch.rand(taps, units, 4 * units) - 1) / math.sqrt(taps * units))
        sites = torch.tensor(walk.sites)
        self.register_buffer("sites", sites, persistent=False)
        self.register_buffer("back", sites.argsort(), persistent=False)

    def forward(self, x: Float[Tensor, "B G H W"]) -> Float[Tensor, "B C H W"]:
        return _Recurrence.apply(x, self.weight.to(x.dtype), self.walk, self.sites, self.back)


def lstm_cell(gates: Float[Tensor, "B G"], cell: Float[Tensor, "B C"]) -> tuple[Tensor, Tensor]:
    """(h, c) of one step from the gates' inputs o, i, f, g and the cell before."""
    o, i, f, g = gates.chunk(4, dim=1)
    cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell


class _Recurrence(torch.autograd.Function):
    """(B, 4 h, H, W) inputs of the gates and (taps, h, 4 h) weights to (B, h, H, W) hidden states.

    Inside, all is (S, B, .), a site after the other.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, walk: Walk, sites: Tensor, back: Tensor) -> Tensor:
        h = weight.shape[1]
        gates = _to_sites(x, sites)
        hidden, cells = gates.new_empty(*gates.shape[:2], h), gates.new_empty(*gates.shape[:2], h)
        for (start, end), taps in zip(walk.steps, walk.taps, strict=True):
            for tap, link in enumerate(taps):
                if link is not None:
                    _add_product(gates, link[0], link[1], hidden, link[2], weight[tap])
            now = gates[start:end]
            now[..., : 3 * h].sigmoid_()
            now[..., 3 * h :].tanh_()
            o, i, f, g = now.chunk(4, dim=2)
            torch.mul(i, g, out=cells[start:end])
            if (link := taps[walk.cell]) is not None:
                first, last, source = link
                carried = cells[source : source + last - first]
                cells[first:last].addcmul_(f[first - start : last - start], carried)
            torch.mul(o, cells[start:end].tanh(), out=hidden[start:end])
        ctx.walk, ctx.size = walk, x.shape[2:]
        ctx.save_for_backward(gates, cells, hidden, weight, sites, back)
        return _to_image(hidden, back, ctx.size)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        gates, cells, hidden, weight, sites, back = ctx.saved_tensors
        walk: Walk = ctx.walk
        o, i, f, g = gates.chunk(4, dim=2)
        readers, read = _pairs(walk, walk.cell, cells.device)
        before, tanh = torch.zeros_like(cells), cells.tanh()
        before[readers] = cells[read]
        to_cell = o * (1 - tanh * tanh)  # dh / dc
        # what a gate's input does: that of o to h, those of i, f, g to c
        slopes = torch.stack([tanh * o * (1 - o), g * i * (1 - i), before * f * (1 - f), i * (1 - g * g)], dim=2)
        d_hidden = _to_sites(grads[0], sites)
        d_cell, d_gates = torch.zeros_like(cells), torch.empty_like(slopes)  # (S, B, h) and (S, B, 4, h)
        flat, transposed = d_gates.flatten(2), weight.transpose(1, 2).contiguous()
        for (start, end), taps in zip(reversed(walk.steps), reversed(walk.taps), strict=True):
            d_h, slope, out = d_hidden[start:end], slopes[start:end], d_gates[start:end]
            d_c = d_cell[start:end].addcmul_(d_h, to_cell[start:end])
            torch.mul(slope[:, :, 0], d_h, out=out[:, :, 0])
            torch.mul(slope[:, :, 1:], d_c.unsqueeze(2), out=out[:, :, 1:])
            if (link := taps[walk.cell]) is not None:
                first, last, source = link
                torch.mul(d_cell[first:last], f[first:last], out=d_cell[source : source + last - first])
            for tap, link in enumerate(taps):
                if link is not None:
                    first, last, source = link
                    _add_product(d_hidden, source, source + last - first, flat, first, transposed[tap])
        return _to_image(flat, back, ctx.size), _weight_gradient(walk, weight, hidden, flat), None, None, None


def _to_sites(x: Tensor, sites: Tensor) -> Tensor:
    """(B, C, H, W) -> (S, B, C), a new tensor."""
    pixels = x.flatten(2).flatten(0, 1).t().contiguous()  # (H W, B C): two axes are transposed fast, three are not
    return pixels.index_select(0, sites).unflatten(1, x.shape[:2])


def _to_image(y: Tensor, back: Tensor, size: torch.Size) -> Tensor:
    """(S, B, C) -> (B, C, H, W)."""
    rows = y.flatten(1).index_select(0, back)  # (H W, B C)
    return rows.t().contiguous().unflatten(1, size).unflatten(0, y.shape[1:])


def _add_product(into: Tensor, first: int, last: int, of: Tensor, source: int, weight: Tensor) -> None:
    """into[first:last] += of[source : ...] @ weight, on contiguous sites."""
    sites = of[source : source + last - first]
    into[first:last].flatten(0, 1).addmm_(sites.flatten(0, 1), weight)


def _weight_gradient(walk: Walk, weight: Tensor, hidden: Tensor, d_gates: Tensor) -> Tensor:
    """The gradient of every tap: one product over all its links."""
    out = torch.zeros_like(weight)
    for tap in range(len(weight)):
        readers, read = _pairs(walk, tap, hidden.device)
        torch.mm(hidden[read].flatten(0, 1).t(), d_gates[readers].flatten(0, 1), out=out[tap])
    return out


def _pairs(walk: Walk, tap: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """All sites that read something by a tap, and the sites that they read."""
    links = [link for taps in walk.taps if (link := taps[tap]) is not None]
    readers = [site for first, last, _ in links for site in range(first, last)]
    read = [source + i for first, last, source in links for i in range(last - first)]
    return torch.tensor(readers, dtype=torch.long, device=device), torch.tensor(read, dtype=torch.long, device=device)
