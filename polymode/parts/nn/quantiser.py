"""Quantisers: a real vector becomes the nearest of K codes, and gradients pass as if it had not.

van den Oord, Vinyals and Kavukcuoglu 2017, Neural Discrete Representation Learning (arXiv:1711.00937), for learned
codes; Mentzer, Minnen, Agustsson and Tschannen 2023, Finite Scalar Quantization (arXiv:2309.15505), for fixed ones:

    z_q = e_k,  k = argmin_j |z - e_j|^2 = argmax_j (z . e_j - |e_j|^2 / 2),     d z_q / d z := 1        (eq. 1 and 2)
    loss = ... + beta |z - sg(e_k)|^2                                   (the last term of eq. 3, the commitment)
    N_i <- gamma N_i + (1 - gamma) n_i,  m_i <- gamma m_i + (1 - gamma) sum_j z_ij,  e_i = m_i / N_i    (appendix A.1)
    FSQ: z_q = round(tanh(z + s) (L - 1) / 2 - o) on each of D channels of L levels, o = 1/2 for even L   (section 3.1)

`Quantiser.forward` holds the straight-through gradient, `VectorQuantiser.nearest` the search, one matrix product,
`VectorQuantiser.learn` the moving averages, `FiniteScalarQuantiser.bound` the last line. Codes start at the k-means
centres of a first batch. A code that fewer than a share `restart` of the average number of vectors fall to, in the
moving average, starts again at a random vector of the batch.
Deviation: restarts are not in the paper, whose codebooks may lose codes for good.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core import rng
from polymode.core.errors import PolymodeError
from polymode.parts.kmeans import cluster

#: k-means of the first batch looks at no more vectors a code than this
ROWS_A_CODE = 8


@dataclass(frozen=True)
class Quantised:
    """What a quantiser says of maps (B, D, ...).

    Args:
        values: (B, D, ...) the codes' vectors, with the gradient of what came in.
        indices: (B, ...) which codes.
        commitment: (B,) squared distances to the codes, summed, with a gradient to what came in only.
    """

    values: Tensor
    indices: Tensor
    commitment: Tensor


class Quantiser(nn.Module):
    """K codes of D features each."""

    num_codes: int
    width: int

    @abstractmethod
    def nearest(self, rows: Float[Tensor, "*N D"]) -> Int[Tensor, "*N"]:
        """The nearest code of each vector."""

    @abstractmethod
    def embed(self, indices: Int[Tensor, "*N"]) -> Float[Tensor, "*N D"]:
        """The vectors of codes."""

    def bound(self, y: Tensor) -> Tensor:
        """Maps (B, D, ...) brought to where the codes are."""
        return y

    def start(self, y: Tensor, generator: torch.Generator) -> None:
        """Put the codes among the maps (B, D, ...) of a first batch."""

    def learn(self, y: Tensor, indices: Tensor, generator: torch.Generator) -> None:
        """Move the codes towards the maps (B, D, ...) that fell to them; a step of training."""

    def forward(self, y: Float[Tensor, "B D *S"]) -> Quantised:
        y = self.bound(y)
        indices = self.nearest(y.detach().movedim(1, -1))
        codes = self.embed(indices).movedim(-1, 1).to(y.dtype)  # (B, D, ...)
        # y + (codes - y) is not codes to the last bit, and a decoder of given codes must say the same
        values = _StraightThrough.apply(y, codes)
        return Quantised(values, indices, (y - codes).square().flatten(1).sum(1))


class _StraightThrough(torch.autograd.Function):
    """(y, codes) -> codes, whose gradient goes to y."""

    @staticmethod
    def forward(ctx: object, y: Tensor, codes: Tensor) -> Tensor:
        return codes.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class VectorQuantiser(Quantiser):
    """A learned codebook, moved by averages and not by gradients.

    Args:
        num_codes: K.
        width: D.
        decay: gamma, of the moving averages.
        restart: share of the average use below which a code starts again; 0 for never.

    Raises:
        PolymodeError: sizes below one, or shares outside [0, 1).
    """

    codebook: Tensor
    count: Tensor
    total: Tensor

    def __init__(self, num_codes: int, width: int, *, decay: float = 0.99, restart: float = 0.1) -> None:
        super().__init__()
        if min(num_codes, width) < 1 or not (0 <= decay < 1 and 0 <= restart < 1):
            raise PolymodeError(
                f"num_codes={num_codes}, width={width}, decay={decay}, restart={restart}: expected sizes of at least 1 "
                "and shares in [0, 1)"
            )
        self.num_codes, self.width, self.decay, self.restart = num_codes, width, decay, restart
        codebook = torch.randn(num_codes, width)
        for name, value in {"codebook": codebook, "count": torch.ones(num_codes), "total": codebook.clone()}.items():
            self.register_buffer(name, value)

    def nearest(self, rows: Tensor) -> Tensor:
        flat = rows.reshape(-1, self.width).to(self.codebook.dtype)
        half = 0.5 * self.codebook.square().sum(1)
        # max, which is twice as fast as argmax here
        return torch.addmm(-half, flat, self.codebook.t()).max(1).indices.view(rows.shape[:-1])

    def embed(self, indices: Tensor) -> Tensor:
        return F.embedding(indices, self.codebook)

    @torch.no_grad()
    def start(self, y: Tensor, generator: torch.Generator) -> None:
        rows, k = self._rows(y), self.num_codes
        rows = rows[torch.randperm(len(rows), generator=generator)[: ROWS_A_CODE * k].to(rows.device)]
        if len(rows) < k:  # the codes that then coincide are never the nearest, and start again
            rows = rows.repeat(-(-k // len(rows)), 1)
        _, centres = cluster(rows, k, generator)
        self.codebook.copy_(centres)
        self.count.fill_(y[:, 0].numel() / k)
        self.total.copy_(self.codebook * self.count.unsqueeze(1))

    @torch.no_grad()
    def learn(self, y: Tensor, indices: Tensor, generator: torch.Generator) -> None:
        rows = self._rows(y)
        # sums by a product, which adds in the same order on every device
        one_hot = F.one_hot(indices.flatten(), self.num_codes).to(rows.dtype)
        found = torch.cat([one_hot.sum(0).unsqueeze(1), one_hot.t() @ rows], dim=1)  # (K, 1 + D): n_i and the sums
        fresh = rows[rng.randint(len(rows), (self.num_codes,), generator).to(rows.device)]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # every process has the same codes, so they learn from the rows of all and start again alike
            torch.distributed.all_reduce(found)
            torch.distributed.broadcast(fresh, 0)
        n, sums = found[:, 0], found[:, 1:]
        self.count.lerp_(n, 1 - self.decay)
        self.total.lerp_(sums, 1 - self.decay)
        usual = n.sum() / self.num_codes
        # an average of next to nothing is no place to be: such a code stays, or starts again
        alive = (self.count > 1e-6 * usual).unsqueeze(1)
        self.codebook.copy_(torch.where(alive, self.total / self.count.unsqueeze(1).clamp(min=1e-30), self.codebook))
        if self.restart:
            dead = (self.count < self.restart * usual).unsqueeze(1)
            self.codebook.copy_(torch.where(dead, fresh, self.codebook))
            self.total.copy_(torch.where(dead, fresh * usual, self.total))
            self.count.copy_(torch.where(dead.squeeze(1), usual, self.count))

    def _rows(self, y: Tensor) -> Tensor:
        """Maps (B, D, ...) as rows (N, D)."""
        return y.detach().movedim(1, -1).reshape(-1, self.width).to(self.codebook.dtype)


class FiniteScalarQuantiser(Quantiser):
    """Every channel is rounded to one of a few levels; the codes are all their combinations, and nothing is learned.

    Args:
        levels: L of each channel.

    Raises:
        PolymodeError: no channel, or one of fewer than two levels.
    """

    counts: Tensor
    reach: Tensor
    offset: Tensor
    shift: Tensor
    steps: Tensor
    basis: Tensor

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        if not levels or min(levels) < 2:
            raise PolymodeError(f"levels={tuple(levels)}: expected at least one channel, and 2 levels of each")
        self.num_codes, self.width = math.prod(levels), len(levels)
        counts = torch.tensor(list(levels))
        reach = (counts - 1) * (1 - 1e-3) / 2  # a little less, so that rounding stays inside
        offset = torch.where(counts % 2 == 0, 0.5, 0.0)
        basis = torch.cat([torch.ones(1, dtype=torch.int64), counts.cumprod(0)[:-1]])
        for name, value in {
            "counts": counts, "reach": reach, "offset": offset, "shift": (offset / reach).atanh(),
            "steps": counts // 2, "basis": basis,
        }.items():  # fmt: skip
            self.register_buffer(name, value, persistent=False)

    def bound(self, y: Tensor) -> Tensor:
        """(tanh(y + s) (L - 1) / 2 - o) over floor(L / 2), in [-1, 1]; zero stays zero."""
        y = y.movedim(1, -1)
        return (((y + self.shift).tanh() * self.reach - self.offset) / self.steps).movedim(-1, 1)

    def nearest(self, rows: Tensor) -> Tensor:
        digits = ((rows * self.steps).round() + self.steps).long()
        return (torch.minimum(digits.clamp(min=0), self.counts - 1) * self.basis).sum(-1)

    def embed(self, indices: Tensor) -> Tensor:
        digits = indices.unsqueeze(-1) // self.basis % self.counts
        return (digits - self.steps).to(self.reach.dtype) / self.steps

    def forward(self, y: Tensor) -> Quantised:
        found = super().forward(y)
        # bounded values can't run away from their codes, so nothing has to hold them
        return Quantised(found.values, found.indices, torch.zeros_like(found.commitment))


def usage(indices: Tensor, num_codes: int) -> tuple[Tensor, Tensor]:
    """(perplexity, share of codes used) of indices of any shape: exp of the entropy of how often each is met."""
    p = torch.bincount(indices.flatten(), minlength=num_codes).double()
    p = p / p.sum()
    return torch.special.entr(p).sum().exp(), (p > 0).double().mean()
