"""What energy-based models share: a network's energy above that of a base distribution, its chains, and its log Z.

    p(x) = exp(-E(x)) / Z,   E(y) = f(y) + |y|^2 / (2 s^2)

`EnergyModel.potential` is E, `excess` f, `base_draws` draws from the base, whose Z is known: it makes exp(-E)
normalisable, gives chains their start and annealing its first stage. `advance` moves chains and `log_partition` gives
log Z. How f is learned is what the models differ in; `_replay` keeps chains between visits for those that need some at
every step; `_drift` tells whether draws of a model are those of its energy.

f is a perceptron, or on images of 16x16 and more a stack of strided convolutions. Reals of few dimensions enter it with
their sines and cosines, without which a perceptron is slow to learn narrow modes (Tancik et al. 2020,
arXiv:2006.10739). On lattice data E is an energy of lattice points and Z a sum over them. Before every ten steps each
chain is also offered fresh draws of the base, which let chains in few dimensions cross between modes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polymode.core import rng
from polymode.core.capabilities import Completes, HasEnergy
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError, require_choice
from polymode.core.model import GenerativeModel
from polymode.core.spec import Spec
from polymode.models.energy._partition import lattice_points, log_integral
from polymode.parts.encoders.condition import Conditioned, encoder_for
from polymode.parts.features import Features
from polymode.parts.nn.dcgan import ConvDiscriminator
from polymode.parts.nn.mlp import MLP, Activation
from polymode.parts.samplers import ais, discrete, hmc, langevin

#: "auto" is mala on reals and its like on lattices
Sampler = Literal["auto", "langevin", "mala", "hmc", "gwg"]
SAMPLERS: tuple[Sampler, ...] = ("auto", "langevin", "mala", "hmc", "gwg")
#: chains are offered a draw of the base before every so many steps
OFFER_EVERY = 10
#: in up to so many dimensions ten of them, which have a chance there; one above. Reals of few dimensions also enter
#: the network as sines and cosines
FEW_DIMS = 8
LARGEST_STEP = 10.0
#: images whose shorter side is at least this are read by convolutions
LEAST_SIDE = 16


class ConvEnergy(nn.Module):
    """Images (B, C * H * W) to (B, out_features): strided convolutions and a perceptron's last layers.

    A context (B, context_features) is added to the hidden layers of the perceptron.
    """

    def __init__(
        self, shape: tuple[int, ...], out_features: int, hidden: Sequence[int], channels: int,
        *, context_features: int, act: Activation,
    ) -> None:  # fmt: skip
        super().__init__()
        self.body = ConvDiscriminator(shape, channels=channels)
        self.head = MLP(
            self.body.out_features, out_features, hidden[-1:], context_features=context_features, act=act,
            zero_last=True,
        )  # fmt: skip

    @property
    def last(self) -> nn.Linear:
        """The layer that gives the output."""
        return self.head.last

    def forward(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        return self.head(self.body(y), context)


class EnergyModel(Conditioned, GenerativeModel, HasEnergy, Completes, ais.HasReverseAIS):
    """Base of the family; a model defines `loss`, and `_chain_ends` where its chains do not begin at the base.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        hidden: widths of the energy network; of a convolutional one the last is that of its perceptron.
        channels: of the first convolution, on images of 16x16 and more; doubled at each halving.
        base_scale: s, of the base, in units of standardised (reals) or scaled to [-1, 1] (lattices) data.
        activation: of the network; smooth ones give smooth gradients.
        sampler: of chains: "langevin" (unadjusted), "mala" (adjusted; on lattices the proposals of Zhang, Liu and Liu
            2022, arXiv:2206.09914), "hmc" (reals), "gwg" (lattices: Grathwohl et al. 2021).
        relaxed: lattice data are spread over the reals by uniform noise of a level's width; E is no energy of them.
        outputs: of the network.

    Raises:
        PolymodeError: numbers out of range, or a sampler that the data do not have.
    """

    frequencies: Tensor
    step_size: Tensor
    values: Tensor
    #: of a chain from the base, where nobody says
    sample_steps: int = 200

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        hidden: Sequence[int],
        channels: int,
        base_scale: float,
        activation: Activation,
        sampler: Sampler = "auto",
        relaxed: bool = False,
        outputs: int = 1,
    ) -> None:
        super().__init__(spec, condition_spec)
        if base_scale <= 0 or channels < 1:
            raise PolymodeError(f"base_scale={base_scale}, channels={channels}: expected both above 0")
        self.base_scale = base_scale
        self.features = Features(spec)
        self.lattice = spec.levels is not None and not relaxed
        self.withheld = (HasEnergy,) if relaxed and spec.levels is not None else ()
        self.condition_encoder, width = encoder_for(condition_spec, hidden[-1]) if outputs == 1 else (None, 0)
        self.waves = spec.is_continuous and self.features.size <= FEW_DIMS
        self.register_buffer("frequencies", torch.tensor([1.0, 2.0, 4.0, 8.0]), persistent=False)
        if spec.kind == "image" and min(spec.shape[1:]) >= LEAST_SIDE:
            self.network: nn.Module = ConvEnergy(
                spec.shape, outputs, hidden, channels, context_features=width, act=activation
            )
        else:
            inputs = self.features.size * (1 + 2 * len(self.frequencies) * self.waves)
            self.network = MLP(inputs, outputs, hidden, context_features=width, act=activation, zero_last=True)
        self.offers = 10 if self.features.size <= FEW_DIMS else 1
        levels = spec.levels or 2
        self.kernel, self.best_acceptance = _kernel(sampler, levels if self.lattice else None)
        # annealing has to leave each stage as it is
        self.exact_kernel: langevin.Kernel = self.kernel if sampler != "langevin" else langevin.mala_step
        self.register_buffer("values", torch.linspace(-1, 1, levels), persistent=False)
        # a step on a lattice must be able to reach the next level
        self.register_buffer("step_size", torch.tensor(max(0.5, 2 / (levels - 1)) if self.lattice else 0.5))

    # -- the energy ------------------------------------------------------------------------------------------------
    def read(self, y: Tensor) -> Tensor:
        """What the network takes of features (B, F)."""
        if not self.waves:
            return y
        angles = (y.unsqueeze(2) * self.frequencies).flatten(1)  # (B, F * 4)
        return torch.cat([y, angles.sin(), angles.cos()], 1)

    def excess(self, y: Tensor, context: Tensor | None) -> Float[Tensor, " B"]:
        """f(y): the energy above that of the base."""
        return self.network(self.read(y), context).squeeze(1)

    def base(self, y: Tensor) -> Float[Tensor, " B"]:
        """|y|^2 / (2 s^2)."""
        return y.square().sum(1) / (2 * self.base_scale**2)

    def potential(self, y: Tensor, context: Tensor | None) -> Float[Tensor, " B"]:
        """E(y), in model space."""
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

    def in_model_space(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Features (B, F) of data; of lattice data that are relaxed, with uniform noise of a level's width."""
        y = self.features(x)
        if self.lattice or self.spec.levels is None:
            return y
        return y + (rng.rand(y.shape, generator, y) - 0.5) * 2 / (self.spec.levels - 1)

    # -- chains ----------------------------------------------------------------------------------------------------
    def advance(
        self, y: Tensor, context: Tensor | None, steps: int, generator: torch.Generator, step_size: float | None = None
    ) -> tuple[Tensor, float]:
        """Chains (B, F) moved by the kernel, at the present step size or another: (positions, mean acceptance)."""
        context = None if context is None else context.detach()
        step_size = float(self.step_size) if step_size is None else step_size
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
                steps=now, step_size=step_size, generator=generator,
            )  # fmt: skip
            accepted += rate * now / steps
        return y, accepted

    def _sample(
        self, n: int, condition: Condition | None, generator: torch.Generator, *, steps: int | None = None
    ) -> Tensor:
        """Ends of chains of `steps` steps; see the model for where they begin."""
        return self.features.decode(self._chain_ends(n, condition, generator, steps))

    def _chain_ends(
        self, n: int, condition: Condition | None, generator: torch.Generator, steps: int | None = None
    ) -> Tensor:
        """Draws of the base (n, F), annealed over `steps` stages and moved as many steps at the end of them."""
        steps, context = self.sample_steps if steps is None else steps, self.context(condition)
        y, size = langevin.annealed(
            self.base, lambda z: self.excess(z, context), self.base_draws(n, generator), self.exact_kernel,
            temperatures=max(1, steps), step_size=0.5, generator=generator,
        )  # fmt: skip
        return self.advance(y, context, steps, generator, min(size, LARGEST_STEP))[0]

    def _complete(
        self,
        x: Tensor,
        mask: Tensor,
        condition: Condition | None,
        generator: torch.Generator,
        *,
        steps: int | None = None,
    ) -> Tensor:
        """Chains of what is missing while what is known is held, annealed from the base as samples are.

        What is known leaves the energy of the chains, in which those places follow the base and are then put back.
        """
        steps, context = self.sample_steps if steps is None else steps, self.context(condition)
        known, given = mask.flatten(1)[:, self.features.owner], self.features(x)

        def excess(z: Tensor) -> Tensor:
            return self.excess(torch.where(known, given, z), context)

        y, size = langevin.annealed(
            self.base, excess, self.base_draws(len(x), generator), self.exact_kernel,
            temperatures=max(1, steps), step_size=0.5, generator=generator,
        )  # fmt: skip
        y, _ = langevin.run(
            lambda z: self.base(z) + excess(z), y, self.exact_kernel,
            steps=steps, step_size=min(size, LARGEST_STEP), generator=generator,
        )  # fmt: skip
        return self.features.decode(torch.where(known, given, y))

    # -- doors -----------------------------------------------------------------------------------------------------
    def _energy(self, x: Tensor, condition: Condition | None) -> Tensor:
        return self.potential(self.features(x), self.context(condition)) + self._log_unit()

    def _log_unit(self) -> Tensor | float:
        """What makes a density one per unit of the user's measurement, dx = scale dy: log scale; 0 on lattices."""
        return 0.0 if self.lattice else self.features.scale.log().expand(self.features.size).sum()

    def log_partition(
        self,
        condition: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        chains: int = 256,
        temperatures: int = 500,
    ) -> tuple[float, float]:
        """(log Z, standard error), nats.

        Exact on small lattices; by quadrature in one or two real dimensions, whose error is far below a float32's
        where the density is wider than a hundredth of its standard deviation; else by annealing `chains` draws of the
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
                return log_integral(log_p, self.features.size, 25 * self.base_scale, self._anchor), 0.0
            log_ratio, error = langevin.annealed_log_partition(
                self.base, excess, self._starts(chains), self.exact_kernel,
                temperatures=temperatures, step_size=float(self.step_size), generator=g,
            )  # fmt: skip
            return self.log_base_partition() + log_ratio, error

    def reverse_log_partition(
        self,
        condition: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        chains: int = 64,
        temperatures: int = 500,
        samples: Tensor | None = None,
    ) -> ais.Annealed:
        """log Z by annealing from the model down to its base: an upper bound in expectation.

        Args:
            condition: one row.
            chains, temperatures: as of `log_partition`.
            samples: exact draws of the model (S, F) in model space; without them the model's chains are moved on,
                and it is approximate.
        """
        g, condition = rng.resolve(generator, seed), self.check_condition(condition, 1)
        with self._evaluating():
            ends = samples
            if ends is None:
                ends = self._chain_ends(chains, None if condition is None else condition.repeat_interleave(chains), g)
            found = langevin.reverse_annealed_log_partition(
                self.base, self._excess_under(condition), self._starts(len(ends)), ends.to(self.device, self.dtype),
                self.exact_kernel, temperatures=temperatures, step_size=float(self.step_size), generator=g,
                exact_starts=samples is not None,
            )  # fmt: skip
            return replace(found, log_z=self.log_base_partition() + found.log_z)

    def _excess_under(self, condition: Condition | None) -> langevin.Energy:
        """f under one condition row, for any number of positions."""
        context = self.context(condition)
        return lambda y: self.excess(y, None if context is None else context.expand(len(y), -1))

    def _starts(self, chains: int) -> Callable[[torch.Generator], Tensor]:
        return partial(self.base_draws, chains)

    def _every_point(self) -> Tensor | None:
        """All points of the lattice (N, F), None when they are too many."""
        return lattice_points(self.values, self.features.size)


def _kernel(sampler: Sampler, levels: int | None) -> tuple[langevin.Kernel, float | None]:
    """The kernel of a sampler on reals (None) or a lattice, and the acceptance to tune its step size to, if any."""
    require_choice("sampler", sampler, SAMPLERS)
    on_lattice: dict[str, tuple[langevin.Kernel, float | None]] = {
        "mala": (langevin.LatticeKernel(levels or 2), langevin.BEST_ACCEPTANCE),
        "gwg": (discrete.GibbsWithGradients(discrete.Levels(levels or 2)), None),
    }
    on_reals: dict[str, tuple[langevin.Kernel, float | None]] = {
        "langevin": (langevin.langevin_step, None), "mala": (langevin.mala_step, langevin.BEST_ACCEPTANCE),
        "hmc": (hmc.HMC(), hmc.TARGET),
    }  # fmt: skip
    table = on_reals if levels is None else on_lattice
    name = "mala" if sampler == "auto" else sampler
    if name not in table:
        raise PolymodeError(
            f"sampler={sampler!r} moves chains on {'lattices' if levels is None else 'reals'} and these are "
            f"{'reals' if levels is None else f'a lattice of {levels} levels'}; use one of {', '.join(table)}"
        )
    return table[name]
