"""Mel-cepstral distortion between each sample and its nearest real recording.

Kubichek 1993, "Mel-cepstral distance measure for objective speech quality assessment", IEEE Pacific Rim Conf. on
Communications. With c_k the cepstra of a frame, from the log-mel powers S_0 .. S_{M-1} by a DCT-II:

    c_k = 1/M sum_m ln S_m cos(pi k (m + 1/2) / M)
    MCD = 10 / ln 10 mean_t sqrt(2 sum_{k=1}^{K} (c_k(t) - c'_k(t))^2)      in dB; 10 sqrt(2) / ln 10 before the root

c_0, the loudness, is left out. With K = M - 1 the root is the rms difference in dB of the two mel spectra, each less
its own mean (Parseval). `cepstra` and `mcd` hold it, M = 20 and K = 13; `sound.log_mel` holds S. MCD(x, x) = 0.

A generative model has no recording that a sample should equal, so `nearest_mcd` takes the smallest over at most 200
test recordings. Neither direction is better: it is near zero for copies, and a flat or average spectrum lies nearer to
all recordings than they do to each other (on fsdd white noise has 4.1 dB and fresh digits 4.3), so what a good model
has is the value of real data (the ceiling). Recordings start together as they are in the data: a time shift counts as a
difference. Asked for align="dtw", each pair is compared along the path of frames that costs least (Sakoe and Chiba
1978, IEEE Trans. Acoustics 26, steps (1, 0), (0, 1) and (1, 1) of equal weight), as means along that path. How well
a voice sounds it does not say: a mean opinion score needs listeners (`human.judgement`).
The interval is Student's, over samples, given the recordings. Cost N M F K for F frames, F^2 with time warping.

The Frechet audio distance of Kilgour et al. 2019, arXiv:1812.08466, is `frechet` in the feature space log-mel.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from polymode.core.errors import PolymodeError, require_choice
from polymode.core.spec import Spec
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.features import sound
from polymode.evaluate.measurement import Measurement
from polymode.evaluate.statistics import mean_interval

Align = Literal["none", "dtw"]
COEFFICIENTS = 13
#: samples and recordings that are compared with each other
ROWS = 200
#: frames of pairs that are held at once
CHUNK = 1 << 22
DECIBELS = 10 * math.sqrt(2) / math.log(10)


def cepstra(log_mel: Tensor, coefficients: int = COEFFICIENTS) -> Tensor:
    """c_1 .. c_K (..., K) of log-mel powers (..., M).

    Raises:
        PolymodeError: K outside 1 .. M - 1.
    """
    bands = log_mel.shape[-1]
    if not 1 <= coefficients < bands:
        raise PolymodeError(f"{coefficients} cepstra of {bands} bands, expected 1 to {bands - 1}")
    k = torch.arange(1, coefficients + 1, dtype=torch.float64)[:, None]
    m = torch.arange(bands, dtype=torch.float64)
    return log_mel.double() @ (torch.cos(math.pi / bands * k * (m + 0.5)) / bands).T


def mcd(x: Tensor, y: Tensor, *, align: Align = "none") -> Tensor:
    """MCD in dB (N, M) of every pair of cepstra (N, F, K) and (M, G, K); without alignment F = G.

    Raises:
        PolymodeError: another choice, unlike coefficients, no frames, or unlike lengths without alignment.
    """
    require_choice("align", align, ("none", "dtw"))
    if x.dim() != 3 or y.dim() != 3 or x.shape[2] != y.shape[2] or 0 in (*x.shape, *y.shape):
        raise PolymodeError(
            f"cepstra of shapes {tuple(x.shape)} and {tuple(y.shape)}, expected (N, F, K) and (M, G, K)"
        )
    if align == "none" and x.shape[1] != y.shape[1]:
        raise PolymodeError(f'{x.shape[1]} and {y.shape[1]} frames can\'t be compared in pairs; use align="dtw"')
    x, y = x.double(), y.double()
    if align == "none":
        rows = max(1, CHUNK // (len(y) * x.shape[1]))
        right = y.transpose(0, 1)  # (F, M, K)
        parts = [torch.cdist(part.transpose(0, 1), right, compute_mode="donot_use_mm_for_euclid_dist").mean(0)
                 for part in x.split(rows)]  # fmt: skip
        return DECIBELS * torch.cat(parts)
    rows = max(1, CHUNK // (len(y) * x.shape[1] * y.shape[1]))
    return DECIBELS * torch.cat([_warped(part, y) for part in x.split(rows)])


def _warped(x: Tensor, y: Tensor) -> Tensor:
    """Mean distances (N, M) along the cheapest paths through the frames of each pair, by antidiagonals."""
    n, m, f, g = len(x), len(y), x.shape[1], y.shape[1]
    cost = torch.cdist(x.flatten(0, 1), y.flatten(0, 1), compute_mode="donot_use_mm_for_euclid_dist")
    cost = cost.view(n, f, m, g).permute(1, 3, 0, 2).reshape(f, g, n * m)
    # best[i, j]: the cheapest way to frames i - 1 and j - 1, and how many cells it has
    best = torch.full((f + 1, g + 1, n * m), math.inf, dtype=torch.float64)
    steps = torch.zeros_like(best)
    best[0, 0] = 0.0
    for d in range(f + g - 1):
        i = torch.arange(max(0, d - g + 1), min(f, d + 1))
        j = d - i
        ways = torch.stack([best[i, j], best[i, j + 1], best[i + 1, j]])  # the diagonal first, so it wins a tie
        cheapest, which = ways.min(0)
        taken = torch.stack([steps[i, j], steps[i, j + 1], steps[i + 1, j]]).gather(0, which[None])[0]
        best[i + 1, j + 1] = cheapest + cost[i, j]
        steps[i + 1, j + 1] = taken + 1
    return (best[f, g] / steps[f, g]).view(n, m)


def nearest_mcd(samples: Tensor, real: Tensor, *, align: Align = "none") -> Tensor:
    """MCD in dB (N,) of each sample's cepstra (N, F, K) to the nearest of real ones (M, G, K)."""
    return mcd(samples, real, align=align).min(1).values


def of_waveforms(x: Tensor, spec: Spec) -> Tensor:
    """Cepstra (N, F, 13) of waveforms (N, T) of a spec."""
    return cepstra(sound.log_mel(sound.amplitude(x, spec), sound.rate_of(spec)))


def measure(c: Comparison) -> list[Measurement]:
    """The row of the report; see the module."""
    spec = c.data.spec
    real = c.reference.cached("cepstra", lambda: of_waveforms(c.reference.real[:ROWS], spec))
    value, low, high = mean_interval(nearest_mcd(of_waveforms(c.samples[:ROWS], spec), real))
    n = min(len(c.samples), ROWS)
    rate = sound.rate_of(spec)
    said = f"{rate:,} Hz" + ("" if "sample_rate" in spec.extra else " (not stated by the data)")
    protocol = (
        f"dB, to the nearest of {len(real)} test recordings, {COEFFICIENTS} cepstra of {sound.BANDS} bands at {said}, "
        "no time warping; real data's own value is the mark; 95 % given the recordings"
    )
    return [Measurement("MCD", value, max(0.0, low), high, n, None, protocol)]
