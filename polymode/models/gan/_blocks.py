"""The two players of an adversarial network, of perceptrons or of convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polymode.core import rng
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.spec import Categorical, Columns, Spec
from polymode.parts.encoders.condition import encoder_for
from polymode.parts.features import Features
from polymode.parts.nn.dcgan import ConvDiscriminator, ConvGenerator
from polymode.parts.nn.minibatch import MinibatchDeviation, MinibatchDiscrimination
from polymode.parts.nn.mlp import MLP
from polymode.parts.nn.spectral import spectrally_normalised

Backbone = Literal["mlp", "dcgan"]
Norm = Literal["none", "spectral"]
Minibatch = Literal["none", "deviation", "discrimination"]

#: temperature of the relaxed one-hots that a table's generator shows the discriminator
GUMBEL_TEMPERATURE = 0.5
#: the uniform number whose Gumbel noise is zero
QUIET = math.exp(-1)
#: sigma of a component at first, as the authors of 1706.02071 have it
NARROW = 0.2


class Generator(nn.Module):
    """Noise (B, `noise_dims`) and a condition to features (B, F).

    The noise is z, and for tables one more number a categorical feature: Gumbel noise there makes the arg max of the
    logits a draw from their softmax (Jang et al. 2017, arXiv:1611.01144), so z need not carry every coin flip.

    One Gaussian is connected, and what is made of it is too: between modes there are always samples. With `components`
    z is a mixture whose places and widths are learned with the generator (Gurumurthy et al. 2017, DeLiGAN,
    arXiv:1706.02071):  z = mu_k + sigma_k eps,  k even on 1, ..., K.
    """

    one_hot: Tensor
    centres: nn.Parameter | None
    log_widths: nn.Parameter | None

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None,
        backbone: Backbone,
        latent_dims: int,
        hidden: Sequence[int],
        channels: int,
        components: int = 1,
    ) -> None:
        super().__init__()
        self.features, self.latent_dims = Features(spec), latent_dims
        self.centres = self.log_widths = None
        if components > 1:
            self.centres = nn.Parameter(torch.randn(components, latent_dims))
            self.log_widths = nn.Parameter(torch.full((components, latent_dims), math.log(NARROW)))
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
        if self.centres is not None and self.log_widths is not None:
            k = rng.randint(len(self.centres), (n,), generator, like.device)
            z = self.centres[k] + self.log_widths.exp()[k] * z
        return z, rng.rand((n, len(self.one_hot)), generator, like)

    def likeliest(self, z: Float[Tensor, "B Z"], condition: Condition | None) -> Float[Tensor, "B F"]:
        """The features of codes, each category the likeliest."""
        return self((z, z.new_full((len(z), len(self.one_hot)), QUIET)), condition)

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

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        backbone: of which networks.
        hidden: widths of the perceptron.
        channels: of the convolutions at full size.
        norm: "spectral" divides every weight by its largest singular value, a convolution's by that of its kernel as
            a matrix (C_out, C_in K K) (Miyato et al. 2018, arXiv:1802.05957, eq. 8 and section 2.1).
        minibatch: what the last layer is told of the rest of the batch; see `parts.nn.minibatch`.
        pack: rows judged together, side by side.
    """

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None,
        backbone: Backbone,
        hidden: Sequence[int],
        channels: int,
        *,
        norm: Norm = "none",
        minibatch: Minibatch = "none",
        pack: int = 1,
    ) -> None:
        super().__init__()
        self.projects = backbone == "dcgan"
        width, self.encoder, self.trunk = 0, None, None
        if self.projects:
            c, h, w = spec.shape
            self.trunk = ConvDiscriminator((pack * c, h, w), channels=channels)
            self.encoder, _ = encoder_for(condition_spec, self.trunk.out_features)
        else:
            self.encoder, width = encoder_for(condition_spec, hidden[-1])
            self.trunk = _Perceptron(pack * Features(spec).size, hidden, context_features=width)
        read = self.trunk.out_features
        self.minibatch = None
        if minibatch != "none":
            layer = MinibatchDeviation if minibatch == "deviation" else MinibatchDiscrimination
            self.minibatch = layer(read)
            read = self.minibatch.out_features
        self.last = nn.Linear(read, 1)
        if norm == "spectral":
            spectrally_normalised(self)

    def read(self, y: Tensor, condition: Condition | None) -> Float[Tensor, "B R"]:
        """The features that it judges by."""
        return self._read(y, self._context(condition))

    def forward(self, y: Tensor, condition: Condition | None) -> Float[Tensor, " B"]:
        context = self._context(condition)
        features = self._read(y, context)
        score = self.last(features if self.minibatch is None else self.minibatch(features)).squeeze(1)
        if context is None or not self.projects:
            return score
        return score + (features * context).sum(1) / features.shape[1] ** 0.5

    def _context(self, condition: Condition | None) -> Tensor | None:
        return None if self.encoder is None or condition is None else self.encoder(condition)

    def _read(self, y: Tensor, context: Tensor | None) -> Tensor:
        return self.trunk(y) if self.projects else self.trunk(y, context)


