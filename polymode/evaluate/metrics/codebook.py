"""Codebook: how many of its codes a model uses, how evenly, and what is left of an image that went through them.

van den Oord, Vinyals and Kavukcuoglu 2017, Neural Discrete Representation Learning (arXiv:1711.00937). With p_k the
share of test positions whose code is k, and x' = decode(encode(x)) on a scale from 0 to M,

    use = |{k: p_k > 0}| / K,     perplexity = exp(-sum_k p_k log p_k),     PSNR = 10 log10(M^2 / mean (x - x')^2)

`measure` holds them, `parts.nn.quantiser.usage` the first two, each a row a codebook. A codebook that collapsed has a
use near 1 / K; an even one has perplexity K. Both grow with the number of rows and have no interval. The PSNR is of the
mean squared error over rows, whose 95 % interval it carries; it is measured of images of levels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from polymode.core.capabilities import HasCodes, HasLatents
from polymode.core.condition import Condition
from polymode.core.errors import PolymodeError
from polymode.core.model import GenerativeModel
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.measurement import Measurement
from polymode.evaluate.statistics import mean_interval
from polymode.parts.nn.quantiser import usage

#: rows at a time
BATCH = 256


def squared_errors(model: GenerativeModel, x: Tensor, condition: Condition | None = None) -> Tensor:
    """The mean squared error of each datum's reconstruction, (N,), in units of the range of its levels.

    Raises:
        PolymodeError: a model without encoder and decoder, or data without levels.
    """
    top = (model.spec.levels or 0) - 1
    if not isinstance(model, HasLatents) or top < 1:
        raise PolymodeError(
            f"{type(model).__name__} on {model.spec} has no reconstructions of levels; PSNR needs a model that encodes "
            "and decodes data of levels"
        )
    found = []
    for i in range(0, len(x), BATCH):
        rows = slice(i, i + BATCH)
        given = None if condition is None else condition[rows]
        back = model.decode(model.encode(x[rows], given), given).cpu()
        found.append(((back.double() - x[rows].double()) / top).square().flatten(1).mean(1))
    return torch.cat(found)


def psnr(errors: Tensor) -> tuple[float, float, float]:
    """(PSNR in dB, low, high) of squared errors on a scale from 0 to 1; infinite where there are none."""
    mean, low, high = mean_interval(errors)
    return _decibels(mean), _decibels(high), _decibels(low)


def _decibels(error: float) -> float:
    return -10 * math.log10(error) if error > 0 else math.nan if math.isnan(error) else math.inf


def measure(c: Comparison) -> list[Measurement]:
    """The rows of the report; see the module."""
    assert isinstance(c.model, GenerativeModel)
    assert isinstance(c.model, HasCodes)
    x = c.reference.real
    found = []
    for name, codes in _codes_of(c.model, x).items():
        k = c.model.num_codes[name]
        perplexity, used = (float(value) for value in usage(codes, k))
        of = "" if name == "codes" else f" ({name})"
        protocol = f"of {k} codes, {codes.numel():,} positions of {len(x)} test rows"
        found += [
            Measurement(f"codebook use{of}", used, math.nan, math.nan, len(x), "higher", protocol),
            Measurement(f"codebook perplexity{of}", perplexity, math.nan, math.nan, len(x), "higher", protocol),
        ]
    condition = None if c.model.condition_spec is None else c.reference.condition
    errors = squared_errors(c.model, x, condition)
    protocol = "dB, of test rows decoded from their codes; 95 % over rows"
    found.append(Measurement("reconstruction PSNR", *psnr(errors), len(x), "higher", protocol))
    return found


def _codes_of(model: HasCodes, x: Tensor) -> dict[str, Tensor]:
    pieces = [model.codes(part) for part in x.split(BATCH)]
    return {name: torch.cat([piece[name].cpu() for piece in pieces]) for name in pieces[0]}
