"""Spectra, mel bands, cepstral distortion and the Frechet audio distance against brute force and another library."""

import math
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from polymode.core.errors import PolymodeError
from polymode.core.rng import generator
from polymode.core.spec import Binary, Levels, Real, Spec
from polymode.data.dataset import DataSet, Split
from polymode.data.readers.audio import encode, to_audio
from polymode.evaluate import Evaluator, features_for
from polymode.evaluate.features.sound import FLOOR, amplitude, frame_length, log_mel, mel_filters, power
from polymode.evaluate.metrics import audio
from polymode.evaluate.metrics.audio import cepstra, mcd, nearest_mcd, of_waveforms
from polymode.evaluate.metrics.frechet import frechet

#: first bin and heights of librosa.filters.mel(sr=8000, n_fft=64, n_mels=6, htk=True, norm=None), librosa 0.11.0
GOLDEN_MEL = [
    (1, [0.57118817, 0.89153367, 0.45638629, 0.02123891]),
    (2, [0.10846633, 0.54361371, 0.97876109, 0.68467277, 0.35316513, 0.02165749]),
    (5, [0.31532723, 0.64683487, 0.97834251, 0.76394736, 0.51139542, 0.25884348, 0.00629154]),
    (8, [0.23605264, 0.48860458, 0.74115652, 0.99370846, 0.81239183, 0.61999058, 0.42758934, 0.2351881, 0.04278685]),
    (12, [0.18760817, 0.38000942, 0.57241066, 0.7648119, 0.95721315, 0.8860195, 0.73944277, 0.59286603, 0.4462893,
          0.29971256, 0.15313583, 0.00655909]),
    (17, [0.1139805, 0.26055723, 0.40713397, 0.5537107, 0.70028744, 0.84686417, 0.99344091, 0.89333058, 0.78166426,
          0.66999794, 0.55833161, 0.44666529, 0.33499897, 0.22333265, 0.11166632]),
]  # fmt: skip
#: sum of librosa.filters.mel(sr=8000, n_fft=256, n_mels=20, htk=True, norm=None), librosa 0.11.0
GOLDEN_MEL_SUM = 120.39066346186758
RATE = 8000


def noise(n: int, length: int, seed: int) -> Tensor:
    return 0.3 * torch.randn(n, length, generator=generator(seed), dtype=torch.float64)


def tone(hertz: float, length: int, rate: int = RATE) -> Tensor:
    return torch.sin(2 * math.pi * hertz / rate * torch.arange(length, dtype=torch.float64))[None]


def spoken(levels: int = 256, length: int = 512, n: int = 60) -> DataSet:
    """Tones of two pitches with noise, as 16-bit samples of a spec."""
    g = generator(0)
    which = torch.randint(2, (3 * n,), generator=g)
    x = torch.cat([0.4 * tone(400.0 * (1 + int(k)), length) for k in which]) + 0.02 * noise(3 * n, length, 1)
    coding = "mu-law" if levels == 256 else "linear"
    spec = Spec("waveform", (length,), Levels(levels), {"sample_rate": RATE, "coding": coding})
    codes = encode((x.clamp(-1, 0.999) * 32768).to(torch.int16), levels)
    return DataSet("tones", spec, *(Split(codes[i * n : (i + 1) * n]) for i in range(3)))


# -- spectra -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("levels", [256, 65536])
def test_amplitudes_are_those_of_the_reader(levels: int) -> None:
    data = spoken(levels)
    heard = to_audio(data.spec, data.train.x).double() / 32768
    assert torch.allclose(amplitude(data.train.x, data.spec), heard, atol=1 / 32768)
    real = Spec("waveform", (8,), Real())
    assert amplitude(torch.ones(1, 8), real).dtype == torch.float64
    with pytest.raises(PolymodeError, match="has no sound"):
        amplitude(torch.ones(1, 8), Spec("waveform", (8,), Binary()))