class Telling(nn.Module):
    """A discriminator that tells something more from the features that it judges by, (B, `told`).

    Args:
        judge: the discriminator.
        told: how many numbers.
        hidden: widths of the perceptron between features and them.
    """

    def __init__(self, judge: Discriminator, told: int, hidden: Sequence[int] = ()) -> None:
        super().__init__()
        self.judge = judge
        self.teller = MLP(judge.trunk.out_features, told, hidden, act="leaky_relu")

    def read(self, y: Tensor, condition: Condition | None) -> Float[Tensor, "B R"]:
        """The features that it judges by."""
        return self.judge.read(y, condition)

    def forward(self, y: Tensor, condition: Condition | None) -> Float[Tensor, " B"]:
        return self.judge(y, condition)

    def tell(self, y: Tensor, condition: Condition | None) -> Float[Tensor, "B N"]:
        """What it tells of each row."""
        return self.teller(self.read(y, condition))


class JointDiscriminator(nn.Module):
    """A logit (B,) of pairs of features and codes side by side, (B, F + Z), and a condition.

    Args:
        trunk: features (B, F) to what is compared with the code, or None for the features themselves.
        features: F.
        read: how many numbers the trunk gives.
        latent_dims: Z.
        hidden: widths of the perceptron that sees both.
    """

    def __init__(
        self,
        trunk: nn.Module | None,
        condition_spec: ConditionSpec | None,
        *,
        features: int,
        read: int,
        latent_dims: int,
        hidden: Sequence[int],
        norm: Norm = "none",
    ) -> None:
        super().__init__()
        self.trunk, self.features = trunk, features
        self.encoder, width = encoder_for(condition_spec, hidden[-1])
        self.body = _Perceptron(read + latent_dims, hidden, context_features=width)
        self.last = nn.Linear(hidden[-1], 1)
        if norm == "spectral":
            spectrally_normalised(self)

    def read(self, pairs: Tensor, condition: Condition | None) -> Float[Tensor, "B R"]:
        """The features that it judges by."""
        y, z = pairs.split([self.features, pairs.shape[1] - self.features], 1)
        seen = y if self.trunk is None else self.trunk(y)
        context = None if self.encoder is None or condition is None else self.encoder(condition)
        return self.body(torch.cat([seen, z], 1), context)

    def forward(self, pairs: Tensor, condition: Condition | None) -> Float[Tensor, " B"]:
        return self.last(self.read(pairs, condition)).squeeze(1)


class _Perceptron(MLP):
    """A perceptron up to its last hidden layer, (B, F) to (B, `out_features`)."""

    def __init__(self, in_features: int, hidden: Sequence[int], *, context_features: int) -> None:
        super().__init__(in_features, 1, hidden, context_features=context_features, act="leaky_relu")
        self.last, self.out_features = nn.Identity(), hidden[-1]


def _one_hot(spec: Spec, owner: Tensor) -> Tensor:
    """Indices of the features that are part of a one-hot."""
    if not isinstance(spec.support, Columns):
        return torch.zeros(0, dtype=torch.long)
    named = torch.tensor([isinstance(c, Categorical) for c in spec.support.columns])
    return named[owner].nonzero().squeeze(1)
