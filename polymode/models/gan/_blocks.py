"""The two players of an adversarial network, their objectives and the penalties on the discriminator's gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core import rng
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.spec import Categorical, Columns, Spec
from polymode.parts.encoders.condition import encoder_for
from polymode.parts.features import Features
from polymode.parts.nn.dcgan import ConvDiscriminator, ConvGenerator
from polymode.parts.nn.mlp import MLP

Objective = Literal["non-saturating", "minimax", "hinge", "wasserstein"]
Penalty = Literal["none", "r1", "gp"]
Backbone = Literal["mlp", "dcgan"]

#: temperature of the relaxed one-hots that a table's generator shows the discriminator
GUMBEL_TEMPERATURE = 0.5


def discriminator_loss(objective: Objective, real: Tensor, fake: Tensor) -> Tensor:
    """What the discriminator minimises, (B,), from its logits on data and on samples."""
    match objective:
        case "non-saturating" | "minimax":
            return F.softplus(-real) + F.softplus(fake)
        case "hinge":
            return F.relu(1 - real) + F.relu(1 + fake)
        case "wasserstein":
            return fake - real


def generator_loss(objective: Objective, fake: Tensor) -> Tensor:
    """What the generator minimises, (B,), from the discriminator's logits on samples."""
    match objective:
        case "non-saturating":
            return F.softplus(-fake)  # -log D
        case "minimax":
            return -F.softplus(fake)  # log(1 - D)
        case "hinge" | "wasserstein":
            return -fake


def r1_penalty(score: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
    """1/2 |grad score(y)|^2 at data, (B,) (Mescheder et al. 2018, arXiv:1801.04406, eq. 9)."""
    return 0.5 * _gradient(score, y).pow(2).sum(1)


def gp_penalty(score: Callable[[Tensor], Tensor], y: Tensor, fake: Tensor, u: Tensor) -> Tensor:
    """(|grad score| - 1)^2 at y + u (fake - y), u (B, 1), (B,) (Gulrajani et al. 2017, arXiv:1704.00028, eq. 3)."""
    gradient = _gradient(score, torch.lerp(y, fake, u))
    # the root has no derivative at zero, where a discriminator of dead units starts
    return ((gradient.pow(2).sum(1) + 1e-12).sqrt() - 1) ** 2


def _gradient(score: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
    y = y.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(score(y).sum(), y, create_graph=True)
    return gradient


class Generator(nn.Module):
    """Noise (B, `noise_dims`) and a condition to features (B, F).

    The noise is z, and for tables one more number a categorical feature: Gumbel noise there makes the arg max of the
    logits a draw from their softmax (Jang et al. 2017, arXiv:1611.01144), so z need not carry every coin flip.
    """

    one_hot: Tensor

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None,
        backbone: Backbone,
        latent_dims: int,
        hidden: Sequence[int],
        channels: int,
    ) -> None:
        super().__init__()
        self.features, self.latent_dims = Features(spec), latent_dims
        self.encoder, width = encoder_for(condition_spec, hidden[-1])
        self.net: nn.Module
        if backbone == "dcgan":
            self.net = ConvGenerator(spec.shape, latent_dims + width, channels=channels)
        else:
            self.net = MLP(latent_dims + width, self.features.size, hidden, act="leaky_relu")
        self.register_buffer("one_hot", _one_hot(spec, self.features.owner), persistent=False)

    def draw(self, n: int, generator: torch.Generator, truncation: float = 1.0) -> tuple[Tensor, Tensor]:
        """(z (n, Z), uniform numbers (n, one-hot features))."""
        like = self.features.anchor
        z = truncation * rng.randn((n, self.latent_dims), generator, like)
        return z, rng.rand((n, len(self.one_hot)), generator, like)

    def forward(self, noise: tuple[Tensor, Tensor], condition: Condition | None) -> Tensor:
        z, u = noise
        if self.encoder is not None and condition is not None:
            z = torch.cat([z, self.encoder(condition)], 1)
        raw = self.net(z)
        if len(self.one_hot):
            tiny = torch.finfo(u.dtype).tiny  # u may be 0, whose logarithm is infinite
            gumbel = -(-(u.clamp(min=tiny).log())).clamp(min=tiny).log()
            raw = raw.index_copy(1, self.one_hot, (raw[:, self.one_hot] + gumbel) / GUMBEL_TEMPERATURE)
        return self.features.activate(raw)


class Discriminator(nn.Module):
    """Features (B, F) and a condition to a logit (B,).

    The perceptron sees the condition in every layer; the convolutional one compares it with its last features
    (projection discriminator, Miyato and Koyama 2018, arXiv:1802.05637, eq. 3).
    """

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None,
        backbone: Backbone,
        hidden: Sequence[int],
        channels: int,
    ) -> None:
        super().__init__()
        size = Features(spec).size
        self.trunk = ConvDiscriminator(spec.shape, channels=channels) if backbone == "dcgan" else None
        self.encoder, width = encoder_for(condition_spec, hidden[-1] if self.trunk is None else self.trunk.out_features)
        if self.trunk is None:
            self.top: nn.Module = MLP(size, 1, hidden, context_features=width, act="leaky_relu")
        else:
            self.top = nn.Linear(self.trunk.out_features, 1)

    def forward(self, y: Tensor, condition: Condition | None) -> Tensor:
        context = None if self.encoder is None or condition is None else self.encoder(condition)
        if self.trunk is None:
            return self.top(y, context).squeeze(1)
        features = self.trunk(y)
        score = self.top(features).squeeze(1)
        if context is None:
            return score
        return score + (features * context).sum(1) / features.shape[1] ** 0.5


def _one_hot(spec: Spec, owner: Tensor) -> Tensor:
    """Indices of the features that are part of a one-hot."""
    if not isinstance(spec.support, Columns):
        return torch.zeros(0, dtype=torch.long)
    named = torch.tensor([isinstance(c, Categorical) for c in spec.support.columns])
    return named[owner].nonzero().squeeze(1)
