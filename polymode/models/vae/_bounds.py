"""What the bounds of autoencoders share in training: a KL term that comes in slowly, nats that are free, samples.

`Annealing`: the weight of the KL term rises to 1 over the first steps, so that codes are of use before they are charged
for (Bowman et al. 2016, arXiv:1511.06349, section 3.1). `free_nats`: the first nats of a part of the code are not
charged (Kingma et al. 2016, arXiv:1606.04934, eq. 16).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
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


def free_nats(kl: Float[Tensor, "B K"], least: float) -> Tensor:
    """What to add to the KL of every row so that each of its K parts is charged only beyond `least` nats.

    The parts' means over the batch are meant, so that a rare datum may still use more.
    """
    mean = kl.mean(0)
    return (mean.clamp(min=least) - mean).sum()


def repeat(rows: Tensor, times: int) -> Tensor:
    """A batch several times over, (B, ...) -> (S B, ...)."""
    return rows if times == 1 else rows.repeat(times, *(1,) * (rows.dim() - 1))
