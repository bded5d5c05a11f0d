"""Waveforms to look at and to listen to: spectrograms, and players that hold the recordings themselves."""

from __future__ import annotations

import io
import wave

import numpy as np
from torch import Tensor

from polymode.evaluate.comparison import Comparison
from polymode.evaluate.features.sound import amplitude, power, rate_of
from polymode.evaluate.pictures.base import INK, Panel, Picture, figure, png

#: recordings on each side, and the most samples of one that are played
CLIPS, LONGEST = 4, 1 << 18
#: decibels below the loudest sound of the data that are still drawn
RANGE = 70.0


def spectrograms(c: Comparison) -> Picture:
    """The first samples beside test recordings, with players."""
    spec = c.data.spec
    real, samples = (amplitude(x[:CLIPS], spec) for x in (c.reference.real, c.samples))
    rate = rate_of(spec)
    loudest = float(decibels(real, rate).max())
    cut = f"; players hold the first {LONGEST / rate:.0f} seconds" if real.shape[1] > LONGEST else ""
    said = f"{rate:,} Hz" + ("" if "sample_rate" in spec.extra else ", which the data do not state")
    return Picture(
        "Samples",
        f"The first {len(samples)} samples, not chosen, beside as many test recordings: power by time (seconds) and "
        f"frequency (kHz), {RANGE:.0f} dB down from the loudest of the recordings. Players are in the same order, at "
        f"{said}{cut}.",
        tuple(
            Panel(
                label,
                lambda x=x: draw_spectrograms(x, rate, loudest),
                audio=tuple(lambda clip=clip: wav(clip, rate) for clip in x[:, :LONGEST]),
                columns=2,
            )
            for label, x in (("samples", samples), ("real", real))
        ),
    )


def wav(x: Tensor, rate: int) -> bytes:
    """Amplitudes (T,) as the bytes of a 16-bit mono .wav file; what is beyond full scale is cut off."""
    samples = (x.double() * 32768).round().clamp(-32768, 32767).numpy().astype("<i2")
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(samples.tobytes())
    return file.getvalue()


def decibels(x: Tensor, rate: int) -> Tensor:
    """(N, frames, frequencies); silence is 120 dB below a full-scale tone, as no 16-bit sound is softer."""
    return 10 * power(x, rate).clamp(min=1e-12).log10()


def draw_spectrograms(x: Tensor, rate: int, loudest: float, *, scale: float = 1.0) -> bytes:
    """Amplitudes (N, T) as spectrograms in one picture, `RANGE` decibels down from a loudness."""
    wide = min(2, len(x))
    tall = -(-len(x) // wide)
    drawn, axes = figure(2.45 * wide, 1.75 * tall, tall, wide)
    levels = decibels(x, rate)
    for i, axis in enumerate(np.ravel(axes)):
        if i >= len(x):
            axis.set_visible(False)
            continue
        axis.imshow(
            levels[i].T, origin="lower", aspect="auto", cmap="magma", vmin=loudest - RANGE, vmax=loudest,
            extent=(0, x.shape[1] / rate, 0, rate / 2000),
        )  # fmt: skip
        if len(x) > 1:
            axis.set_title(str(i + 1), fontsize=7, color=INK, loc="left", pad=2)
    return png(drawn, scale=scale)
