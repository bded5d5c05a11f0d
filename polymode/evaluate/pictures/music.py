"""Piano rolls of binary series: time from left to right, keys from low to high."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from polymode.core import rolls as bits
from polymode.core.spec import Spec
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.pictures.base import INK, MODEL, REAL, Panel, Picture, figure, png

#: rolls on each side, and keys around those of the data
ROLLS, AROUND = 4, 6
#: steps that two rolls in a row have room for
LONG = 48
#: seconds in which a tone begins and ends
FADE = 0.015


def rolls(c: Comparison) -> Picture:
    """The first samples beside test rows, over the keys that sound in the data and half an octave around."""
    spec = c.data.spec
    played = bits.keys(spec, c.reference.real)  # (N, T, K)
    real, samples = played[:ROLLS], bits.keys(spec, c.samples[:ROLLS])
    keys = played.flatten(0, 1).any(0).nonzero()[:, 0].tolist() or [0, played.shape[2] - 1]
    # the frame follows the data: what a bad sample plays far away falls outside
    low, high = max(0, keys[0] - AROUND), min(played.shape[2] - 1, keys[-1] + AROUND)
    # pieces end before the row does; all rolls here end with the longest of them
    if spec.extra.get("padded"):
        end = max(1, *bits.lengths(real).tolist(), *bits.lengths(samples).tolist())
        real, samples = real[:, :end], samples[:, :end]
    about = "keys by time step; lines are the notes C" if "lowest_key" in spec.extra else "variables by time step"
    return Picture(
        "Samples",
        f"The first {len(samples)} samples, not chosen, beside as many test rows: {about}. Both sides have one frame.",
        (
            Panel("samples", lambda: draw_rolls(samples, spec, low, high, MODEL)),
            Panel("real", lambda: draw_rolls(real, spec, low, high, REAL)),
        ),
    )


def tones(roll: np.ndarray, lowest_key: int, *, seconds: float, rate: int) -> np.ndarray:
    """A roll (T, K) of steps of some seconds as a sound (T',) in [-1, 1]: a sine a key, faded in and out."""
    hop, fade = round(seconds * rate), round(FADE * rate)
    time, sum_of = np.arange(len(roll) * hop) / rate, np.zeros(len(roll) * hop)
    ramp = np.hanning(2 * fade + 1) / fade
    for key in roll.any(0).nonzero()[0].tolist():
        loud = np.convolve(roll[:, key].astype(float).repeat(hop), ramp, "same")
        sum_of += loud * np.sin(2 * np.pi * 440 * 2 ** ((lowest_key + key - 69) / 12) * time)  # MIDI 69 is A4, 440 Hz
    return sum_of / max(1.0, 1.1 * float(np.abs(sum_of).max(initial=0.0)))


def draw_rolls(x: Tensor, spec: Spec, low: int, high: int, colour: str, *, scale: float = 1.0) -> bytes:
    """Keys (N, T, K) that sound as piano rolls in one picture, from key `low` to `high`."""
    from matplotlib.colors import ListedColormap
    from matplotlib.ticker import MaxNLocator

    # a long roll takes a row of its own, or its steps would be too fine to see
    wide = 1 if x.shape[1] > LONG else min(2, len(x))
    tall = -(-len(x) // wide)
    drawn, axes = figure(5.0 if wide == 1 else 2.5 * wide, 1.6 * tall if wide == 1 else 2.1 * tall, tall, wide)
    for i, axis in enumerate(np.ravel(axes)):
        if i >= len(x):
            axis.set_visible(False)
            continue
        roll = x[i, :, low : high + 1].T.numpy()
        axis.imshow(
            np.ma.masked_equal(roll, 0), origin="lower", aspect="auto", interpolation="nearest",
            cmap=ListedColormap([colour]), extent=(0, x.shape[1], low - 0.5, high + 0.5),
        )  # fmt: skip
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        if "lowest_key" in spec.extra:
            _name_octaves(axis, int(spec.extra["lowest_key"]), low, high)
    return png(drawn, scale=scale)


def _name_octaves(axis, lowest: int, low: int, high: int) -> None:  # type: ignore[no-untyped-def]
    """A tick and a line at every C; MIDI note 60 is C4."""
    at = [k for k in range(low, high + 1) if (k + lowest) % 12 == 0]
    axis.set_yticks(at, [f"C{(k + lowest) // 12 - 1}" for k in at])
    for k in at:
        axis.axhline(k, color=INK, linewidth=0.4, alpha=0.6)
