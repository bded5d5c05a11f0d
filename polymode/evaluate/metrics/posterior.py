"""What an approximate posterior makes of its code: active units, KL, and the gaps of inference.

Equations, papers and costs are in `evaluate.diagnostics.posterior`; this is their row in a report, on test rows: all of
them for active units and KL, 64 for the gaps, whose intervals are Student's t over rows.
"""

from __future__ import annotations

import math

import torch

from polymode.core.capabilities import HasPosterior
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.diagnostics.posterior import JUDGING, STEPS, active_units, inference_gaps, kl_by_dim
from polymode.evaluate.measurement import Measurement
from polymode.evaluate.statistics import mean_interval
from polymode.parts.codes import ACTIVE

#: rows that the gaps are measured on, rows at a time, and dimensions whose KL is told
GAP_ROWS, BATCH, TOLD = 64, 1024, 12


def measure(c: Comparison) -> list[Measurement]:
    """The rows of the report; see the module."""
    model, x = c.model, c.reference.real
    assert model is not None
    assert isinstance(model, HasPosterior)
    condition = None if model.condition_spec is None else c.reference.condition
    rows = torch.arange(len(x)).split(BATCH)
    pieces = [model.posterior_gaussian(x[r], None if condition is None else condition[r]) for r in rows]
    mu, log_sigma = (torch.cat([p[i].cpu() for p in pieces]) for i in range(2))
    units, size = active_units(mu), mu.shape[1]
    protocol = f"of {size}: the variance over {len(mu)} test rows of the posterior's mean is above {ACTIVE:g}"
    found = [Measurement("active units", units, math.nan, math.nan, len(mu), None, protocol)]
    if model.has_closed_kl:
        each = kl_by_dim(mu, log_sigma).sort(descending=True).values
        told = ", ".join(f"{v:.2f}" for v in each[:TOLD].tolist()) + (", ..." if size > TOLD else "")
        total = kl_by_dim(mu, log_sigma).sum()
        found.append(
            Measurement("KL", float(total), math.nan, math.nan, len(mu), None, f"nats a datum; by dimension {told}")
        )
    else:
        sentence = "the prior is no standard normal, so the KL has no closed form; the bound holds it"
        found.append(Measurement.refused("KL", len(mu), None, sentence))
    few = slice(0, GAP_ROWS)
    gaps = inference_gaps(model, x[few], None if condition is None else condition[few], generator=c.generator("gaps"))
    how = f"nats; the best diagonal Gaussian a datum by {STEPS} steps of Adam, {JUDGING} draws"
    for name, values, words in (
        ("amortisation gap", gaps.amortisation, how),
        ("approximation gap", gaps.approximation, f"{how}; at least this, as log p(x) is a bound"),
    ):
        found.append(Measurement(name, *mean_interval(values), len(values), "lower", words, kind="estimate"))
    return found
