"""RealNVP: a flow of affine coupling layers, with an exact density and one-pass sampling.

Dinh, Sohl-Dickstein and Bengio 2017, Density estimation using Real NVP (arXiv:1605.08803).

    log p(x) = log N(f(x); 0, I) + log |det df/dx|                                  (eq. 2)
    f: b' = b exp(s(a)) + t(a), a' = a, halves in turn                              (eq. 4, 5, 7)

`parts.bijections.coupling` holds the couplings, `parts.bijections.multiscale` squeezing, checkerboards and factoring
out (section 3.6); `RealNVP.to_base` is f, `RealNVP.from_base` its inverse.
Deviations: activation normalisation once a dimension, set on the first batch, in place of batch normalisation, so
that a row's likelihood does not depend on its batch (the bias of a coupling's network already is one for every later
layer); the tanh of the scales has a constant factor; `scale=False` gives the additive couplings of NICE (Dinh,
Krueger and Bengio 2014, arXiv:1410.8516). One dimension has nothing to couple with: there the flow is affine, a
Gaussian whose mean and deviation follow the condition.

Likelihood: one pass, exact on reals, a lower bound on lattices. Sampling: one pass.
Expected: CIFAR-10 3.49 bits/dim in the paper's setting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from torch import nn

from polymode.core import rng
from polymode.core.condition import ConditionSpec
from polymode.core.errors import PolymodeError, require_choice
from polymode.core.loss import TrainingDefaults
from polymode.core.spec import Spec
from polymode.models.flow._flow import Flow
from polymode.parts.bijections.affine import ActNorm, ContextAffine
from polymode.parts.bijections.base import Bijection, Chain
from polymode.parts.bijections.coupling import Couplings
from polymode.parts.bijections.elementwise import Affine, Shift
from polymode.parts.bijections.multiscale import MultiScale, most_scales
from polymode.parts.dequantized import Dequantization
from polymode.parts.encoders.condition import encoder_for
from polymode.parts.nn.mlp import MLP, Activation
from polymode.parts.nn.resnet import ResNet

#: permutations are part of the architecture, not of the initial weights: they are the same for every seed
PERMUTATION_SEED = 1605


class RealNVP(Flow):
    """A flow of affine couplings: perceptrons on vectors and tables, multi-scale convolutions on images.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        layers: couplings, or couplings a scale on images; None for 8 and 6.
        hidden: widths of each coupling's network, on images the channels of one residual block each; None for
            (128, 128) and (32, 32).
        scales: scales on images; fewer where the height or width can't be halved as often.
        activation: of the networks.
        backbone: "conv" for the multi-scale flow, "mlp" for couplings of the flat vector, "auto" for "conv" on images
            that can be halved.
        scale: affine couplings; False for additive ones.
        dequantization: of lattice data, "uniform" or "variational" by a learned noise.

    Raises:
        PolymodeError: layers, scales or widths below one, or a conv backbone on data that can't be halved.
    """

    defaults: ClassVar = TrainingDefaults(learning_rate=1e-3, batch_size=256, ema=0.99)

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        layers: int | None = None,
        hidden: Sequence[int] | None = None,
        scales: int = 2,
        activation: Activation = "relu",
        backbone: Literal["auto", "mlp", "conv"] = "auto",
        scale: bool = True,
        dequantization: Dequantization = "uniform",
    ) -> None:
        super().__init__(spec, condition_spec, dequantization=dequantization)
        require_choice("backbone", backbone, ("auto", "mlp", "conv"))
        scales_possible = most_scales(spec.shape) if spec.kind == "image" else 0
        if backbone == "conv" and scales_possible == 0:
            raise PolymodeError(f"backbone='conv' came with {spec}, expected images of even size; use backbone='auto'")
        conv = scales_possible > 0 and backbone != "mlp"
        layers = (6 if conv else 8) if layers is None else layers
        hidden = ((32, 32) if conv else (128, 128)) if hidden is None else hidden
        if min(layers, scales, *hidden) < 1:
            raise PolymodeError(f"layers={layers}, scales={scales}, hidden={hidden}: expected all at least 1")
        self.condition_encoder, width = encoder_for(condition_spec, hidden[-1])
        generator = rng.generator(PERMUTATION_SEED)

        def perceptron(ins: int, outs: int) -> nn.Module:
            return MLP(ins, outs, hidden, context_features=width, act=activation, zero_last=True)

        def convolutions(ins: int, outs: int, size: tuple[int, int]) -> nn.Module:
            options = {"width": hidden[0], "blocks": len(hidden), "size": size, "act": activation}
            return ResNet(ins, outs, context_features=width, zero_last=True, **options)

        transform = Affine() if scale else Shift()
        steps: list[Bijection] = [ActNorm(spec.num_dims)]
        if conv:
            # a step of convolutions costs some fifty times one of perceptrons: many small ones learn faster
            self.defaults = replace(self.defaults, batch_size=64)
            shape, scales = (spec.shape[0], spec.shape[1], spec.shape[2]), min(scales, scales_possible)
            steps.append(
                MultiScale(shape, convolutions, scales=scales, layers=layers, transform=transform, generator=generator)
            )
        elif spec.num_dims > 1:
            steps.append(Couplings(spec.num_dims, perceptron, layers=layers, transform=transform, generator=generator))
        elif width:
            steps.append(ContextAffine(1, width))
        self.flow = Chain(steps)
