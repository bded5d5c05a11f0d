"""Energy-based model: a network gives every datum an energy, and Langevin chains draw from what it implies.

Du and Mordatch 2019, Implicit generation and modeling with energy-based models (arXiv:1903.08689); Nijkamp et al.
2019 (arXiv:1904.09770).

    p(x) = exp(-E(x)) / Z,   E(y) = f(y) + |y|^2 / (2 s^2)
    grad -log p(x) = grad E(x) - E_{x' ~ p} grad E(x')                           (positive and negative phase)
    loss = E(x) - E(x') + a (f(x)^2 + f(x')^2)                                   (section 3.3)

`EBM.potential` is E, `EBM.advance` moves chains, `EBM.loss` takes the negative phase from persistent chains, 5 % of
which restart at every visit (section 3.2), `EBM.log_partition` gives Z.
Deviation: the quadratic term is the energy of a base distribution: it makes exp(-E) normalisable, and gives chains
their start and annealing its first stage. Chains are Metropolis-adjusted, with a step size tuned to their
acceptance, where the paper takes unadjusted steps with too little noise; so samples follow the energy. Before every
ten steps each chain is also offered fresh draws of the base, which let chains in few dimensions cross between modes.
On lattice data E is an energy of lattice points and Z a sum over them; chains stay on the lattice (Zhang, Liu and Liu
2022, arXiv:2206.09914). Conditional models keep chains of their own for each label; conditions of other kinds share
one pool, whose chains are led to a row's condition within `chain_steps`, a bias that the paper's short chains have
too. Reals of few dimensions enter the network with their sines and cosines, without which a perceptron is slow to
learn narrow modes (Tancik et al. 2020, arXiv:2006.10739). Chains are saved with the weights: they are samples of the
model, never data.

Likelihood: an estimate; energies are exact and cost one pass; log Z is by quadrature for two real dimensions, by
enumeration for up to 65,536 lattice points, else by annealed importance sampling. Sampling: 2 passes a step.
Expected: the ring of 8 Gaussians within 0.1 nats in two minutes on two cores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.capabilities import HasEnergy
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.loss import Loss, TrainingDefaults
from polymode.core.model import GenerativeModel
from polymode.core.spec import Spec
from polymode.parts.encoders.condition import Conditioned, encoder_for
from polymode.parts.features import Features
from polymode.parts.nn.mlp import MLP, Activation
from polymode.parts.samplers import ais, langevin

#: lattices of up to this many points are summed over
MOST_POINTS = 65_536
#: chains are offered a draw of the base before every so many steps
OFFER_EVERY = 10
#: in up to so many dimensions ten of them, which have a chance there; one above. Reals of few dimensions also enter
#: the network as sines and cosines
FEW_DIMS = 8
LARGEST_STEP = 10.0


class EBM(Conditioned, GenerativeModel, HasEnergy, ais.HasReverseAIS):
    """An energy-based model with a perceptron energy, trained by persistent Langevin chains.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        hidden: widths of the energy network.
        base_scale: s, of the base, in units of standardised (reals) or scaled to [-1, 1] (lattices) data.
        chains: persistent chains, at least one a label.
        chain_steps: steps of each visit to a chain.
        restart: share of the visited chains that start again from the base.
        penalty: a, the weight of the squared energies, which keeps them near zero.
        activation: of the network; smooth ones give smooth gradients.

    Raises:
        PolymodeError: numbers out of range.
    """

    defaults: ClassVar = TrainingDefaults(
        learning_rate=1e-3, batch_size=128, betas=(0.0, 0.999), ema=0.99, clip=1.0, loss_is_objective=False
    )
    chains: Tensor
    frequencies: Tensor
    step_size: Tensor
    values: Tensor

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        hidden: Sequence[int] = (128, 128),
        base_scale: float = 2.0,
        chains: int = 1024,
        chain_steps: int = 10,
        restart: float = 0.05,
        penalty: float = 1e-3,
        activation: Activation = "silu",
    ) -> None:
        super().__init__(spec, condition_spec)
        if base_scale <= 0 or chains < 1 or chain_steps < 1 or not 0 <= restart <= 1 or penalty < 0:
            raise PolymodeError(
                f"base_scale={base_scale}, chains={chains}, chain_steps={chain_steps}, restart={restart}, "
                f"penalty={penalty}: expected a positive scale, at least one chain and step, a share and no penalty < 0"
            )
        self.base_scale, self.chain_steps, self.restart, self.penalty = base_scale, chain_steps, restart, penalty
        self.features = Features(spec)
        self.condition_encoder, width = encoder_for(condition_spec, hidden[-1])
        self.waves = spec.is_continuous and self.features.size <= FEW_DIMS
        self.register_buffer("frequencies", torch.tensor([1.0, 2.0, 4.0, 8.0]), persistent=False)
        inputs = self.features.size * (1 + 2 * len(self.frequencies) * self.waves)
        self.network = MLP(inputs, 1, hidden, context_features=width, act=activation, zero_last=True)
        self.lattice = spec.levels is not None
        self.offers = 10 if self.features.size <= FEW_DIMS else 1
        levels = spec.levels or 2
        self.kernel: langevin.Kernel = langevin.LatticeKernel(levels) if self.lattice else langevin.mala_step
        self.register_buffer("values", torch.linspace(-1, 1, levels), persistent=False)
        # chains of label c are those whose index is c modulo the number of labels
        labels = None if condition_spec is None else condition_spec.label
        self.pools = labels or 1
        start = torch.Generator().manual_seed(0)
        self.register_buffer("chains", self.base_draws(-(-chains // self.pools) * self.pools, start))
        # a step on a lattice must be able to reach the next level
        self.register_buffer("step_size", torch.tensor(max(0.5, 2 / (levels - 1)) if self.lattice else 0.5))

    # -- the energy ------------------------------------------------------------------------------------------------
    def excess(self, y: Tensor, context: Tensor | None) -> Tensor:
        """f(y), (B,): the energy above that of the base."""
        if self.waves:
            angles = (y.unsqueeze(2) * self.frequencies).flatten(1)  # (B, F * 4)
            y = torch.cat([y, angles.sin(), angles.cos()], 1)
        return self.network(y, context).squeeze(1)

    def base(self, y: Tensor) -> Tensor:
        """|y|^2 / (2 s^2), (B,)."""
        return y.square().sum(1) / (2 * self.base_scale**2)

    def potential(self, y: Tensor, context: Tensor | None) -> Tensor:
        """E(y), (B,), in model space."""
        return self.excess(y, context) + self.base(y)

    def base_draws(self, n: int, generator: torch.Generator) -> Tensor:
        """n exact draws of the base, (n, F)."""
        shape = (n, self.features.size)
        if not self.lattice:
            return self.base_scale * rng.randn(shape, generator, self._anchor)
        log_p = -self.values.square() / (2 * self.base_scale**2)
        return self.values[rng.categorical(log_p.expand(*shape, -1), generator)]

    def log_base_partition(self) -> float:
        """log of the sum or integral of exp(-|y|^2 / (2 s^2)), exact."""
        if not self.lattice:
            return self.features.size * (math.log(self.base_scale) + 0.5 * math.log(2 * math.pi))
        return self.features.size * float((-self.values.double().square() / (2 * self.base_scale**2)).logsumexp(0))

    # -- chains ----------------------------------------------------------------------------------------------------
    def advance(
        self, y: Tensor, context: Tensor | None, steps: int, generator: torch.Generator
    ) -> tuple[Tensor, float]:
        """Chains (B, F) moved by exact kernels at the present step size: (positions, mean acceptance)."""
        context = None if context is None else context.detach()
        accepted = 0.0
        for done in range(0, steps, OFFER_EVERY):
            fresh = self.base_draws(self.offers * len(y), generator).view(self.offers, *y.shape)
            y, _ = langevin.independence_steps(
                lambda z: self.excess(z, None if context is None else context.repeat(len(z) // len(context), 1)),
                y, fresh, generator,
            )  # fmt: skip
            now = min(OFFER_EVERY, steps - done)
            y, rate = langevin.run(
                lambda z: self.potential(z, context), y, self.kernel,
                steps=now, step_size=float(self.step_size), generator=generator,
            )  # fmt: skip
            accepted += rate * now / steps
        return y, accepted

    def visit(self, n: int, condition: Condition | None, generator: torch.Generator) -> Tensor:
        """Indices (n,) of chains to move: of the row's label where there is one."""
        each = len(self.chains) // self.pools
        if self.pools == 1 and n <= each:
            return torch.randperm(each, generator=generator)[:n].to(self.device)
        drawn = rng.randint(each, (n,), generator, self.device) * self.pools
        if condition is None or condition.label is None:
            return drawn
        label = condition.label
        if condition.dropped is not None:  # rows without a label go on from chains of any
            label = torch.where(condition.dropped, rng.randint(self.pools, (n,), generator, self.device), label)
        return drawn + label

    # -- training --------------------------------------------------------------------------------------------------
    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        """Its gradient is that of -log p up to the chains' error; its value is no likelihood."""
        context = self.context(condition)
        visited = self.visit(len(x), condition, generator)
        again = rng.rand((len(x), 1), generator, self._anchor) < self.restart
        start = torch.where(again, self.base_draws(len(x), generator), self.chains[visited])
        chains, acceptance = self.advance(start, context, self.chain_steps, generator)
        if self.training:
            self.chains[visited] = chains
            # on a small lattice a step of any size may be accepted, and would grow without end
            self.step_size.fill_(min(langevin.tuned(float(self.step_size), acceptance), LARGEST_STEP))
        y = self.features(x)
        f = self.excess(torch.cat([y, chains]), None if context is None else torch.cat([context, context]))
        positive, negative = f.chunk(2)
        energies = {"positive": positive + self.base(y), "negative": negative + self.base(chains)}
        contrast = energies["positive"] - energies["negative"]
        parts = {k: v.detach() for k, v in energies.items()} | {"acceptance": torch.tensor(acceptance)}
        return Loss(contrast + self.penalty * (positive.square() + negative.square()), parts)

    # -- doors -----------------------------------------------------------------------------------------------------
    def _energy(self, x: Tensor, condition: Condition | None) -> Tensor:
        energy = self.potential(self.features(x), self.context(condition))
        # a density per unit of the user's measurement: dx = scale dy
        return energy if self.lattice else energy + self.features.scale.log().expand(self.features.size).sum()

    def _sample(
        self, n: int, condition: Condition | None, generator: torch.Generator, *, steps: int | None = None
    ) -> Tensor:
        """Persistent chains moved `steps` (10 `chain_steps` by default) times further."""
        return self.features.decode(self._chain_ends(n, condition, generator, steps))

    def _chain_ends(
        self, n: int, condition: Condition | None, generator: torch.Generator, steps: int | None = None
    ) -> Tensor:
        """Positions (n, F) of persistent chains after some steps."""
        start = self.chains[self.visit(n, condition, generator)]
        steps = 10 * self.chain_steps if steps is None else steps
        return self.advance(start, self.context(condition), steps, generator)[0]

    def log_partition(
        self,
        condition: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        runs: int = 256,
        temperatures: int = 500,
    ) -> tuple[float, float]:
        """(log Z, standard error), nats.

        Exact on small lattices; by quadrature in one or two real dimensions, whose error is far below a float32's
        where the density is wider than a hundredth of its standard deviation; else by annealing `runs` draws of the
        base over `temperatures` stages.
        """
        g = rng.resolve(generator, seed)
        condition = self.check_condition(condition, 1)
        with self._evaluating():
            excess = self._excess_under(condition)

            def log_p(y: Tensor) -> Tensor:
                return torch.cat([-(self.base(p) + excess(p)).double() for p in y.split(65_536)])

            if self.lattice and (every := self._every_point()) is not None:
                return float(log_p(every).logsumexp(0)), 0.0
            if not self.lattice and self.features.size <= 2:
                return self._by_quadrature(log_p), 0.0
            log_ratio, error = langevin.annealed_log_partition(
                self.base, excess, self._starts(runs), self.kernel,
                temperatures=temperatures, step_size=float(self.step_size), generator=g,
            )  # fmt: skip
            return self.log_base_partition() + log_ratio, error

    def reverse_log_partition(
        self,
        condition: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        runs: int = 64,
        temperatures: int = 500,
        samples: Tensor | None = None,
    ) -> ais.Annealed:
        """log Z by annealing from the model down to its base: an upper bound in expectation.

        Args:
            condition: one row.
            runs, temperatures: as of `log_partition`.
            samples: exact draws of the model (S, F) in model space; without them the persistent chains are moved on,
                and it is approximate.
        """
        g, condition = rng.resolve(generator, seed), self.check_condition(condition, 1)
        with self._evaluating():
            ends = samples
            if ends is None:
                ends = self._chain_ends(runs, None if condition is None else condition.repeat_interleave(runs), g)
            found = langevin.reverse_annealed_log_partition(
                self.base, self._excess_under(condition), self._starts(len(ends)), ends.to(self.device, self.dtype),
                self.kernel, temperatures=temperatures, step_size=float(self.step_size), generator=g,
                exact_starts=samples is not None,
            )  # fmt: skip
            return replace(found, log_z=self.log_base_partition() + found.log_z)

    def _excess_under(self, condition: Condition | None) -> langevin.Energy:
        """f under one condition row, for any number of positions."""
        context = self.context(condition)
        return lambda y: self.excess(y, None if context is None else context.expand(len(y), -1))

    def _starts(self, runs: int) -> Callable[[torch.Generator], Tensor]:
        return lambda generator: self.base_draws(runs, generator)

    def _every_point(self) -> Tensor | None:
        """All points of the lattice (N, F), None when they are too many."""
        size, levels = self.features.size, len(self.values)
        if size * math.log(levels) > math.log(MOST_POINTS) + 1e-9:
            return None
        index = torch.arange(levels**size, device=self.device).unsqueeze(1)
        return self.values[index // levels ** torch.arange(size, device=self.device) % levels]

    def _by_quadrature(self, log_p: Callable[[Tensor], Tensor]) -> float:
        """log of the integral of p over one or two dimensions: a coarse grid finds where p is, a fine one sums it."""
        size = self.features.size
        reach = 25 * self.base_scale
        lines = [torch.linspace(-reach, reach, 501, dtype=torch.float64, device=self.device)] * size
        grid = torch.cartesian_prod(*lines).view(-1, size)
        values = log_p(grid.to(self.dtype))
        there = grid[values > values.max() - 40]  # the rest is lost in a float64's rounding
        margin = 2 * reach / 500
        ends = [(float(c.min()) - margin, float(c.max()) + margin) for c in there.unbind(1)]
        count = 1401 if size == 2 else 50_001
        lines = [torch.linspace(low, high, count, dtype=torch.float64, device=self.device) for low, high in ends]
        grid = torch.cartesian_prod(*lines).view(-1, size)
        log_cell = sum(math.log((high - low) / (count - 1)) for low, high in ends)
        return float(log_p(grid.to(self.dtype)).logsumexp(0)) + log_cell
