"""Progressive coding: how good a picture is, and at how many bits, while a diffusion model sends it.

Ho, Jain and Abbeel 2020, Denoising diffusion probabilistic models (arXiv:2006.11239), section 4.3 and figure 5.

    rate(t) = sum_{s >= t} L_s, the bits that x_t takes        distortion(t) = sqrt(E |x_0 - x0_hat(x_t)|^2 / D)

`rate_distortion` measures both along a model's `transmission`. Rates are about what minimal random coding (Havasi,
Peharz and Hernandez-Lobato 2019, arXiv:1810.00440) would send; such code words are not written here, as the paper's
are not: their search takes time exponential in their length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.capabilities import Transmits, require
from polymode.core.condition import Condition
from polymode.core.model import GenerativeModel


@dataclass(frozen=True)
class Point:
    """What the receiver has.

    Args:
        bits: sent so far, a dimension.
        std_error: of the bits.
        rmse: of the guess, in the data's own units (levels).
    """

    bits: float
    std_error: float
    rmse: float


def rate_distortion(
    model: GenerativeModel,
    x: Tensor,
    condition: Condition | None = None,
    *,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    batch_size: int = 256,
) -> list[Point]:
    """A point a step of the transmission, from nothing but noise to the datum itself.

    Args:
        x: (N, *shape) data.

    Raises:
        CapabilityError: a model that sends nothing little by little.
    """
    require(model, Transmits, "transmission")
    assert isinstance(model, Transmits)
    g = rng.resolve(generator, seed)
    nats: list[list[Tensor]] = []
    errors: list[list[Tensor]] = []
    for rows in torch.arange(len(x)).split(batch_size):
        sent = model.transmission(x[rows], None if condition is None else condition[rows], generator=g)
        wanted = x[rows].to(sent[0][1])
        nats.append([n.double().cpu() for n, _ in sent])
        errors.append([(guess - wanted).double().square().flatten(1).mean(1).cpu() for _, guess in sent])
    points = []
    for sent_at, missed in zip(zip(*nats, strict=True), zip(*errors, strict=True), strict=True):
        bits = torch.cat(sent_at) / math.log(2) / model.spec.num_dims
        spread = float(bits.std()) / math.sqrt(len(bits)) if len(bits) > 1 else 0.0
        points.append(Point(float(bits.mean()), spread, math.sqrt(float(torch.cat(missed).mean()))))
    return points
