"""InfoGAN: some of the noise is a code that can be read back from the sample, and so comes to mean something.

Chen, Duan, Houthooft, Schulman, Sutskever and Abbeel 2016, InfoGAN: interpretable representation learning by
information maximizing generative adversarial nets (arXiv:1606.03657).

    min_{G,Q} max_D V(D, G) - lambda L_I(G, Q)                                                  (eq. 6)
    L_I = E_{c ~ p(c), x = G(z, c)}[log Q(c | x)] + H(c) <= I(c; G(z, c))                       (eq. 4, 5)

The code is categories, each uniform, and real numbers, each uniform on [-1, 1]; Q is a softmax and a Gaussian on the
discriminator's features. `InfoGAN.log_q` is log Q(c | x), a further term of both players' losses, and
`InfoGAN.information` is L_I. The game is `_game.AdversarialModel`.
Deviation: Q learns in the discriminator's step; an R1 penalty and group normalisation, as in `gan`.

Likelihood: none. Sampling: one generator pass; ``codes`` sets the code.
Expected: tests/learning/test_gan_codes.py: L_I above 0.95 of the entropy of a code of the ring.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core import rng
from polymode.core.capabilities import HasLatents
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.spec import Spec
from polymode.models.gan._blocks import Generator, Telling
from polymode.models.gan._game import Further, Weights, called, like
from polymode.models.gan.gan import GAN
from polymode.parts.distributions.gaussian import log_normal_at

#: least log standard deviation of Q: a code that is read back exactly would have an infinite density
SHARPEST = -4.0


class CodedGenerator(nn.Module):
    """A generator the first numbers of whose noise are a code: one-hot categories, then numbers of [-1, 1].

    Args:
        player: the generator that it becomes part of.
        categories: number of values of each category.
        continuous: number of real codes.
    """

    def __init__(self, player: Generator, categories: Sequence[int], continuous: int) -> None:
        super().__init__()
        self.player, self.categories, self.continuous = player, tuple(categories), continuous
        self.code_dims = sum(categories) + continuous

    def draw(self, n: int, generator: torch.Generator, truncation: float = 1.0) -> tuple[Tensor, Tensor]:
        """Noise of the generator within; ``truncation`` is of its Gaussian part only."""
        z, u = self.player.draw(n, generator, truncation)
        code = [F.one_hot(rng.randint(k, (n,), generator, z.device), k).to(z.dtype) for k in self.categories]
        code.append(2 * rng.rand((n, self.continuous), generator, z) - 1)
        return torch.cat([*code, z[:, self.code_dims :]], 1), u

    def forward(self, noise: tuple[Tensor, Tensor], condition: Condition | None) -> Tensor:
        return self.player(noise, condition)

    def code_of(self, indices: Float[Tensor, "B C"]) -> Float[Tensor, "B c"]:
        """Categories' indices and real codes side by side, as the generator reads them."""
        named, numbers = indices.split([len(self.categories), self.continuous], 1)
        one_hot = [F.one_hot(named[:, i].long(), k).to(numbers.dtype) for i, k in enumerate(self.categories)]
        return torch.cat([*one_hot, numbers], 1)


