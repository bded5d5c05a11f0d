"""Bayesian network: a graph that the user draws, and a small network for each variable given its parents.

Pearl 1988, Probabilistic Reasoning in Intelligent Systems, chapter 3; conditionals by perceptrons as in Bengio and
Bengio 1999, Modeling high-dimensional discrete data with multi-layer neural networks.

    p(x) = prod_d p(x_d | x of the parents of d),   the head of d having parameters net_d(parents)      (section 3.3)
    p(a | c) = sum_h p(a, h, c) / sum_{a', h} p(a', h, c)                                               (section 3.2)

`_Conditionals` holds all nets as one batch of matrix products in which a net sees its parents' features only.
`BayesNet.query` is the second line, exact by elimination (`parts.factors`), `BayesNet.table` the conditional table of
one variable, `BayesNet.d_separated` what the graph alone says (`parts.graphs`). Columns of any kind mix; a sum runs
over bits, levels and categories, so that numbers have to be given where a query comes by them.
Deviation: a condition's encoding is added to the hidden layers of every net, as a parent of all variables would be.

Likelihood: exact, one pass. Sampling: D steps. Completing: exact where what is missing comes of what is known only, or
is one of at most 2^16 joint states; otherwise by importance resampling (Rubin 1988), where it is asked for.
Expected: `polymode reproduce bayes_net_asia`: within 0.001 nats of the entropy; tests/learning/test_bayes_net.py.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from polymode.core import rng
from polymode.core.capabilities import Completes, DrawsInOrder, HasLogProb
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import DataError, PolymodeError, nearest
from polymode.core.loss import Loss, TrainingDefaults
from polymode.core.model import GenerativeModel
from polymode.core.pieces import Choose
from polymode.core.spec import Categorical, Columns, Spec
from polymode.parts import graphs
from polymode.parts.dimension import Dimension, one_dimension
from polymode.parts.distributions.heads import head_for
from polymode.parts.encoders.condition import Conditioned, encoder_for
from polymode.parts.factors import Factor, eliminate
from polymode.parts.features import Features
from polymode.parts.nn.mlp import Activation, activation
from polymode.parts.samplers.autoregressive import check_options

#: the most joint states that are enumerated to complete a row, and rows that are scored at once
MOST_STATES, CHUNK = 2**16, 2**17
#: a variable by the name of its column or by its place
Variable = str | int


class BayesNet(Conditioned, GenerativeModel, HasLogProb, Completes, DrawsInOrder):
    """A Bayesian network with neural conditionals.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        edges: (parent, child) pairs, columns by name or by place (`--set "edges=[[smoke,lung],[smoke,bronc]]"`); ()
            for independent variables. None draws an edge from each variable to all later ones, which assumes no
            independence at all.
        hidden: widths of the hidden layers of a variable's net, one at least.
        components: mixture components of the head of a number.
        activation: of the nets.

    Raises:
        PolymodeError: an edge that is no pair, of an unknown variable or from one to itself, edges that run in a
            circle, or no hidden layer.
    """

    defaults: ClassVar = TrainingDefaults(learning_rate=3e-3, batch_size=256, ema=0.99)

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        edges: Sequence[Sequence[Variable]] | None = None,
        hidden: Sequence[int] = (32,),
        components: int = 5,
        activation: Activation = "relu",
    ) -> None:
        super().__init__(spec, condition_spec)
        if not hidden or min(hidden) < 1:
            raise PolymodeError(f"hidden={tuple(hidden)}, expected at least one hidden layer of at least 1 unit")
        d = spec.num_dims
        columns = spec.support.columns if isinstance(spec.support, Columns) else ()
        self.names = tuple(c.name for c in columns) or tuple(map(str, range(d)))
        #: values of each variable that has finitely many, None for numbers
        self.states = [c.levels if isinstance(c, Categorical) else None for c in columns] or [spec.levels] * d
        self.parents = [list(range(j)) for j in range(d)] if edges is None else self._parents(edges)
        self.order = graphs.topological_order(self.parents)
        self.features, self.head = Features(spec), head_for(spec, components=components)
        if not spec.is_finite:
            self.withheld = (*self.withheld, DrawsInOrder)
        specs = [one_dimension(spec, j) for j in range(d)]
        self.dimensions = nn.ModuleList(Dimension(Features(s), head_for(s, components=components)) for s in specs)
        self.condition_encoder, width = encoder_for(condition_spec, max(hidden))
        seen = torch.zeros(d, d, dtype=torch.bool)  # (D, D): of which a net reads
        for j, those in enumerate(self.parents):
            seen[j, those] = True
        seen = seen[:, self.features.owner]
        self.nets = _Conditionals(seen, self.head.owner, self.head.initial(), hidden, width, activation)

    def _parents(self, edges: Sequence[Sequence[Variable]]) -> list[list[int]]:
        """The parents of each variable, or the sentence that says what is wrong with an edge."""
        parents: list[set[int]] = [set() for _ in self.names]
        if isinstance(edges, str):
            raise PolymodeError(f"edges={edges!r}: expected a list of (parent, child) pairs, such as [[a, b], [b, c]]")
        for edge in edges:
            if isinstance(edge, str | int) or len(edge) != 2:
                raise PolymodeError(f"edge {edge!r}: expected a pair (parent, child), such as [a, b]")
            parent, child = map(self.place, edge)
            if parent == child:
                raise PolymodeError(f"an edge runs from {self.names[parent]!r} to itself; take it out")
            parents[child].add(parent)
        found = [sorted(those) for those in parents]
        if ring := graphs.circle(found):
            names = " -> ".join(self.names[v] for v in [*ring, ring[0]])
            raise PolymodeError(f"the edges run in a circle, {names}: take one of them out, or turn it round")
        return found

    def place(self, variable: Variable) -> int:
        """The place 0 .. D-1 of a variable.

        Raises:
            PolymodeError: there is none of that name or at that place; the nearest name is told.
        """
        if variable in self.names:
            return self.names.index(str(variable))
        if isinstance(variable, int) and 0 <= variable < len(self.names):
            return variable
        known = nearest(str(variable), self.names) or f"; there are {', '.join(self.names[:20])}"
        raise PolymodeError(f"there is no variable {variable!r}{known}")

    # -- likelihood and drawing ------------------------------------------------------------------------------------
    def params(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Head parameters (B, P) of data (B, *shape); those of a dimension depend on its parents only."""
        return self.nets(self.features(x), context)

    def _dimensions_log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        """log p(x_d | its parents), (B, D)."""
        return self.head.log_prob(x, self.params(x, context))

    def _log_prob(self, x: Tensor, condition: Condition | None) -> Tensor:
        return self._dimensions_log_prob(x, self.context(condition)).sum(1)

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        return Loss(-self._log_prob(x, condition))

    def _sample(
        self, n: int, condition: Condition | None, generator: torch.Generator, *, temperature: float = 1.0
    ) -> Tensor:
        check_options(temperature)
        x = torch.zeros(n, *self.spec.shape, dtype=self.spec.dtype, device=self.device)
        return self._draw(x, torch.zeros_like(x, dtype=torch.bool), self.context(condition), generator, temperature)

    def _draw(
        self, x: Tensor, known: Tensor, context: Tensor | None, generator: torch.Generator, temperature: float
    ) -> Tensor:
        """x (n, D) with what is not known drawn, each variable given its parents."""
        x, y = x.clone(), self.features(x)
        for d in self.order:
            one = self.dimensions[d]
            drawn = one.head.sample(self.nets.one(d, y, context), generator, temperature).to(x.dtype)
            x[:, d] = torch.where(known[:, d], x[:, d], drawn[:, 0])
            y[:, self.features.owner == d] = one.features(x[:, d : d + 1])
        return x

    def _draw_in_order(self, n: int, choose: Choose, condition: Condition | None) -> None:
        x = torch.zeros(n, *self.spec.shape, dtype=self.spec.dtype, device=self.device)
        y, context = self.features(x), self.context(condition)
        for d in self.order:
            one = self.dimensions[d]
            [(_, table)] = one.head.tables(self.nets.one(d, y, context))
            y[:, self.features.owner == d] = one.features(choose([d], table).to(x.dtype))

    # -- completing ------------------------------------------------------------------------------------------------
    def _complete(
        self,
        x: Tensor,
        mask: Tensor,
        condition: Condition | None,
        generator: torch.Generator,
        *,
        temperature: float = 1.0,
        approximate: bool = False,
        candidates: int = 256,
    ) -> Tensor:
        """Draws given what is known, exact unless `approximate`.

        Args:
            temperature: of the draws of what nothing known comes of.
            approximate: where exact draws would enumerate too much, take one of some candidates, drawn each variable
                given its parents, by how likely it makes what is known: right as their number grows.
            candidates: how many.
        """
        check_options(temperature)
        if candidates < 1:
            raise PolymodeError(f"candidates={candidates}, expected at least 1")
        context, filled = self.context(condition), x.clone()
        patterns, which = mask.unique(dim=0, return_inverse=True)
        for i, known in enumerate(patterns):
            rows = (which == i).nonzero()[:, 0]
            own = None if context is None else context[rows]
            given = known.nonzero()[:, 0].tolist()
            above = graphs.ancestors(self.parents, given)  # what else there is has no say in what is known
            hidden = sorted(above - set(given))
            if self._few(hidden):
                upper = self._by_enumeration(x[rows], sorted(above), hidden, own, generator)
            elif approximate:
                upper = self._by_resampling(x[rows], known, sorted(above), own, generator, candidates)
            else:
                names = ", ".join(repr(self.names[v]) for v in hidden[:5])
                raise DataError(
                    f"in {len(rows)} of {len(x)} rows something known comes of variables that are missing ({names}) "
                    f"and have more than 2^{MOST_STATES.bit_length() - 1} joint values: give approximate=True, which "
                    "draws candidates and takes one by its weight, or a mask that knows more"
                )
            fixed = torch.zeros_like(mask[rows])
            fixed[:, sorted(above)] = True
            filled[rows] = self._draw(upper, fixed, own, generator, temperature)
        return filled

    def _few(self, variables: Iterable[int]) -> bool:
        """Whether their joint values can be enumerated."""
        counts = [self.states[v] for v in variables]
        return all(k is not None for k in counts) and math.prod(k or 1 for k in counts) <= MOST_STATES

    def _by_enumeration(
        self, x: Tensor, scored: list[int], hidden: list[int], context: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        """x with `hidden` drawn from its distribution given the others of `scored`, which holds all ancestors."""
        if not hidden:
            return x
        values = self._joint_values(hidden).to(x)  # (S, variables)
        size, drawn = max(1, CHUNK // len(values)), []
        for i in range(0, len(x), size):
            rows = x[i : i + size].repeat_interleave(len(values), dim=0)
            rows[:, hidden] = values.repeat(len(rows) // len(values), 1)
            own = None if context is None else context[i : i + size].repeat_interleave(len(values), dim=0)
            nats = self._dimensions_log_prob(rows, own)[:, scored].sum(1).view(-1, len(values))
            drawn.append(values[rng.categorical(nats, generator)])
        x = x.clone()
        x[:, hidden] = torch.cat(drawn)
        return x

    def _by_resampling(
        self, x: Tensor, known: Tensor, scored: list[int], context: Tensor | None, generator: torch.Generator, s: int
    ) -> Tensor:
        """x with one of s candidates a row, whose weight is the probability that it gives to what is known."""
        evidence, chosen = [v for v in scored if known[v]], []
        size = max(1, CHUNK // s)
        for i in range(0, len(x), size):
            rows = x[i : i + size].repeat_interleave(s, dim=0)
            own = None if context is None else context[i : i + size].repeat_interleave(s, dim=0)
            rows = self._draw(rows, known.expand(len(rows), -1), own, generator, 1.0)
            log_weight = self._dimensions_log_prob(rows, own)[:, evidence].sum(1).view(-1, s)
            best = rng.categorical(log_weight, generator)
            chosen.append(rows.view(-1, s, rows.shape[1])[torch.arange(len(best)), best])
        return torch.cat(chosen)

    def _joint_values(self, variables: Sequence[int]) -> Tensor:
        """Every joint value of variables of finitely many states, (S, variables); the last runs fastest."""
        every = itertools.product(*(range(self.states[v] or 0) for v in variables))
        return torch.tensor(list(every), dtype=torch.float64)

    # -- questions -------------------------------------------------------------------------------------------------
    def query(
        self,
        variables: Variable | Sequence[Variable],
        given: Mapping[Variable, str | float] | None = None,
        condition: Condition | None = None,
    ) -> Tensor:
        """p(variables | given), exact: a float64 table with an axis for each variable, in their order.

        Args:
            variables: bits, levels or categories, by name or place; one alone may stand without a list.
            given: the values of others, a category by its spelling or its index.
            condition: one row.

        Raises:
            PolymodeError: a variable asked for and given, a number asked for, or one that would have to be summed out;
                values out of range; a sum over too many states.
        """
        asked = [variables] if isinstance(variables, str | int) else list(variables)
        keep = [self.place(v) for v in asked]
        values = {self.place(v): self._value(self.place(v), value) for v, value in (given or {}).items()}
        if len({*keep, *values}) < len(keep) + len(values) or not keep:
            raise PolymodeError(f"asked for {asked} given {list(given or {})}: expected each variable once")
        condition = self.check_condition(condition, 1)
        above = sorted(graphs.ancestors(self.parents, [*keep, *values]))
        if unsummed := [self.names[v] for v in above if v not in values and self.states[v] is None]:
            raise PolymodeError(f"{unsummed[0]!r} is a number and can't be summed over; give its value")
        with self._evaluating():
            table = eliminate([self._factor(v, values, self.context(condition)) for v in above], keep)
        return (table - table.flatten().logsumexp(0)).exp()

    def table(self, variable: Variable, condition: Condition | None = None) -> Tensor:
        """p(variable | its parents), float64: an axis for each parent in the order of `parents`, then its own.

        Raises:
            PolymodeError: it or a parent of it is a number.
        """
        v = self.place(variable)
        if numbers := [self.names[u] for u in [*self.parents[v], v] if self.states[u] is None]:
            raise PolymodeError(f"{numbers[0]!r} is a number, and a table has an axis for values that can be counted")
        condition = self.check_condition(condition, 1)
        with self._evaluating():
            return self._factor(v, {}, self.context(condition)).aligned([*self.parents[v], v]).exp()

    def d_separated(self, a: Sequence[Variable], b: Sequence[Variable], given: Sequence[Variable] = ()) -> bool:
        """Whether the graph says that all of `a` are independent of all of `b` given `given`, whatever the nets."""
        return graphs.d_separated(self.parents, *([self.place(v) for v in those] for those in (a, b, given)))

    def _value(self, v: int, value: str | float) -> float:
        """The number that stands for a value of a variable in data."""
        column = self.spec.support.columns[v] if isinstance(self.spec.support, Columns) else None
        if isinstance(value, str):
            if not isinstance(column, Categorical) or value not in column.categories:
                known = ", ".join(column.categories[:20]) if isinstance(column, Categorical) else "numbers"
                raise PolymodeError(f"{self.names[v]!r} can't be {value!r}, expected one of {known}")
            return float(column.categories.index(value))
        levels = self.states[v]
        if not math.isfinite(value) or (levels is not None and value not in range(levels)):
            wanted = "a finite number" if levels is None else f"a whole number 0 to {levels - 1}"
            raise PolymodeError(f"{self.names[v]!r} can't be {value}, expected {wanted}")
        return float(value)

    def _factor(self, v: int, values: Mapping[int, float], context: Tensor | None) -> Factor:
        """log p(v | its parents) as a table of those of them that have no value yet."""
        free = tuple(u for u in [*self.parents[v], v] if u not in values)
        sizes = [self.states[u] or 0 for u in free]
        if math.prod(sizes) > MOST_STATES:
            raise PolymodeError(
                f"{self.names[v]!r} and its parents have {math.prod(sizes)} joint values, more than a table holds "
                f"(2^{MOST_STATES.bit_length() - 1}); give some of them, or draw fewer edges to it"
            )
        joint = self._joint_values(free)
        x = torch.zeros(len(joint), self.spec.num_dims, dtype=self.spec.dtype)
        x[:, list(free)] = joint.to(x.dtype)
        for u, value in values.items():
            x[:, u] = value
        own = None if context is None else context.expand(len(x), -1)
        nats = self._dimensions_log_prob(x.to(self.device), own)[:, v].double().cpu()
        return Factor(free, nats.view(sizes))


class _Conditionals(nn.Module):
    """A perceptron for each of D variables, all of one shape, so that they are one batch of matrix products.

    Args:
        seen: (D, F) bool, the features that a variable's net reads.
        owner: (P,) the variable that each head parameter belongs to.
        initial: (P,) head parameters to start from.
        hidden: widths of the hidden layers of each net.
        context_features: of a condition's vector, which every hidden layer reads.
    """

    seen: Tensor
    places: Tensor

    def __init__(
        self, seen: Tensor, owner: Tensor, initial: Tensor, hidden: Sequence[int], context_features: int,
        act: Activation,
    ) -> None:  # fmt: skip
        super().__init__()
        d, f = seen.shape
        counts = torch.bincount(owner, minlength=d)
        order, most = owner.argsort(stable=True), int(counts.max())
        within = torch.empty_like(owner)  # the rank of a parameter among those of its variable
        within[order] = torch.arange(len(owner)) - (counts.cumsum(0) - counts)[owner[order]]
        self.counts = counts.tolist()
        self.register_buffer("seen", seen.unsqueeze(2), persistent=False)  # (D, F, 1)
        self.register_buffer("places", owner * most + within, persistent=False)
        widths = [f, *hidden, most]
        self.weights = nn.ParameterList(torch.empty(d, a, b) for a, b in itertools.pairwise(widths))
        self.biases = nn.ParameterList(torch.zeros(d, 1, b) for b in widths[1:])
        self.contexts = nn.ModuleList(
            nn.Linear(context_features, d * b, bias=False) for b in hidden if context_features
        )
        self.act = activation(act)
        with torch.no_grad():
            fan_in = [seen.sum(1).clamp(min=1).view(d, 1, 1), *(torch.tensor(h) for h in hidden)]
            for weight, bias, n in zip(self.weights, self.biases, fan_in, strict=True):
                weight.uniform_(-1, 1).mul_(n**-0.5)
                bias.uniform_(-1, 1).mul_(n**-0.5)
            self.biases[-1].zero_().view(-1)[self.places] = initial

    def forward(self, y: Tensor, context: Tensor | None) -> Tensor:
        """Head parameters (B, P) of features (B, F)."""
        out = self._run(slice(None), y, context)  # (D, B, most)
        return out.transpose(0, 1).flatten(1)[:, self.places]

    def one(self, d: int, y: Tensor, context: Tensor | None) -> Tensor:
        """Those of one variable, (B, P_d)."""
        return self._run(slice(d, d + 1), y, context)[0, :, : self.counts[d]]

    def _run(self, which: slice, y: Tensor, context: Tensor | None) -> Tensor:
        first = self.weights[0][which] * self.seen[which]
        h = torch.einsum("bf,dfh->dbh", y, first) + self.biases[0][which]
        for i, (weight, bias) in enumerate(zip(self.weights[1:], self.biases[1:], strict=True)):
            if context is not None:
                h = h + self.contexts[i](context).view(len(y), len(self.seen), -1).transpose(0, 1)[which]
            h = torch.baddbmm(bias[which], self.act(h), weight[which])
        return h