def test_power_is_that_of_a_brute_force_transform() -> None:
    x = noise(2, 200, 0)
    size = frame_length(1000, 200)
    assert size == 32
    k, t = torch.arange(size // 2 + 1, dtype=torch.float64)[:, None], torch.arange(size, dtype=torch.float64)
    window = 0.5 - 0.5 * torch.cos(2 * math.pi * t / size)
    found = power(x, 1000)
    assert found.shape == (2, 1 + (200 - size) // (size // 4), size // 2 + 1)
    for frame in range(found.shape[1]):
        piece = x[:, frame * size // 4 : frame * size // 4 + size] * window
        real = piece @ torch.cos(2 * math.pi * k * t / size).T
        imaginary = piece @ torch.sin(2 * math.pi * k * t / size).T
        expected = (real**2 + imaginary**2) / (size / 4) ** 2
        assert torch.allclose(found[:, frame], expected, rtol=1e-9, atol=1e-12)


def test_a_full_scale_tone_has_power_one_at_its_frequency() -> None:
    found = power(tone(1000.0, 1024), RATE)  # 256 samples a frame: bin 32
    assert torch.allclose(found[0, :, 32], torch.ones(found.shape[1], dtype=torch.float64), atol=1e-9)
    assert float(found[0, :, 40:].max()) < 1e-12


def test_mel_filters_are_librosas() -> None:
    found = mel_filters(RATE, 64, 6)
    expected = torch.zeros(6, 33, dtype=torch.float64)
    for row, (first, heights) in enumerate(GOLDEN_MEL):
        expected[row, first : first + len(heights)] = torch.tensor(heights, dtype=torch.float64)
    assert torch.allclose(found, expected, atol=1e-8)
    assert float(mel_filters(RATE, 256, 20).sum()) == pytest.approx(GOLDEN_MEL_SUM, rel=1e-12)
    # between the first peak and the last, the triangles of neighbours add up to one
    assert torch.allclose(mel_filters(RATE, 256, 20)[:, 5:110].sum(0), torch.ones(105, dtype=torch.float64))


def test_silence_is_the_floor_and_loudness_a_constant() -> None:
    silence = log_mel(torch.zeros(1, 512).double(), RATE)
    assert torch.equal(silence, torch.full((1, 5, 20), FLOOR, dtype=torch.float64).log())
    x = noise(3, 1024, 2)
    assert torch.allclose(log_mel(2 * x, RATE) - log_mel(x, RATE), torch.tensor(math.log(4.0)).double(), atol=1e-9)


def test_short_waveforms_have_short_frames_and_shorter_ones_none() -> None:
    assert frame_length(RATE, 4096) == 256
    assert frame_length(16_000, 4096) == 512
    assert frame_length(RATE, 100) == 64
    with pytest.raises(PolymodeError, match="at least 16 samples"):
        power(noise(1, 15, 0), RATE)
    with pytest.raises(PolymodeError, match="bands=0"):
        mel_filters(RATE, 64, 0)


# -- cepstra -------------------------------------------------------------------------------------------------------
def test_cepstra_by_their_sum() -> None:
    spectrum = torch.randn(2, 3, 6, generator=generator(0), dtype=torch.float64)
    found = cepstra(spectrum, 4)
    for k in range(1, 5):
        by_hand = sum(spectrum[..., m] * math.cos(math.pi * k * (m + 0.5) / 6) for m in range(6)) / 6
        assert torch.allclose(found[..., k - 1], by_hand)
    with pytest.raises(PolymodeError, match="expected 1 to 5"):
        cepstra(spectrum, 6)


def test_distortion_of_all_cepstra_is_the_rms_difference_in_decibels() -> None:
    # Parseval of the DCT-II: with K = M - 1, less the mean of each spectrum
    a, b = (torch.randn(1, 1, 20, generator=generator(s), dtype=torch.float64) for s in (0, 1))
    gap = 10 / math.log(10) * (a - b)[0, 0]
    expected = float((gap - gap.mean()).square().mean().sqrt())
    assert float(mcd(cepstra(a, 19), cepstra(b, 19))) == pytest.approx(expected, rel=1e-12)


def test_distortion_is_a_distance_that_ignores_loudness() -> None:
    x = noise(4, 2048, 3)
    c = cepstra(log_mel(x, RATE))
    found = mcd(c, c)
    assert torch.equal(found.diagonal(), torch.zeros(4).double())
    assert torch.allclose(found, found.T)
    assert float(mcd(c, cepstra(log_mel(3 * x, RATE))).diagonal().max()) < 1e-9
    assert torch.equal(nearest_mcd(c, c), torch.zeros(4).double())


def test_distortion_in_pieces_is_that_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = (torch.randn(n, 6, 3, generator=generator(n), dtype=torch.float64) for n in (7, 5))
    whole, warped = mcd(a, b), mcd(a, b, align="dtw")
    by_hand = torch.tensor([[float((x - y).norm(dim=1).mean()) for y in b] for x in a], dtype=torch.float64)
    assert torch.allclose(whole, audio.DECIBELS * by_hand)
    monkeypatch.setattr(audio, "CHUNK", 1)
    assert torch.allclose(mcd(a, b), whole)
    assert torch.allclose(mcd(a, b, align="dtw"), warped)


def best_path(cost: Tensor) -> tuple[float, int]:
    """(cost, cells) of the cheapest path by trying all."""
    f, g = cost.shape

    def ways(i: int, j: int):
        if (i, j) == (0, 0):
            yield float(cost[0, 0]), 1
            return
        for di, dj in ((1, 1), (1, 0), (0, 1)):
            if i >= di and j >= dj:
                for total, cells in ways(i - di, j - dj):
                    yield total + float(cost[i, j]), cells + 1

    return min(ways(f - 1, g - 1))


def test_time_warping_finds_the_cheapest_of_all_paths() -> None:
    a = torch.randn(3, 4, 2, generator=generator(0), dtype=torch.float64)
    b = torch.randn(2, 5, 2, generator=generator(1), dtype=torch.float64)
    found = mcd(a, b, align="dtw")
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            total, cells = best_path(torch.cdist(x, y))
            assert float(found[i, j]) == pytest.approx(audio.DECIBELS * total / cells, rel=1e-10)


def test_time_warping_undoes_a_slower_pace() -> None:
    x = torch.randn(1, 10, 3, generator=generator(0), dtype=torch.float64)
    slow = x.repeat_interleave(2, dim=1)
    assert float(mcd(x, slow, align="dtw")) == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(PolymodeError, match=r'10 and 20 frames .* use align="dtw"'):
        mcd(x, slow)
    with pytest.raises(PolymodeError, match="align='warp' is not a choice"):
        mcd(x, x, align="warp")  # type: ignore[arg-type]
    for bad in (torch.zeros(0, 10, 3), torch.zeros(1, 10, 2), torch.zeros(10, 3)):
        with pytest.raises(PolymodeError, match="expected \\(N, F, K\\)"):
            mcd(bad.double(), x)


# -- in a report ---------------------------------------------------------------------------------------------------
def test_waveforms_have_a_space_a_distortion_and_a_frechet_audio_distance() -> None:
    data = spoken()
    evaluator = Evaluator(data, metrics=["mcd", "frechet", "kid"])
    assert evaluator.reference.space.name == "log-mel"
    assert evaluator.reference.space.dim == 40
    ceiling = {m.metric: m for m in evaluator.ceiling.measurements}
    floor = {m.metric: m for m in evaluator.floor.measurements}
    assert {"KID", "FAD", "MCD"} <= set(ceiling)
    assert ceiling["FAD"].title == "FAD[log-mel, n=60]"
    for name in ("KID", "FAD", "MCD"):
        assert ceiling[name].value < 0.2 * floor[name].value, name
        assert ceiling[name].low <= ceiling[name].value <= ceiling[name].high
    assert ceiling["MCD"].better is None
    assert "8,000 Hz" in ceiling["MCD"].protocol
    assert features_for(data, "raw").name == "raw"


def test_a_copy_has_no_distortion_and_silence_is_measured() -> None:
    data = spoken()
    c = of_waveforms(data.test.x, data.spec)
    assert float(nearest_mcd(c, c).max()) == 0.0
    silence = of_waveforms(torch.full((2, 512), 128, dtype=torch.uint8), data.spec)
    assert bool(silence.isfinite().all())
    assert float(nearest_mcd(silence, c).min()) > 0
    still = DataSet("silence", data.spec, *[Split(torch.full((50, 512), 128, dtype=torch.uint8))] * 3)
    found = Evaluator(still, metrics=["mcd", "frechet"]).ceiling
    assert [found.get(name).value for name in ("MCD", "FAD")] == [0.0, 0.0]


def test_a_rate_that_is_not_stated_is_said() -> None:
    spec = Spec("waveform", (512,), Real())
    x = noise(60, 512, 4).float()
    data = DataSet("noise", spec, Split(x[:20]), Split(x[20:40]), Split(x[40:]))
    m = Evaluator(data, metrics=["mcd"]).ceiling.measurements[0]
    assert "16,000 Hz (not stated by the data)" in m.protocol
    assert features_for(DataSet("few", Spec("waveform", (8,), Real()), *[Split(x[:, :8])] * 3)).name == "raw"


@pytest.mark.skipif(
    not (Path(os.environ.get("POLYMODE_DATA", "")) / "fsdd").is_dir() or not os.environ.get("POLYMODE_DATA"),
    reason="needs the set fsdd in $POLYMODE_DATA",
)
def test_spoken_digits_are_far_nearer_to_each_other_than_white_noise_is() -> None:
    from polymode.data import load

    data = load("fsdd")
    space = features_for(data)
    real, train = space(data.test.x), space(data.train.take(len(data.test), generator(0))[0])
    white = encode((noise(300, 4096, 5) * 3000).to(torch.int16), 256)
    assert frechet(real, train) * 10 < frechet(real, space(white))
