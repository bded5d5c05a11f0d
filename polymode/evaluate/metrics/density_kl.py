"""How many nats a model is from data whose density is known.

    KL(p || q) = E_p[log p(x) - log q(x)]    (Kullback and Leibler 1951)

`density_kl` takes the mean over test rows, with Student's interval: the held-out negative log-likelihood minus the
entropy, both on the same rows, which cancels most of the noise. With a lower bound on log q it is an upper bound on
the divergence, and says so. The likelihood's own kind goes along. A model conditioned on labels is summed over them.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from polymode.core.condition import label
from polymode.core.errors import PolymodeError
from polymode.core.likelihood import Likelihood
from polymode.data.dataset import Split
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.likelihood import Scorer
from polymode.evaluate.measurement import Measurement
from polymode.evaluate.statistics import mean_interval


def density_kl(log_p: Tensor, log_q: Tensor) -> tuple[float, float, float]:
    """(value, low, high) in nats from log-densities (N,) of the same rows."""
    return mean_interval(log_p.double() - log_q.double())


def measure(c: Comparison) -> list[Measurement]:
    """The row of the report; see the module."""
    assert c.data.log_density is not None
    assert c.scorer is not None
    x, _ = c.data.test.take(c.reference.limit, c.reference.generator("density_kl"))
    scored = _marginal(c.scorer, x, c.data.train)
    assert scored.nats is not None
    value, low, high = density_kl(c.data.log_density(x), scored.nats)
    if not math.isfinite(value):
        raise PolymodeError(
            "KL(data||model) is not finite: the model gives some test rows no probability; use sliced_wasserstein"
        )
    if scored.std_error > 0:
        middle, half = (low + high) / 2, math.hypot((high - low) / 2, 1.96 * scored.std_error)
        low, high = middle - half, middle + half
    relation = {"exact": "", "lower bound": "an upper bound: ", "estimate": "an estimate: "}[scored.kind]
    protocol = f"{relation}mean of log p - log q over test rows, {scored.protocol}"
    return [Measurement("KL(data||model)", value, low, high, len(x), "lower", protocol, kind=scored.kind)]


def _marginal(scorer: Scorer, x: Tensor, train: Split) -> Likelihood:
    """log q(x), for a conditional model log sum_y q(y) q(x | y) with the training split's shares of labels."""
    spec = scorer.model.condition_spec
    if spec is None:
        return scorer(Split(x))
    if spec.kinds != ("label",) or train.condition is None or train.condition.label is None:
        raise PolymodeError(
            f"KL(data||model) needs q(x), and this model gives q(x | {' and '.join(spec.kinds)}); "
            "use sliced_wasserstein"
        )
    counts = torch.bincount(train.condition.label, minlength=spec.label or 0).double()
    total, scored = torch.full((len(x),), -torch.inf, dtype=torch.float64), None
    for y in counts.nonzero()[:, 0].tolist():
        scored = scorer(Split(x, label(y, len(x))))
        assert scored.nats is not None
        total = torch.logaddexp(total, scored.nats.double() + (counts[y] / counts.sum()).log())
    assert scored is not None
    return replace(scored, nats=total, protocol=f"{scored.protocol}, summed over labels")
