"""What quantised autoencoders share: levels of codes, a decoder of all of them, and a learned prior of each level.

    z = z(x) the encoder's codes, level after level, the coarsest first
    log p(x) >= log w(x) = log p(x | z(x)) + sum_l log p(z_l(x) | z_<l(x))

p(x) = sum_z p(x | z) p(z), and w is one of its summands. The encoder puts all of its mass on one z, so that w is
q's importance weight as well; since q does not spread over all codes, E[w] = w <= p(x), with equality only where no
other codes could have made x. Many samples of w are all the same, so no number of them tightens the bound.

Training has two stages that share the budget: the autoencoder with its codebooks, then the priors on the codes of an
autoencoder that no longer changes. A level's prior is a model of the catalogue, made by name: it is given the codes as
a grid of tokens, so anything with a likelihood that learns grids by gradients will do.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from polymode.core import checkpoint
from polymode.core.capabilities import FitsDirectly, HasBound, HasCodes, HasLatents, HasLogProb
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.loss import Loss, LossFunction, Phase, TrainingDefaults
from polymode.core.model import GenerativeModel
from polymode.core.spec import Spec, Tokens
from polymode.parts.distributions.heads import head_for
from polymode.parts.features import Features
from polymode.parts.nn.pyramid import channel_biases, side_by_side
from polymode.parts.nn.quantiser import Quantised, usage


class CodedModel(GenerativeModel, HasBound, HasLatents, HasCodes):
    """An autoencoder of images whose codes have a learned prior.

    A subclass sets `levels`, networks, `quantisers` and, by `set_prior`, `priors`; it defines `quantise`, `reconstruct`
    and `given`.

    Args:
        components: mixture components of the head where it is a mixture.
        commitment: beta, the weight of staying near the codes.

    Raises:
        PolymodeError: a commitment below zero.
    """

    bound_name = "the encoder's codes"
    #: all samples are alike
    default_num_samples: ClassVar[int] = 1
    #: names of the levels, the coarsest first
    levels: tuple[str, ...]
    defaults: ClassVar = TrainingDefaults(learning_rate=2e-3, batch_size=16, ema=0.99)

    def __init__(self, spec: Spec, condition_spec: ConditionSpec | None, *, components: int, commitment: float) -> None:
        super().__init__(spec, condition_spec)
        if commitment < 0:
            raise PolymodeError(f"commitment={commitment}: expected at least 0")
        self.commitment = commitment
        self.features = Features(spec)
        self.head = head_for(spec, components=components)
        #: parameters of a pixel's colours, as channels of a decoder's output
        self.out_channels = self.head.num_params // (spec.shape[1] * spec.shape[2])
        self.quantisers: Any = nn.ModuleDict()
        self.priors: Any = nn.ModuleDict()

    # -- what a subclass says --------------------------------------------------------------------------------------
    @abstractmethod
    def quantise(self, y: Tensor) -> Iterator[tuple[str, Tensor, Quantised]]:
        """(level, map before quantising, codes) of scaled images (B, C, H, W), one level after the other."""

    @abstractmethod
    def reconstruct(self, values: dict[str, Tensor]) -> Tensor:
        """(B, `out_channels`, H, W) from the vectors (B, D, h, w) of every level's codes."""

    @abstractmethod
    def given(self, level: str, codes: dict[str, Tensor], condition: Condition | None) -> Condition | None:
        """What a level's prior is conditioned on: the codes of coarser levels, the model's own condition."""

    # -- codes -----------------------------------------------------------------------------------------------------
    def set_prior(
        self, level: str, name: str, size: tuple[int, int], condition_spec: ConditionSpec | None, options: dict | None
    ) -> None:
        """Make the prior of a level's codes, a grid of some size, by its catalogue name.

        Raises:
            PolymodeError: a model that takes no grids of tokens, or has no exact likelihood learned by gradients.
        """
        grid = Spec("grid", size, Tokens(self.quantisers[level].num_codes))
        prior = checkpoint.create(name, grid, condition_spec, **(options or {}))
        if not isinstance(prior, HasLogProb) or isinstance(prior, FitsDirectly):
            raise PolymodeError(
                f"{name} can't be the prior of codes: expected a model of grids of tokens with an exact likelihood "
                "that learns by gradients, such as gpt, pixelcnn or made"
            )
        self.priors[level] = prior

    @property
    def num_codes(self) -> dict[str, int]:
        """K of each level."""
        return {level: self.quantisers[level].num_codes for level in self.levels}

    def scaled(self, x: Tensor) -> Tensor:
        """Images as the encoder reads them."""
        return self.features(x).view(x.shape)

    def _codes(self, x: Tensor) -> dict[str, Tensor]:
        return {level: found.indices for level, _, found in self.quantise(self.scaled(x))}

    def values_of(self, codes: dict[str, Tensor]) -> dict[str, Tensor]:
        """The vectors (B, D, h, w) of codes (B, h, w)."""
        return {level: self.quantisers[level].embed(codes[level]).movedim(-1, 1).to(self.dtype) for level in codes}

    def parameters_given(self, values: dict[str, Tensor]) -> Tensor:
        """The head's parameters (B, P) given vectors of codes."""
        return side_by_side(self.reconstruct(values), self.spec.shape[0])

    def log_prior(self, codes: dict[str, Tensor], condition: Condition | None) -> dict[str, Tensor]:
        """log p(z_l | z_<l), (B,), of every level."""
        return {
            level: self.priors[level]._log_prob(codes[level], self.given(level, codes, condition))
            for level in self.levels
        }

    # -- training --------------------------------------------------------------------------------------------------
    def start_at(self, last: Any) -> None:
        """Let a decoder's last layer begin with the head's own parameters, the same at every pixel."""
        with torch.no_grad():
            last.bias.copy_(channel_biases(self.head.initial(), self.spec.shape))

    def prepare(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> None:
        """Codes among the first batch's vectors."""
        for level in self.levels:
            # anew for every level, since it may read the codes of those that have just started
            before = next(y for name, y, _ in self.quantise(self.scaled(x)) if name == level)
            self.quantisers[level].start(before, generator)

    def phases(self) -> list[Phase]:
        autoencoder = tuple(m for name, m in self.named_children() if name != "priors")
        found = [Phase("autoencoder", autoencoder, self._autoencoder_loss)]
        for level in self.levels:
            prior = self.priors[level]
            scale = prior.defaults.learning_rate / self.defaults.learning_rate
            name = "prior" if len(self.levels) == 1 else f"{level} prior"
            found.append(Phase(name, (prior,), self._prior_loss(level), stage=1, learning_rate_scale=scale))
        return found

    def _autoencoder_loss(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Loss:
        """-log p(x | z(x)) + beta |z_e - sg(e)|^2 (eq. 3 of the first paper); its codebooks learn in passing."""
        values, told = {}, {}
        total = torch.zeros(len(x), dtype=self.dtype, device=self.device)
        for level, before, found in self.quantise(self.scaled(x)):
            values[level] = found.values
            total = total + self.commitment * found.commitment
            told[f"{level} perplexity"], told[f"{level} used"] = usage(found.indices, self.num_codes[level])
            if self.training:
                self.quantisers[level].learn(before, found.indices, generator)
        reconstruction = -self.head.log_prob(x, self.parameters_given(values)).sum(1)
        parts = {"reconstruction": reconstruction.detach(), "commitment": total.detach(), **told}
        return Loss(reconstruction + total, parts)

    def _prior_loss(self, level: str) -> LossFunction:
        def loss(x: Tensor, condition: Condition | None, generator: torch.Generator) -> Loss:
            with torch.no_grad():
                codes = self._codes(x)
            prior: GenerativeModel = self.priors[level]
            return prior.loss(codes[level], self.given(level, codes, condition), generator=generator)

        return loss

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        """The negative bound, -log w, in both stages: what a validation looks at."""
        codes = self._codes(x)
        reconstruction = self.head.log_prob(x, self.parameters_given(self.values_of(codes))).sum(1)
        log_prior = torch.stack([*self.log_prior(codes, condition).values()]).sum(0)
        parts = {"reconstruction": -reconstruction.detach(), "prior": -log_prior.detach()}
        return Loss(-reconstruction - log_prior, parts)

    # -- capabilities ----------------------------------------------------------------------------------------------
    def _log_weight(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Tensor:
        return -self.loss(x, condition, generator=generator).per_example

    def _log_weights(
        self, x: Tensor, condition: Condition | None, num_samples: int, generator: torch.Generator
    ) -> Iterator[Tensor]:
        yield self._log_weight(x, condition, generator).expand(num_samples, -1)

    def _sample(
        self,
        n: int,
        condition: Condition | None,
        generator: torch.Generator,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        guidance_scale: float = 1.0,
        noise: bool = True,
    ) -> Tensor:
        """Codes from the priors, then an image given them.

        Args:
            temperature, top_k, top_p, guidance_scale: of the priors, where these have them.
            noise: draw the image from p(x | z), of which the bound is; False takes its mean, as published pictures do.
        """
        asked = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "guidance_scale": guidance_scale}
        usual = {"temperature": 1.0, "top_k": None, "top_p": None, "guidance_scale": 1.0}
        options = {name: value for name, value in asked.items() if value != usual[name]}
        codes: dict[str, Tensor] = {}
        for level in self.levels:
            given = self.given(level, codes, condition)
            codes[level] = self.priors[level].sample(n, given, generator=generator, **options).to(self.device)
        params = self.parameters_given(self.values_of(codes))
        return self.head.sample(params, generator) if noise else self.head.mean(params)

    def _encode(self, x: Tensor, condition: Condition | None) -> Tensor:
        """The vectors of the codes of all levels, (B, Z)."""
        return torch.cat([v.flatten(1) for v in self.values_of(self._codes(x)).values()], dim=1)

    def _decode(self, z: Tensor, condition: Condition | None) -> Tensor:
        """The mean given the codes nearest to vectors (B, Z): what lies between codes becomes one of them."""
        codes: dict[str, Tensor] = {}
        sizes = [self.quantisers[level].width * self.priors[level].spec.num_dims for level in self.levels]
        if z.dim() != 2 or z.shape[1] != sum(sizes):
            raise PolymodeError(f"codes have shape {tuple(z.shape)}, expected (B, {sum(sizes)}), as encode gives them")
        for level, flat in zip(self.levels, z.to(self.dtype).split(sizes, dim=1), strict=True):
            rows = flat.view(len(z), self.quantisers[level].width, *self.priors[level].spec.shape).movedim(1, -1)
            codes[level] = self.quantisers[level].nearest(rows)
        return self.head.mean(self.parameters_given(self.values_of(codes)))
