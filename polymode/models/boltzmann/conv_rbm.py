"""Convolutional restricted Boltzmann machine: hidden units are maps of small filters, pooled by a distribution.

Lee, Grosse, Ranganath and Ng 2009, Convolutional deep belief networks for scalable unsupervised learning of
hierarchical representations, sections 3.2 to 3.4; rate-coded visible units of levels as in Teh and Hinton 2001. With
filters W_g, * the convolution that keeps inner places, and at most one unit on in every block of c x c of a map,

    E(v, h) = -log m(v) - b.v - sum_g c_g sum_j h_gj - sum_gj (h_gj - o) (W_g * (v - mu))_j
    p(h_gj = 1 | v) = exp(a_gj) / (1 + sum_{i in block of j} exp(a_gi)),     a_g = c_g + W_g * (v - mu)      (eq. 6)
    p(pool of a block is off | v) = 1 / (1 + sum_{i in block} exp(a_gi))                                     (eq. 7)
    F(v) = -log m(v) - b.v - sum_blocks log(1 + sum_{i in block} exp(a_gi)) + o sum_gj (a_gj - c_g)

`MaxPooling` holds the blocks: its log-partition, its means (eq. 6) and its draws, each one of c^2 + 1 outcomes a block;
`ConvRBM.hidden_input` is a, `ConvRBM.pooling_probabilities` eq. 7. What p(v | h) is belongs to the visible layer
(`_units`). With pool=1 it is a restricted Boltzmann machine whose weights are tied. `sparsity` pulls the mean activity
of each map to `target` (section 3.2), as a squared error.
Deviation: units are centred as everywhere in this family, mu the mean of each channel, so that p(h | v) moves with v,
and o = 1 / (1 + c^2). Visible biases are one a pixel (`visible_bias="channel"` is the paper's). Blocks at the end of a
map whose side c does not divide are smaller. Chains persist, where the paper has one step of contrastive divergence.

Likelihood: exact by enumeration up to 2^16 states of either layer, else log Z by annealing. Sampling: two
convolutions a sweep.
Expected: filters of 8x8 digits are local strokes (neighbouring weights agree, energy lies together), digits win 5 nats
over independent pixels, and few labels tell them apart better than pixels do; tests/learning/test_conv_rbm.py.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core import rng
from polymode.core.capabilities import HasFilters, HasLatents
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError, require_choice
from polymode.core.loss import Loss
from polymode.core.spec import Spec
from polymode.models.boltzmann._likelihood import Fields
from polymode.models.boltzmann._machine import Algorithm, BoltzmannMachine
from polymode.models.boltzmann._units import Beta, Counts, Known, LatticeGaussian, Units, a_row, between, kept
from polymode.parts.samplers import ais


class MaxPooling:
    """G maps of h x w bits, of which at most one is on in each block of c x c.

    Attributes:
        size: G h w.
        maps: (G, h, w).
        pooled: (G, ceil(h / c), ceil(w / c)).
    """

    def __init__(self, maps: tuple[int, int, int], pool: int) -> None:
        g, h, w = maps
        self.maps, self.pool, self.size = maps, pool, g * h * w
        self.pooled = (g, -(-h // pool), -(-w // pool))

    def blocks(self, a: Tensor, outside: float) -> Float[Tensor, "B G P Q M"]:
        """(B, G h w) -> the c^2 units of each block; `outside` stands where a block ends beyond the map."""
        c, (g, p, q) = self.pool, self.pooled
        a = F.pad(a.view(-1, *self.maps), (0, q * c - self.maps[2], 0, p * c - self.maps[1]), value=outside)
        return a.view(-1, g, p, c, q, c).transpose(3, 4).flatten(4)  # (B, G, P, Q, c * c)

    def unblock(self, blocks: Float[Tensor, "B G P Q M"]) -> Float[Tensor, "B F"]:
        """The inverse of `blocks`."""
        c, (g, p, q) = self.pool, self.pooled
        whole = blocks.unflatten(4, (c, c)).transpose(3, 4).reshape(-1, g, p * c, q * c)
        return whole[:, :, : self.maps[1], : self.maps[2]].flatten(1)

    def _with_off(self, a: Tensor) -> Tensor:
        """The logits of the c^2 + 1 outcomes of each block; that no unit is on comes last."""
        return F.pad(self.blocks(a, -torch.inf), (0, 1))

    def log_partition(self, a: Float[Tensor, "B F"]) -> Float[Tensor, " B"]:
        """sum over blocks of log(1 + sum exp(a))."""
        if self.pool == 1:
            return F.softplus(a).sum(1)
        return self._with_off(a).logsumexp(4).flatten(1).sum(1)

    def _on(self, a: Tensor) -> Float[Tensor, "B G P Q M"]:
        """p(h = 1 | a) of the units of each block."""
        return self.blocks(a.sigmoid(), 0.0) if self.pool == 1 else self._with_off(a).softmax(4)[..., :-1]

    def mean(self, a: Float[Tensor, "B F"]) -> Float[Tensor, "B F"]:
        """p(h = 1 | a)."""
        return self.unblock(self._on(a))

    def numbers(self, n: int, generator: torch.Generator, like: Tensor) -> Float[Tensor, "n G P Q 1"]:
        """The uniform numbers of n draws: one a block."""
        return rng.rand((n, *self.pooled, 1), generator, like)

    def draw(self, a: Float[Tensor, "B F"], generator: torch.Generator) -> Float[Tensor, "B F"]:
        """h ~ p(. | a)."""
        return self.chosen(a, self.numbers(len(a), generator, a))

    def chosen(self, a: Float[Tensor, "B F"], u: Float[Tensor, "#B G P Q 1"]) -> Float[Tensor, "B F"]:
        """h by the inverse distribution function at u."""
        return self._first(u < self._on(a).cumsum(4), a)

    def _first(self, passed: Tensor, like: Tensor) -> Float[Tensor, "B F"]:
        """The first unit of each block of `passed`, 0 .. 0 1 .. 1."""
        passed = passed.to(like.dtype)
        return self.unblock(passed - F.pad(passed, (1, 0))[..., :-1])

    def placed(self, on: Float[Tensor, "B P"], generator: torch.Generator) -> Float[Tensor, "B F"]:
        """h given its pooling units, in a block that is on each unit as likely as any other."""
        inside = self.blocks(on.new_ones(1, self.size), 0.0)  # (1, G, P, Q, M), 0 beyond the map
        u = self.numbers(len(on), generator, on) * inside.sum(4, keepdim=True)
        return self._first(u < inside.cumsum(4), on) * self.spread(on * self.sizes(on))

    def spread(self, on: Float[Tensor, "B P"]) -> Float[Tensor, "B F"]:
        """The mean of `placed`: what is on, shared out among the units of its block."""
        shares = (on / self.sizes(on)).view(-1, *self.pooled, 1)
        return self.unblock(shares.expand(*shares.shape[:4], self.pool**2))

    def any_on(self, h: Float[Tensor, "B F"]) -> Float[Tensor, "B P"]:
        """The sum of each block, of bits or probabilities: whether, or how likely, the pooling unit is on."""
        return self.blocks(h, 0.0).sum(4).flatten(1)

    def sizes(self, like: Tensor) -> Float[Tensor, " P"]:
        """How many units each block has."""
        return self.any_on(like.new_ones(1, self.size)).squeeze(0)

    @property
    def log2_states(self) -> float:
        """log2 of the number of states."""
        return float((1 + self.sizes(torch.zeros(1))).log2().sum())

    def every_state(self, like: Tensor) -> Float[Tensor, "N F"]:
        """Every state, for few."""
        block_of = self.unblock(torch.arange(math.prod(self.pooled)).view(1, *self.pooled, 1).expand(
            1, *self.pooled, self.pool**2)).squeeze(0)  # (F,)  # fmt: skip
        found = like.new_zeros(1, self.size)
        for block in range(math.prod(self.pooled)):
            units = (block_of == block).nonzero().squeeze(1)
            outcomes = like.new_zeros(len(units) + 1, self.size)
            outcomes[torch.arange(len(units)), units] = 1
            found = (found.unsqueeze(1) + outcomes).flatten(0, 1)
        return found


class ConvRBM(BoltzmannMachine, HasLatents, HasFilters):
    """A convolutional restricted Boltzmann machine on images. The state of a chain is its hidden bits.

    Args:
        spec: what one datum is.
        condition_spec: a label, or None.
        filters: G, maps of hidden units.
        kernel: side of a filter.
        pool: c, side of a block of which at most one unit is on.
        padding: pixels at their mean that the image is surrounded by.
        visible: "counts" of bits (binomial), or "gaussian" on the levels as evenly spaced points.
        visible_bias: one a "pixel" or one a "channel".
        sparsity: the weight of the pull on activities; 0 is none.
        target: the mean activity of a hidden unit that it pulls to.
        algorithm, k, chains: as of `polymode.RBM`.

    Raises:
        PolymodeError: numbers out of range, or a filter larger than the image.
    """

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        filters: int = 32,
        kernel: int = 5,
        pool: int = 2,
        padding: int = 0,
        visible: Literal["counts", "gaussian"] = "counts",
        visible_bias: Literal["pixel", "channel"] = "pixel",
        sparsity: float = 0.0,
        target: float = 0.05,
        algorithm: Algorithm = "pcd",
        k: int = 1,
        chains: int = 100,
    ) -> None:
        require_choice("visible", visible, ("counts", "gaussian"))
        require_choice("visible_bias", visible_bias, ("pixel", "channel"))
        units: Units = Counts(spec) if visible == "counts" else LatticeGaussian(spec)
        super().__init__(spec, condition_spec, units)
        if min(filters, kernel, pool) < 1 or padding < 0 or sparsity < 0 or not 0 < target < 1:
            raise PolymodeError(
                f"filters={filters}, kernel={kernel}, pool={pool}, padding={padding}, sparsity={sparsity}, "
                f"target={target}: expected at least 1, 1, 1, 0 and 0, and a target between 0 and 1"
            )
        channels, height, width = spec.shape
        h, w = height + 2 * padding - kernel + 1, width + 2 * padding - kernel + 1
        if min(h, w) < 1:
            raise PolymodeError(
                f"a filter of {kernel}x{kernel} does not fit into an image of {height}x{width}; take a smaller kernel, "
                "or padding"
            )
        self.padding, self.sparsity, self.target = padding, sparsity, target
        self.pooling = MaxPooling((filters, h, w), pool)
        self.offset = 1 / (1 + pool**2)
        self.weight = nn.Parameter(0.01 * torch.randn(filters, channels, kernel, kernel))
        shape = spec.shape if visible_bias == "pixel" else (channels, 1, 1)
        self.visible_bias, self.hidden_bias = nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.zeros(filters))
        if self.rows:
            self.visible_bias_of = nn.Parameter(torch.zeros(self.rows, *shape))
            self.hidden_bias_of = nn.Parameter(torch.zeros(self.rows, filters))
        self.make_chains(self.pooling.size, algorithm=algorithm, k=k, chains=chains)

    # -- the machine -----------------------------------------------------------------------------------------------
    def fields(self, condition: Condition | None) -> Fields:
        """b, (D,), and c, (G,), or one a row."""
        rows = self.rows_of(condition)
        if rows is None:
            return self.visible_bias.expand(self.spec.shape).flatten(), self.hidden_bias
        b = self.visible_bias + self.visible_bias_of[rows]
        return b.expand(-1, *self.spec.shape).flatten(1), self.hidden_bias + self.hidden_bias_of[rows]

    @property
    def mean(self) -> Float[Tensor, "C 1 1"]:
        """mu: the mean of each channel in the first batch."""
        return self.units.mean(self.base_bias, 0.0).view(self.spec.shape).mean((1, 2), keepdim=True)

    def filtered(self, v: Float[Tensor, "B D"]) -> Float[Tensor, "B F"]:
        """W * (v - mu) of every map."""
        images = self.units.scale * (v.view(-1, *self.spec.shape) - self.mean)
        return F.conv2d(images, self.weight, padding=self.padding).flatten(1)

    def to_units(self, c: Tensor) -> Tensor:
        """A number a map, (G,) or (B, G), as one a hidden unit."""
        return c.repeat_interleave(self.pooling.size // self.pooling.maps[0], -1)

    def hidden_input(self, v: Float[Tensor, "B D"], c: Tensor) -> Float[Tensor, "B F"]:
        """a, (B, F), of every hidden unit."""
        return self.filtered(v) + self.to_units(c)

    def visible_input(self, h: Float[Tensor, "B F"], b: Tensor) -> Float[Tensor, "B D"]:
        """eta, the natural parameters of p(v | h): filters laid down where units are on."""
        maps = (h - self.offset).view(-1, *self.pooling.maps)
        laid = F.conv_transpose2d(maps, self.weight, padding=self.padding)
        return b + self.units.scale * laid.flatten(1)

    def free_energy(self, v: Tensor, fields: Fields, beta: Beta = 1.0) -> Float[Tensor, " B"]:
        return self._free_energy(v, self.filtered(v), fields, beta)

    def _free_energy(self, v: Tensor, found: Tensor, fields: Fields, beta: Beta = 1.0) -> Tensor:
        b, c = fields
        hidden = self.pooling.log_partition(beta * (found + self.to_units(c)))
        linear = (v * between(self.base_bias, b, beta)).sum(1)
        return a_row(beta) * self.offset * found.sum(1) - linear - hidden - self.units.log_measure(v, beta)

    def joint_energy(self, v: Tensor, h: Tensor, fields: Fields) -> Float[Tensor, " B"]:
        """E(v, h), (B,), of visible values (B, D) and hidden bits (B, F)."""
        b, c = fields
        energy = -self.units.log_measure(v) - (v * b).sum(1) - (h * self.to_units(c)).sum(1)
        return energy - ((h - self.offset) * self.filtered(v)).sum(1)

    def pooling_probabilities(self, x: Tensor, condition: Condition | None = None) -> Float[Tensor, "B G P Q"]:
        """p(a pooling unit is on | x), one less eq. 7."""
        x, condition = self.enter(x, condition)
        with self._evaluating():
            return self.pooling.any_on(self._encode(x, condition)).view(-1, *self.pooling.pooled)

    # -- chains ----------------------------------------------------------------------------------------------------
    def draw_visible(
        self, state: Tensor, fields: Fields, generator: torch.Generator, beta: Beta = 1.0, known: Known | None = None
    ) -> Tensor:
        eta = between(self.base_bias, self.visible_input(state, fields[0]), beta)
        return kept(self.units.draw(eta, generator, beta), known)

    def draw_state(
        self, v: Tensor, state: Tensor | None, fields: Fields, generator: torch.Generator, beta: Beta = 1.0
    ) -> Tensor:
        return self.pooling.draw(beta * self.hidden_input(v, fields[1]), generator)

    def energy_and_state(
        self, v: Tensor, fields: Fields, first: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        found = self.filtered(v)
        energy = self._free_energy(v, found, fields)
        if self.algorithm != "pcd":
            return energy, None
        c = fields[1] if fields[1].dim() == 1 else fields[1][first:]
        return energy, self.pooling.draw((found[first:] + self.to_units(c)).detach(), generator)

    def prepare(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> None:
        """Visible biases from the means of the data, chains from them."""
        super().prepare(x, condition, generator)
        with torch.no_grad():
            base = self.base_bias.view(self.spec.shape)
            self.visible_bias.copy_(base if self.visible_bias.shape == base.shape else base.mean((1, 2), keepdim=True))

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        found = super().loss(x, condition, generator=generator)
        if not self.sparsity:
            return found
        on = self.pooling.mean(self.hidden_input(self.units.encode(x), self.fields(condition)[1]))
        activity = on.view(len(x), self.pooling.maps[0], -1).mean((0, 2))  # (G,)
        pull = self.sparsity * (activity - self.target).square().sum()
        return Loss(found.per_example + pull, found.parts | {"activity": activity.mean().detach()})

    # -- log Z -----------------------------------------------------------------------------------------------------
    def log_base_partition(self) -> float:
        """Independent visible units at their base rates, every outcome of a block as likely."""
        visible = float(self.units.log_partition(self.base_bias, 0.0))
        return visible + float((1 + self.pooling.sizes(self.base_bias)).double().log().sum())

    @property
    def log2_summed(self) -> float:
        return min(self.pooling.log2_states, self.units.log2_states)

    def log_partition_by_sum(self, fields: Fields) -> float:
        b, c = fields
        if self.units.log2_states <= self.pooling.log2_states:
            terms = [-self.free_energy(v, fields) for v in self.units.every_state().split(4096)]
        else:
            to_mean = self.filtered(torch.zeros_like(b).unsqueeze(0))[0]  # -W * mu
            terms = [
                h @ self.to_units(c) + (h - self.offset) @ to_mean + self.units.log_partition(self.visible_input(h, b))
                for h in self.pooling.every_state(b).split(4096)
            ]
        return float(torch.cat(terms).double().logsumexp(0))

    def annealing(self, fields: Fields, generator: torch.Generator) -> ais.Step:
        def step(v: Tensor, start: float, end: float) -> tuple[Tensor, Tensor]:
            found = self.filtered(v)  # once for both temperatures and the draw
            gain = self._free_energy(v, found, fields, start) - self._free_energy(v, found, fields, end)
            h = self.pooling.draw(end * (found + self.to_units(fields[1])), generator)
            return gain, self.draw_visible(h, fields, generator, end)

        return step

    # -- filters and latents -------------------------------------------------------------------------------------------
    def _filters(self) -> Float[Tensor, "G C K K"]:
        return self.weight

    def _encode(self, x: Tensor, condition: Condition | None) -> Float[Tensor, "B F"]:
        """p(h = 1 | v), (B, G h w)."""
        return self.pooling.mean(self.hidden_input(self.units.encode(x), self.fields(condition)[1]))

    def _decode(self, z: Tensor, condition: Condition | None) -> Tensor:
        """The mean of v given the hidden probabilities or bits, put to data."""
        return self.units.decode(self.units.mean(self.visible_input(z.to(self.dtype), self.fields(condition)[0])))
