"""Classifier two-sample test: how often a classifier tells samples from data.

Lopez-Paz and Oquab 2017, "Revisiting classifier two-sample tests", arXiv:1610.06545, section 3. Real rows are labelled
0, samples 1, and the accuracy on rows that were held out is 1/2 for a perfect model and 1 for a hopeless one.

`c2st` holds it: 5 folds, each with as many rows of either side, so that chance is 1/2. The classifier is a ridge
regression on the features and 256 random Fourier features of them (Rahimi and Recht 2007), solved in closed form: it
sees means, correlations and shapes, is the same at every run, and takes milliseconds. Another classifier would give
another number. Interval: Wilson's, for 2n held-out rows divided by 1 + K / (K - 1) = 2.25 of K = 5 folds, since folds
share their training rows (Nadeau and Bengio 2003, Machine Learning 52, eq. 9).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from polymode.core import rng
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.measurement import Measurement
from polymode.evaluate.metrics.mmd import bandwidth
from polymode.evaluate.statistics import check_features, share_interval

FOLDS, FOURIER = 5, 256
#: the ridge, as a share of the number of training rows; features have unit scale
RIDGE = 0.01
#: rows on each side
MOST = 5000


def c2st(real: Tensor, samples: Tensor, *, scale: float, generator: torch.Generator) -> tuple[float, float, float]:
    """(accuracy, low, high) from features (N, F) and (M, F); `scale` is the width of the Fourier features."""
    check_features(least=2 * FOLDS, data=real, samples=samples)
    n = min(len(real), len(samples), MOST)
    z = torch.cat([real[:n], samples[:n]]).double()
    z = (z - z.mean(0)) / z.std(0).clamp(min=1e-12)  # a constant feature stays zero
    inputs = torch.cat([real[:n], samples[:n]]).double() / scale
    frequencies = rng.randn((inputs.shape[1], FOURIER), generator, inputs)
    phases = 2 * math.pi * rng.rand((FOURIER,), generator, inputs)
    waves = math.sqrt(2) * torch.cos(inputs @ frequencies + phases)
    design = torch.cat([z, waves, torch.ones(2 * n, 1, dtype=z.dtype)], 1)
    target = torch.cat([-torch.ones(n), torch.ones(n)]).double()
    # pairs of one real row and one sample share a fold, so each fold is balanced
    fold = torch.randperm(n, generator=generator) % FOLDS
    fold = torch.cat([fold, fold])
    # a tie is half a hit: samples equal to the data can't be told apart
    hits = float(((held_out_scores(design, target, fold) > 0) == (target > 0)).double().sum())
    shrink = 1 + FOLDS / (FOLDS - 1)
    return share_interval(hits / shrink, 2 * n / shrink)


def held_out_scores(design: Tensor, target: Tensor, fold: Tensor) -> Tensor:
    """What the ridge regression of all other folds says of each row, (N,) of design (N, F) and target (N,).

    Solved in F unknowns, or in N where there are fewer rows than features: X' (X X' + r)^-1 = (X' X + r)^-1 X'.
    """
    dual = len(design) < design.shape[1]
    gram = design @ design.T if dual else design.T @ design
    scores = torch.empty_like(target)
    for f in range(int(fold.max()) + 1):
        held, kept = fold == f, fold != f
        ridge = int(kept.sum()) * RIDGE
        if dual:
            inner = gram[kept][:, kept]
            inner.diagonal().add_(ridge)
            scores[held] = gram[held][:, kept] @ torch.linalg.solve(inner, target[kept])
        else:
            inner = gram - design[held].T @ design[held]
            inner.diagonal().add_(ridge)
            scores[held] = design[held] @ torch.linalg.solve(inner, design[kept].T @ target[kept])
    return scores


def measure(c: Comparison) -> list[Measurement]:
    """The row of the report; see the module."""
    scale = c.reference.cached("mmd bandwidth", lambda: bandwidth(c.real_features))
    value, low, high = c2st(c.real_features, c.features, scale=scale, generator=c.generator("c2st"))
    protocol = f"accuracy of ridge on features and {FOURIER} Fourier features, {FOLDS} folds, 0.5 is best"
    return [Measurement("C2ST", value, low, high, c.n, "lower", protocol, features=c.reference.space.name)]
