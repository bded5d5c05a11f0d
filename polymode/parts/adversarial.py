"""Objectives of the two players of an adversarial network, and penalties on the slope of the discriminator.

With s the discriminator's logit on data x and on samples x', D = sigmoid(s):

| objective | discriminator minimises | generator minimises | source |
|---|---|---|---|
| minimax | -log D(x) - log(1 - D(x')) | log(1 - D(x')) | Goodfellow et al. 2014, arXiv:1406.2661, eq. 1 |
| non-saturating | the same | -log D(x') | the same, section 3 |
| least-squares | ((s(x) - 1)^2 + s(x')^2) / 2 | (s(x') - 1)^2 / 2 | Mao et al. 2017, arXiv:1611.04076, eq. 9 |
| hinge | max(0, 1 - s(x)) + max(0, 1 + s(x')) | -s(x') | Lim and Ye 2017, arXiv:1705.02894 |
| wasserstein | s(x') - s(x) | -s(x') | Arjovsky et al. 2017, arXiv:1701.07875, eq. 2 and 3 |

| penalty | on one datum | source |
|---|---|---|
| r1, r2 | |grad s|^2 / 2 at data, at samples | Mescheder et al. 2018, arXiv:1801.04406, eq. 9 and 10 |
| gp | (|grad s| - 1)^2 between data and samples | Gulrajani et al. 2017, arXiv:1704.00028, eq. 3 |
| dragan | (|grad s| - 1)^2 near data | Kodali et al. 2017, arXiv:1705.07215, section 2.3 |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from polymode.core import rng

Objective = Literal["non-saturating", "minimax", "least-squares", "hinge", "wasserstein"]
Penalty = Literal["none", "r1", "r2", "gp", "dragan"]
OBJECTIVES: tuple[str, ...] = get_args(Objective)
PENALTIES: tuple[str, ...] = get_args(Penalty)
#: how far from data "dragan" looks, in standard deviations of the batch
NEAR = 0.5

Rows = Float[Tensor, " B"]
Score = Callable[[Tensor], Tensor]


def discriminator_loss(objective: Objective, real: Rows, fake: Rows) -> Rows:
    """What the discriminator minimises, from its logits on data and on samples."""
    match objective:
        case "non-saturating" | "minimax":
            return F.softplus(-real) + F.softplus(fake)
        case "least-squares":
            return 0.5 * ((real - 1).square() + fake.square())
        case "hinge":
            return F.relu(1 - real) + F.relu(1 + fake)
        case "wasserstein":
            return fake - real


def generator_loss(objective: Objective, fake: Rows) -> Rows:
    """What the generator minimises, from the discriminator's logits on samples."""
    match objective:
        case "non-saturating":
            return F.softplus(-fake)
        case "minimax":
            return -F.softplus(fake)
        case "least-squares":
            return 0.5 * (fake - 1).square()
        case "hinge" | "wasserstein":
            return -fake


def encoder_loss(objective: Objective, real: Rows) -> Rows:
    """What the generator's side minimises from logits on data that it takes part in, as an encoder: the mirror image
    of `generator_loss` about the logit at which the discriminator is undecided."""
    return generator_loss(objective, 1 - real if objective == "least-squares" else -real)


def slope_penalty(
    penalty: Penalty, score: Score, real: Float[Tensor, "B F"], fake: Float[Tensor, "B F"], generator: torch.Generator
) -> Rows:
    """A penalty of the second table, without its weight.

    Args:
        penalty: which one; "none" is zero.
        score: features (B, F) to logits (B,).
        real, fake: data and samples.
        generator: of the places between or near data.
    """
    match penalty:
        case "none":
            return real.new_zeros(len(real))
        case "r1":
            return 0.5 * gradient(score, real).square().sum(1)
        case "r2":
            return 0.5 * gradient(score, fake).square().sum(1)
        case "gp":
            return _towards_one(score, torch.lerp(real, fake, rng.rand((len(real), 1), generator, real)))
        case "dragan":
            noise = NEAR * real.std() * rng.rand(real.shape, generator, real)
            return _towards_one(score, real + noise)


def gradient(score: Score, y: Float[Tensor, "B F"]) -> Float[Tensor, "B F"]:
    """grad score at y, which itself can be differentiated with respect to the score's weights."""
    y = y.detach().requires_grad_()
    (found,) = torch.autograd.grad(score(y).sum(), y, create_graph=True)
    return found


def _towards_one(score: Score, y: Tensor) -> Tensor:
    # the root has no derivative at zero, where a discriminator of dead units starts
    return ((gradient(score, y).square().sum(1) + 1e-12).sqrt() - 1).square()
