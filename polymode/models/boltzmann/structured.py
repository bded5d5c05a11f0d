"""Boltzmann machine on a graph: units that see their neighbours and nobody else. Ising and Potts models, learned.

Ising 1925, Beitrag zur Theorie des Ferromagnetismus; Potts 1952, Some generalized order-disorder transformations;
Geman and Geman 1984, Stochastic relaxation, Gibbs distributions, and the Bayesian restoration of images; as a model of
structured outputs Mnih, Larochelle and Hinton 2011, Conditional restricted Boltzmann machines for structured output
prediction (arXiv:1202.3748). Over the edges of a graph that the user gives,

    E(x) = -sum_i b_i[x_i] - sum_(i, j) W_ij[x_i, x_j]
    W_ij[x, y] = J_ij s(x) s(y), s = -1, 1     Ising, of bits;  b_i[x] = b_i x, so that a field h s(x) is b = 2 h
    W_ij[x, y] = J_ij [x = y]                  Potts, of levels and symbols
    W_ij any table                             option `form="free"`

`StructuredBoltzmann.free_energy` is E. Nodes of one colour, of which no two are joined, are drawn at once given the
rest (two colours on a grid, a chessboard): `draw_visible`. Where there is no edge there is no parameter, so that such
couplings are zero and stay so: `couplings`. log Z, the means of all nodes and edges (`marginals`) and independent draws
are exact by elimination in an order whose tables hold at most 2^16 entries, which row by row is the transfer matrix
(Kramers and Wannier 1941); then `negative="exact"` learns by the likelihood's own gradient, else chains do.
A label moves b by a table, any other condition by a linear map of its encoding, which makes it a model p(x | y).
Deviation: Mnih et al. have hidden units beside couplings; here all units are seen, so that E needs no sum.

Likelihood: exact on graphs as narrow as 2^16 states (grids of bits of width 15), else log Z by annealing from
independent nodes. Sampling: a sweep is a few gathers a colour, or exact draws.
Expected: a 4x4 Ising grid gives back its couplings; tests/learning/test_structured.py.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from polymode.core import rng
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError, require_choice
from polymode.core.loss import Loss, TrainingDefaults
from polymode.core.spec import Binary, Spec
from polymode.models.boltzmann._likelihood import ENUMERABLE, Fields
from polymode.models.boltzmann._machine import Algorithm, BoltzmannMachine
from polymode.models.boltzmann._units import Beta, Counts, Groups, Known, Units, a_row, between
from polymode.parts.encoders.condition import encoder_for
from polymode.parts.factors import Factor, eliminate, sample
from polymode.parts.graphs import colour_classes, elimination_order, grid_edges, neighbours_of, read_edges

#: the most entries of the tables of all edges together
MOST_ENTRIES = 2**26
#: features of the encoding of a condition that is no label
CONDITION_WIDTH = 64


class StructuredBoltzmann(BoltzmannMachine):
    """A pairwise Boltzmann machine on a graph. The state of a chain is the value of every node.

    Args:
        spec: what one datum is; its dimensions, row by row, are the nodes 0 .. D-1.
        condition_spec: what it is conditioned on; anything but a label alone needs algorithm "cd".
        edges: (i, j) or (i, j, strength), each once, such as [[0, 1], [1, 2, 0.5]].
        adjacency: or the same as a symmetric matrix of strengths, zero where there is no edge. With neither, nodes are
            joined to their neighbours along every axis of the data.
        coupling: what the strengths, 1 where not given, are multiplied by to give the couplings at the start.
        form: "potts" (Ising of bits) has one number an edge, "free" a table.
        negative: "chains", or "exact" where elimination can do it.
        algorithm: of chains, "pcd", "cd", "fpcd" or "tempering"; None is "pcd", or "cd" where that alone is possible.
        k: Gibbs sweeps of a training step.
        chains: how many persistent chains; with labels they are shared out among the classes.

    Raises:
        PolymodeError: an edge from a node to itself, twice or of an unknown node, a matrix that is not symmetric, or
            numbers out of range.
    """

    # every parameter has a statistic of its own, of known range, and the likelihood has one maximum
    defaults: ClassVar = TrainingDefaults(learning_rate=2e-2, batch_size=100, loss_is_objective=False)

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        edges: Sequence[Sequence[float]] | None = None,
        adjacency: Sequence[Sequence[float]] | None = None,
        coupling: float = 0.0,
        form: Literal["potts", "free"] = "potts",
        negative: Literal["chains", "exact"] = "chains",
        algorithm: Algorithm | None = None,
        k: int = 1,
        chains: int = 100,
    ) -> None:
        units: Units = Counts(spec) if isinstance(spec.support, Binary) else Groups(spec)
        super().__init__(spec, condition_spec, units)
        require_choice("form", form, ("potts", "free"))
        require_choice("negative", negative, ("chains", "exact"))
        assert spec.levels is not None
        self.levels, self.nodes, self.negative = spec.levels, spec.num_dims, negative
        strengths = read_edges(self.nodes, edges, adjacency)
        if strengths is None:
            strengths = dict.fromkeys(grid_edges(spec.shape), 1.0)
        self.edges = list(strengths)
        if (entries := len(self.edges) * self.levels**2) > MOST_ENTRIES:
            raise PolymodeError(
                f"{len(self.edges)} edges of {self.levels} levels have tables of {entries} entries, more than 2^26; "
                "read the data with fewer levels"
            )
        self._index()
        found = elimination_order(self.nodes, self.edges, int(ENUMERABLE / math.log2(self.levels)))
        self.order, self.width = found or (None, self.nodes)
        if negative == "exact" and self.order is None:
            raise PolymodeError("negative='exact' needs a graph narrow enough to sum over 2^16 states; use 'chains'")
        same = _pattern(self.levels)  # (K, K)
        forms = torch.eye(self.levels**2) if form == "free" else same.view(1, -1)
        self.register_buffer("forms", forms, persistent=False)
        initial = coupling * torch.tensor(list(strengths.values())).view(-1, 1)
        self.weight = nn.Parameter(initial * same.view(1, -1) if form == "free" else initial)  # (E, forms)
        self.bias = nn.Parameter(torch.zeros(units.size))
        algorithm = self._read_condition(condition_spec, algorithm)
        stored = torch.uint8 if self.levels <= 256 else torch.int32
        self.make_chains(self.nodes, algorithm=algorithm, k=k, chains=chains, dtype=stored)

    def _index(self) -> None:
        """Colours, and for every node its neighbours and which directed table leads from each; padded to one length."""
        classes = colour_classes(self.nodes, self.edges)
        places = {pair: e for e, (i, j) in enumerate(self.edges) for pair in ((i, j), (j, i))}
        beside = [sorted(those) for those in neighbours_of(self.nodes, self.edges)]
        most = max(map(len, beside), default=0)
        neighbours = torch.zeros(self.nodes, most, dtype=torch.int64)
        tables = torch.full((self.nodes, most), 2 * len(self.edges))  # the last one, which is zero
        for i, those in enumerate(beside):
            for slot, j in enumerate(those):
                neighbours[i, slot] = j
                tables[i, slot] = places[i, j] + (i > j) * len(self.edges)
        self.register_buffer("neighbours", neighbours, persistent=False)
        self.register_buffer("slots", tables, persistent=False)
        self.register_buffer("ends", torch.tensor(self.edges, dtype=torch.int64).view(-1, 2).T, persistent=False)
        self.register_buffer("by_colour", torch.tensor(list(itertools.chain(*classes))), persistent=False)
        self.colour_sizes = [len(those) for those in classes]

    def _read_condition(self, condition_spec: ConditionSpec | None, algorithm: Algorithm | None) -> Algorithm:
        """What turns conditions into biases, and the algorithm."""
        self.condition_encoder = None
        if condition_spec is None or condition_spec.kinds == ("label",):
            if self.rows:
                self.bias_of = nn.Parameter(torch.zeros(self.rows, self.units.size))
            return algorithm or "pcd"
        if algorithm not in (None, "cd") or self.negative == "exact":
            raise PolymodeError(
                f"a condition of {' and '.join(condition_spec.kinds)} gives every datum a distribution of its own, for "
                "which no chains can be kept and no one log Z: use algorithm='cd' and negative='chains'"
            )
        self.rows = 0
        self.condition_encoder, width = encoder_for(condition_spec, CONDITION_WIDTH)
        self.from_condition = nn.Linear(width, self.units.size)
        return "cd"

    # -- the machine -----------------------------------------------------------------------------------------------
    @property
    def tables(self) -> Float[Tensor, "E K K"]:
        """W_ij of every edge."""
        return (self.weight @ self.forms).view(-1, self.levels, self.levels)

    @property
    def couplings(self) -> Float[Tensor, "D D"]:
        """J, symmetric, exactly zero where there is no edge; of free tables how far W[x, x] is above the rest."""
        same, tables = torch.eye(self.levels, dtype=torch.bool, device=self.device), self.tables
        strength = tables[:, same].mean(1) - tables[:, ~same].mean(1)
        strength = strength / 2 if self.levels == 2 else strength  # s s' is 1 or -1, [x = y] is 1 or 0
        j = strength.new_zeros(self.nodes, self.nodes)
        j[self.ends[0], self.ends[1]] = strength
        return j + j.T

    def fields(self, condition: Condition | None) -> Fields:
        """b, (F,), or one a row."""
        if self.condition_encoder is not None and condition is not None:
            return (self.bias + self.from_condition(self.condition_encoder(condition)),)
        rows = self.rows_of(condition)
        return (self.bias if rows is None else self.bias + self.bias_of[rows],)

    def free_energy(self, v: Tensor, fields: Fields, beta: Beta = 1.0) -> Float[Tensor, " B"]:
        """E, (B,): nothing is hidden."""
        x = self.units.site_index(v)
        states = x[:, self.ends[0]] * self.levels + x[:, self.ends[1]]  # (B, E)
        pairs = self.tables.flatten(1).T.gather(0, states).sum(1)
        b = between(self.base_bias, fields[0], beta)
        return -(v * b).sum(1) - a_row(beta) * pairs

    def site_logits(self, b: Tensor) -> Float[Tensor, "*B D K"]:
        """b_i[x] of every value."""
        if isinstance(self.units, Counts):
            return torch.stack([torch.zeros_like(b), b], -1)
        return b.unflatten(-1, (self.nodes, self.levels))

    def directed_tables(self) -> Float[Tensor, "T K"]:
        """The rows W[., x_j] of every edge in both directions, and rows of zeros."""
        tables = self.tables
        none = tables.new_zeros(1, self.levels, self.levels)
        return torch.cat([tables.transpose(1, 2), tables, none]).flatten(0, 1)

    def logits(
        self, x: Int[Tensor, "B D"], nodes: Tensor, sites: Tensor, directed: Tensor, beta: Beta = 1.0
    ) -> Float[Tensor, "B N K"]:
        """The logits of some nodes given all others, up to a constant."""
        rows = self.slots[nodes] * self.levels + x[:, self.neighbours[nodes]]  # (B, N, neighbours)
        scale = beta.unsqueeze(2) if isinstance(beta, Tensor) else beta
        return sites[..., nodes, :] + scale * nn.functional.embedding(rows, directed).sum(2)

    # -- chains ----------------------------------------------------------------------------------------------------
    def draw_visible(
        self, state: Tensor, fields: Fields, generator: torch.Generator, beta: Beta = 1.0, known: Known | None = None
    ) -> Tensor:
        """One sweep: every colour in turn, given all other nodes."""
        x, sites = state.long(), self.site_logits(between(self.base_bias, fields[0], beta))
        directed = self.directed_tables()
        if known is not None:
            values, mask = self.units.site_index(known[0]), known[1].unflatten(1, self.units.shape)[..., 0]
            x = torch.where(mask, values, x)
        for nodes in self.by_colour.split(self.colour_sizes):
            drawn = self._drawn(self.logits(x, nodes, sites, directed, beta), generator)
            x = x.index_copy(1, nodes, drawn if known is None else torch.where(mask[:, nodes], values[:, nodes], drawn))
        return self.units.encode(x)

    def _drawn(self, logits: Tensor, generator: torch.Generator) -> Tensor:
        if self.levels == 2:
            return rng.bernoulli((logits[..., 1] - logits[..., 0]).sigmoid(), generator).long()
        return rng.categorical(logits, generator)

    def draw_state(
        self, v: Tensor, state: Tensor | None, fields: Fields, generator: torch.Generator, beta: Beta = 1.0
    ) -> Tensor:
        """The value of every node: v itself."""
        return self.units.site_index(v).to(v.dtype)

    def prepare(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> None:
        """Biases from the means of the data, chains from them."""
        super().prepare(x, condition, generator)
        with torch.no_grad():
            self.bias.copy_(self.base_bias)

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        if self.negative == "chains":
            return super().loss(x, condition, generator=generator)
        energy, rows = self.free_energy(self.units.encode(x), self.fields(condition)), self.rows_of(condition)
        if rows is None:
            log_z = self._log_z(self.bias)
        else:
            log_z = torch.stack([self._log_z(self.bias + row) for row in self.bias_of])[rows]
        return Loss(energy + log_z, {"positive": energy.detach()})

    # -- exact sums ------------------------------------------------------------------------------------------------
    def _factors(self, sites: Tensor, tables: Tensor) -> list[Factor]:
        """The product over nodes and edges that is exp(-E), in float64 on the CPU."""
        sites, tables = sites.double().cpu(), tables.double().cpu()
        alone = [Factor((i,), row) for i, row in enumerate(sites)]
        return alone + [Factor(edge, table) for edge, table in zip(self.edges, tables, strict=True)]

    def _log_z(self, b: Tensor) -> Tensor:
        """log Z by elimination, with gradient."""
        return eliminate(self._factors(self.site_logits(b), self.tables), (), order=self.order).to(b)

    def marginals(self, condition: Condition | None = None) -> tuple[Float[Tensor, "D K"], Float[Tensor, "E K K"]]:
        """The probabilities of every value of every node, and of every pair of values along every edge, exact.

        Args:
            condition: one row.

        Raises:
            PolymodeError: a graph too wide for elimination.
        """
        self._require_order("exact marginals")
        with self._evaluating(), torch.enable_grad():
            (b,) = self.fields_of_one(self.check_condition(condition, 1))
            sites, tables = self.site_logits(b).detach().requires_grad_(), self.tables.detach().requires_grad_()
            log_z = eliminate(self._factors(sites, tables), (), order=self.order)
            site, pair = torch.autograd.grad(log_z, (sites, tables))  # the means of exponential families
        return site, pair

    def _require_order(self, what: str) -> None:
        if self.order is None:
            raise PolymodeError(f"{what} would sum over more than 2^{ENUMERABLE} states on this graph; use chains")

    def _sample(
        self, n: int, condition: Condition | None, generator: torch.Generator, *, steps: int = 200,
        method: Literal["gibbs", "exact"] = "gibbs",
    ) -> Tensor:  # fmt: skip
        require_choice("method", method, ("gibbs", "exact"))
        if method == "gibbs":
            return super()._sample(n, condition, generator, steps=steps)
        self._require_order("an exact sample")
        assert self.order is not None
        (b,), tables = self.fields(condition), self.tables
        distinct, which = b.expand(n, -1).unique(dim=0, return_inverse=True)
        x = torch.zeros(n, self.nodes, dtype=torch.int64)
        for row, own in enumerate(distinct):  # conditions have a distribution each
            mine = (which == row).nonzero().squeeze(1).cpu()
            x[mine] = sample(self._factors(self.site_logits(own), tables), self.order, len(mine), generator)
        return x.view(n, *self.spec.shape)

    # -- log Z -----------------------------------------------------------------------------------------------------
    def log_base_partition(self) -> float:
        return float(self.units.log_partition(self.base_bias.double(), 0.0))

    @property
    def log2_summed(self) -> float:
        return self.width * math.log2(self.levels)

    def log_partition_by_sum(self, fields: Fields) -> float:
        return float(self._log_z(fields[0]))

    def _pseudo(self, v: Tensor, fields: Fields) -> Tensor:
        x = self.units.site_index(v)
        everything = torch.arange(self.nodes, device=v.device)
        logits = self.logits(x, everything, self.site_logits(fields[0]), self.directed_tables())
        return logits.log_softmax(2).gather(2, x.unsqueeze(2)).sum((1, 2))


def _pattern(levels: int) -> Tensor:
    """s(x) s(y) of bits, [x = y] of more values, (K, K)."""
    same = torch.eye(levels)
    return 2 * same - 1 if levels == 2 else same
