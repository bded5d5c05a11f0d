"""StarGAN: one generator turns a picture of any class into one of any other.

Choi, Choi, Kim, Ha, Kim and Choo 2018, StarGAN: unified generative adversarial networks for multi-domain image-to-image
translation (arXiv:1711.09020).

    L_D = -L_adv + lambda_cls L_cls^r,   L_G = L_adv + lambda_cls L_cls^f + lambda_rec L_rec   (eq. 5 and 6)
    L_cls^r = E[-log D_cls(c' | x)],  L_cls^f = E[-log D_cls(c | G(x, c))],  lambda_cls = 1    (eq. 2 and 3)
    L_rec = E[|x - G(G(x, c), c')|],  lambda_rec = 10                                          (eq. 4)
    L_adv: Wasserstein with gradient penalty 10, five steps of D to one of G                   (eq. 7, section 5.4)

x is a datum of class c', and c a class drawn at random. `_Judge` is D_src and D_cls, `parts.nn.translator` G with c
beside every pixel; `discriminator_step` is eq. 5, `generator_step` eq. 6.
Sampling needs a picture to begin with: the model keeps some of its first training batch (`sources`), and a sample is
one of them as the class that is asked for. `translate` takes the user's own.
Deviation: networks as told in their files; of rows whose label is withheld, only eq. 7 and eq. 3 are learned from.

Likelihood: none. Sampling: one pass.
Expected: recipe stargan_emoji (which changes little but textures);
tests/learning/test_translation.py on tints.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core import rng
from polymode.core.capabilities import Translates
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import ConditionError, PolymodeError, require_choice
from polymode.core.loss import Loss, Phase, TrainingDefaults
from polymode.core.model import GenerativeModel
from polymode.core.spec import Spec
from polymode.models.gan._translation import distance
from polymode.parts.adversarial import OBJECTIVES, Objective, discriminator_loss, generator_loss, slope_penalty
from polymode.parts.features import Features
from polymode.parts.nn.patch import PatchDiscriminator
from polymode.parts.nn.translator import Translator


class StarGAN(GenerativeModel, Translates):
    """Pictures of each class as pictures of every other.

    Args:
        spec: what one datum is.
        condition_spec: the classes.
        width: channels of the generator at full size.
        blocks: residual blocks of the generator.
        channels: of the discriminator's first convolution.
        halvings: of the discriminator.
        objective: what the two minimise; `parts.adversarial` has the table.
        penalty_weight: of the gradient penalty; 0 for none.
        critic_steps: steps of the discriminator to one of the generator.
        class_weight: lambda_cls.
        cycle_weight: lambda_rec.
        sources: training pictures that are kept for sampling.

    Raises:
        ConditionError: no classes.
        PolymodeError: numbers out of range, or sides below 4 pixels.
    """

    defaults: ClassVar = TrainingDefaults(
        learning_rate=5e-4, batch_size=16, betas=(0.5, 0.999), ema=0.99, clip=None, loss_is_objective=False
    )
    kept: Tensor

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        width: int = 32,
        blocks: int = 6,
        channels: int = 32,
        halvings: int = 2,
        objective: Objective = "wasserstein",
        penalty_weight: float = 10.0,
        critic_steps: int = 5,
        class_weight: float = 1.0,
        cycle_weight: float = 10.0,
        sources: int = 64,
    ) -> None:
        super().__init__(spec, condition_spec)
        if condition_spec is None or condition_spec.label is None:
            raise ConditionError("StarGAN needs the classes that it turns into each other: give labelled pictures")
        require_choice("objective", objective, OBJECTIVES)
        if (
            min(width, blocks, channels, critic_steps, sources) < 1
            or min(halvings, penalty_weight, class_weight, cycle_weight) < 0
            or min(spec.shape[1:]) < 4
        ):
            raise PolymodeError(
                f"width={width}, blocks={blocks}, channels={channels}, critic_steps={critic_steps}, sources={sources}, "
                f"halvings={halvings}, penalty_weight={penalty_weight}, class_weight={class_weight}, "
                f"cycle_weight={cycle_weight} on {spec}: expected the first five at least 1, the others at least 0, "
                "and sides of at least 4 pixels"
            )
        self.classes, self.objective, self.critic_steps = condition_spec.label, objective, critic_steps
        self.penalty_weight, self.class_weight, self.cycle_weight = penalty_weight, class_weight, cycle_weight
        self.features, size = Features(spec), spec.shape[1:]
        self.generator = Translator(spec.shape[0], size, width=width, blocks=blocks, context_features=self.classes)
        self.discriminator = _Judge(spec.shape, self.classes, channels, halvings, offset=objective != "wasserstein")
        self.register_buffer("kept", torch.zeros(sources, *spec.shape, dtype=spec.dtype))

    def prepare(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> None:
        """Keep pictures to begin samples with."""
        self.kept.copy_(x[torch.arange(len(self.kept)) % len(x)])

    @property
    def routes(self) -> dict[str, tuple[Spec, Spec]]:
        assert self.condition_spec is not None
        names = self.condition_spec.label_names or tuple(map(str, range(self.classes)))
        return dict.fromkeys(names, (self.spec, self.spec))

    # -- training --------------------------------------------------------------------------------------------------
    def phases(self) -> list[Phase]:
        return [
            Phase("discriminator", (self.discriminator,), self.discriminator_step, repeats=self.critic_steps),
            Phase("generator", (self.generator,), self.generator_step),
        ]

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        """The discriminator's objective without penalty, to be watched: training goes by `phases`."""
        return self._duel(x, condition, generator)[0]

    def turned(self, y: Tensor, label: Tensor) -> Tensor:
        """Planes (B, C, H, W) as those of other classes (B,)."""
        return self.generator(y, F.one_hot(label, self.classes))

    def planes(self, x: Tensor) -> Tensor:
        """Data as (B, C, H, W) in [-1, 1]."""
        return self.features(x).view(x.shape)

    def _duel(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> tuple[Loss, Tensor, Tensor]:
        """Eq. 5 without penalty, and what it was told apart by."""
        assert condition is not None
        assert condition.label is not None
        y, to = self.planes(x), rng.randint(self.classes, (len(x),), generator, x.device)
        with torch.no_grad():
            fake = self.turned(y, to)
        real_score, logits = self.discriminator(y)
        fake_score, _ = self.discriminator(fake)
        named = F.cross_entropy(logits, condition.label, reduction="none") * _known(condition)
        adversarial = discriminator_loss(self.objective, real_score, fake_score)
        parts = {"class": named.detach(), "score_real": real_score.detach(), "score_fake": fake_score.detach()}
        return Loss(adversarial + self.class_weight * named, parts), y, fake

    def discriminator_step(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Loss:
        """Eq. 5."""
        loss, y, fake = self._duel(x, condition, generator)
        if self.penalty_weight == 0:
            return loss

        def score(v: Tensor) -> Tensor:
            return self.discriminator(v.view(y.shape))[0]

        slope = slope_penalty("gp", score, y.flatten(1), fake.flatten(1), generator)
        return Loss(loss.per_example + self.penalty_weight * slope, {**loss.parts, "penalty": slope.detach()})

    def generator_step(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Loss:
        """Eq. 6."""
        assert condition is not None
        assert condition.label is not None
        y, to = self.planes(x), rng.randint(self.classes, (len(x),), generator, x.device)
        fake = self.turned(y, to)
        score, logits = self.discriminator(fake)
        named = F.cross_entropy(logits, to, reduction="none")
        back = distance(self.turned(fake, condition.label), y) * _known(condition)
        total = generator_loss(self.objective, score) + self.class_weight * named + self.cycle_weight * back
        return Loss(total, {"class_made": named.detach(), "cycle": back.detach()})

    # -- sampling --------------------------------------------------------------------------------------------------
    def _sample(self, n: int, condition: Condition | None, generator: torch.Generator) -> Tensor:
        assert condition is not None
        assert condition.label is not None
        rows = rng.randint(len(self.kept), (n,), generator, self.kept.device)
        return self.features.decode(self.turned(self.planes(self.kept[rows]), condition.label).flatten(1))

    def _translate(self, x: Tensor, to: str, generator: torch.Generator) -> Tensor:
        label = torch.full((len(x),), list(self.routes).index(to), device=x.device)
        return self.features.decode(self.turned(self.planes(x), label).flatten(1))


class _Judge(nn.Module):
    """Pictures to (a score (B,), the mean over patches; logits (B, K) of the classes)."""

    def __init__(self, shape: tuple[int, ...], classes: int, channels: int, halvings: int, *, offset: bool) -> None:
        super().__init__()
        self.patches = PatchDiscriminator(shape[0], shape[1:], width=channels, halvings=halvings, offset=offset)
        with torch.no_grad():
            read = self.patches.read(torch.zeros(1, *shape)).numel()
        self.classes = nn.Linear(read, classes)

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        read = self.patches.read(y)
        return self.patches.last(read).flatten(1).mean(1), self.classes(read.flatten(1))


def _known(condition: Condition) -> Tensor:
    """1 where the label of a row may be read, else 0."""
    assert condition.label is not None
    dropped = torch.zeros_like(condition.label, dtype=torch.bool) if condition.dropped is None else condition.dropped
    return (~dropped).float()
