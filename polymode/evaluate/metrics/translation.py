"""How well pictures become other pictures: near to the one that was meant, told apart from the rest, and back again.

    L1                mean |G(a) - b| over pixels, as a share of their range
    L1 over copying   the same over that of the source as it is, mean |G(a) - b| / mean |a - b|; 1 is no better
    own nearest       share of translations whose nearest test picture, in the report's features, is their own partner;
                      by chance 1 / n, and a copy may find it, too
    cycle L1          mean |F(G(a)) - a|, for models that also lead back (Zhu et al. 2017, arXiv:1703.10593, eq. 2)
    gap over copying  MMD^2 of translations and test data over that of sources and test data, under KID's cubic kernel
                      on the report's features; 1 is no more like them than the sources, 0 not told apart from them

The first three need test rows that are pairs; sets that were learned without pairs may have such (`emoji_vendors`).
Copying is left out where source and datum have different shapes. Intervals: Student's for means, the grouped jackknife
for the ratios, Wilson's for the share.
"""

from __future__ import annotations

import torch
from torch import Tensor

from polymode.core.capabilities import Translates
from polymode.core.condition import ConditionSpec
from polymode.core.spec import Spec
from polymode.data.dataset import DataSet
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.measurement import Measurement
from polymode.evaluate.statistics import jackknife, leave_groups_out, mean_interval, nearest, share_interval

#: pictures below which the gap is not told
LEAST = 20


def gives_sources(spec: ConditionSpec | None) -> bool:
    """Whether a condition is a source picture and nothing else."""
    return spec is not None and spec.kinds == ("image",)


def tested_in_pairs(data: DataSet) -> bool:
    """Whether the picture in front of a test row belongs to it."""
    return data.condition_spec is not None and (
        not data.condition_spec.unpaired or "test" in data.extra.get("paired", ())
    )


def far(x: Tensor, y: Tensor, spec: Spec) -> Tensor:
    """(B,) the mean |x - y| over pixels, as a share of the range of their levels."""
    return (x.double() - y.double()).abs().flatten(1).mean(1) / ((spec.levels or 2) - 1)


def measure(c: Comparison) -> list[Measurement]:
    """The rows of the report; see the module."""
    assert c.condition is not None
    assert c.condition.image is not None
    assert c.model is not None
    sources, n = c.condition.image[: c.n], c.n
    copies = _copies(c, sources)
    found = _against_partners(c, copies) if tested_in_pairs(c.data) else []
    routes = c.model.routes if isinstance(c.model, Translates) else {}
    if "a" in routes:
        assert isinstance(c.model, Translates)
        back = c.model.translate(c.samples[:n], "a", seed=c.reference.seed)
        cycle = mean_interval(far(back, sources, routes["a"][1]))
        found.append(Measurement("cycle L1", *cycle, n, "lower", "sources of test rows there and back; Student's"))
    if copies is not None and n >= LEAST:
        found.append(_gap(c, copies))
    return found


def _copies(c: Comparison, sources: Tensor) -> Tensor | None:
    """Sources as they are in the levels of the data; None where shapes differ."""
    spec, condition_spec = c.data.spec, c.data.condition_spec
    source = None if condition_spec is None else condition_spec.source
    if source is None or source.shape != spec.shape:
        return None
    scale = ((spec.levels or 2) - 1) / ((source.levels or 2) - 1)
    return (sources.double() * scale).round().to(spec.dtype)


def _against_partners(c: Comparison, copies: Tensor | None) -> list[Measurement]:
    spec, n = c.data.spec, c.n
    partners, real = c.reference.real[:n], c.real_features[:n]
    mine = far(c.samples[:n], partners, spec)
    how = "translations of test sources against their partners"
    found = [Measurement("L1", *mean_interval(mine), n, "lower", f"{how}; Student's")]
    beside = ""
    if copies is not None:
        copied = far(copies, partners, spec)
        found.append(_over("L1 over copying", mine, copied, f"{how}, over sources as they are ({copied.mean():.3f})"))
        beside = f", a copy's is in {_own(c.reference.space(copies), real) / n:.2g}"
    told = f"{how}: the nearest of {n} is their own{beside}, by chance {1 / n:.2g}; Wilson's"
    share = share_interval(_own(c.features[:n], real), n)
    found.append(Measurement("own nearest", *share, n, "higher", told, features=c.reference.space.name))
    return found


def _own(features: Tensor, real: Tensor) -> float:
    """How many rows have the row of the same place as their nearest."""
    _, which = nearest(features, real, 1)
    return float((which[:, 0] == torch.arange(len(real))).sum())


def _over(name: str, mine: Tensor, copied: Tensor, how: str) -> Measurement:
    """The mean of one side over that of the other, row by row left out together."""
    value, low, high = jackknife(_ratio(mine, copied), leave_groups_out(_ratio, mine, copied), correct=False)
    return Measurement(name, value, max(0.0, low), high, len(mine), "lower", f"{how}; jackknife")


def _ratio(x: Tensor, y: Tensor) -> float:
    return float(x.mean() / y.mean())


def _gap(c: Comparison, copies: Tensor) -> Measurement:
    real = c.real_features[: c.n].double()
    both = torch.cat([c.features[: c.n], c.reference.space(copies)], 1).double()
    width = real.shape[1]

    def statistic(x: Tensor, y: Tensor) -> float:
        return cubic_mmd(x[:, :width], y) / cubic_mmd(x[:, width:], y)

    value, low, high = jackknife(statistic(both, real), leave_groups_out(statistic, both, real), correct=False)
    told = "squared MMD of translations and test data over that of sources and test data, cubic kernel; jackknife"
    features = c.reference.space.name
    return Measurement("gap over copying", value, low, high, c.n, "lower", told, features=features)


def cubic_mmd(x: Tensor, y: Tensor) -> float:
    """The unbiased squared MMD of rows (N, F) and (M, F) under (u . v / F + 1)^3."""

    def kernel(u: Tensor, v: Tensor) -> Tensor:
        return (u @ v.T / u.shape[1] + 1) ** 3

    n, m = len(x), len(y)
    xx, yy = kernel(x, x), kernel(y, y)
    within = (xx.sum() - xx.trace()) / (n * (n - 1)) + (yy.sum() - yy.trace()) / (m * (m - 1))
    return float(within - 2 * kernel(x, y).mean())
