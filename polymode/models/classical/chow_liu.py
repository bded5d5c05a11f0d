"""Chow-Liu tree: each variable depends on one other, and the tree of these dependences is the best there is.

Chow and Liu 1968, Approximating Discrete Probability Distributions with Dependence Trees (IEEE Trans. Inf. Theory 14).

    p(x) = prod_d P(x_d | x_parent(d))                                                              (eq. 1)
    tree = argmax sum_d I(x_d; x_parent(d)),   I from the counts of pairs: the likeliest of all trees  (section III)
    P(j | i) = (n_ij + alpha m_j) / (n_i + alpha),   m_j = (n_j + alpha / K) / (n + alpha)

`mutual_information` is of counted pairs, `spanning_tree` finds the tree (Prim 1957), `conditionals_of` holds the last
line. What is missing is summed out, or drawn, by passing messages to the root and back (Pearl 1988, Probabilistic
Reasoning in Intelligent Systems, section 4.2): `_Tree.upward` and `_Tree.draw`, exact for any mask.
Deviations: alpha > 0, chosen so that each row is likeliest given the others; numbers are put in bins of equal counts
with tails (`models.classical.histogram`), which are the variables of the tree, and are spread evenly within.

Likelihood: exact, D look-ups. Sampling: one draw a variable, all variables of one depth at once. Completing, and the
likelihood of a part: D K^2. Fitting: N (D K)^2 for the pairs.
Expected: `polymode reproduce chow_liu_digits`: 2.15 bits/dim (independent histograms: 2.41); `chow_liu_asia`: within
0.07 nats of its entropy, which no tree reaches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.capabilities import Completes, FitsDirectly, HasConditionals, HasLogProb, HasMarginals
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.loss import Loss
from polymode.core.model import GenerativeModel
from polymode.core.spec import Spec
from polymode.models.classical._blocks import Classes, each
from polymode.models.classical.histogram import Numbers, dimensions_of

#: the most states of all variables together, whose pairs are counted in one square table
MOST_STATES = 2**12
#: numbers of a block of states (B, D K)
CHUNK = 2**24
#: the alphas that are tried
ALPHAS = tuple(10.0**i for i in (-3, -2, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3))


class ChowLiu(GenerativeModel, HasLogProb, HasMarginals, HasConditionals, Completes, FitsDirectly):
    """The best tree of dependences, one a class where there are labels.

    A class of fewer than 10 rows is served by the tree of all rows.

    Args:
        spec: what one datum is.
        condition_spec: a label or nothing.
        alpha: rows added to each conditional distribution; None chooses it by leave-one-out likelihood.
        bins: of numbers, at most.

    Raises:
        PolymodeError: an alpha or bins out of range, or variables of too many states.
    """

    parents: Tensor
    log_p: Tensor

    def __init__(
        self, spec: Spec, condition_spec: ConditionSpec | None = None, *, alpha: float | None = None, bins: int = 16
    ) -> None:
        super().__init__(spec, condition_spec)
        if alpha is not None and alpha <= 0:
            raise PolymodeError(f"alpha={alpha}, expected above 0, or None to choose it")
        if bins < 2:
            raise PolymodeError(f"bins={bins}, expected at least 2")
        self.alpha, self.classes = alpha, Classes(condition_spec)
        named, numeric = dimensions_of(spec)
        self.numbers = Numbers(self.classes.fits, numeric, "quantile", bins) if numeric else None
        counts = dict(named) | {j: bins + 3 for j, _ in numeric}  # two tails, and what is missing
        self.states = [counts[j] for j in range(spec.num_dims)]
        if sum(self.states) > MOST_STATES:
            raise PolymodeError(
                f"{spec} has {sum(self.states)} values of its dimensions in all, expected at most {MOST_STATES}: read "
                "the data with fewer levels or dimensions"
            )
        if numeric:
            self.withheld = (HasConditionals,)
        d, k, f = spec.num_dims, max(self.states), self.classes.fits
        possible = torch.arange(k) < torch.tensor(self.states).unsqueeze(1)  # (D, K)
        even = possible.float().log() - torch.tensor(self.states).float().log().unsqueeze(1)
        self.register_buffer("parents", torch.zeros(f, d, dtype=torch.long))  # the root is its own parent
        self.register_buffer("log_p", even.unsqueeze(1).repeat(f, 1, k, 1))  # (F, D, K, K), parent's state first

    def fit_directly(
        self,
        x: Tensor,
        condition: Condition | None = None,
        *,
        generator: torch.Generator,
        valid: tuple[Tensor, Condition | None] | None = None,
        report: Callable[[dict[str, float]], None] | None = None,
    ) -> None:
        x, condition = self.enter(x, condition)
        x = x.flatten(1)
        for fit, rows in self.classes.divide(condition, len(x)):
            if self.numbers is not None:
                self.numbers.fit(fit, x[rows], 1.0)
            states, _ = self._states(fit, x[rows])
            possible = self._possible(fit)
            pairs = count_pairs(states, self.states)
            parents = spanning_tree(mutual_information(pairs))
            counts = [pairs[p][d] for d, p in enumerate(parents.tolist())]  # (K_parent, K_d) each
            alpha = self.alpha or max(ALPHAS, key=lambda a: left_out(counts, parents, a, possible))
            self.parents[fit], self.log_p[fit] = parents, -torch.inf
            for d, table in enumerate(counts):
                log_p = conditionals_of(table, alpha, possible[d], root=int(parents[d]) == d).log()
                # a state that the parent can't have gets the row of another, so that nothing is -inf - -inf
                self.log_p[fit, d, :, : log_p.shape[1]] = log_p[0]
                self.log_p[fit, d, : len(log_p), : log_p.shape[1]] = log_p
            if report is not None:
                nats = float(self._log_prob(x[rows].view(-1, *self.spec.shape), self._only(fit, len(rows))).mean())
                report({"log_likelihood": nats, "alpha": alpha, "fit": float(fit)})

    def _possible(self, fit: int) -> list[Tensor]:
        """Which states each variable can have, (K_d,): of a number, the bins it was given, and missing where it may."""
        can = [torch.ones(k, dtype=torch.bool, device=self.device) for k in self.states]
        if self.numbers is not None:
            for i, j in enumerate(self.numbers.at.tolist()):
                can[j][:-1] = self.numbers.log_p[fit, i].isfinite()
                can[j][-1] = self.numbers.columns[i].missing
        return can

    def _only(self, fit: int, n: int) -> Condition | None:
        """The condition of n rows that a fit serves."""
        if self.condition_spec is None:
            return None
        everything = fit == self.classes.fits - 1
        label = torch.full((n,), 0 if everything else fit, device=self.device)
        return Condition(label=label, dropped=torch.full((n,), everything, device=self.device))

    def _states(self, fit: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """The state of each variable of x (B, D), and the nats (B, D) of what it says beyond its state."""
        states, within = x.nan_to_num(0.0).long(), torch.zeros(x.shape, dtype=torch.float64, device=x.device)
        if self.numbers is not None:
            states[:, self.numbers.at], within[:, self.numbers.at] = self.numbers.placed(fit, x)
        return states, within

    def tree(self, fit: int = -1) -> list[int]:
        """The parent of each variable, the root's being itself."""
        return self.parents[fit].tolist()

    # -- likelihood ------------------------------------------------------------------------------------------------
    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        return Loss(-self._log_prob(x, condition))

    def _log_prob(self, x: Tensor, condition: Condition | None) -> Tensor:
        x, out = x.flatten(1), torch.empty(len(x), dtype=self.dtype, device=x.device)
        dims = torch.arange(x.shape[1], device=x.device)
        for fit, rows in each(self.classes.of(condition, len(x))):
            states, within = self._states(fit, x[rows])
            nats = self.log_p[fit][dims, states[:, self.parents[fit]], states]  # (B, D)
            out[rows] = (nats + within).sum(1).to(out.dtype)
        return out

    def _marginal_log_prob(self, x: Tensor, known: Tensor, condition: Condition | None) -> Tensor:
        x, known, out = x.flatten(1), known.flatten(1), torch.empty(len(x), dtype=self.dtype, device=x.device)
        for fit, tree, rows in self._groups(condition, len(x)):
            states, within = self._states(fit, x[rows])
            own, heard = tree.upward(states, known[rows])
            nats = (own + heard + tree.log_p[:, 0])[:, tree.root].logsumexp(1)
            out[rows] = (nats + (within * known[rows]).sum(1)).to(out.dtype)
        return out

    def conditionals(self, condition: Condition | None = None) -> Callable[[Tensor, Tensor], Tensor]:
        def logits(x: Tensor, known: Tensor) -> Tensor:
            found = torch.empty(*x.shape, self.log_p.shape[2], dtype=self.dtype, device=x.device)
            for _, tree, rows in self._groups(condition, len(x)):
                found[rows] = tree.others(x[rows], known[rows]).to(found.dtype)
            return found

        return logits

    def _groups(self, condition: Condition | None, n: int) -> list[tuple[int, _Tree, Tensor]]:
        """(fit, its tree, some rows of it) until all rows have come."""
        size = max(1, CHUNK // self.log_p[0, :, 0].numel())
        found = []
        for fit, rows in each(self.classes.of(condition, n)):
            tree = _Tree.of(self.parents[fit], self.log_p[fit].double())
            found += [(fit, tree, piece) for piece in rows.split(size)]
        return found

    # -- drawing ---------------------------------------------------------------------------------------------------
    def _sample(self, n: int, condition: Condition | None, generator: torch.Generator) -> Tensor:
        x = torch.zeros(n, *self.spec.shape, dtype=self.spec.dtype, device=self.device)
        return self._complete(x, torch.zeros_like(x, dtype=torch.bool), condition, generator)

    def _complete(self, x: Tensor, mask: Tensor, condition: Condition | None, generator: torch.Generator) -> Tensor:
        known, flat = mask.flatten(1), x.flatten(1)
        out = torch.empty(flat.shape, dtype=torch.float64, device=x.device)
        for fit, tree, rows in self._groups(condition, len(x)):
            states, _ = self._states(fit, flat[rows])
            own, heard = tree.upward(states, known[rows])
            drawn = tree.draw(own + heard, generator)
            values = drawn.double()
            if self.numbers is not None:
                v = rng.rand((len(rows), len(self.numbers.at)), generator, values)
                values[:, self.numbers.at] = self.numbers.within(fit, drawn[:, self.numbers.at], v)
            out[rows] = values
        return out.to(self.spec.dtype).view(x.shape)


class _Tree(NamedTuple):
    """A rooted tree with its tables log_p (D, K, K), and (variables, their parents) of each depth below the root."""

    root: int
    levels: list[tuple[Tensor, Tensor]]
    log_p: Tensor

    @staticmethod
    def of(parents: Tensor, log_p: Tensor) -> _Tree:
        """The tree of the parent of each variable, the root's being itself."""
        above = parents.tolist()
        root = next(d for d, p in enumerate(above) if p == d)
        depth = {root: 0}
        for d in range(len(above)):
            trail = []
            while d not in depth:
                trail.append(d)
                d = above[d]
            for i, v in enumerate(reversed(trail)):
                depth[v] = depth[d] + i + 1
        levels: list[list[int]] = [[] for _ in range(max(depth.values()))]
        for d in range(len(above)):
            if d != root:
                levels[depth[d] - 1].append(d)
        here = [torch.tensor(level, device=parents.device) for level in levels]
        return _Tree(root, [(level, parents[level]) for level in here], log_p)

    def evidence(self, states: Tensor, known: Tensor) -> Tensor:
        """log 1 where a state agrees with what is known of its own variable, log 0 elsewhere, (B, D, K)."""
        same = torch.arange(self.log_p.shape[2], device=states.device) == states.unsqueeze(2)
        return torch.where(same | ~known.unsqueeze(2), 0.0, -torch.inf).double()

    def message(self, variables: Tensor, below: Tensor) -> Tensor:
        """log sum_j P(j | i) exp(below_j) of some variables, (B, n, K over i)."""
        most = below[:, variables].amax(2, keepdim=True)
        inner = (below[:, variables] - most).exp()
        return torch.einsum("bnj,nij->bni", inner, self.log_p[variables].exp()).log() + most

    def upward(self, states: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """What each variable is known to be, and what is heard from below it: the log-probability of all that is known
        there given its state, (B, D, K) each."""
        own = self.evidence(states, known)
        heard = torch.zeros_like(own)
        for variables, parents in reversed(self.levels):
            heard.index_add_(1, parents, self.message(variables, own + heard))
        return own, heard

    def draw(self, below: Tensor, generator: torch.Generator) -> Tensor:
        """States (B, D) given what is known at and below each variable, from the root down."""
        states = torch.zeros(below.shape[:2], dtype=torch.long, device=below.device)
        states[:, self.root] = rng.categorical(below[:, self.root] + self.log_p[self.root, 0], generator)
        for variables, parents in self.levels:
            logits = self.log_p[variables, states[:, parents]] + below[:, variables]  # (B, n, K)
            states[:, variables] = rng.categorical(logits, generator)
        return states

    def others(self, states: Tensor, known: Tensor) -> Tensor:
        """log p(x_d | what is known of the other variables), (B, D, K)."""
        own, heard = self.upward(states, known)
        below, above = own + heard, torch.empty_like(own)
        above[:, self.root] = self.log_p[self.root, 0]
        for variables, parents in self.levels:
            # what the parent hears from elsewhere: from above, of itself, and from its other children
            rest = above[:, parents] + below[:, parents] - self.message(variables, below)  # (B, n, K over i)
            most = rest.amax(2, keepdim=True)
            down = torch.einsum("bni,nij->bnj", (rest - most).exp(), self.log_p[variables].exp())
            above[:, variables] = down.log() + most
        return (above + heard).log_softmax(2)


def count_pairs(states: Tensor, sizes: list[int]) -> list[list[Tensor]]:
    """How often each pair of states came, (K_a, K_b) float64 for each two variables a, b, of states (N, D)."""
    offsets = torch.tensor([0, *sizes[:-1]], device=states.device).cumsum(0)
    total = sum(sizes)
    pairs = torch.zeros(total, total, dtype=torch.float64, device=states.device)
    for piece in states.split(max(1, CHUNK // total)):
        one_hot = torch.zeros(len(piece), total, device=states.device).scatter_(1, piece + offsets, 1.0)
        pairs += one_hot.T @ one_hot  # whole numbers below 2^24: exact in float32
    return [list(rows.split(sizes, dim=1)) for rows in pairs.split(sizes, dim=0)]


def mutual_information(pairs: list[list[Tensor]]) -> Tensor:
    """I(x_a; x_b) in nats of each two variables, (D, D), from the counts of their pairs; H(x_a) where a = b."""
    n = float(pairs[0][0].sum())
    joint = torch.stack([torch.stack([torch.xlogy(t / n, t / n).sum() for t in row]) for row in pairs])
    own = joint.diagonal()  # the pairs of a variable with itself are its counts
    return joint - own.unsqueeze(0) - own.unsqueeze(1)


def spanning_tree(weights: Tensor) -> Tensor:
    """The parent of each variable in a tree of the largest sum of weights (D, D); variable 0 is the root, and its own
    parent (Prim 1957)."""
    d = len(weights)
    parents = torch.zeros(d, dtype=torch.long, device=weights.device)
    best, waiting = weights[0].clone(), torch.ones(d, dtype=torch.bool, device=weights.device)
    waiting[0] = False
    for _ in range(d - 1):
        v = int(torch.where(waiting, best, -torch.inf).argmax())
        waiting[v] = False
        nearer = waiting & (weights[v] > best)
        best, parents = torch.where(nearer, weights[v], best), torch.where(nearer, v, parents)
    return parents


def conditionals_of(counts: Tensor, alpha: float, possible: Tensor, *, root: bool = False) -> Tensor:
    """P(j | i), (K_parent, K), from counts of pairs and which j there can be; of a root, whose parent is itself, m_j in
    every row."""
    own = counts.sum(0)
    m = (own + alpha * possible / possible.sum()) / (own.sum() + alpha)
    if root:
        return m.expand(len(own), -1)
    return (counts + alpha * m) / (counts.sum(1, keepdim=True) + alpha)


def left_out(counts: list[Tensor], parents: Tensor, alpha: float, possible: list[Tensor]) -> float:
    """The log-likelihood of each row given the others, about: m_j is of all rows."""
    total = 0.0
    for d, table in enumerate(counts):
        if int(parents[d]) != d:
            m = conditionals_of(table, alpha, possible[d], root=True)[0]
            # a pair that never came is not looked at
            seen = torch.where(table > 0, (table - 1 + alpha * m).clamp(min=0).log(), 0.0)
            total += float((table * (seen - (table.sum(1, keepdim=True) - 1 + alpha).clamp(min=alpha).log())).sum())
    return total
