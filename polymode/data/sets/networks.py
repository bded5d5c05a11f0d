"""Named tables drawn from Bayesian networks whose tables are known, so that likelihoods have an exact truth.

asia: Lauritzen and Spiegelhalter 1988, Local computations with probabilities on graphical structures and their
    application to expert systems (JRSS B 50), table of section 2: a visit to Asia, smoking, and what a doctor sees.

A :class:`Network` draws from its tables and knows the exact log-probability of any row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.spec import Categorical, Columns, Spec
from polymode.data.assemble import check_positive
from polymode.data.dataset import DataSet, Split
from polymode.data.index import BY_NAME


@dataclass(frozen=True)
class Network:
    """A Bayesian network of named categories.

    Args:
        parents: those of each variable; each is listed after its parents.
        tables: p(variable | parents), an axis for each parent in their order, then its own.
        categories: of each variable.
    """

    parents: Mapping[str, tuple[str, ...]]
    tables: Mapping[str, Tensor]
    categories: Mapping[str, tuple[str, ...]]

    @property
    def names(self) -> list[str]:
        """The variables in their order."""
        return list(self.parents)

    @property
    def edges(self) -> list[list[str]]:
        """[parent, child] pairs."""
        return [[parent, child] for child, those in self.parents.items() for parent in those]

    @property
    def spec(self) -> Spec:
        """A table with a column for each variable."""
        columns = Columns(tuple(Categorical(name, self.categories[name]) for name in self.parents))
        return Spec("table", (len(self.parents),), columns, {"dtypes": dict.fromkeys(self.parents, "object")})

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """n rows (n, variables), each variable given its parents."""
        x = torch.zeros(n, len(self.parents), dtype=torch.float64)
        for j, name in enumerate(self.parents):
            x[:, j] = rng.categorical(self._given(name, x).log(), generator).double()
        return x

    def log_prob(self, x: Tensor) -> Tensor:
        """The exact log-probability of rows, (n,) nats."""
        each = [
            self._given(name, x).gather(1, x[:, j : j + 1].long()).log()[:, 0] for j, name in enumerate(self.parents)
        ]
        return torch.stack(each).sum(0)

    def _given(self, name: str, x: Tensor) -> Tensor:
        """p(variable | the parents that rows have), (n, values)."""
        table, names = self.tables[name].double(), self.names
        at = tuple(x[:, names.index(parent)].long() for parent in self.parents[name])
        return table[at] if at else table.expand(len(x), -1)


def asia_network() -> Network:
    """The published network: eight variables, eight edges."""
    yes = {
        "asia": torch.tensor(0.01),
        "smoke": torch.tensor(0.5),
        "tub": torch.tensor([0.01, 0.05]),
        "lung": torch.tensor([0.01, 0.1]),
        "bronc": torch.tensor([0.3, 0.6]),
        "either": torch.tensor([[0.0, 1.0], [1.0, 1.0]]),  # tuberculosis or cancer
        "xray": torch.tensor([0.05, 0.98]),
        "dysp": torch.tensor([[0.1, 0.7], [0.8, 0.9]]),
    }
    parents = {
        "asia": (), "smoke": (), "tub": ("asia",), "lung": ("smoke",), "bronc": ("smoke",),
        "either": ("tub", "lung"), "xray": ("either",), "dysp": ("bronc", "either"),
    }  # fmt: skip
    tables = {name: torch.stack([1 - p.double(), p.double()], -1) for name, p in yes.items()}
    return Network(parents, tables, dict.fromkeys(parents, ("no", "yes")))


def asia(name: str, *, n: int = 50_000, n_test: int = 5_000, seed: int = 0) -> DataSet:
    """Rows of the network of Lauritzen and Spiegelhalter 1988.

    Args:
        name: of the set.
        n: training rows.
        n_test: validation rows, and as many test rows.
        seed: of the draw.
    """
    check_positive(n=n, n_test=n_test)
    network, entry = asia_network(), BY_NAME[name]
    train, valid, test = network.draw(n + 2 * n_test, rng.generator(seed)).split([n, n_test, n_test])
    return DataSet(
        name, network.spec, Split(train), Split(valid), Split(test), source=entry.source, licence=entry.licence,
        notes=(f"drawn with seed {seed}; edges: {', '.join('-'.join(edge) for edge in network.edges)}",),
        log_density=network.log_prob,
    )  # fmt: skip
