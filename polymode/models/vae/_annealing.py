"""KL annealing: the weight of the KL term rises to 1 over the first steps of training, so that codes are of use before
they are charged for (Bowman et al. 2016, arXiv:1511.06349, section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from polymode.core.errors import PolymodeError


class Annealing(nn.Module):
    """A weight min(1, t / steps) at the t-th training loss; 1 in evaluation, and always where `steps` is 0.

    The count is saved with the weights: training that is resumed or rolled back goes on where it was.

    Raises:
        PolymodeError: steps below zero.
    """

    done: Tensor

    def __init__(self, steps: int) -> None:
        super().__init__()
        if steps < 0:
            raise PolymodeError(f"anneal={steps}: expected the number of steps over which the KL term comes in, or 0")
        self.steps = steps
        self.register_buffer("done", torch.zeros((), dtype=torch.int64))

    def forward(self) -> Tensor | float:
        """The weight of this loss; in training the count goes on."""
        if not self.training or not self.steps:
            return 1.0
        self.done += 1
        return (self.done / self.steps).clamp(max=1.0)
