"""Parzen-window log-likelihood of test data under samples: an estimate by which models without a density were compared.

Parzen 1962; Breuleux, Bengio and Vincent 2011, Quickly Generating Representative Samples from an RBM-Derived Process.

    log p(x) = log 1/S sum_s N(x; x_s, sigma^2 I)            x_s samples of the model

`parzen_log_density` holds it, `choose_sigma` takes the sigma that is best for validation rows: powers of two, then
golden section. Pixels and other levels are put on [0, 1], reals are standardised inside and come back in their own
units. On levels it is a density beside masses, so that it is comparable with other Parzen estimates only.

Its authors warn of it: the estimate is biased and of high variance, and Theis, van den Oord and Bethge 2016
(arXiv:1511.01844, section 3.2) show that it can rank a memory of cluster centres above the true distribution. The kind
is therefore "estimate", whatever the model, and the interval is over test rows for the samples that were drawn.
Cost: D operations for each pair of a row and a sample, so it is measured on request.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from polymode.core.errors import PolymodeError
from polymode.core.spec import Binary, Levels, Real, Spec
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.measurement import Measurement
from polymode.evaluate.statistics import mean_interval

#: validation rows that choose sigma, and pairs that are held at once
JUDGES, CHUNK = 1000, 2**22
#: sigmas tried first, in the units above, as powers of two
GRID = range(-8, 4)
#: golden-section steps: each leaves 0.618 of a bracket of a factor of four
GOLDEN_STEPS = 12


def parzen_log_density(x: Tensor, samples: Tensor, sigma: float) -> Tensor:
    """log p(x), (N,) nats, of rows (N, D) under kernels of width sigma on samples (S, D), in float64.

    Raises:
        PolymodeError: no sample, rows of another width, values that are not finite, or a sigma that is not above zero.
    """
    if not sigma > 0:
        raise PolymodeError(f"sigma={sigma}, expected a width above 0")
    return _from_distances(_squared_distances(x, samples), sigma, x.shape[1])


def choose_sigma(valid: Tensor, samples: Tensor) -> float:
    """The sigma that makes validation rows (V, D) likeliest under kernels on samples (S, D).

    Raises:
        PolymodeError: as `parzen_log_density`.
    """
    squared, d = _squared_distances(valid, samples), valid.shape[1]

    def score(power: float) -> float:
        return float(_from_distances(squared, 2.0**power, d).mean())

    best = max(GRID, key=score)
    low, high, ratio = best - 1.0, best + 1.0, (math.sqrt(5) - 1) / 2
    for _ in range(GOLDEN_STEPS):
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, b) if score(a) > score(b) else (a, high)
    return 2.0 ** ((low + high) / 2)


def _squared_distances(x: Tensor, samples: Tensor) -> Tensor:
    """(N, S) squared distances, in float64."""
    if x.dim() != 2 or samples.dim() != 2 or x.shape[1] != samples.shape[1] or min(len(x), len(samples)) == 0:
        raise PolymodeError(
            f"rows {tuple(x.shape)} and samples {tuple(samples.shape)}: expected some of each, of one width"
        )
    if not (torch.isfinite(x).all() and torch.isfinite(samples).all()):
        raise PolymodeError("a Parzen estimate needs finite rows and samples; leave out what is missing or infinite")
    size = max(1, CHUNK // len(samples))
    return torch.cat([torch.cdist(part.double(), samples.double()).square() for part in x.split(size)])


def _from_distances(squared: Tensor, sigma: float, d: int) -> Tensor:
    size, norm = max(1, CHUNK // squared.shape[1]), 0.5 * d * math.log(2 * math.pi * sigma**2)
    each = [torch.logsumexp(part * (-0.5 / sigma**2), 1) for part in squared.split(size)]
    return torch.cat(each) - norm - math.log(squared.shape[1])


def scaled(x: Tensor, spec: Spec) -> tuple[Tensor, float]:
    """Data (N, *shape) as rows (N, D) of the metric's units, and the log of a unit cell's volume in the user's.

    Raises:
        PolymodeError: data that are neither ordered levels nor reals.
    """
    if isinstance(spec.support, Real):
        loc, scale = (torch.tensor(v, dtype=torch.float64).expand(spec.num_dims) for v in
                      (spec.support.loc, spec.support.scale))  # fmt: skip
        return (x.flatten(1).double() - loc) / scale, float(scale.log().sum())
    if not isinstance(spec.support, Binary | Levels):
        raise PolymodeError(f"a Parzen estimate needs pixels, levels or reals, and the data are {spec}; use c2st")
    return x.flatten(1).double() / (spec.support.levels - 1), 0.0


def measure(c: Comparison) -> list[Measurement]:
    """The row of the report; see the module."""
    (x, log_unit), (samples, _) = scaled(c.reference.real, c.data.spec), scaled(c.samples, c.data.spec)
    valid, _ = scaled(c.data.valid.take(JUDGES, c.generator("parzen"))[0], c.data.spec)
    sigma = choose_sigma(valid, samples)
    value, low, high = mean_interval(parzen_log_density(x, samples, sigma) - log_unit)
    protocol = (
        f"Parzen windows on {len(samples)} samples, sigma {sigma:.3g} by {len(valid)} validation rows; biased and of "
        "high variance as its authors warn, comparable with its like only; 95 % over test rows"
    )
    return [Measurement("Parzen log-likelihood", value, low, high, c.n, "higher", protocol, kind="estimate")]
