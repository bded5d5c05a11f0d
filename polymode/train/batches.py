"""Which rows each batch holds: a fresh order of the data every epoch, and enough rows with labels among them.

Where the labels of some rows are withheld, so few may be left that most batches would hold none, and a loss of labelled
rows would learn from noise. A batch of B rows then holds k = share B labelled ones and B - k of the others. An epoch is
one pass over the others; the labelled rows come round as often as it takes, each round in an order of its own. Where
the data hold that share of labels anyway, nothing is mixed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from polymode.data.dataset import Split
from polymode.train.state import step_seed


class Batches:
    """Rows of batches, a function of the batch's index and of the seed.

    Args:
        split: what is learned from.
        batch_size: B, of each process.
        world: how many processes.
        seed: of the orders.
        share: the least share of labelled rows.

    Attributes:
        size: B, at most the rows there are.
        labelled: k, rows of each batch that are drawn among the labelled ones; 0 where nothing is mixed.
        per_epoch: batches of all processes together.
    """

    def __init__(self, split: Split, batch_size: int, world: int, seed: int, share: float) -> None:
        self.world, self.seed = world, seed
        self.size = min(batch_size, max(1, len(split) // world))
        self.labelled, self.with_label, self.pool = 0, torch.empty(0, dtype=torch.long), torch.arange(len(split))
        dropped = None if split.condition is None else split.condition.dropped
        if dropped is not None and 0 < int((~dropped).sum()) < share * len(split):
            self.with_label, self.pool = (~dropped).nonzero()[:, 0], dropped.nonzero()[:, 0]
            self.labelled = min(max(1, round(share * self.size)), self.size - 1)
        self.others = min(self.size - self.labelled, max(1, len(self.pool) // world))
        self.per_epoch = max(1, len(self.pool) // (self.others * world))
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))

    def rows(self, index: int, rank: int = 0) -> Tensor:
        """The rows of one process's share of global batch `index`."""
        epoch, at = divmod(index, self.per_epoch)
        if self._order[0] != epoch:
            g = torch.Generator().manual_seed(step_seed(self.seed, epoch))
            self._order = (epoch, self.pool[torch.randperm(len(self.pool), generator=g)])
        start = (at * self.world + rank) * self.others
        rows = self._order[1][start : start + self.others]
        if not self.labelled:
            return rows
        return torch.cat([self._labelled_rows((index * self.world + rank) * self.labelled), rows])

    def _labelled_rows(self, start: int) -> Tensor:
        """k labelled rows, those at `start` and behind in an endless chain of rounds."""
        n = len(self.with_label)
        rounds = []
        for r in range(start // n, (start + self.labelled - 1) // n + 1):
            g = torch.Generator().manual_seed(step_seed(self.seed, r, -1))
            rounds.append(self.with_label[torch.randperm(n, generator=g)])
        return torch.cat(rounds)[start % n :][: self.labelled]
