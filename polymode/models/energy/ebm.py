"""Energy-based model: a network gives every datum an energy, and Langevin chains draw from what it implies.

Du and Mordatch 2019, Implicit generation and modeling with energy-based models (arXiv:1903.08689); Du et al. 2021,
Improved contrastive divergence training of energy-based models (arXiv:2012.01316); Hinton 2002 (chains from data).

    p(x) = exp(-E(x)) / Z
    grad -log p(x) = grad E(x) - E_{x' ~ p} grad E(x')                           (positive and negative phase)
    loss = E(x) - E(x') + a (f(x)^2 + f(x')^2)                                   (2019, section 3.3)
    KL(q || p) = E_q E(x') - H(q) + log Z,  q the chains' ends as functions of E's parameters     (2021, eq. 5 and 6)
    H(q) = F mean log |x' - nearest of other chains| + constant                  (Kozachenko and Leonenko 1987)

The energy, its base and chains are `_energy.EnergyModel`'s. `EBM.loss` takes the negative phase from persistent chains,
5 % of which restart at every visit (2019, section 3.2), or with start="data" from the batch, k steps on (CD-k).
`EBM.divergence` is the KL term that contrastive divergence leaves out: its gradient flows through the chains' last
step, not through the energy that judges it.
Deviation: chains are Metropolis-adjusted, with a step size tuned to their acceptance, where the papers take unadjusted
steps with too little noise; so samples follow the energy. On lattice data chains stay on the lattice. Conditional
models keep chains of their own for each label; conditions of other kinds share one pool, whose chains are led to a
row's condition within `chain_steps`, a bias that the paper's short chains have too. The entropy has its factor F.

Likelihood: an estimate; energies are exact and cost one pass; log Z is by quadrature for two real dimensions, by
enumeration for up to 65,536 lattice points, else by annealed importance sampling. Sampling: 2 passes a step.
Expected: recipes ebm_8gaussians, ebm_moons and ebm_checkerboard: within 0.1 nats of the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call

from polymode.core import rng
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError, require_choice
from polymode.core.loss import Loss, TrainingDefaults
from polymode.core.spec import Spec
from polymode.models.energy._energy import LARGEST_STEP, EnergyModel, Sampler
from polymode.models.energy._replay import ReplayBuffer
from polymode.parts.nn.mlp import Activation
from polymode.parts.samplers import langevin

Start = Literal["replay", "data"]
#: chains whose ends are neighbours of those that the entropy is taken of
NEIGHBOURS = 1024


class EBM(EnergyModel):
    """An energy-based model trained by Markov chains.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        hidden, channels, base_scale, activation, sampler: of `EnergyModel`.
        start: where chains of the negative phase begin: "replay" goes on with persistent ones, "data" is CD-k.
        chains: persistent chains, at least one a label.
        chain_steps: steps of each visit to a chain.
        restart: share of the visited chains that start again from the base.
        penalty: a, the weight of the squared energies, which keeps them near zero.
        kl_weight: of the KL term of improved contrastive divergence, 1 in the paper; real data only.

    Raises:
        PolymodeError: numbers out of range, or a KL term of chains on a lattice, which have no gradient.
    """

    defaults: ClassVar = TrainingDefaults(
        learning_rate=1e-3, batch_size=128, betas=(0.0, 0.999), ema=0.99, clip=1.0, loss_is_objective=False
    )

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        hidden: Sequence[int] = (128, 128),
        channels: int = 32,
        base_scale: float = 2.0,
        start: Start = "replay",
        sampler: Sampler = "auto",
        chains: int = 1024,
        chain_steps: int = 10,
        restart: float = 0.05,
        penalty: float = 1e-3,
        kl_weight: float = 0.0,
        activation: Activation = "silu",
    ) -> None:
        super().__init__(
            spec, condition_spec, hidden=hidden, channels=channels, base_scale=base_scale, activation=activation,
            sampler=sampler,
        )  # fmt: skip
        require_choice("start", start, ("replay", "data"))
        if chains < 1 or chain_steps < 1 or penalty < 0 or kl_weight < 0:
            raise PolymodeError(
                f"chains={chains}, chain_steps={chain_steps}, penalty={penalty}, kl_weight={kl_weight}: expected at "
                "least one chain and step, and weights of at least 0"
            )
        if kl_weight > 0 and self.lattice:
            raise PolymodeError(
                f"kl_weight={kl_weight} came with {spec}: chains on a lattice have no gradient for a KL term; give 0"
            )
        self.start, self.chain_steps, self.penalty, self.kl_weight = start, chain_steps, penalty, kl_weight
        pools = 1 if condition_spec is None else condition_spec.label or 1
        self.replay = ReplayBuffer(self.base_draws(-(-chains // pools) * pools, rng.generator(0)), restart, pools)

    # -- training --------------------------------------------------------------------------------------------------
    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        """Its gradient is that of -log p up to the chains' error; its value is no likelihood."""
        context, y = self.context(condition), self.features(x)
        visited = self.replay.visit(len(x), condition, generator)
        start = self.replay.starts(visited, self.base_draws(len(x), generator), generator)
        chains, acceptance = self.advance(start if self.start == "replay" else y, context, self.chain_steps, generator)
        if self.training:
            if self.start == "replay":
                self.replay.chains[visited] = chains
            if self.best_acceptance is not None:
                # on a small lattice a step of any size may be accepted, and would grow without end
                size = langevin.tuned(float(self.step_size), acceptance, best=self.best_acceptance)
                self.step_size.fill_(min(size, LARGEST_STEP))
        f = self.excess(torch.cat([y, chains]), None if context is None else torch.cat([context, context]))
        positive, negative = f.chunk(2)
        energies = {"positive": positive + self.base(y), "negative": negative + self.base(chains)}
        per_example = energies["positive"] - energies["negative"]
        per_example = per_example + self.penalty * (positive.square() + negative.square())
        parts = {k: v.detach() for k, v in energies.items()} | {"acceptance": torch.tensor(acceptance)}
        if self.kl_weight > 0:
            others = self.replay.chains[torch.randperm(len(self.replay.chains), generator=generator)[:NEIGHBOURS]]
            divergence = self.divergence(chains, context, others, generator)
            per_example, parts["divergence"] = per_example + self.kl_weight * divergence, divergence.detach()
        return Loss(per_example, parts)

    def divergence(
        self, y: Tensor, context: Tensor | None, others: Float[Tensor, "N F"], generator: torch.Generator
    ) -> Float[Tensor, " B"]:
        """KL(q || p) up to a constant: a Langevin step from chains y, judged by the energy and by the chains beside it.

        Args:
            others: chains that nearest neighbours are looked for among; those at y themselves do not count.
        """
        tracking = torch.is_grad_enabled()
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.potential(y, context).sum(), y, create_graph=tracking)
        size = float(self.step_size)
        moved = y.detach() - 0.5 * size**2 * slope + size * rng.randn(y.shape, generator, y)
        frozen = {k: v.detach() for k, v in self.network.named_parameters()}
        given = None if context is None else context.detach()
        energy = functional_call(self.network, frozen, (self.read(moved), given)).squeeze(1) + self.base(moved)
        # by differences: products of matrices would not give a point and itself a distance of exactly zero
        same = torch.cdist(y.detach(), others, compute_mode="donot_use_mm_for_euclid_dist") == 0
        distance = torch.cdist(moved, others).masked_fill(same, torch.inf).min(1).values
        # a chain that stands on another has no distance to it whose logarithm could be taken
        return energy - self.features.size * distance.clamp(min=1e-6).log()

    # -- sampling --------------------------------------------------------------------------------------------------
    def _sample(
        self, n: int, condition: Condition | None, generator: torch.Generator, *, steps: int | None = None
    ) -> Tensor:
        """Persistent chains moved `steps` (10 `chain_steps` by default) times further; of CD, see `EnergyModel`."""
        return self.features.decode(self._chain_ends(n, condition, generator, steps))

    def _chain_ends(
        self, n: int, condition: Condition | None, generator: torch.Generator, steps: int | None = None
    ) -> Tensor:
        if self.start == "data":  # chains that began at data must not be kept: they may still be data
            return super()._chain_ends(n, condition, generator, steps)
        start = self.replay.chains[self.replay.visit(n, condition, generator)]
        steps = 10 * self.chain_steps if steps is None else steps
        return self.advance(start, self.context(condition), steps, generator)[0]
