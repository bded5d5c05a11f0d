"""The game of a generator and a discriminator, with every remedy that keeps it from collapsing or diverging.

`AdversarialModel` plays it for any two networks: `critic_steps` steps of the discriminator to one of the generator, by
the objectives and penalties of `parts.adversarial`. What a paper changes is an option, so that any two can be had
together:

- `critic_rate`: two time-scales (Heusel et al. 2017, arXiv:1706.08500);
- `penalty_every`: a penalty at every k-th step, k times as heavy (Karras et al. 2020, arXiv:1912.04958, section 3.1);
- `clip`: weights kept in a box (Arjovsky et al. 2017, arXiv:1701.07875, algorithm 1);
- `pack`: the discriminator judges several rows at once (Lin et al. 2018, arXiv:1712.04086);
- `feature_matching`: the generator also matches mean features (Salimans et al. 2016, arXiv:1606.03498, section 3.1);
- `unroll`: the generator answers to a discriminator that has learned some steps more (Metz et al. 2017,
  arXiv:1611.02163, eq. 7 to 9);
- `augment`: both players meet augmented images, as far as overfitting calls for it (Karras et al. 2020,
  arXiv:2006.06676).

A paper that asks more of the players adds to their losses by `discriminator_extra` and `generator_extra`, and to what
the discriminator judges by `known` and `made`. `like` makes a paper's model of another one by its defaults and its own
options.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError, require_choice
from polymode.core.loss import Loss, Phase, TrainingDefaults
from polymode.core.model import GenerativeModel
from polymode.core.spec import Spec
from polymode.parts.adversarial import (
    OBJECTIVES,
    PENALTIES,
    Objective,
    Penalty,
    discriminator_loss,
    generator_loss,
    slope_penalty,
)
from polymode.parts.augment import ADA
from polymode.parts.features import Features
from polymode.parts.nn.minibatch import MinibatchDeviation, MinibatchDiscrimination

Class = TypeVar("Class", bound=type)
Weights = Mapping[str, Tensor]
#: a further term of a loss, (B,) or one number, and what of it is worth a curve
Further = tuple[Tensor | float, dict[str, Tensor]]
Augment = Literal["none", "ada"]
#: objectives whose discriminator is undecided at a logit of zero, which overfitting is measured from
UNDECIDED_AT_ZERO = ("non-saturating", "minimax", "hinge")


class Player(Protocol):
    """What the game asks of a generator."""

    def draw(self, n: int, generator: torch.Generator, truncation: float = 1.0) -> Any:
        """Noise of n samples, whatever it is; ``truncation`` below 1 keeps it near its middle."""

    def __call__(self, noise: Any, condition: Condition | None) -> Float[Tensor, "B F"]:
        """Samples as features."""


class AdversarialModel(GenerativeModel):
    """The game over `self.generator` (a `Player`) and `self.discriminator`, which a subclass sets.

    A discriminator maps features (B, F) and a condition to logits (B,); `read` gives the features that it judges by.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        objective: what the two minimise; `parts.adversarial` has the table.
        penalty: on the discriminator's slope.
        penalty_weight: its weight; by default D / 20 and at most 10.
        penalty_every: steps of the discriminator to one with the penalty, which then counts as many times.
        critic_steps: steps of the discriminator to one of the generator.
        critic_rate: learning rate of the discriminator as a multiple of the generator's.
        clip: largest absolute weight of the discriminator; 0 for no limit.
        pack: rows that the discriminator judges together.
        feature_matching: weight of the squared distance of mean features in the generator's loss.
        unroll: steps that the discriminator looks ahead of the generator.
        unroll_rate: learning rate of those steps.
        augment: "ada" shows both players augmented images.

    Raises:
        PolymodeError: numbers out of range, packing with a condition, augmentation of other data than images or of a
            critic.
    """

    defaults: ClassVar = TrainingDefaults(
        learning_rate=1e-3, batch_size=128, betas=(0.5, 0.99), ema=0.999, loss_is_objective=False
    )
    generator: nn.Module
    discriminator: nn.Module
    turn: Tensor

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        objective: Objective = "non-saturating",
        penalty: Penalty = "r1",
        penalty_weight: float | None = None,
        penalty_every: int = 1,
        critic_steps: int = 1,
        critic_rate: float = 1.0,
        clip: float = 0.0,
        pack: int = 1,
        feature_matching: float = 0.0,
        unroll: int = 0,
        unroll_rate: float = 0.1,
        augment: Augment = "none",
    ) -> None:
        super().__init__(spec, condition_spec)
        require_choice("objective", objective, OBJECTIVES)
        require_choice("penalty", penalty, PENALTIES)
        require_choice("augment", augment, ("none", "ada"))
        weight = default_weight(penalty, spec.num_dims) if penalty_weight is None else penalty_weight
        if min(weight, clip, feature_matching, unroll) < 0 or min(critic_rate, unroll_rate) <= 0:
            raise PolymodeError(
                f"penalty_weight={weight}, clip={clip}, feature_matching={feature_matching}, unroll={unroll}, "
                f"critic_rate={critic_rate}, unroll_rate={unroll_rate}: expected the first four at least 0, the rates "
                "above 0"
            )
        if min(critic_steps, penalty_every, pack) < 1:
            raise PolymodeError(
                f"critic_steps={critic_steps}, penalty_every={penalty_every}, pack={pack}: expected at least 1"
            )
        if pack > 1 and condition_spec is not None:
            raise PolymodeError(
                f"pack={pack} came with a condition: rows judged together would need the same one; use pack=1 and "
                "minibatch='deviation'"
            )
        if augment == "ada" and (spec.kind != "image" or objective not in UNDECIDED_AT_ZERO):
            listed = ", ".join(map(repr, UNDECIDED_AT_ZERO))
            raise PolymodeError(
                f"augment='ada' came with {spec} and objective={objective!r}: expected images and one of {listed}; use "
                "augment='none'"
            )
        self.objective, self.penalty, self.penalty_weight, self.penalty_every = (
            objective,
            penalty,
            weight,
            penalty_every,
        )
        self.critic_steps, self.critic_rate, self.clip, self.pack = critic_steps, critic_rate, clip, pack
        self.feature_matching, self.unroll, self.unroll_rate = feature_matching, unroll, unroll_rate
        self.features = Features(spec)
        self.augment = ADA(spec.shape) if augment == "ada" else None
        self.register_buffer("turn", torch.zeros((), dtype=torch.int64))  # steps of the discriminator so far

    # -- training --------------------------------------------------------------------------------------------------
    def phases(self) -> list[Phase]:
        return [
            Phase(
                "discriminator", (self.discriminator,), self.discriminator_step, repeats=self.critic_steps,
                learning_rate_scale=self.critic_rate, after_step=self._after_discriminator,
            ),
            Phase("generator", (self.generator,), self.generator_step),
        ]  # fmt: skip

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        """The discriminator's objective without penalty, to be watched: training goes by `phases`."""
        return self._duel(x, condition, generator)[0]

    def made(self, noise: Any, condition: Condition | None) -> Float[Tensor, "B F"]:
        """Samples as the discriminator meets them, through which gradients flow."""
        return self.generator(noise, condition)

    def known(self, y: Float[Tensor, "B F"], condition: Condition | None, generator: torch.Generator) -> Tensor:
        """Features of data as the discriminator meets them: as they are, unless a subclass adds to them."""
        return y

    def shown(self, y: Float[Tensor, "B F"], generator: torch.Generator) -> Float[Tensor, "B F"]:
        """What the discriminator sees of data and samples in training."""
        return y if self.augment is None else self.augment(y, generator)

    def discriminator_extra(self, y: Tensor, fake: Tensor, noise: Any, condition: Condition | None) -> Further:
        """A further term of the discriminator's loss on data and samples as it saw them; none by default."""
        return 0.0, {}

    def generator_extra(
        self, x: Tensor, fake: Tensor, noise: Any, condition: Condition | None, weights: Weights, g: torch.Generator
    ) -> Further:
        """A further term of the generator's loss; ``weights`` are the discriminator's, which it must not move."""
        return 0.0, {}

    def scores(self, y: Float[Tensor, "B F"], condition: Condition | None) -> Float[Tensor, " P"]:
        """The discriminator's logits, one a row, or one a pack of rows."""
        return self.discriminator(self._packed(y), condition)

    def _packed(self, y: Tensor) -> Tensor:
        whole = len(y) - len(y) % self.pack  # rows that fill no pack are left out
        return y if self.pack == 1 else y[:whole].reshape(whole // self.pack, -1)

    def _by_row(self, of_packs: Float[Tensor, " P"], rows: int) -> Float[Tensor, " B"]:
        """Each row's share in what is counted by packs; rows that fill no pack have the mean."""
        if self.pack == 1:
            return of_packs
        each = of_packs.repeat_interleave(self.pack)
        return torch.cat([each, of_packs.mean().expand(rows - len(each))])

    @functools.cached_property
    def _compares(self) -> bool:
        """Whether the discriminator compares the rows of a batch."""
        layers = (MinibatchDeviation, MinibatchDiscrimination)
        return any(isinstance(module, layers) for module in self.discriminator.modules())

    def _both_scores(self, y: Tensor, fake: Tensor, condition: Condition | None) -> tuple[Tensor, Tensor]:
        """`scores` of data and of as many samples: one pass, unless rows would be compared across the two."""
        if self._compares:
            return self.scores(y, condition), self.scores(fake, condition)
        twice = None if condition is None else condition.map(lambda v: torch.cat([v, v]))
        real, made = self.discriminator(torch.cat([self._packed(y), self._packed(fake)]), twice).chunk(2)
        return real, made

    def _duel(
        self, x: Tensor, condition: Condition | None, generator: torch.Generator
    ) -> tuple[Loss, Tensor, Tensor, Any]:
        """The discriminator's loss on data and as many samples, both as it saw them, and the samples' noise."""
        noise = self.generator.draw(len(x), generator)
        with torch.no_grad():
            fake = self.shown(self.made(noise, condition), generator)
            y = self.known(self.shown(self.features(x), generator), condition, generator)
        real_score, fake_score = self._both_scores(y, fake, condition)
        loss = self._by_row(discriminator_loss(self.objective, real_score, fake_score), len(x))
        right = 0.5 * ((real_score > 0).float() + (fake_score < 0).float())
        parts = {"score_real": real_score.detach(), "score_fake": fake_score.detach(), "told_apart": right}
        return Loss(loss, parts), y, fake, noise

    def discriminator_step(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Loss:
        """Its objective on a batch and as many samples, what a paper adds, and the penalty where it is due."""
        loss, y, fake, noise = self._duel(x, condition, generator)
        term, parts = self.discriminator_extra(y, fake, noise, condition)
        total, parts = loss.per_example + term, loss.parts | parts
        if self.augment is not None:
            real_score = loss.parts["score_real"]
            parts |= {"augment_p": self.augment.p.clone(), "overfitting": real_score.sign()}
            self.augment.watch(real_score)
        if self.penalty == "none" or self.penalty_weight == 0 or int(self.turn) % self.penalty_every:
            return Loss(total, parts)
        found = slope_penalty(self.penalty, lambda v: self.scores(v, condition), y, fake, generator)
        if self.pack > 1:
            packs = found[: len(y) - len(y) % self.pack].view(-1, self.pack).sum(1)
            found = self._by_row(packs, len(y))
        total = total + self.penalty_weight * self.penalty_every * found
        return Loss(total, parts | {"penalty": found.detach()})

    def _after_discriminator(self) -> None:
        self.turn += 1
        if self.clip:
            for p in self.discriminator.parameters():
                p.data.clamp_(-self.clip, self.clip)

    def generator_step(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Loss:
        """Its objective on as many samples as there are data, and what a paper adds."""
        noise = self.generator.draw(len(x), generator)
        fake = self.shown(self.made(noise, condition), generator)
        # detached weights: this step neither moves the discriminator nor pays for its gradient
        weights = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        y = None
        if self.feature_matching or self.unroll:
            y = self.known(self.shown(self.features(x), generator), condition, generator)
        if self.unroll and y is not None:
            weights = self._looked_ahead(weights, y, fake, condition)
        score = functional_call(self.discriminator, weights, (self._packed(fake), condition))
        term, parts = self.generator_extra(x, fake, noise, condition, weights, generator)
        total = self._by_row(generator_loss(self.objective, score), len(x)) + term
        if not self.feature_matching or y is None:
            return Loss(total, parts)
        of_data, of_samples = (
            called(self.discriminator, "read", weights, self._packed(v), condition) for v in (y, fake)
        )
        distance = (of_data.mean(0) - of_samples.mean(0)).square().sum()
        return Loss(total + self.feature_matching * distance, parts | {"feature_distance": distance.detach()})

    def _looked_ahead(
        self, weights: dict[str, Tensor], y: Tensor, fake: Tensor, condition: Condition | None
    ) -> dict[str, Tensor]:
        """The discriminator's weights some gradient steps on, as a function of the samples (1611.02163, eq. 7)."""
        moved = {name: w.requires_grad_() for name, w in weights.items()}
        for _ in range(self.unroll):
            scores = (functional_call(self.discriminator, moved, (self._packed(v), condition)) for v in (y, fake))
            loss = discriminator_loss(self.objective, *scores).mean()
            # a paper's further outputs have no part in the scores
            slopes = torch.autograd.grad(loss, list(moved.values()), create_graph=True, materialize_grads=True)
            moved = {name: w - self.unroll_rate * g for (name, w), g in zip(moved.items(), slopes, strict=True)}
        return moved

    # -- sampling --------------------------------------------------------------------------------------------------
    def _sample(
        self, n: int, condition: Condition | None, generator: torch.Generator, *, truncation: float = 1.0
    ) -> Tensor:
        """``truncation`` below 1 gives more typical and less varied samples."""
        noise = self.generator.draw(n, generator, truncation)
        return self.features.decode(self.generator(noise, condition))


class _Method(nn.Module):
    """A module whose `forward` is a method of another, so that it can be called with other weights."""

    def __init__(self, module: nn.Module, name: str) -> None:
        super().__init__()
        self.module, self.name = module, name

    def forward(self, *inputs: Any) -> Any:
        return getattr(self.module, self.name)(*inputs)


def called(module: nn.Module, method: str, weights: Weights, *inputs: Any) -> Any:
    """What a method of a module gives with other weights."""
    return functional_call(_Method(module, method), {f"module.{name}": w for name, w in weights.items()}, inputs)


def default_weight(penalty: Penalty, dims: int) -> float:
    """The weight of a penalty on data of D dimensions.

    More dimensions let the discriminator's slope grow, so R1 weighs more there: 0.1 on the plane, 3.2 on 8x8 digits
    (whose Frechet distance is five times as large with 0.1), 10 (Mescheder et al. 2018) from 200 dimensions on. So do
    the others: 1704.00028 has 10 for images, and the code of its authors 0.1 on the plane.
    """
    return 0.0 if penalty == "none" else min(10.0, dims / 20)


def like(*, without: Sequence[str] = (), **chosen: Any) -> Callable[[Class], Class]:
    """A class decorator: the constructor of the parent class with other defaults, which its signature shows.

    A constructor of the class itself that ends in ``**options`` adds its own arguments to the parent's.

    Args:
        without: arguments of the parent that the class can't have.
        chosen: other defaults.

    Raises:
        TypeError: a name that the parent's constructor does not have.
    """

    def decorate(cls: Class) -> Class:
        parent = cls.__mro__[1].__init__  # type: ignore[misc]
        own = cls.__dict__.get("__init__", parent)
        signature = inspect.signature(parent)
        if unknown := {*chosen, *without} - set(signature.parameters):
            raise TypeError(f"{cls.__name__}: {', '.join(sorted(unknown))} not in {cls.__mro__[1].__name__}")
        merged = dict(signature.parameters)
        if own is not parent:
            added = inspect.signature(own).parameters.items()
            merged |= {name: p for name, p in added if p.kind is not p.VAR_KEYWORD}

        @functools.wraps(own)
        def init(self: Any, *args: Any, **kwargs: Any) -> None:
            own(self, *args, **(chosen | kwargs))

        replaced = [p.replace(default=chosen.get(name, p.default)) for name, p in merged.items() if name not in without]
        init.__signature__ = signature.replace(parameters=replaced)  # type: ignore[attr-defined]
        cls.__init__ = init  # type: ignore[misc]
        return cls

    return decorate
