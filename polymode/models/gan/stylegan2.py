"""StyleGAN2: styles modulate convolutions, images of all sizes are summed, and equal steps in w change images equally.

Karras, Laine, Aittala, Hellsten, Lehtinen and Aila 2020, Analyzing and improving the image quality of StyleGAN
(arXiv:1912.04958).

    modulated and demodulated convolutions (eq. 1 to 3), `parts.nn.modulated.modulated_conv`
    path length: E_{w, y ~ N(0, I)} (|J_w^T y|_2 - a)^2,  J_w^T y = grad_w (G(w) . y)            (eq. 4)
    lazy regularisation: R1 at every 16th step of the discriminator, paths at every 4th of the generator,
    each as many times as heavy                                                                  (section 3.1)

`StyleGAN2.path_lengths` is |J^T y|, a is their moving mean. The networks are `parts.nn.style`: images of all sizes are
summed in the generator, the discriminator is residual and sees the deviation over the minibatch (figure 7).
Deviation: four mapping layers of 128 and not eight of 512; a has no gradient; see `parts.nn.style` for the filters.

Likelihood: none. Sampling: one generator pass; `draw_styles` and `synthesise` are its halves, and `project` looks for
the style of a given image by gradient descent (section 5).
Expected: tests/learning/test_gan_images.py: digits of the class that was asked for.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from polymode.core import rng
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.spec import Spec
from polymode.models.gan._game import Further, Weights, like
from polymode.models.gan._style import Noise
from polymode.models.gan.stylegan import StyleGAN

#: how far the mean path length moves at a step
PATH_MEAN_MOVES = 0.01


@like()
class StyleGAN2(StyleGAN):
    """A style-based GAN with modulated convolutions.

    Args:
        spec: images.
        condition_spec: what they are conditioned on.
        path_weight: of path length regularisation; 0 for none.
        path_every: steps of the generator to one with it, which then counts as many times.
        options: those of `StyleGAN`.

    Raises:
        PolymodeError: a weight below zero, steps below one.
    """

    modulated: ClassVar[bool] = True
    path_mean: Tensor

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        path_weight: float = 2.0,
        path_every: int = 4,
        **options: Any,
    ) -> None:
        if path_weight < 0 or path_every < 1:
            raise PolymodeError(
                f"path_weight={path_weight}, path_every={path_every}: expected at least 0 and at least 1"
            )
        super().__init__(spec, condition_spec, **options)
        self.path_weight, self.path_every = path_weight, path_every
        self.register_buffer("path_mean", torch.zeros(()))

    def path_lengths(
        self, noise: Noise, condition: Condition | None, direction: Float[Tensor, "B F"]
    ) -> Float[Tensor, " B"]:
        """|J^T y| of each row, J the Jacobian of its image in its styles and y ``direction``: the root of the mean over
        layers of squared norms, through which gradients flow."""
        styles = self.generator.styles(noise, condition)
        image = self.generator.synthesis(styles, noise.maps)
        (slope,) = torch.autograd.grad((image * direction).sum(), styles, create_graph=True)
        return slope.square().sum(2).mean(1).sqrt()

    def generator_extra(
        self, x: Tensor, fake: Tensor, noise: Any, condition: Condition | None, weights: Weights, g: torch.Generator
    ) -> Further:
        # the discriminator's steps are counted; the generator has one to `critic_steps` of them
        if self.path_weight == 0 or int(self.turn) // self.critic_steps % self.path_every:
            return 0.0, {}
        n = max(1, len(x) // 2)  # half of the batch, as the second derivative takes memory (appendix B)
        _, height, width = self.spec.shape
        direction = rng.randn((n, self.features.size), g, fake) / (height * width) ** 0.5
        told = None if condition is None else condition[:n]
        lengths = self.path_lengths(self.generator.draw(n, g), told, direction)
        self.path_mean.lerp_(lengths.detach().mean(), PATH_MEAN_MOVES)
        missed = (lengths - self.path_mean).square().mean()
        return self.path_weight * self.path_every * missed, {"path_length": lengths.detach().mean()}