@like(without=("pack", "noise_components"))
class InfoGAN(GAN, HasLatents):
    """A GAN with a code that its samples tell.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        categories: number of values of each category of the code.
        continuous: real numbers of the code.
        info_weight: lambda.
        latent_dims: Z, dimensions of the noise beside the code.
        options: those of `GAN`.

    Raises:
        PolymodeError: a code without parts, a category of fewer than two values, or a weight below zero.
    """

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        categories: Sequence[int] = (10,),
        continuous: int = 2,
        info_weight: float = 1.0,
        latent_dims: int = 32,
        **options: Any,
    ) -> None:
        if continuous < 0 or info_weight < 0 or latent_dims < 1 or min(categories, default=2) < 2:
            raise PolymodeError(
                f"categories={tuple(categories)}, continuous={continuous}, info_weight={info_weight}, "
                f"latent_dims={latent_dims}: expected categories of at least 2 values, latent_dims of at least 1, the "
                "others at least 0"
            )
        if not categories and not continuous:
            raise PolymodeError("categories=() and continuous=0 leave no code; use the model gan for none")
        super().__init__(spec, condition_spec, latent_dims=latent_dims + sum(categories) + continuous, **options)
        self.info_weight = info_weight
        self.generator = CodedGenerator(self.generator, categories, continuous)
        self.discriminator = Telling(self.discriminator, sum(categories) + 2 * continuous, (128,))

    # -- the recogniser ----------------------------------------------------------------------------------------------
    def log_q(self, told: Float[Tensor, "B N"], code: Float[Tensor, "B c"]) -> Float[Tensor, " B"]:
        """log Q(c | x) of what `Telling.tell` says of x: nats of categories and a density of numbers."""
        *logits, mu, log_sigma = self._split(told)
        *chosen, numbers = code.split([*self.generator.categories, self.generator.continuous], 1)
        total = log_normal_at(numbers, mu, log_sigma).sum(1)
        for scores, one_hot in zip(logits, chosen, strict=True):
            total = total + (scores.log_softmax(1) * one_hot).sum(1)
        return total

    def _split(self, told: Tensor) -> list[Tensor]:
        """Logits of each category, then mu and log sigma."""
        *logits, mu, log_sigma = told.split([*self.generator.categories, *2 * (self.generator.continuous,)], 1)
        return [*logits, mu, log_sigma.clamp(min=SHARPEST)]

    @property
    def code_entropy(self) -> float:
        """H(c) in nats, that of the numbers being differential."""
        named = sum(math.log(k) for k in self.generator.categories)
        return named + self.generator.continuous * math.log(2)

    def information(self, n: int, condition: Condition | None = None, *, seed: int = 0) -> tuple[float, float]:
        """(L_I, its standard error) in nats from n samples: a lower bound of what samples tell of their code."""
        condition, g = self.check_condition(condition, n), rng.generator(seed)
        with self._evaluating():
            noise = self.generator.draw(n, g)
            told = self.discriminator.tell(self.generator(noise, condition), condition)
            found = self.code_entropy + self.log_q(told, noise[0][:, : self.generator.code_dims])
        return found.mean().item(), (found.std() / n**0.5).item()

    # -- training ----------------------------------------------------------------------------------------------------
    def _told(self, told: Tensor, noise: Any) -> Further:
        missing = -self.log_q(told, noise[0][:, : self.generator.code_dims])
        return self.info_weight * missing, {"information": self.code_entropy - missing.detach()}

    def discriminator_extra(self, y: Tensor, fake: Tensor, noise: Any, condition: Condition | None) -> Further:
        return self._told(self.discriminator.tell(fake, condition), noise)

    def generator_extra(
        self, x: Tensor, fake: Tensor, noise: Any, condition: Condition | None, weights: Weights, g: torch.Generator
    ) -> Further:
        return self._told(called(self.discriminator, "tell", weights, fake, condition), noise)

    # -- sampling and codes ------------------------------------------------------------------------------------------
    def _sample(
        self,
        n: int,
        condition: Condition | None,
        generator: torch.Generator,
        *,
        truncation: float = 1.0,
        codes: Any = None,
    ) -> Tensor:
        """``codes``: one for all samples or a row each, indices of the categories and then the numbers."""
        z, u = self.generator.draw(n, generator, truncation)
        if codes is not None:
            z = torch.cat([self._codes_for(codes, n), z[:, self.generator.code_dims :]], 1)
        return self.features.decode(self.generator((z, u), condition))

    def _codes_for(self, codes: Any, n: int) -> Tensor:
        given = torch.as_tensor(codes, dtype=self.dtype, device=self.device)
        given = given.expand(n, -1) if given.dim() == 1 else given
        categories = torch.tensor(self.generator.categories, device=self.device)
        width = len(categories) + self.generator.continuous
        if given.shape != (n, width):
            raise PolymodeError(
                f"codes have shape {tuple(given.shape)}, expected ({width},) or ({n}, {width}): indices of "
                f"{len(categories)} categories, then {self.generator.continuous} numbers, for the samples of one batch"
            )
        named = given[:, : len(categories)]
        if (named != named.floor()).any() or (named < 0).any() or (named >= categories).any():
            raise PolymodeError(
                f"codes of categories range from {named.min():g} to {named.max():g}, expected whole numbers below "
                f"{self.generator.categories}"
            )
        return self.generator.code_of(given)

    def _encode(self, x: Tensor, condition: Condition | None) -> Tensor:
        """What Q says: the probability of each value of the categories, and the mean of each number."""
        *logits, mu, _ = self._split(self.discriminator.tell(self.features(x), condition))
        return torch.cat([*(scores.softmax(1) for scores in logits), mu], 1)

    def _decode(self, z: Tensor, condition: Condition | None) -> Tensor:
        """The sample of a code whose noise beside it is zero."""
        rest = self.generator.player.latent_dims - self.generator.code_dims
        z = torch.cat([z.to(self.dtype), z.new_zeros(len(z), rest).to(self.dtype)], 1)
        return self.features.decode(self.generator.player.likeliest(z, condition))
