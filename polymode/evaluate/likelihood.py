"""The best honest likelihood a model offers: exact where it can be, a bound where it has one, an estimate, or none.

    HasLogProb   exact         log p(x)
    HasBound     lower bound   log 1/S sum_s w_s (Burda et al. 2016, arXiv:1509.00519, eq. 8), the ELBO at S = 1
    HasEnergy    estimate      -E(x) - log Z, log Z by annealed importance sampling (Neal 2001), one a condition
    otherwise    none

Rows are scored in batches and only (B,) numbers are kept.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.condition import Condition
from polymode.core.errors import ConditionError, PolymodeError, require_choice
from polymode.core.likelihood import Likelihood
from polymode.core.model import GenerativeModel, HasBound, HasEnergy, HasLogProb
from polymode.data.dataset import DataSet, Split

SplitName = Literal["train", "valid", "test"]
#: more partition functions than this (one a distinct condition) are not estimated
MOST_PARTITIONS = 64


def log_likelihood(
    model: GenerativeModel,
    data: DataSet | Split | Tensor,
    condition: Condition | None = None,
    *,
    split: SplitName = "test",
    num_samples: int | None = None,
    limit: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
) -> Likelihood:
    """Log-likelihoods of data under a model, with their kind.

    Args:
        data: a data set (its `split` is scored), a split, or a tensor (N, *shape) in data space.
        condition: one row a datum, for a tensor; a split brings its own.
        num_samples: importance samples of a bound; None for the model's default, 1 is the ELBO.
        limit: score at most this many rows, drawn without replacement.
        batch_size: rows at a time (memory only).
        seed: fixes the rows drawn, the samples of a bound and the chains of an estimate.

    Raises:
        PolymodeError: data or conditions that do not fit the model, or a condition beside a data set.
    """
    require_choice("split", split, ("train", "valid", "test"))
    if isinstance(data, Tensor):
        part = Split(data, condition)
    else:
        if condition is not None:
            raise ConditionError(
                "a condition came beside a data set that brings its own; give a tensor and a condition"
            )
        part = getattr(data, split) if isinstance(data, DataSet) else data
        part = split_for(model, part)
    return Scorer(model, num_samples=num_samples, seed=seed)(part, limit=limit, batch_size=batch_size)


def split_for(model: GenerativeModel, split: Split) -> Split:
    """The split as a model takes it: without its conditions for an unconditional model."""
    return split if model.condition_spec is not None else Split(split.x, None, split.draw)


class Scorer:
    """Scores splits under one model, and remembers its partition functions between them.

    Args:
        model: any model.
        num_samples: importance samples of a bound; None for the model's default.
        seed: fixes every draw.
    """

    def __init__(self, model: GenerativeModel, *, num_samples: int | None = None, seed: int = 0) -> None:
        if num_samples is not None and num_samples < 1:
            raise PolymodeError(f"num_samples={num_samples}, expected at least 1")
        self.model = model
        default = model.default_num_samples if isinstance(model, HasBound) else 1
        self.num_samples = default if num_samples is None else num_samples
        self.seed = seed
        self._partitions: dict[tuple, tuple[float, float]] = {}

    def __call__(self, split: Split, *, limit: int | None = None, batch_size: int | None = None) -> Likelihood:
        """The likelihood of a split, or of `limit` of its rows."""
        if limit is not None and limit < 1:
            raise PolymodeError(f"limit={limit}, expected at least 1 row")
        model, spec = self.model, self.model.spec
        facts = {"num_dims": spec.num_dims, "discrete": spec.is_discrete}
        draws = rng.generator(self.seed)
        batch_size = batch_size or max(16, min(1024, 2**19 // spec.num_dims))
        rows = torch.arange(len(split))
        if limit is not None and limit < len(split):
            rows = torch.randperm(len(split), generator=draws)[:limit]
        if isinstance(model, HasLogProb):
            pieces = [model.log_prob(*split.batch(r, draws)).cpu() for r in rows.split(batch_size)]
            return Likelihood("exact", torch.cat(pieces), **facts, protocol="log p(x)")
        if isinstance(model, HasBound):
            pieces = []
            for r in rows.split(batch_size):
                x, condition = split.batch(r, draws)
                pieces.append(model.iwae_bound(x, self.num_samples, condition, generator=draws).cpu())
            protocol = f"iwae-{self.num_samples}, {model.bound_name}"
            return Likelihood("lower bound", torch.cat(pieces), **facts, protocol=protocol)
        if isinstance(model, HasEnergy):
            return self._from_energy(model, split, rows, batch_size, draws, facts)
        return Likelihood("none", None, **facts, protocol="this family has no likelihood")

    def _from_energy(
        self, model: HasEnergy, split: Split, rows: Tensor, batch_size: int, draws: torch.Generator, facts: dict
    ) -> Likelihood:
        """-energy - log Z, with log Z of each distinct condition; unnormalised where there are too many."""
        pieces = [(-model.energy(*split.batch(r, draws))).cpu().double() for r in rows.split(batch_size)]
        nats = torch.cat(pieces)
        if split.condition is None:
            log_z, error = self._partition(model, None, ())
            return self._estimate(nats - log_z, error, facts)
        condition = split.condition[rows]
        table = torch.cat([getattr(condition, k).reshape(len(rows), -1).double() for k in condition.kinds], 1)
        distinct, which = table.unique(dim=0, return_inverse=True)
        if len(distinct) > MOST_PARTITIONS:
            protocol = f"-energy without log Z, which differs between the {len(distinct)} conditions"
            return Likelihood("unnormalised", nats, **facts, protocol=protocol)
        variance = 0.0
        for i, values in enumerate(distinct):
            mine = which == i
            first = int(mine.nonzero()[0, 0])
            log_z, error = self._partition(model, condition[first : first + 1], tuple(values.tolist()))
            nats[mine] -= log_z
            # conditions have independent chains, so their errors add by variance, weighted by their share of rows
            variance += (float(mine.double().mean()) * error) ** 2
        return self._estimate(nats, math.sqrt(variance), facts)

    def _estimate(self, nats: Tensor, error: float, facts: dict) -> Likelihood:
        how = f"AIS, standard error of log Z {error:.2g} nats" if error > 0 else "log Z by enumeration or quadrature"
        return Likelihood("estimate", nats, **facts, std_error=error, protocol=how)

    def _partition(self, model: HasEnergy, condition: Condition | None, key: tuple) -> tuple[float, float]:
        if key not in self._partitions:
            # one more than the rows' seed, so that chains and rows do not share their draws
            self._partitions[key] = model.log_partition(condition, seed=self.seed + 1)
        return self._partitions[key]
