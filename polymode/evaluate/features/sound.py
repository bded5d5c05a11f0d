"""What waveforms sound like: amplitudes, power spectra, mel bands; shared by features, metrics and pictures.

    amplitude   levels back to [-1, 1), undoing the mu-law curve where the spec says that the codes follow it
    power       |X(t, f)|^2 of frames of about 32 ms under a periodic Hann window, a quarter of a frame apart
    log_mel     ln of the power in triangular bands that are equally wide in mel, m(f) = 2595 log10(1 + f / 700)
                (O'Shaughnessy 1987; the formula of HTK), with peaks of 1 between 0 Hz and half the rate

Frames lie inside the waveform, none is filled up. Power more than 80 dB below a full-scale tone counts as 80 dB below:
there the codes' own rounding is heard, and the logarithm of silence would outweigh all else. Cost N T log T.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from polymode.core.errors import PolymodeError
from polymode.core.spec import Levels, Real, Spec

#: taken where a spec does not say its rate
RATE = 16_000
#: bands of a log-mel spectrum; more than these leave the lowest bands of 8 kHz recordings between two frequencies
BANDS = 20
#: seconds of a frame, before rounding to a power of two
FRAME = 0.032
#: samples that the shortest frame needs
SHORTEST = 16
#: power below that of a full-scale tone that counts as silence
FLOOR = 1e-8


def is_audible(spec: Spec) -> bool:
    """Whether data of a spec are waveforms long enough for a spectrum."""
    return spec.kind == "waveform" and isinstance(spec.support, Levels | Real) and spec.num_dims >= SHORTEST


def rate_of(spec: Spec) -> int:
    """Samples a second: `spec.extra["sample_rate"]`, or 16,000."""
    return int(spec.extra.get("sample_rate", RATE))


def amplitude(x: Tensor, spec: Spec) -> Tensor:
    """Waveforms (N, T) of a spec as float64 in [-1, 1); reals are taken as amplitudes.

    Raises:
        PolymodeError: data that are no waveforms of levels or reals.
    """
    if spec.kind != "waveform" or not isinstance(spec.support, Levels | Real):
        raise PolymodeError(f"{spec} has no sound; expected a waveform of levels or of reals")
    if isinstance(spec.support, Real):
        return x.double()
    top = spec.support.levels - 1
    if spec.extra.get("coding") != "mu-law":
        return (2 * x.double() - top - 1) / (top + 1)  # 65,536 levels are 16-bit samples shifted by 32,768
    companded = 2 * x.double() / top - 1
    return companded.sign() * torch.expm1(companded.abs() * math.log1p(top)) / top


def frame_length(rate: int, length: int) -> int:
    """Samples of a frame: the power of two nearest to 32 ms, less where the waveform is shorter.

    Raises:
        PolymodeError: a waveform that is shorter than the shortest frame.
    """
    if length < SHORTEST:
        raise PolymodeError(
            f"a spectrum needs at least {SHORTEST} samples and the waveforms have {length}; use longer ones"
        )
    return 2 ** min(max(round(math.log2(SHORTEST)), round(math.log2(FRAME * rate))), int(math.log2(length)))


def power(x: Tensor, rate: int) -> Tensor:
    """Power spectra (N, frames, L / 2 + 1) of amplitudes (N, T), in parts of a full-scale tone's peak."""
    size = frame_length(rate, x.shape[1])
    window = torch.hann_window(size, dtype=x.dtype)
    spectrum = torch.stft(x, size, size // 4, window=window, center=False, return_complex=True)
    # a tone of amplitude 1 on a frequency of the grid has |X| = sum(window) / 2 = L / 4 there
    return spectrum.abs().square().transpose(1, 2) / (size / 4) ** 2


def mel_filters(rate: int, size: int, bands: int = BANDS) -> Tensor:
    """(bands, L / 2 + 1) float64 triangles of height 1 over frequencies k rate / L."""
    if bands < 1:
        raise PolymodeError(f"bands={bands}, expected at least 1")
    top = 2595 * math.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, bands + 2, dtype=torch.float64) / 2595) - 1)
    f = torch.arange(size // 2 + 1, dtype=torch.float64) * rate / size
    left, peak, right = (edges[i : i + bands, None] for i in range(3))
    return torch.minimum((f - left) / (peak - left), (right - f) / (right - peak)).clamp(min=0.0)


def log_mel(x: Tensor, rate: int, bands: int = BANDS) -> Tensor:
    """ln of the power in mel bands, (N, frames, bands), of amplitudes (N, T)."""
    filters = mel_filters(rate, frame_length(rate, x.shape[1]), bands).to(x.dtype)
    return (power(x, rate) @ filters.T).clamp(min=FLOOR).log()
