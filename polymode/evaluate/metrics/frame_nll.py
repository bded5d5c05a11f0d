"""Nats a frame of binary series, as music is scored: over whole pieces, or over the windows that the data are.

Boulanger-Lewandowski, Bengio and Vincent 2012 (arXiv:1206.6392, table 1): the mean over all time steps of the test set.
With T_i frames in piece i,

    frame NLL = -sum_i sum_{t <= T_i} log p(v_t | v_<t) / sum_i T_i

`frame_nll` holds it; its interval is the delta method's for a ratio of means over pieces. Where rows are whole pieces
(`Spec.extra["padded"]`) every frame is scored once, the first too, given all of the piece before it, and the silence
behind a piece is in neither sum; this takes a model that scores frames one by one, estimates the normaliser of each
(`HasFrameEstimate`, whose own standard error widens the interval), or bounds the first of them (`HasFrameBound`). Of
the latter "frame NLL" is the ELBO, which is what papers report of latent chains, and bounds of more samples stand
beside it, importance-weighted and by a particle filter; all are upper bounds of the number, and say so. "frame NLL
with ends" is for every model: -log p of the whole rows over the same frames, so that a piece's end has its price and
the silence behind it adds none of its frames; it is never lower by the same estimator. Windows start without the past
that they were cut from, which costs nats: their number is not that of whole pieces.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.capabilities import HasFrameBound, HasFrameEstimate, HasFrameLogProb
from polymode.core.errors import PolymodeError
from polymode.core.rolls import lengths
from polymode.data.dataset import Split
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.likelihood import split_for
from polymode.evaluate.measurement import Measurement

#: rows scored at a time
ROWS = 64
#: draws that an ELBO is the mean of
ELBO_DRAWS = 8


def frame_nll(nats: Tensor, frames: Tensor, *, std_error: float = 0.0) -> tuple[float, float, float]:
    """(nats a frame, low, high) from log p (N,) and the frames of each row (N,).

    Args:
        std_error: the likelihood estimator's own standard error, nats a row.

    Raises:
        PolymodeError: unlike numbers of both, or no frame.
    """
    nats, frames = nats.double(), frames.double()
    if nats.shape != frames.shape or not float(frames.sum()) > 0:
        raise PolymodeError(
            f"nats a frame need log-likelihoods and frames of the same rows, shapes {tuple(nats.shape)} and "
            f"{tuple(frames.shape)} with {float(frames.sum()):g} frames came"
        )
    n, rate = len(nats), float(-nats.sum() / frames.sum())
    if n < 2:
        return rate, math.nan, math.nan
    own = float((-nats - rate * frames).square().sum()) / (n - 1)
    half = 1.96 * math.hypot(math.sqrt(own / n), std_error) / float(frames.mean())
    return rate, rate - half, rate + half


def frame_nats(model: HasFrameLogProb, split: Split, frames: Tensor) -> Tensor:
    """log p of the first `frames` (N,) of each row, (N,)."""
    pieces = []
    for start in range(0, len(split), ROWS):
        rows = slice(start, start + ROWS)
        condition = None if split.condition is None else split.condition[rows]
        each = model.frame_log_prob(split.x[rows], condition).cpu().double()  # (B, T)
        pieces.append((each * (torch.arange(each.shape[1]) < frames[rows, None])).sum(1))
    return torch.cat(pieces)


def estimated_nats(
    model: HasFrameEstimate, split: Split, frames: Tensor, generator: torch.Generator
) -> tuple[Tensor, float, str]:
    """(log p of the first `frames` (N,) of each row (N,), the standard error of their mean, how they were made)."""
    pieces, variance, told = [], 0.0, ""
    for start in range(0, len(split), ROWS):
        rows = slice(start, start + ROWS)
        condition = None if split.condition is None else split.condition[rows]
        found = model.frame_estimate(split.x[rows], frames[rows], condition, generator=generator)
        pieces.append(found.nats.cpu().double().sum(1))
        variance += float(found.std_error.double().square().sum())
        told = told or found.protocol
    return torch.cat(pieces), math.sqrt(variance) / len(split), told


def bounded_nats(
    model: HasFrameBound, split: Split, frames: Tensor, num_samples: int, resample: bool, generator: torch.Generator
) -> Tensor:
    """A lower bound on log p of the first `frames` (N,) of each row, (N,)."""
    pieces = []
    for start in range(0, len(split), ROWS):
        rows = slice(start, start + ROWS)
        condition = None if split.condition is None else split.condition[rows]
        found = model.frame_bound(
            split.x[rows], frames[rows], num_samples, condition, resample=resample, generator=generator
        )
        pieces.append(found.cpu().double())
    return torch.cat(pieces)


def bounds(c: Comparison, model: HasFrameBound, split: Split, frames: Tensor) -> list[Measurement]:
    """The ELBO of the frames of whole pieces, and the bounds of as many samples as the likelihood takes."""
    assert c.scorer is not None
    k, g = c.scorer.num_samples, c.generator("frame_nll")
    elbo = torch.stack([bounded_nats(model, split, frames, 1, False, g) for _ in range(ELBO_DRAWS)]).mean(0)
    found = [("", f"ELBO, {ELBO_DRAWS} draws", elbo)]
    if k > 1:
        found += [
            (f", IWAE-{k}", f"importance-weighted, {k} samples", bounded_nats(model, split, frames, k, False, g)),
            (f", FIVO-{k}", f"particle filter, {k} samples", bounded_nats(model, split, frames, k, True, g)),
        ]
    where = f"the {int(frames.sum()):,} frames of whole pieces, silence behind them summed out"
    return [
        Measurement(f"frame NLL{name}", *frame_nll(nats, frames), len(split), "lower", f"{how}, {where}", "lower bound")
        for name, how, nats in found
    ]


def measure(c: Comparison) -> list[Measurement]:
    """The rows of the report; see the module."""
    assert c.likelihood is not None
    assert c.likelihood.nats is not None
    assert c.scorer is not None
    likelihood, nats, spec, model = c.likelihood, c.likelihood.nats, c.data.spec, c.scorer.model
    # a scorer draws its rows by the first permutation at its seed, as `Split.take` does
    x, condition = c.data.test.take(c.reference.limit, rng.generator(c.scorer.seed))
    padded = bool(spec.extra.get("padded"))
    frames = lengths(x) if padded else torch.full((len(x),), spec.shape[0])
    total = int(frames.sum())
    found = []
    if padded and isinstance(model, HasFrameLogProb):
        scored = frame_nats(model, split_for(model, Split(x, condition)), frames)
        how = f"whole pieces, each of {total:,} frames given all before it, the first too; silence behind them left out"
        found.append(Measurement("frame NLL", *frame_nll(scored, frames), len(x), "lower", how, likelihood.kind))
    elif padded and isinstance(model, HasFrameEstimate):
        g = c.generator("frame_nll")
        scored, error, how = estimated_nats(model, split_for(model, Split(x, condition)), frames, g)
        how = f"{how}; whole pieces, each of {total:,} frames given all before it; silence behind them left out"
        value = frame_nll(scored, frames, std_error=error)
        found.append(Measurement("frame NLL", *value, len(x), "lower", how, likelihood.kind))
    elif padded and isinstance(model, HasFrameBound):
        found += bounds(c, model, split_for(model, Split(x, condition)), frames)
    value = frame_nll(nats, frames, std_error=likelihood.std_error)
    name = "frame NLL with ends" if padded else "frame NLL"
    how = (
        f"nats of whole rows over the {total:,} frames of pieces; silence behind pieces is in the nats only"
        if padded
        else f"{total:,} frames in windows of {spec.shape[0]}, each without the past before its window"
    )
    found.append(Measurement(name, *value, len(x), "lower", f"{how} ({likelihood.protocol})", likelihood.kind))
    return found
