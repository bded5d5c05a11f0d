"""Blocks of state space models: how a code follows from the one before, its posterior, and a particle filter's choice.

Krishnan, Shalit and Sontag 2017 (arXiv:1609.09869), see `dmm`; Kitagawa 1996 (Journal of Computational and Graphical
Statistics 5) for systematic resampling.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core import rng
from polymode.parts.nn.mlp import MLP

Inference = Literal["right", "left_right"]
#: added to every standard deviation: one of zero would give a drawn code an infinite density
LEAST_SIGMA = 1e-4


class GatedTransition(nn.Module):
    """p(z_t | z_{t-1}): between a linear map, at first the identity, and a perceptron, by a gate for each dimension."""

    def __init__(self, dims: int, hidden: int, context_features: int) -> None:
        super().__init__()
        self.gate = MLP(dims, dims, (hidden,), context_features=context_features)
        self.proposal = MLP(dims, dims, (hidden,), context_features=context_features)
        self.linear, self.spread = nn.Linear(dims, dims), nn.Linear(dims, dims)
        nn.init.eye_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """(mu, log sigma) of the next codes, (R, Z) each."""
        gate, proposal = self.gate(z, context).sigmoid(), self.proposal(z, context)
        mu = torch.lerp(self.linear(z), proposal, gate)
        return mu, (F.softplus(self.spread(proposal.relu())) + LEAST_SIGMA).log()


class _Walk(torch.autograd.Function):
    """Codes drawn one after the other, and what their Gaussians are made of; the gradient walks back.

    a_t = tanh(W z_{t-1} + b),  told_t = read_t + s U a_t = (mu_t, spread_t),
    z_t = mu_t + (softplus(spread_t) + c) eps_t

    By autograd each of T steps would keep its graph and add to W and U: this walks with the fewest operations a step
    and multiplies for the weights once, at the end. A test compares it with autograd.
    """

    @staticmethod
    def forward(ctx, first, read, eps, w, b, u, share):
        steps, rows, dims = eps.shape
        z, a = eps.new_empty(steps + 1, rows, dims), eps.new_empty(steps, rows, len(w))
        told = torch.empty_like(read)
        z[0] = first
        mu, spread = told.chunk(2, dim=-1)
        for t in range(steps):
            torch.addmm(b, z[t], w.T, out=a[t]).tanh_()
            torch.addmm(read[t], a[t], u.T, alpha=share, out=told[t])
            torch.addcmul(mu[t], F.softplus(spread[t]) + LEAST_SIGMA, eps[t], out=z[t + 1])
        ctx.save_for_backward(z, a, told, eps, w, u)
        ctx.share = share
        return z, told

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, of_z, of_told):
        z, a, told, eps, w, u = ctx.saved_tensors
        slope, steep = eps * told.chunk(2, dim=-1)[1].sigmoid(), ctx.share * (1 - a.square())
        of_told, before = of_told.clone(), torch.empty_like(a)
        of_mu, of_spread = of_told.chunk(2, dim=-1)
        carried = of_z[-1]
        for t in reversed(range(len(eps))):
            of_mu[t].add_(carried)
            of_spread[t].addcmul_(carried, slope[t])
            torch.mm(of_told[t], u, out=before[t]).mul_(steep[t])
            carried = torch.addmm(of_z[t], before[t], w)
        flat = before.flatten(0, 1)
        of_u = ctx.share * of_told.flatten(0, 1).T @ a.flatten(0, 1)
        return carried, of_told, None, flat.T @ z[:-1].flatten(0, 1), flat.sum(0), of_u, None


class StructuredPosterior(nn.Module):
    """q(z_t | z_{t-1}, x): a recurrent net over the frames, and a combiner of its state with the code before."""

    def __init__(self, features: int, dims: int, width: int, inference: Inference, dropout: float) -> None:
        super().__init__()
        self.width, self.recurrent = width, nn.GRU(features, width)
        self.forwards = nn.GRU(features, width) if inference == "left_right" else None
        self.dropout = nn.Dropout(dropout)
        self.from_last = nn.Linear(dims, width)
        self.to_gaussian = nn.Linear(width, 2 * dims)
        self.share = 1 / 3 if inference == "left_right" else 1 / 2

    def read(self, frames: Tensor, ends: Tensor, steps: int) -> Tensor:
        """What the first `ends` (B,) frames of (T, B, F) say of mu and spread of the first `steps` codes, (t, B, 2 Z).

        Nothing is read behind the ends. (Rows packed by torch would be read faster, but their gradient is slower.)
        """
        longest = max(1, int(ends.max()))  # the net reads something of a batch of silence too
        frames, t = self.dropout(frames[:longest]), torch.arange(longest, device=frames.device).unsqueeze(1)
        # from the end of each row to its beginning, and back by the same places
        turn, inside = (ends - 1 - t).clamp(min=0).unsqueeze(2), (t < ends).unsqueeze(2)
        states = self.recurrent(frames.gather(0, turn.expand_as(frames)))[0]
        states = states.gather(0, turn.expand(-1, -1, self.width))
        if self.forwards is not None:
            states = states + self.forwards(frames)[0]
        states = self.dropout(states * inside)
        # behind the ends the state is zero
        return self.to_gaussian(F.pad(states, (0, 0, 0, 0, 0, max(0, steps - longest)))[:steps] * self.share)

    def step(self, z: Tensor, read: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(z_t, mu, sigma) from z_{t-1} (R, Z) and what was read (R, 2 Z)."""
        told = torch.addmm(read, self.from_last(z).tanh(), self.to_gaussian.weight.T, alpha=self.share)
        mu, spread = told.chunk(2, dim=-1)
        sigma = F.softplus(spread) + LEAST_SIGMA
        return torch.addcmul(mu, sigma, eps), mu, sigma

    def walk(self, first: Tensor, read: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All steps from z_0 (R, Z): the codes z_0, ..., z_T (T + 1, R, Z), mu and sigma (T, R, Z)."""
        w, b, u = self.from_last.weight, self.from_last.bias, self.to_gaussian.weight
        z, told = _Walk.apply(first, read.to(first.dtype), eps, w, b, u, self.share)
        mu, spread = told.chunk(2, dim=-1)
        return z, mu, F.softplus(spread) + LEAST_SIGMA


def systematic(log_w: Tensor, generator: torch.Generator) -> Tensor:
    """Which samples go on, (S, B), by log-weights (S, B): at evenly spaced points behind one uniform a column."""
    s = len(log_w)
    cumulative = log_w.T.softmax(1).cumsum(1)  # (B, S)
    points = torch.arange(s, device=log_w.device) + rng.rand((len(cumulative), 1), generator, cumulative)
    return torch.searchsorted(cumulative, points / s * cumulative[:, -1:]).clamp(max=s - 1).T
