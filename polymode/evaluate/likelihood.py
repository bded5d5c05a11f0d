"""The best honest likelihood a model offers: exact where it can be, a bound where it has one, an estimate, or none.

    HasLogProb   exact         log p(x)
    HasBound     lower bound   log 1/S sum_s w_s (Burda et al. 2016, arXiv:1509.00519, eq. 8), the ELBO at S = 1
    HasFrameEstimate estimate  the sum over the frames of a series, each with a log Z of its own
    HasEnergy    estimate      -E(x) - log Z, log Z by annealed importance sampling (Neal 2001), one a condition
                               of an energy that is known by a bound, its bound: a lower bound where log Z is exact
    otherwise    none

Where it is asked for, estimator="ode" integrates the probability-flow ODE of a model that has one (Song et al. 2021,
arXiv:2011.13456): an estimate. A protocol says how a number was made, under which dequantisation, and, for a data
set's split, which rows of it and how they were binarised. Rows are scored in batches and only (B,) numbers are kept.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.capabilities import HasBound, HasEnergy, HasEnergyBound, HasFrameEstimate, HasLogProb
from polymode.core.condition import Condition
from polymode.core.errors import CapabilityError, ConditionError, PolymodeError, require_choice
from polymode.core.likelihood import Likelihood, LikelihoodKind
from polymode.core.model import GenerativeModel
from polymode.core.spec import Binary, Spec
from polymode.data.dataset import DataSet, Split
from polymode.parts.samplers.ais import Annealed, HasReverseAIS, HasRowPartitions, Sandwich
from polymode.parts.solvers.flow import FlowOptions, HasProbabilityFlow

SplitName = Literal["train", "valid", "test"]
#: "auto" is the best that the model offers, "ode" the probability flow
Estimator = Literal["auto", "ode"]
#: more partition functions than this (one a distinct condition) are not estimated
MOST_PARTITIONS = 64
#: chains of annealing; many conditions share them, down to so many each, since their errors average out
CHAINS, LEAST_CHAINS = 256, 64


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
    estimator: Estimator = "auto",
    flow: FlowOptions | None = None,
) -> Likelihood:
    """Log-likelihoods of data under a model, with their kind.

    Args:
        data: a data set (its `split` is scored), a split, or a tensor (N, *shape) in data space.
        condition: one row a datum, for a tensor; a split brings its own.
        num_samples: importance samples of a bound; None for the model's default, 1 is the ELBO.
        limit: score at most this many rows, drawn without replacement.
        batch_size: rows at a time (memory only).
        seed: fixes the rows drawn, the samples of a bound and the chains of an estimate.
        estimator: "auto", or "ode" for the probability flow of a diffusion model.
        flow: solver, tolerance and probes of "ode".

    Raises:
        PolymodeError: data or conditions that do not fit the model, a condition beside a data set, or an estimator
            that the model does not have.
    """
    require_choice("split", split, ("train", "valid", "test"))
    named = ""
    if isinstance(data, Tensor):
        part = Split(data, condition)
    else:
        if condition is not None:
            raise ConditionError(
                "a condition came beside a data set that brings its own; give a tensor and a condition"
            )
        part = getattr(data, split) if isinstance(data, DataSet) else data
        part = split_for(model, part)
        named = split_words(data, split) if isinstance(data, DataSet) else ""
    scorer = Scorer(model, num_samples=num_samples, seed=seed, estimator=estimator, flow=flow)
    return scorer(part, limit=limit, batch_size=batch_size, named=named)


def split_for(model: GenerativeModel, split: Split) -> Split:
    """The split as a model takes it: without its conditions for an unconditional model."""
    return split if model.condition_spec is not None else Split(split.x, None, split.draw)


def split_words(data: DataSet, name: SplitName) -> str:
    """A split and its binarisation in words, for a protocol."""
    how = binarisation(data, name)
    return f"{name} split" + (f", {how}" if how else "")


def binarisation(data: DataSet, name: SplitName) -> str:
    """How the bits of images came about: drawn afresh at every visit, or fixed; empty for other data.

    A reader that knows better says so in the set's extra facts, under "binarisation".
    """
    if not isinstance(data.spec.support, Binary) or data.spec.kind != "image":
        return ""
    if (said := data.extra.get("binarisation")) is not None:
        return f"{said} binarisation"
    if getattr(data, name).draw is not None:
        return "dynamic binarisation (drawn at every visit)"
    drawn = data.train.draw is not None
    return "static binarisation" + (" (drawn once; that of training is dynamic)" if drawn else "")


def dequantisation(spec: Spec, protocol: str = "") -> str:
    """What a likelihood is taken of, in words; empty where `protocol` says it already."""
    if "dequantisation" in protocol:
        return ""
    if spec.is_continuous:
        return ""
    return "probability, no dequantisation" if spec.is_discrete else "probability of lattice columns, density of reals"


class Scorer:
    """Scores splits under one model, and remembers its partition functions between them.

    Args:
        model: any model.
        num_samples: importance samples of a bound; None for the model's default.
        seed: fixes every draw.
        estimator: "auto", or "ode".
        flow: how "ode" integrates.

    Raises:
        PolymodeError: numbers out of range, or an estimator that the model does not have.
    """

    def __init__(
        self,
        model: GenerativeModel,
        *,
        num_samples: int | None = None,
        seed: int = 0,
        estimator: Estimator = "auto",
        flow: FlowOptions | None = None,
    ) -> None:
        if num_samples is not None and num_samples < 1:
            raise PolymodeError(f"num_samples={num_samples}, expected at least 1")
        require_choice("estimator", estimator, ("auto", "ode"))
        if estimator == "ode" and not isinstance(model, HasProbabilityFlow):
            raise CapabilityError(
                f"estimator='ode' came with {type(model).__name__}, which has no probability flow; use 'auto'"
            )
        self.model = model
        default = model.default_num_samples if isinstance(model, HasBound | HasEnergyBound) else 1
        self.num_samples = default if num_samples is None else num_samples
        self.seed, self.estimator, self.flow = seed, estimator, flow or FlowOptions()
        self._partitions: dict[tuple, tuple[float, float, str]] = {}

    def __call__(
        self, split: Split, *, limit: int | None = None, batch_size: int | None = None, named: str = ""
    ) -> Likelihood:
        """The likelihood of a split, or of `limit` of its rows; ``named`` says in the protocol what they are."""
        if limit is not None and limit < 1:
            raise PolymodeError(f"limit={limit}, expected at least 1 row")
        draws = rng.generator(self.seed)
        batch_size = batch_size or self.model.rows_at_once
        rows = torch.arange(len(split))
        if limit is not None and limit < len(split):
            rows = torch.randperm(len(split), generator=draws)[:limit]
        found = self._score(split, rows, batch_size, draws)
        if found.kind == "none" or not named:
            return found
        return replace(found, protocol=f"{found.protocol}, {named}, {len(rows):,} of {len(split):,} rows")

    def _score(self, split: Split, rows: Tensor, batch_size: int, draws: torch.Generator) -> Likelihood:
        model, spec = self.model, self.model.spec
        facts: dict[str, Any] = {"num_dims": spec.num_dims, "discrete": spec.is_discrete}
        if self.estimator == "ode":
            return self._by_flow(split, rows, batch_size, draws, facts)
        if isinstance(model, HasLogProb):
            pieces = [model.log_prob(*split.batch(r, draws)).cpu() for r in rows.split(batch_size)]
            return Likelihood("exact", torch.cat(pieces), **facts, protocol=self._told("log p(x)"))
        if isinstance(model, HasBound):
            pieces = []
            for r in rows.split(batch_size):
                x, condition = split.batch(r, draws)
                pieces.append(model.iwae_bound(x, self.num_samples, condition, generator=draws).cpu())
            protocol = self._told(f"iwae-{self.num_samples}, {model.bound_name}")
            return Likelihood("lower bound", torch.cat(pieces), **facts, protocol=protocol)
        if isinstance(model, HasFrameEstimate):
            return self._from_frames(model, split, rows, batch_size, draws, facts)
        if isinstance(model, HasEnergy):
            return self._from_energy(model, split, rows, batch_size, draws, facts)
        return Likelihood("none", None, **facts, protocol="this family has no likelihood")

    def _told(self, protocol: str) -> str:
        """The protocol with what is said of dequantisation."""
        return ", ".join(filter(None, (protocol, dequantisation(self.model.spec, protocol))))

    def _by_flow(self, split: Split, rows: Tensor, batch_size: int, draws: torch.Generator, facts: dict) -> Likelihood:
        """The probability-flow ODE; the standard error is that of Hutchinson's probes."""
        model = self.model
        assert isinstance(model, HasProbabilityFlow)
        carried = [model.flow_log_density(*split.batch(r, draws), self.flow, draws) for r in rows.split(batch_size)]
        nats = torch.cat([c.nats for c in carried]).cpu()
        variance = torch.cat([c.variance for c in carried]).cpu().double()
        error = float(variance.sum().sqrt()) / len(rows)
        words = [f"probability-flow ODE, {self.flow.protocol(model.spec.num_dims)}"]
        if math.isnan(error):
            words.append("one probe, so no standard error of it")
        elif not self.flow.is_exact(model.spec.num_dims):
            words.append(f"standard error {error:.2g} nats")
        words.append(f"{max(c.evaluations for c in carried)} evaluations")
        if not model.spec.is_continuous:
            words.append("one draw of uniform dequantisation")
        protocol = ", ".join(words)
        return Likelihood(
            "estimate", nats, **facts, std_error=0.0 if math.isnan(error) else error, protocol=self._told(protocol)
        )

    def _from_frames(
        self, model: HasFrameEstimate, split: Split, rows: Tensor, batch_size: int, draws: torch.Generator, facts: dict
    ) -> Likelihood:
        """The sum over frames, whose estimates have independent errors."""
        found = []
        for r in rows.split(batch_size):
            x, condition = split.batch(r, draws)
            found.append(model.frame_estimate(x, None, condition, generator=draws))
        nats = torch.cat([f.nats.double().sum(1).cpu() for f in found])
        error = math.sqrt(sum(float(f.std_error.double().square().sum()) for f in found)) / len(rows)
        return Likelihood("estimate", nats, **facts, std_error=error, protocol=self._told(found[0].protocol))

    def _from_energy(
        self, model: HasEnergy, split: Split, rows: Tensor, batch_size: int, draws: torch.Generator, facts: dict
    ) -> Likelihood:
        """-energy - log Z, with log Z of each distinct condition; unnormalised where there are too many."""
        pieces = []
        for r in rows.split(batch_size):
            x, condition = split.batch(r, draws)
            if isinstance(model, HasEnergyBound):
                energy = model.energy_bound(x, self.num_samples, condition, generator=draws)
            else:
                energy = model.energy(x, condition)
            pieces.append(-energy.cpu().double())
        nats = torch.cat(pieces)
        if split.condition is None:
            log_z, error, how = self._partition(model, None, (), CHAINS)
            return self._estimate(nats - log_z, error, how, facts)
        condition = split.condition[rows]
        table = torch.cat([getattr(condition, k).reshape(len(rows), -1).double() for k in condition.kinds], 1)
        distinct, which = table.unique(dim=0, return_inverse=True)
        if len(distinct) > MOST_PARTITIONS and isinstance(model, HasRowPartitions):
            counts = which.bincount()
            firsts = which.argsort(stable=True)[counts.cumsum(0) - counts]
            log_z, errors = (t.cpu().double() for t in model.log_partitions(condition[firsts], seed=self.seed + 1))
            how = f"mean over the log Z of {len(distinct)} conditions, each found on its own"
            return self._estimate(nats - log_z[which], float((errors * counts / len(rows)).norm()), how, facts)
        if len(distinct) > MOST_PARTITIONS:
            protocol = f"-energy without log Z, which differs between the {len(distinct)} conditions"
            return Likelihood("unnormalised", nats, **facts, protocol=self._told(protocol))
        variance, told, chains = 0.0, "", max(LEAST_CHAINS, CHAINS // len(distinct))
        for i, values in enumerate(distinct):
            mine = which == i
            first = int(mine.nonzero()[0, 0])
            log_z, error, how = self._partition(model, condition[first : first + 1], tuple(values.tolist()), chains)
            nats[mine] -= log_z
            # conditions have independent chains, so their errors add by variance, weighted by their share of rows
            variance += (float(mine.double().mean()) * error) ** 2
            told = told or (f"of the first of {len(distinct)} conditions: {how}" if len(distinct) > 1 else how)
        return self._estimate(nats, math.sqrt(variance), told, facts)

    def _estimate(self, nats: Tensor, error: float, how: str, facts: dict) -> Likelihood:
        protocol = "log Z by enumeration or quadrature"
        if error > 0:
            protocol = "; ".join(filter(None, (f"AIS, standard error of log Z {error:.2g} nats", how)))
        kind: LikelihoodKind = "estimate"
        if isinstance(self.model, HasEnergyBound):  # a bound only as far as log Z is known
            protocol = f"iwae-{self.num_samples} of an unnormalised bound, {protocol}"
            kind = "estimate" if error > 0 else "lower bound"
        return Likelihood(kind, nats, **facts, std_error=error, protocol=self._told(protocol))

    def _partition(
        self, model: HasEnergy, condition: Condition | None, key: tuple, chains: int
    ) -> tuple[float, float, str]:
        """(log Z, its standard error, both directions in words where the model can be annealed from above)."""
        if key not in self._partitions:
            # one more than the rows' seed, so that chains and rows do not share their draws
            log_z, error = model.log_partition(condition, seed=self.seed + 1, chains=chains)
            how = ""
            # under many conditions one sandwich stands for all: each costs as much as a fourth of an estimate
            if error > 0 and isinstance(model, HasReverseAIS) and not self._partitions:
                reverse = model.reverse_log_partition(condition, seed=self.seed + 2)
                how = str(Sandwich(Annealed(log_z, error), reverse))
            self._partitions[key] = log_z, error, how
        return self._partitions[key]
