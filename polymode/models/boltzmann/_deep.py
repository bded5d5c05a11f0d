"""Machines of layers in a row: a restricted machine between every second layer and the rest, some of which are hidden.

With layers s_0 .. s_L, of which those at odd places are bits h and those at even places the values v, each layer's
neighbours belong to the other kind, so that in terms of `_restricted`

    F(v) = -log m(v) - b.v - sum_j (softplus(a_j) - (a_j - c_j) / 2) is closed,  a = c + W (v - mu),
    W holding the blocks W_l between s_l and s_l+1, and nothing where layers are no neighbours.

Chains and enumeration are those of a restricted machine; annealing sums the even layers out. But data show only a part
of v. Of the rest r (layers of bits at even places; a condition that is withheld) there is a factorial posterior by mean
field,

    q(r) = prod p(r_l | eta_l),  eta_l = b_l + (sigmoid(a(x, E r)) - 1/2) W_l       (`mean_field`, a fixed point)
    log sum_r exp(-F(x, r)) >= -F(x, E r) + sum_l (A_l(eta_l) - eta_l.E r_l)        (`bound`: mean field of all layers)
                            >= E_q [-F(x, r) - log q(r)]                            (`_log_weights`)

the bound being that of Salakhutdinov and Hinton (2009, Deep Boltzmann machines, eq. 7) with odd layers at their best.
The positive phase is F at (x, E r), whose gradient is the bound's (`visible`). Each half round of `mean_field` can only
raise the bound. The third line, whose odd layers are summed out in closed form, is one in expectation, and importance
weights of many draws tighten it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core.capabilities import HasEnergyBound, HasFilters
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import CapabilityError, PolymodeError
from polymode.core.spec import Binary, Spec
from polymode.models.boltzmann._blocks import SoftplusSum, flips
from polymode.models.boltzmann._likelihood import Fields
from polymode.models.boltzmann._restricted import RestrictedMachine
from polymode.models.boltzmann._units import Beta, Counts, Known, Units, kept
from polymode.parts.samplers import ais

#: numbers of draws of q that are weighed at once
CHUNK = 2**22


def bits(width: int) -> Counts:
    """A layer of bits."""
    return Counts(Spec("vector", (width,), Binary()))


class Joined(Units):
    """Layers side by side, as one layer: the values of one that is shown (the first), and those of the others.

    `encode` and `decode` are those of the first.
    """

    def __init__(self, parts: Sequence[Units]) -> None:
        nn.Module.__init__(self)
        self.parts = nn.ModuleList(parts)
        self.sizes = [part.size for part in parts]
        self.size, self.shape = sum(self.sizes), (sum(self.sizes), 1)
        self.log2_states = sum(part.log2_states for part in parts)
        self.register_buffer("anchor", torch.zeros(()), persistent=False)

    def split(self, values: Tensor) -> tuple[Tensor, ...]:
        """(..., F) as the values of each part."""
        return values.split(self.sizes, -1)

    def _each(self, name: str, values: Tensor, *rest: Any) -> list[Any]:
        return [getattr(part, name)(v, *rest) for part, v in zip(self.parts, self.split(values), strict=True)]

    def encode(self, x: Tensor) -> Tensor:
        return self.parts[0].encode(x)

    def decode(self, v: Tensor) -> Tensor:
        return self.parts[0].decode(v[:, : self.sizes[0]])

    def log_measure(self, v: Tensor, beta: Beta = 1.0) -> Tensor | float:
        return sum(self._each("log_measure", v, beta))

    def log_partition(self, eta: Tensor, beta: Beta = 1.0) -> Tensor:
        return torch.stack(self._each("log_partition", eta, beta)).sum(0)

    def mean(self, eta: Tensor, beta: Beta = 1.0) -> Tensor:
        return torch.cat(self._each("mean", eta, beta), -1)

    def draw(self, eta: Tensor, generator: torch.Generator, beta: Beta = 1.0) -> Tensor:
        return torch.cat(self._each("draw", eta, generator, beta), -1)

    def fit(self, v: Tensor) -> Tensor:
        return torch.cat(self._each("fit", v), -1)

    def spread(self, mask: Bool[Tensor, "B D"]) -> Bool[Tensor, "B F"]:
        """What is known of the first part; nothing else is."""
        shown = self.parts[0].spread(mask)
        return F.pad(shown, (0, self.size - shown.shape[1]))

    def every_state(self) -> Tensor:
        tables = [part.every_state() for part in self.parts]
        index = torch.cartesian_prod(*[torch.arange(len(t)) for t in tables]).view(-1, len(tables))
        return torch.cat([t[index[:, j]] for j, t in enumerate(tables)], 1)

    def log_volume(self) -> float:
        return self.parts[0].log_volume()


@dataclass(frozen=True)
class Posterior:
    """q of what data do not show.

    Args:
        v: (B, F) data and means of the rest.
        eta: (B, R) natural parameters of the rest, the last columns of v.
        on: (B, H) means of the odd layers.
        rounds: that were made.
        change: the largest change of a mean in the last one.
    """

    v: Tensor
    eta: Tensor
    on: Tensor
    rounds: int
    change: float


class DeepMachine(RestrictedMachine, HasEnergyBound):
    """Layers in a row, the first of which is data.

    Args:
        layers: units of each layer; those at odd places are bits.
        mean_field_rounds: at most so many in training.
        options: of `RestrictedMachine`.

    A subclass may hold a part of a row by `held`.
    """

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None,
        layers: Sequence[Units],
        *,
        mean_field_rounds: int = 10,
        **options: Any,
    ) -> None:
        if mean_field_rounds < 1:
            raise PolymodeError(f"mean_field_rounds={mean_field_rounds}, expected at least 1")
        self.widths = [layer.size for layer in layers]
        super().__init__(spec, condition_spec, Joined(layers[::2]), hidden=sum(self.widths[1::2]), **options)
        self.shown, self.rounds = self.widths[0], mean_field_rounds
        if layers[0].shape[1] > 1:  # several weights a site are no picture of a datum
            self.withheld = (*self.withheld, HasFilters)
        #: layers that are neither data nor a condition
        self.hidden_places = range(1, len(layers))

    def make_weights(self) -> None:
        self.weights = nn.ParameterList(
            0.01 * torch.randn(up, down) for down, up in zip(self.widths[:-1], self.widths[1:], strict=True)
        )

    # -- inputs ----------------------------------------------------------------------------------------------------
    def hidden_input(self, v: Tensor, c: Tensor, first: int = 0) -> Tensor:
        """a, (..., H); of the even layers from the `first` on only, whose values v then holds."""
        sizes = self.widths[0::2][first:]
        centred = dict(enumerate((v - self.mean[-sum(sizes) :]).split(sizes, -1), first))
        columns = []
        for place in range(1, len(self.widths), 2):
            a: Tensor | None = None
            for other in (place - 1, place + 1):
                if (values := centred.get(other // 2)) is None or other >= len(self.widths):
                    continue
                scaled = values if (s := self.units.parts[other // 2].scale) == 1 else values * s
                part = F.linear(scaled, self.weights[other]) if other < place else scaled @ self.weights[place]
                a = part if a is None else a + part
            columns.append(v.new_zeros(*v.shape[:-1], self.widths[place]) if a is None else a)
        return c + (columns[0] if len(columns) == 1 else torch.cat(columns, -1))

    def visible_input(self, h: Tensor, b: Tensor, first: int = 0) -> Tensor:
        """eta, (..., F); of the even layers from the `first` on only, whose biases b then holds."""
        centred = (h - 0.5).split(self.widths[1::2], -1)
        columns = []
        for place in range(2 * first, len(self.widths), 2):
            eta: Tensor | float = 0.0
            if place > 0:
                eta = eta + F.linear(centred[place // 2 - 1], self.weights[place - 1])
            if place + 1 < len(self.widths):
                eta = eta + centred[place // 2] @ self.weights[place]
            columns.append(eta if (s := self.units.parts[place // 2].scale) == 1 else eta * s)
        return b + (columns[0] if len(columns) == 1 else torch.cat(columns, -1))

    # -- inference -------------------------------------------------------------------------------------------------
    def held(self, condition: Condition | None, n: int) -> Known | None:
        """(values, mask) of (n, R), what is known of the rest: nothing here."""
        return None

    @torch.no_grad()
    def mean_field(
        self, x: Tensor, condition: Condition | None = None, *, rounds: int = 50, tolerance: float = 1e-4
    ) -> Posterior:
        """The fixed point of q, begun at the means of the base.

        Args:
            rounds, tolerance: it ends after so many rounds, or when no mean changes by more.
        """
        v, (b, c) = self.units.encode(x), self.fields(condition)
        known = self.held(condition, len(v))
        # what data send up is the same in every round
        fixed = self._from_shown(v, c)
        rest = kept(self.mean[self.shown :].expand(len(v), -1), known)
        on = self.hidden_input(rest, fixed, 1).sigmoid()
        done, change = 0, float("inf")
        while done < rounds and change > tolerance:
            eta = self.visible_input(on, b[..., self.shown :], 1)
            rest = self._rest_means(eta, known)
            new = self.hidden_input(rest, fixed, 1).sigmoid()
            done, change, on = done + 1, float((new - on).abs().max()), new
        return Posterior(torch.cat([v, rest], 1), eta, on, done, change)

    def _from_shown(self, v: Tensor, c: Tensor) -> Tensor:
        """c and what data send to the layer above them."""
        sent = F.linear((v - self.mean[: self.shown]) * self.units.parts[0].scale, self.weights[0])
        return c + F.pad(sent, (0, self.hidden - sent.shape[1]))

    def _rest_means(self, eta: Tensor, known: Known | None) -> Tensor:
        return kept(torch.cat([part.mean(e) for part, e in self._rest_parts(eta)], -1), known)

    def _rest_parts(self, values: Tensor) -> list[tuple[Units, Tensor]]:
        """The even layers but the first, and what is theirs of (..., R)."""
        parts = list(self.units.parts)[1:]
        return list(zip(parts, values.split([p.size for p in parts], -1), strict=True))

    def _free(self, known: Known | None) -> list[Tensor | float]:
        """For each of the even layers but the first, 1 in rows where it is free, 0 where it is held."""
        if known is None:
            return [1.0] * (len(self.units.parts) - 1)
        return [(~mask[:, 0]).to(self.dtype) for _, mask in self._rest_parts(known[1])]

    def bound(self, q: Posterior, condition: Condition | None = None) -> Float[Tensor, " B"]:
        """The bound on log sum_r exp(-F(x, r))."""
        total = -self.free_energy(q.v, self.fields(condition))
        free = self._free(self.held(condition, len(q.v)))
        means = q.v[:, self.shown :]
        for (part, eta), (_, mean), share in zip(self._rest_parts(q.eta), self._rest_parts(means), free, strict=True):
            entropy = part.log_partition(eta) - (eta * mean).sum(-1) - part.log_measure(mean)
            total = total + share * entropy
        return total

    def _energy(self, x: Tensor, condition: Condition | None) -> Tensor:
        """Minus the bound of mean field."""
        return self.units.log_volume() - self.bound(self.mean_field(x, condition), condition)

    def _log_weights(
        self, x: Tensor, condition: Condition | None, num_samples: int, generator: torch.Generator
    ) -> Iterator[Float[Tensor, "S B"]]:
        q, (b, c), known = self.mean_field(x, condition), self.fields(condition), self.held(condition, len(x))
        v = q.v[:, : self.shown]
        fixed, free = self._from_shown(v, c), self._free(known)
        shown = (v * b[..., : self.shown]).sum(-1) + self.units.parts[0].log_measure(v) - self.units.log_volume()
        size = max(1, CHUNK // q.v.numel())
        for start in range(0, num_samples, size):
            s = min(size, num_samples - start)
            drawn = [
                part.draw(eta.repeat(s, 1), generator).view(s, *eta.shape) for part, eta in self._rest_parts(q.eta)
            ]
            rest = kept(torch.cat(drawn, -1), known)  # (S, B, R)
            a = self.hidden_input(rest, fixed, 1)  # (S, B, H)
            softplus = SoftplusSum.apply(a.flatten(0, 1))[0].view(s, -1)
            total = shown + (rest * b[..., self.shown :]).sum(-1) + softplus - 0.5 * (a - c).sum(-1)
            for (part, values), (_, eta), share in zip(
                self._rest_parts(rest), self._rest_parts(q.eta), free, strict=True
            ):
                log_q = (values * eta).sum(-1) - part.log_partition(eta)  # less log m, which is in both
                total = total - share * log_q + (1 - share) * part.log_measure(values)
            yield total

    def visible(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Tensor:
        """Data with the means of what they do not show."""
        return self.mean_field(x, condition, rounds=self.rounds).v

    # -- chains ----------------------------------------------------------------------------------------------------
    def prepare(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> None:
        """The base of what data show from their means, that of bits fair; chains from the base."""
        with torch.no_grad():
            base = self.units.parts[0].fit(self.units.encode(x))
            self.base_bias[: self.shown] = base
            self.visible_bias[: self.shown] = base
            self.begin_chains(self.base_draws(len(self.chain_state), generator), generator)

    def clamped(self, condition: Condition | None, n: int, shown: Known | None = None) -> Known | None:
        """What is known of all of v: of data what is ``shown``, of the rest what is held; None where nothing is."""
        known = self.held(condition, n)
        if known is None and shown is None:
            return None
        values = torch.zeros(n, self.units.size, dtype=self.dtype, device=self.device)
        mask = torch.zeros(n, self.units.size, dtype=torch.bool, device=self.device)
        if shown is not None:
            values[:, : self.shown], mask[:, : self.shown] = shown[0], shown[1][:, : self.shown]
        if known is not None:
            values[:, self.shown :], mask[:, self.shown :] = known
        return values, mask

    # -- log Z -----------------------------------------------------------------------------------------------------
    def annealed(self, v: Tensor, fields: Fields, generator: torch.Generator, beta: float) -> Tensor:
        """The odd layers: the even ones are summed out of the weights."""
        return self.draw_state(v, None, fields, generator, beta)

    def annealing(self, fields: Fields, generator: torch.Generator) -> ais.Step:
        """log f_beta(h) = beta (c.h + (h - 1/2) W (0 - mu)) + A((1 - beta) b_0 + beta eta(h)) with even layers summed
        out (Salakhutdinov and Hinton 2009, section 4)."""
        (b, c), b0 = fields, self.base_bias
        from_zero = self.hidden_input(torch.zeros_like(b).unsqueeze(0), torch.zeros_like(c))[0]  # -W mu

        def step(h: Tensor, start: float, end: float) -> tuple[Tensor, Tensor]:
            eta = self.visible_input(h, b)
            here = torch.lerp(b0, eta, end)
            gain = self.units.log_partition(here, end) - self.units.log_partition(torch.lerp(b0, eta, start), start)
            gain = gain + (end - start) * (h @ (c + from_zero) - 0.5 * from_zero.sum())
            v = self.units.draw(here, generator, end)
            return gain, flips((end * self.hidden_input(v, c)).sigmoid(), generator)

        return step

    def reverse_log_partition(
        self,
        condition: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        temperatures: int = 2000,
        chains: int = 64,
    ) -> ais.Annealed:
        """As of `BoltzmannMachine`, from the ends of chains: exact draws of data would lack their hidden units."""
        return super().reverse_log_partition(
            condition, generator=generator, seed=seed, temperatures=temperatures, chains=chains
        )  # fmt: skip

    def pseudo_log_likelihood(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """Refused: given the rest of a datum, a site's chances are sums over the layers that data do not show."""
        raise CapabilityError(f"{type(self).__name__} on {self.spec} has no pseudo-likelihood; use energy")

    # -- latents ---------------------------------------------------------------------------------------------------
    def _encode(self, x: Tensor, condition: Condition | None) -> Tensor:
        """The chances of the units of all hidden layers, from the data up, (B, sum of their widths)."""
        q = self.mean_field(x, condition)
        odd = q.on.split(self.widths[1::2], 1)
        even = q.v.split(self.widths[0::2], 1)
        return torch.cat([(odd if place % 2 else even)[place // 2] for place in self.hidden_places], 1)

    def _decode(self, z: Tensor, condition: Condition | None) -> Tensor:
        """The mean of data given the first hidden layer, put to data."""
        shown, above = self.units.parts[0], z[:, : self.widths[1]].to(self.dtype)
        eta = self.fields(condition)[0][..., : self.shown] + shown.scale * ((above - 0.5) @ self.weights[0])
        return shown.decode(shown.mean(eta))

    def _filters(self) -> Tensor:
        """W_0, a row a unit of the first hidden layer."""
        return self.weights[0].view(-1, *self.spec.shape)
