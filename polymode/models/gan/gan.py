"""Generative adversarial network: a generator learns to fool a discriminator that learns to tell samples from data.

Goodfellow et al. 2014, Generative adversarial nets (arXiv:1406.2661); convolutional backbone of Radford et al. 2016
(arXiv:1511.06434).

    min_G max_D V,  V = E_data[log D(x)] + E_z[log(1 - D(G(z)))]                         (eq. 1)
    at the best D = p / (p + q):  V = 2 JSD(p || q) - log 4                              (theorem 1)
    non-saturating generator: max E_z[log D(G(z))]                                       (section 3)

`_game.AdversarialModel` plays the game and has its remedies as options, `parts.adversarial` the objectives
(`discriminator_loss` is -V of one pair) and penalties, `_blocks` the networks. Every other adversarial model of this
family is this one with other defaults or other networks.
Deviation: an R1 penalty by default, without which the game need not converge (Mescheder et al. 2018,
arXiv:1801.04406); group normalisation instead of batch normalisation; the discriminator sees scaled levels and
one-hots, whose nearest data are what `sample` returns.

Likelihood: none. Sampling: one generator pass.
Expected: 8 of 8 modes of the ring of Gaussians in two minutes on two cores; tests/learning/test_gan.py.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, get_args

from polymode.core.condition import ConditionSpec
from polymode.core.errors import PolymodeError, require_choice
from polymode.core.spec import Spec
from polymode.models.gan._blocks import Backbone, Discriminator, Generator, Minibatch, Norm
from polymode.models.gan._game import AdversarialModel, like


@like()
class GAN(AdversarialModel):
    """A generator and a discriminator, of perceptrons or of convolutions.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        latent_dims: Z, dimensions of the noise.
        hidden: widths of the perceptrons; the last is the width of the generator's condition encoder.
        channels: of the convolutions at full size.
        backbone: "auto" takes convolutions for images of at least 16 pixels a side.
        norm: of the discriminator's weights: "spectral" or "none".
        noise_components: Gaussians that the noise is a mixture of, learned with the generator; 1 for a standard one.
        minibatch: what the discriminator is told of the batch: the "deviation" of features, "discrimination" or
            "none".
        options: of the game, see `AdversarialModel`.

    Raises:
        PolymodeError: numbers out of range, packing with a condition, or convolutions on data without a plane.
    """

    #: the discriminator meets the condition too
    tells_discriminator: ClassVar[bool] = True

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        latent_dims: int = 32,
        hidden: Sequence[int] = (256, 256),
        channels: int = 32,
        backbone: Literal["auto", "mlp", "dcgan"] = "auto",
        norm: Norm = "none",
        noise_components: int = 1,
        minibatch: Minibatch = "none",
        **options: Any,
    ) -> None:
        super().__init__(spec, condition_spec, **options)
        require_choice("backbone", backbone, ("auto", "mlp", "dcgan"))
        require_choice("norm", norm, get_args(Norm))
        require_choice("minibatch", minibatch, get_args(Minibatch))
        if min(latent_dims, channels, noise_components, *hidden) < 1:
            raise PolymodeError(
                f"latent_dims={latent_dims}, channels={channels}, noise_components={noise_components}, "
                f"hidden={tuple(hidden)}: expected all at least 1"
            )
        if backbone == "dcgan" and spec.kind != "image":
            raise PolymodeError(f"backbone='dcgan' came with {spec}, expected images; use backbone='mlp'")
        planes = spec.kind == "image" and min(spec.shape[1:]) >= 16
        chosen: Backbone = ("dcgan" if planes else "mlp") if backbone == "auto" else backbone
        self.generator = Generator(spec, condition_spec, chosen, latent_dims, hidden, channels, noise_components)
        self.new_discriminator = functools.partial(
            Discriminator, spec, condition_spec if self.tells_discriminator else None, chosen, hidden, channels,
            norm=norm, minibatch=minibatch, pack=self.pack,
        )  # fmt: skip
        self.discriminator = self.new_discriminator()
