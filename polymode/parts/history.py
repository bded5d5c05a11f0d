"""Samples of the past that a discriminator is shown again, so that it does not forget what it has caught.

Shrivastava et al. 2017, Learning from simulated and unsupervised images (arXiv:1612.07828, section 2.3), as used by Zhu
et al. 2017 (arXiv:1703.10593, section 4) with 50 pictures: until the pool is full every new row is kept and shown; then
with probability 1/2 a kept row is shown and the new one takes its place, else the new one is shown and not kept.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from polymode.core import rng


class Pool(nn.Module):
    """Rows (B, *shape) -> as many rows, new or old.

    Args:
        size: rows that are kept; 0 shows every row as it comes.
        shape: of one row.
    """

    kept: Tensor
    count: Tensor

    def __init__(self, size: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("kept", torch.zeros(size, *shape))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))  # how many rows are there

    @torch.no_grad()
    def forward(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        size = len(self.kept)
        if size == 0:
            return rows
        old = (rng.rand((len(rows),), generator, torch.empty(0)) < 0.5).tolist()
        places = rng.randint(size, (len(rows),), generator).tolist()
        shown = rows.detach().clone()
        for i, (take_old, place) in enumerate(zip(old, places, strict=True)):
            if int(self.count) < size:
                self.kept[int(self.count)] = rows[i]
                self.count += 1
            elif take_old:
                shown[i] = self.kept[place]
                self.kept[place] = rows[i]
        return shown
