"""Glow: activation normalisation, an invertible 1x1 convolution and an affine coupling, over and over.

Kingma and Dhariwal 2018, Glow: Generative Flow with Invertible 1x1 Convolutions (arXiv:1807.03039, table 1):

    step    y = s x + b;   y = W x at every position;   b' = b exp(s(a)) + t(a), a' = a
    scale   squeeze, K steps, half of the channels leave; L scales                                  (figure 2b)
    base    log N(z_i; mu(h_i), sigma(h_i)^2) of the half z_i that leaves given the half h_i that stays

`parts.bijections.affine.ActNorm` is the first map of a step, set on the first batch, `linear.InvertibleLinear` the
second, `coupling.Couplings` of one coupling the third; `multiscale.Scales` holds the scales. The learned Gaussian of a
half that leaves is the same density as one more coupling, z -> (z - mu) / sigma, before a standard normal base, and so
temperature acts on it. On vectors a step's 1x1 convolution is a matrix and its coupling a perceptron.
A class gives the last scale's base a mean and a deviation a channel (section 5), and, beyond the paper, is read by
every coupling, as is any other condition.
Deviations: log-scales are a bounded tanh in place of log sigmoid(. + 2), so that both directions stay finite far from
the data; the networks have no normalisation of their own. Images of odd height or width are taken as vectors.

Likelihood: one pass, exact on reals, a lower bound on lattices. Sampling: one pass, of triangular solves.
Expected: CIFAR-10 3.35 bits/dim in the paper's setting (K = 32, L = 3, width 512).
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core import rng
from polymode.core.condition import ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.loss import TrainingDefaults
from polymode.core.spec import Spec
from polymode.models.flow._flow import Flow
from polymode.parts.bijections.affine import ActNorm, ContextAffine
from polymode.parts.bijections.base import Bijection, Chain
from polymode.parts.bijections.coupling import Coupling, Couplings, MakeNet
from polymode.parts.bijections.elementwise import Shift
from polymode.parts.bijections.linear import InvertibleLinear
from polymode.parts.bijections.multiscale import Scales, most_scales
from polymode.parts.bijections.rearrange import Squeeze
from polymode.parts.dequantized import Dequantization
from polymode.parts.encoders.condition import encoder_for
from polymode.parts.nn.mlp import MLP


class Glow(Flow):
    """Steps of normalisation, mixing and coupling: multi-scale on images of even size, flat on all else.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        layers: K, the steps, of each scale on images; None for 8 on vectors, 4 on images.
        scales: L, on images; fewer where the height or width can't be halved as often.
        width: of the two hidden layers of each coupling's network; None for 128 on vectors, 64 on images.
        scale: affine couplings; False for additive ones.
        dequantization: of lattice data, "uniform" or "variational" by a learned noise.

    Raises:
        PolymodeError: layers, scales or width below one.
    """

    defaults: ClassVar = TrainingDefaults(learning_rate=1e-3, batch_size=256, ema=0.99)

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        layers: int | None = None,
        scales: int = 2,
        width: int | None = None,
        scale: bool = True,
        dequantization: Dequantization = "uniform",
    ) -> None:
        super().__init__(spec, condition_spec, dequantization=dequantization)
        possible = most_scales(spec.shape) if spec.kind == "image" else 0
        layers = (4 if possible else 8) if layers is None else layers
        width = (64 if possible else 128) if width is None else width
        if min(layers, scales, width) < 1:
            raise PolymodeError(f"layers={layers}, scales={scales}, width={width}: expected all at least 1")
        self.condition_encoder, context = encoder_for(condition_spec, width)
        if possible:
            # a step of convolutions costs some fifty times one of perceptrons: many small ones learn faster
            self.defaults = replace(self.defaults, batch_size=64)
            shape, scales = (spec.shape[0], spec.shape[1], spec.shape[2]), min(scales, possible)

            def level(i: int, channels: int, size: tuple[int, int]) -> Bijection:
                steps = _steps(channels, lambda a, b: CouplingNet(a, b, width, context), layers, scale)
                top = [ContextAffine(channels, context)] if context and i + 1 == scales else []
                return Chain([Squeeze(), *steps, *top])

            self.flow: Bijection = Scales(
                shape, level, scales=scales, make_split=lambda half: Coupling(LearnedPrior(half))
            )
            return

        def perceptron(ins: int, outs: int) -> nn.Module:
            return MLP(ins, outs, (width, width), context_features=context, zero_last=True)

        top = [ContextAffine(spec.num_dims, context)] if context else []
        self.flow = Chain([*_steps(spec.num_dims, perceptron, layers, scale), *top])


def _steps(channels: int, make_net: MakeNet, layers: int, scale: bool) -> list[Bijection]:
    """K steps; one channel has nothing to mix and nothing to couple with."""
    if channels == 1:
        return [ActNorm(1)]
    unused = rng.generator(0)  # one coupling draws no permutation
    transform = None if scale else Shift()
    return [
        bijection
        for _ in range(layers)
        for bijection in (
            ActNorm(channels),
            InvertibleLinear(channels),
            Couplings(channels, make_net, layers=1, transform=transform, generator=unused),
        )
    ]


class CouplingNet(nn.Module):
    """3x3, 1x1 and 3x3 convolutions with relus between, the last from zero (appendix B); a context is added to the
    first layer."""

    def __init__(self, in_channels: int, out_channels: int, width: int, context_features: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_channels, width, 3, padding=1)
        self.middle = nn.Conv2d(width, width, 1)
        self.last = nn.Conv2d(width, out_channels, 3, padding=1)
        self.context = nn.Linear(context_features, width, bias=False) if context_features else None
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        h = self.first(x)
        if self.context is not None and context is not None:
            h = h + self.context(context)[:, :, None, None]  # (B, W) -> (B, W, 1, 1)
        return self.last(F.relu(self.middle(F.relu(h))))


class LearnedPrior(nn.Module):
    """Raw log-scales and means of the half that leaves, of the half that stays, by one convolution from zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 2 * channels, 3, padding=1)
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.conv(x)
