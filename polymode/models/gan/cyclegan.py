"""CycleGAN: two generators between two collections of pictures, held to lead back to where they came from.

Zhu, Park, Isola and Efros 2017, Unpaired image-to-image translation using cycle-consistent adversarial networks
(arXiv:1703.10593).

    L = L_GAN(G, D_B) + L_GAN(F, D_A) + lambda L_cyc(G, F)                                     (eq. 3)
    L_cyc = E[|F(G(a)) - a|] + E[|G(F(b)) - b|],  lambda = 10                                  (eq. 2)
    L_identity = E[|G(b) - b|] + E[|F(a) - a|],  weight 0.5 lambda where it is used            (section 5.2)
    least squares: D minimises (D(b) - 1)^2 + D(G(a))^2, G minimises (D(G(a)) - 1)^2           (section 4)

Sources are a and data are b; row i of the one says nothing of row i of the other. `to_b` is G, `to_a` is F; the
networks are `parts.nn.translator` and `parts.nn.patch`, the fifty samples of the past `parts.history`.
`generators_step` is eq. 3 for the generators, `discriminators_step` for the discriminators.
`identity_weight=0.5` keeps colours, as the paper wants for paintings; a generator that begins with its source, as those
here do, is then slow to change anything. So is a large lambda: see the gap of the metric `translation`.
Deviation: half of either square, as in `parts.adversarial`; networks as told in their files.

Likelihood: none. Sampling: one pass of a generator, and one answer to a source.
Expected: recipe cyclegan_emoji: of 190 emoji seen neither of them half are nearest to their own in the other style;
tests/learning/test_translation.py on drawn days and nights.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError, require_choice
from polymode.core.loss import Loss, Phase
from polymode.core.spec import Spec
from polymode.models.gan._translation import PictureToPicture, distance, fooled, judged
from polymode.parts.adversarial import OBJECTIVES, Objective
from polymode.parts.history import Pool
from polymode.parts.nn.patch import PatchDiscriminator
from polymode.parts.nn.translator import Translator


class CycleGAN(PictureToPicture):
    """Pictures of either collection as pictures of the other.

    Args:
        spec: what one datum is.
        condition_spec: the source picture, paired or not.
        width: channels of the generators at full size.
        blocks: residual blocks of each.
        channels: of the discriminators' first convolution.
        halvings: of the discriminators; their patches are 12, 26 and 54 pixels wide with one, two and three.
        objective: what the players minimise; `parts.adversarial` has the table.
        cycle_weight: lambda.
        identity_weight: of the identity loss, as a share of lambda; none where channels differ.
        pool: samples of the past that each discriminator is shown again.

    Raises:
        ConditionError: no source picture.
        PolymodeError: numbers out of range, or sources of another size.
    """

    deterministic: ClassVar = True

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        width: int = 32,
        blocks: int = 6,
        channels: int = 32,
        halvings: int = 2,
        objective: Objective = "least-squares",
        cycle_weight: float = 10.0,
        identity_weight: float = 0.0,
        pool: int = 50,
    ) -> None:
        super().__init__(spec, condition_spec)
        self.need_one_size()
        require_choice("objective", objective, OBJECTIVES)
        if min(width, blocks, channels) < 1 or min(halvings, cycle_weight, identity_weight, pool) < 0:
            raise PolymodeError(
                f"width={width}, blocks={blocks}, channels={channels}, halvings={halvings}, "
                f"cycle_weight={cycle_weight}, identity_weight={identity_weight}, pool={pool}: expected the first "
                "three at least 1, the others at least 0"
            )
        self.objective, self.cycle_weight = objective, cycle_weight
        a, b, size = self.source.shape, spec.shape, spec.shape[1:]
        self.identity_weight = identity_weight if a == b else 0.0
        self.to_b = Translator(a[0], size, b[0], width=width, blocks=blocks)
        self.to_a = Translator(b[0], size, a[0], width=width, blocks=blocks)
        self.judge_a = PatchDiscriminator(a[0], size, width=channels, halvings=halvings)
        self.judge_b = PatchDiscriminator(b[0], size, width=channels, halvings=halvings)
        self.pool_a, self.pool_b = Pool(pool, a), Pool(pool, b)

    @property
    def routes(self) -> dict[str, tuple[Spec, Spec]]:
        return {"b": (self.source, self.spec), "a": (self.spec, self.source)}

    # -- training --------------------------------------------------------------------------------------------------
    def phases(self) -> list[Phase]:
        return [
            Phase("generators", (self.to_b, self.to_a), self.generators_step),
            Phase("discriminators", (self.judge_a, self.judge_b), self.discriminators_step),
        ]

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        """The discriminators' objective on new samples, to be watched: training goes by `phases`."""
        a, b = self.source_planes(condition), self.planes(x)
        return Loss(self._judged(a, b, self.to_a(b), self.to_b(a)))

    def generators_step(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Loss:
        """Eq. 3 for the generators, with the identity loss."""
        a, b = self.source_planes(condition), self.planes(x)
        as_b, as_a = self.to_b(a), self.to_a(b)
        adversarial = fooled(self.objective, self.judge_b(as_b)) + fooled(self.objective, self.judge_a(as_a))
        cycle = distance(self.to_a(as_b), a) + distance(self.to_b(as_a), b)
        total = adversarial + self.cycle_weight * cycle
        if self.identity_weight:
            unchanged = distance(self.to_b(b), b) + distance(self.to_a(a), a)
            total = total + self.identity_weight * self.cycle_weight * unchanged
        return Loss(total, {"adversarial": adversarial.detach(), "cycle": cycle.detach()})

    def discriminators_step(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Loss:
        """Eq. 3 for the discriminators, on samples of now and of the past."""
        a, b = self.source_planes(condition), self.planes(x)
        with torch.no_grad():
            as_b, as_a = self.to_b(a), self.to_a(b)
        return Loss(self._judged(a, b, self.pool_a(as_a, generator), self.pool_b(as_b, generator)))

    def _judged(self, a: Tensor, b: Tensor, as_a: Tensor, as_b: Tensor) -> Tensor:
        of_a = judged(self.objective, self.judge_a(a), self.judge_a(as_a))
        return of_a + judged(self.objective, self.judge_b(b), self.judge_b(as_b))

    # -- sampling --------------------------------------------------------------------------------------------------
    def _sample(self, n: int, condition: Condition | None, generator: torch.Generator) -> Tensor:
        return self.features.decode(self.to_b(self.source_planes(condition)).flatten(1))

    def _translate(self, x: Tensor, to: str, generator: torch.Generator) -> Tensor:
        if to == "b":
            return super()._translate(x, to, generator)
        return self.source_features.decode(self.to_a(self.planes(x)).flatten(1))
