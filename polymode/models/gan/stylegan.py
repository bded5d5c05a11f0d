"""StyleGAN: noise becomes a style, and every layer of the generator takes one, coarse features first.

Karras, Laine and Aila 2019, A style-based generator architecture for generative adversarial networks
(arXiv:1812.04948).

    w = f(z),   AdaIN(x_i, w) = y_{s,i} (x_i - mu(x_i)) / sigma(x_i) + y_{b,i}                   (eq. 1)
    a learned constant comes in, and every layer adds noise of its own                           (section 2)
    styles of two z, the second from a layer drawn at random on: neighbours do not correlate     (section 3.1)
    sampling: w' = mean + psi (w - mean)                                                         (appendix B)

`_style.Generator.styles` maps and mixes, `parts.nn.style` holds the networks, and the game is `_game.AdversarialModel`
with R1 (appendix C).
Deviation: all sizes are trained at once, without growing; the residual discriminator of StyleGAN2; R1 at every 16th
step; four mapping layers of 128 and not eight of 512.

Likelihood: none. Sampling: one generator pass; `draw_styles` and `synthesise` are its halves, and `project` looks for
the style of a given image by gradient descent.
Expected: tests/exact/test_stylegan.py; beside the others in `python -m benchmarks.gan_images`.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from polymode.core import rng
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.loss import TrainingDefaults
from polymode.core.spec import Spec
from polymode.models.gan._game import AdversarialModel, like
from polymode.models.gan._style import Discriminator, Generator


@like(penalty_every=16)
class StyleGAN(AdversarialModel):
    """A style-based GAN.

    Args:
        spec: images.
        condition_spec: what they are conditioned on.
        latent_dims: Z, dimensions of the noise.
        style_dims: S, dimensions of a style.
        mapping_layers: of the perceptron from z to w.
        channels: of both networks at full size.
        mixing: share of training samples whose layers have two styles.
        penalty_weight: of R1; by default H W / 1000 and at most 10, which the paper has for 1024x1024.
        options: of the game, see `AdversarialModel`.

    Raises:
        PolymodeError: sizes below one, a share that is none.
    """

    #: styles modulate convolutions, see `parts.nn.style.Synthesis`
    modulated: ClassVar[bool] = False
    defaults: ClassVar = TrainingDefaults(
        learning_rate=2e-3, batch_size=32, betas=(0.0, 0.99), ema=0.999, schedule="constant", loss_is_objective=False
    )

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        latent_dims: int = 128,
        style_dims: int = 128,
        mapping_layers: int = 4,
        channels: int = 16,
        mixing: float = 0.9,
        penalty_weight: float | None = None,
        **options: Any,
    ) -> None:
        if penalty_weight is None and options.get("penalty", "r1") == "r1":
            # scores of this discriminator are smaller than those of perceptrons, whose default drowns them
            penalty_weight = min(10.0, spec.shape[1] * spec.shape[2] / 1000)
        super().__init__(spec, condition_spec, penalty_weight=penalty_weight, **options)
        if min(latent_dims, style_dims, mapping_layers, channels) < 1 or not 0 <= mixing <= 1:
            raise PolymodeError(
                f"latent_dims={latent_dims}, style_dims={style_dims}, mapping_layers={mapping_layers}, "
                f"channels={channels}, mixing={mixing}: expected mixing from 0 to 1, the others at least 1"
            )
        self.generator = Generator(
            spec, condition_spec, latent_dims=latent_dims, style_dims=style_dims, mapping_layers=mapping_layers,
            channels=channels, mixing=mixing, modulated=self.modulated,
        )  # fmt: skip
        self.discriminator = Discriminator(spec, condition_spec, channels=channels, pack=self.pack)

    # -- sampling and styles -----------------------------------------------------------------------------------------
    def _sample(
        self,
        n: int,
        condition: Condition | None,
        generator: torch.Generator,
        *,
        truncation: float = 1.0,
        noise: bool = True,
    ) -> Tensor:
        """``truncation`` psi below 1 draws styles to their mean: more typical and less varied; ``noise=False`` leaves
        the layers' own noise out."""
        drawn = self.generator.draw(n, generator, truncation)
        if not noise:
            drawn = drawn._replace(maps=None)
        return self.features.decode(self.generator(drawn, condition))

    def draw_styles(
        self, n: int, condition: Condition | None = None, *, truncation: float = 1.0, seed: int | None = None
    ) -> Float[Tensor, "n L S"]:
        """Styles of every layer of n samples."""
        condition, g = self.check_condition(condition, n), rng.resolve(None, seed)
        with self._evaluating():
            return self.generator.styles(self.generator.draw(n, g, truncation), condition)

    def synthesise(self, styles: Tensor) -> Tensor:
        """The image (B, *shape) of each row of styles, of all layers (B, L, S) or one for all (B, S), without noise."""
        with self._evaluating():
            return self.features.decode(self._image(styles.to(self.device))).cpu()

    def _image(self, styles: Tensor) -> Float[Tensor, "B F"]:
        layers = self.generator.num_layers
        return self.generator.synthesis(styles.unsqueeze(1).expand(-1, layers, -1) if styles.dim() == 2 else styles)

    def project(self, x: Tensor, *, steps: int = 200, learning_rate: float = 0.05) -> Float[Tensor, "B S"]:
        """One style a datum whose image is near it, by Adam on the squared distance of features from the mean style."""
        x = self.spec.check(x).to(self.device)
        with self._evaluating(), torch.enable_grad():
            y = self.features(x)
            w = self.generator.middle.expand(len(x), -1).clone().requires_grad_()
            optimizer = torch.optim.Adam([w], lr=learning_rate)
            for _ in range(steps):
                distance = (self._image(w) - y).square().mean(1).sum()
                (w.grad,) = torch.autograd.grad(distance, w)
                optimizer.step()
        return w.detach()
