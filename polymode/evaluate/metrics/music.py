"""Music: which notes samples have, how many at once, and whether their voices keep their order.

Boulanger-Lewandowski et al. 2012 compare likelihoods only; the histograms are those of Yang and Lerch 2020, "On the
evaluation of generative models in music", Neural Computing and Applications 32; voice crossing is a rule of the
chorale style (a voice does not sing below the one beneath it).

    pitch-class distance = 1/2 sum_c |p_c - q_c|,   p_c the share of notes of pitch class c, a note counted at each step
    polyphony distance   = 1/2 sum_k |p_k - q_k|,   p_k the share of steps at which k keys sound
    voice crossing       = the share of steps at which a key of a voice lies below a key of the voice beneath it

Distances lie in [0, 1] and are biased upwards, the more so the fewer rows: compare them with those of training rows
(the ceiling), which have the same count. Crossing needs to know whose note is whose: data whose voices are not told
apart (`Spec.extra["voices"]`) have none. "one note a voice" says how far voices of samples are voices at all. Steps
are those of a piece, without the silence behind it. Intervals leave out one of 20 groups of rows at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from polymode.core.rolls import by_voice, keys, lengths
from polymode.core.spec import Spec
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.measurement import Measurement
from polymode.evaluate.statistics import jackknife, leave_groups_out

CLASSES = 12


def sounding(spec: Spec, x: Tensor) -> Tensor:
    """Which steps belong to a piece, (N, T)."""
    if not spec.extra.get("padded"):
        return torch.ones(x.shape[:2], dtype=torch.bool)
    return torch.arange(x.shape[1]) < lengths(x)[:, None]


def pitch_classes(spec: Spec, x: Tensor) -> Tensor:
    """How many notes of each pitch class, C to B, each row (T, D) has: (N, 12)."""
    played = keys(spec, x).sum(1).double()  # (N, K)
    of = (int(spec.extra["lowest_key"]) + torch.arange(played.shape[1])) % CLASSES
    return torch.zeros(len(x), CLASSES, dtype=torch.float64).index_add_(1, of, played)


def polyphony(spec: Spec, x: Tensor) -> Tensor:
    """At how many steps of a row 0, 1, ..., K keys sound: (N, K + 1)."""
    played = keys(spec, x)
    at_once, within = played.sum(2).long(), sounding(spec, x)
    counts = torch.zeros(len(x), played.shape[2] + 1, dtype=torch.float64)
    return counts.scatter_add_(1, at_once, within.double())


def crossings(spec: Spec, x: Tensor) -> Tensor:
    """(N, 2): at how many steps voices cross, and steps."""
    voices = by_voice(spec, x).bool()  # (N, T, V, K)
    k = torch.arange(voices.shape[3])
    highest, lowest = torch.where(voices, k, -1).amax(3), torch.where(voices, k, len(k)).amin(3)  # (N, T, V)
    crossed = (lowest[:, :, :-1] < highest[:, :, 1:]).any(2)
    return torch.stack([crossed.sum(1), sounding(spec, x).sum(1)], 1).double()


def single_notes(spec: Spec, x: Tensor) -> Tensor:
    """(N, 2): voices and steps with exactly one note, and voices and steps."""
    one = by_voice(spec, x).sum(3) == 1  # (N, T, V)
    return torch.stack([one.sum((1, 2)), sounding(spec, x).sum(1) * one.shape[2]], 1).double()


def histogram_distance(x: Tensor, y: Tensor) -> tuple[float, float, float]:
    """(total variation, low, high) between the shares of counts by row, (N, C) and (M, C); 1 where a side has none."""

    def distance(a: Tensor, b: Tensor) -> float:
        p, q = (side.sum(0) / side.sum().clamp(min=1.0) for side in (a, b))
        return float((p - q).abs().sum()) / 2 if a.sum() > 0 and b.sum() > 0 else 1.0

    value, low, high = jackknife(distance(x, y), leave_groups_out(distance, x, y), correct=False)
    return value, max(0.0, low), min(1.0, high)


def share(counts: Tensor) -> tuple[float, float, float]:
    """(share, low, high) of hits among trials from counts by row (N, 2); 0 where there are no trials."""

    def ratio(a: Tensor, _: Tensor) -> float:
        hits, trials = a.sum(0).tolist()
        return hits / max(trials, 1.0)

    value, low, high = jackknife(ratio(counts, counts), leave_groups_out(ratio, counts, counts), correct=False)
    return value, max(0.0, low), min(1.0, high)


def measure(c: Comparison) -> list[Measurement]:
    """The rows of the report; see the module."""
    spec, x, real, n = c.data.spec, c.samples, c.reference.real, c.n
    given = "between shares in samples and test rows, 0 is right, biased upwards at small n; 95 % by jackknife"
    found = [
        Measurement(
            "pitch-class distance", *histogram_distance(pitch_classes(spec, real), pitch_classes(spec, x)), n, "lower",
            f"half the sum of differences {given}; notes counted at each step",
        ),
        Measurement(
            "polyphony distance", *histogram_distance(polyphony(spec, real), polyphony(spec, x)), n, "lower",
            f"half the sum of differences {given}; keys that sound at a step",
        ),
    ]  # fmt: skip
    if spec.extra.get("voices"):
        for name, count, what in (
            ("voice crossing", crossings, "share of steps at which a voice lies below the one beneath it"),
            ("one note a voice", single_notes, "share of voices and steps with exactly one note"),
        ):
            of_test = share(count(spec, real))[0]
            protocol = f"{what}; test rows have {of_test:.4f}; 95 % by jackknife"
            found.append(Measurement(name, *share(count(spec, x)), len(x), None, protocol))
    return found
