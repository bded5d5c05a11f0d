"""Anomaly scores, p-values, spectra and detectors against closed forms, counting and brute force."""

from __future__ import annotations

import math
import zlib
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import polymode as pm
import polymode.core.spec as specs
from polymode.core import rng
from polymode.core.capabilities import HasBound, HasEnergy, HasLatents, HasLogProb
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import CapabilityError, DataError, PolymodeError
from polymode.core.loss import Loss
from polymode.core.model import GenerativeModel
from polymode.data.dataset import DataSet, Split
from polymode.tasks import anomaly, cross_generator_matrix
from polymode.tasks.anomaly import Scores, anomaly_scores, detect, offered, ood_auroc
from polymode.tasks.conformal import conformal_p, threshold_at
from polymode.tasks.deflate import compressed_bits
from polymode.tasks.forensics import POOLED, REAL, Detector, spectrum
from polymode.tasks.training_sets import one_class, perturbed
from tests.toys import blobs


class Plain(GenerativeModel):
    """N(0, I) that samples only; the classes below give it one capability each."""

    def loss(self, x: Tensor, condition=None, *, generator) -> Loss:
        return Loss(x.float().flatten(1).square().sum(1))

    def _sample(self, n: int, condition, generator) -> Tensor:
        return rng.randn((n, *self.spec.shape), generator, self._anchor)

    def nats(self, x: Tensor) -> Tensor:
        x = x.float().flatten(1)
        return (-0.5 * x * x - 0.5 * math.log(2 * math.pi)).sum(1)


class Exact(Plain, HasLogProb):
    def _log_prob(self, x, condition):
        return self.nats(x)


class Bounded(Plain, HasBound):
    default_num_samples = 2

    def _log_weight(self, x, condition, generator):
        return self.nats(x) - 0.25


class Both(Exact, HasBound):
    default_num_samples = 2

    def _log_weight(self, x, condition, generator):
        return self.nats(x) - 0.25


class Energetic(Plain, HasEnergy):
    def _energy(self, x, condition):
        return 7.0 - self.nats(x)

    def log_partition(self, condition=None, *, generator=None, seed=None, chains=256):
        raise AssertionError("a ranking needs no partition function")


class Coded(Plain, HasLatents):
    """The code is the first of two numbers; decoding puts 0.5 for the second."""

    def _encode(self, x, condition):
        return x[:, :1].float()

    def _decode(self, z, condition):
        return torch.cat([z, torch.full_like(z, 0.5)], 1)


class Copying(Plain, HasLatents):
    def _encode(self, x, condition):
        return x.float()

    def _decode(self, z, condition):
        return z


class Broken(Exact):
    def _log_prob(self, x, condition):
        return torch.full((len(x),), torch.nan)


class Narrow(Exact):
    """No probability outside the unit disc."""

    def _log_prob(self, x, condition):
        return torch.where(x.square().sum(1) <= 1, 0.0, -torch.inf)


SPEC = specs.vector(2)
X = torch.tensor([[0.0, 0.0], [3.0, 4.0], [1.0, -1.0]])
ENTROPY = math.log(2 * math.pi)  # of the reference below: E |x|^2 / 2 = 0
ZEROS = torch.zeros(5, 2)


# -- scores --------------------------------------------------------------------------------------------------------
def test_each_score_equals_its_formula() -> None:
    nll = torch.tensor([0.0, 12.5, 1.0], dtype=torch.float64) + ENTROPY
    for model, name, expected in (
        (Exact(SPEC), "likelihood", nll), (Bounded(SPEC), "bound", nll + 0.25), (Both(SPEC), "bound", nll + 0.25),
        (Energetic(SPEC), "energy", nll + 7), (Coded(SPEC), "reconstruction", torch.tensor([0.125, 6.125, 1.125])),
    ):  # fmt: skip
        found = anomaly_scores(model, X, score=name)
        assert (found.name, len(found)) == (name, 3)
        assert found.protocol
        torch.testing.assert_close(found.values, expected.double(), rtol=1e-6, atol=1e-6)


def test_the_ratio_is_the_background_less_the_model() -> None:
    wide = pm.create("gaussian", SPEC, seed=0)
    wide.fit_directly(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]]), generator=rng.generator(0))
    found = anomaly_scores(Exact(SPEC), X, background=wide)
    assert found.name == "likelihood-ratio"
    torch.testing.assert_close(found.values, wide.log_prob(X).double() - Exact(SPEC).log_prob(X).double())
    assert "Gaussian" in found.protocol
    # a model is no background of itself: the ratio of equals is zero everywhere
    assert anomaly_scores(Exact(SPEC), X, background=Exact(SPEC)).values.abs().max() == 0


def test_typicality_is_the_distance_from_the_mean_of_the_reference() -> None:
    found = anomaly_scores(Exact(SPEC), X, reference=ZEROS + 1)
    assert found.name == "typicality"
    # -log p of the reference is ENTROPY + 1 throughout: the centre is as atypical as what lies sqrt 2 further out
    torch.testing.assert_close(found.values, torch.tensor([1.0, 11.5, 0.0]).double(), rtol=0, atol=1e-6)
    energy = anomaly_scores(Energetic(SPEC), X, score="typicality", reference=Split(ZEROS + 1))
    torch.testing.assert_close(energy.values, found.values, rtol=0, atol=1e-5)  # the missing constant cancels


def test_complexity_takes_off_the_length_under_deflate() -> None:
    spec = specs.Spec("vector", (64,), specs.Levels(256))
    model = Exact(spec)
    x = torch.stack([torch.zeros(64), torch.randint(256, (64,), generator=rng.generator(0))]).to(torch.uint8)
    found = anomaly_scores(model, x, score="complexity")
    # Python's own zlib stream has 2 bytes of header and 4 of checksum around raw deflate
    bits = torch.tensor([8.0 * (len(zlib.compress(bytes(r.tolist()), 9)) - 6) for r in x], dtype=torch.float64)
    torch.testing.assert_close(compressed_bits(x, spec), bits)
    torch.testing.assert_close(found.values, -model.log_prob(x).double() - math.log(2) * bits)
    assert bits[0] < 80 < 500 < bits[1]


def test_bits_see_gradients_of_images_and_pack_binaries() -> None:
    image = specs.image(1, 16, 16)
    ramp = (torch.arange(16)[:, None] * 3 + torch.arange(16) * 5).to(torch.uint8).view(1, 1, 16, 16)
    vector = specs.Spec("vector", (256,), specs.Levels(256))
    assert compressed_bits(ramp, image) < 0.6 * compressed_bits(ramp.view(1, 256), vector)
    binary = specs.Spec("vector", (4096,), specs.Binary())
    coins = torch.randint(2, (1, 4096), generator=rng.generator(0)).to(torch.uint8)
    assert 4096 <= float(compressed_bits(coins, binary)) <= 4096 * 1.02  # no fewer than the entropy
    tall = specs.Spec("vector", (8,), specs.Levels(70_000))
    assert compressed_bits(torch.full((1, 8), 69_999, dtype=torch.int32), tall) > 0


def test_auto_takes_the_best_and_says_which() -> None:
    latent = ("likelihood-ratio", "typicality")
    assert offered(Exact(SPEC)) == ("likelihood", *latent)
    assert offered(Both(SPEC)) == ("likelihood", "bound", *latent)
    assert offered(Coded(SPEC)) == ("reconstruction",)
    assert offered(Plain(SPEC)) == ()
    assert "complexity" in offered(Exact(specs.tokens(4, 3)))
    for model, name in ((Both(SPEC), "likelihood"), (Bounded(SPEC), "bound"), (Energetic(SPEC), "energy"),
                        (Coded(SPEC), "reconstruction")):  # fmt: skip
        assert anomaly_scores(model, X).name == name


def test_what_a_model_excludes_is_infinitely_anomalous() -> None:
    assert anomaly_scores(Narrow(SPEC), X).values.tolist() == [0, math.inf, math.inf]
    assert anomaly_scores(Narrow(SPEC), X, background=Narrow(SPEC)).values.tolist() == [0, math.inf, math.inf]
    with pytest.raises(PolymodeError, match="no finite log-likelihood"):
        anomaly_scores(Narrow(SPEC), X, reference=X)


@pytest.mark.parametrize(
    ("model", "options", "sentence"),
    [
        (Exact, {"score": "energy"}, r"can't give the score 'energy'; scores that it can give: likelihood, "),
        (Plain, {}, "can't give the score 'likelihood'; scores that it can give: none, as it only samples"),
        (Exact, {"score": "likelyhood"}, "not a choice.*did you mean 'likelihood'"),
        (Exact, {"score": "likelihood-ratio"}, "needs background="),
        (Exact, {"score": "typicality"}, "needs reference="),
        (Exact, {"score": "complexity"}, "can't give the score 'complexity'"),
        (Exact, {"score": "likelihood", "background": Exact(SPEC)}, "only 'likelihood-ratio' takes one"),
        (Exact, {"background": Exact(specs.vector(3))}, "the background was not made for"),
        (Exact, {"background": Plain(SPEC)}, "has no likelihood, bound or energy"),
        (Exact, {"reference": torch.zeros(0, 2)}, "the reference holds no rows"),
        (Exact, {"reference": torch.zeros(4, 3)}, "the reference has shape"),
        (Copying, {}, "through which anything passes"),
        (Broken, {}, "3 of 3 scores under Broken are nan"),
    ],
)
def test_what_can_not_be_scored_is_refused(model: type, options: dict, sentence: str) -> None:
    with pytest.raises(PolymodeError, match=sentence):
        anomaly_scores(model(SPEC), X, **options)


@pytest.mark.parametrize("x", [torch.zeros(0, 2), torch.zeros(3, 4), torch.full((2, 2), torch.nan)])
def test_rows_of_another_form_are_refused(x: Tensor) -> None:
    with pytest.raises(DataError):
        anomaly_scores(Exact(SPEC), x)


def test_scores_do_not_depend_on_the_rows_beside_them() -> None:
    model = Exact(SPEC)
    assert float(anomaly_scores(model, X[1:2]).values) == float(anomaly_scores(model, X).values[1])
    many = torch.randn(3000, 2, generator=rng.generator(0))
    for kind in (Both, Energetic, Coded):  # more rows than a batch
        found = anomaly_scores(kind(SPEC), many, score=offered(kind(SPEC))[-1 if kind is Coded else 0])
        assert len(found) == 3000


def test_bits_of_tables_are_refused() -> None:
    with pytest.raises(CapabilityError, match="no length in bits"):
        compressed_bits(torch.zeros(1, 1), specs.table((specs.Categorical("c", ("a", "b")),)))


# -- conformal p-values --------------------------------------------------------------------------------------------
def test_p_values_count_ties_and_infinities() -> None:
    calibration = torch.tensor([3.0, 1.0, 2.0, 2.0])
    values = torch.tensor([0.0, 1.0, 2.0, 2.5, 3.0, 4.0, math.inf, -math.inf])
    expected = [sum(bool(c >= v) for c in calibration) for v in values]
    assert conformal_p(calibration, values).tolist() == pytest.approx([(1 + n) / 5 for n in expected])
    assert conformal_p(torch.tensor([1.0]), torch.tensor([2.0])).tolist() == [0.5]


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.25, 0.5, 0.999])
@pytest.mark.parametrize("ties", [False, True])
def test_the_threshold_flags_exactly_the_small_p_values(rate: float, ties: bool) -> None:
    calibration = torch.randn(39, generator=rng.generator(0), dtype=torch.float64)
    if ties:
        calibration = calibration.round()
    values = torch.cat([calibration, torch.linspace(-4, 4, 33, dtype=torch.float64)])
    flags = values > threshold_at(calibration, rate)
    assert torch.equal(flags, conformal_p(calibration, values) <= rate + 1e-12)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, math.nan])
def test_impossible_rates_are_refused(rate: float) -> None:
    with pytest.raises(PolymodeError, match="expected a rate between 0 and 1"):
        threshold_at(torch.arange(100.0), rate)


def test_too_few_rows_for_a_rate_are_refused_with_the_number_that_would_do() -> None:
    with pytest.raises(PolymodeError, match="needs at least 19 calibration rows and there are 18"):
        threshold_at(torch.arange(18.0), 0.05)
    assert threshold_at(torch.arange(19.0), 0.05) == 18
    with pytest.raises(PolymodeError, match="none came"):
        conformal_p(torch.zeros(0), torch.zeros(1))
    with pytest.raises(PolymodeError, match="are nan"):
        conformal_p(torch.zeros(3), torch.tensor([math.nan]))


def test_detect_flags_by_the_validation_split() -> None:
    data = blobs(400)
    model = Exact(data.spec)
    x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [9.0, 9.0]])
    found = detect(model, data, x, false_alarms=0.1, seed=3)
    calibration = -model.log_prob(data.valid.x).double()
    torch.testing.assert_close(found.calibration, calibration.sort().values)
    expected = [(1 + int((calibration >= s).sum())) / (len(calibration) + 1) for s in found.scores.values]
    assert found.p_values.tolist() == pytest.approx(expected)
    assert found.flags.tolist() == [False, False, True]
    assert found.scores.name == "likelihood"
    assert "80 validation rows" in found.scores.protocol
    assert detect(model, data, x, score="typicality").scores.name == "typicality"
    assert detect(model, data, x, background=Both(data.spec)).scores.name == "likelihood-ratio"
    with pytest.raises(DataError, match="give the data it learned"):
        detect(Exact(specs.vector(3)), data, torch.zeros(1, 3))
    with pytest.raises(PolymodeError, match="needs at least 999"):
        detect(model, data, x, false_alarms=0.001)


def test_a_conditional_model_is_scored_under_its_conditions() -> None:
    data = blobs(400, labels=True)
    model = pm.create("gaussian", data.spec, data.condition_spec, seed=0)
    pm.fit(model, data, seed=0)
    x = torch.tensor([[2.0, 0.0], [2.0, 0.0]])
    found = detect(model, data, x, Condition(label=torch.tensor([0, 1])))
    assert found.flags.tolist() == [True, False]  # label 1 is the blob at 2
    with pytest.raises(PolymodeError, match="no condition came"):
        detect(model, data, x)


def test_the_area_counts_pairs() -> None:
    inliers, outliers = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 4.0])
    wins = sum(float(o > i) + 0.5 * float(o == i) for o in outliers for i in inliers) / 6
    assert ood_auroc(inliers, outliers)[0] == pytest.approx(wins)
    a, b = Scores(inliers, "energy", ""), Scores(outliers, "bound", "")
    assert ood_auroc(a, replace(b, name="energy"))[0] == pytest.approx(wins)
    with pytest.raises(PolymodeError, match="one score on both sides"):
        ood_auroc(a, b)
    with pytest.raises(PolymodeError, match="none came"):
        ood_auroc(inliers, torch.zeros(0))


# -- training sets -------------------------------------------------------------------------------------------------
def test_one_class_keeps_normal_rows_only() -> None:
    data = blobs(400, labels=True)
    kept, others = one_class(data, 1)
    assert kept.condition_spec is None
    labels = torch.cat([s.condition.label for s in (data.train, data.valid, data.test)])
    assert len(others) == int((labels == 0).sum())
    assert torch.equal(kept.train.x, data.train.x[data.train.condition.label == 1])
    assert len(one_class(data, ["0", "1"])[1]) == 0
    with pytest.raises(PolymodeError, match="no class 2 in blobs; there are: 0, 1"):
        one_class(data, 2)
    with pytest.raises(DataError, match="no labels"):
        one_class(blobs(), 1)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_perturbed_redraws_the_stated_share(rate: float) -> None:
    x = torch.full((400, 1, 8, 8), 3, dtype=torch.uint8)
    split = Split(x)
    data = DataSet("flat", specs.image(1, 8, 8, levels=16), split, split, split)
    changed = (perturbed(data, rate).train.x != 3).double().mean()
    expected = rate * 15 / 16  # one draw in 16 is the value that was there
    assert abs(float(changed) - expected) < 4 * math.sqrt(expected * (1 - expected) / x.numel())
    assert torch.equal(perturbed(data, rate, seed=1).test.x, perturbed(data, rate, seed=1).test.x)
    with pytest.raises(PolymodeError, match="expected a share"):
        perturbed(data, 0.0)


def test_perturbed_reals_come_from_their_own_column() -> None:
    data = blobs(300, labels=True)
    made = perturbed(data, 0.3)
    for j in range(2):
        assert torch.isin(made.valid.x[:, j], torch.cat([data.train.x[:, j], data.valid.x[:, j]])).all()
    assert torch.equal(made.valid.condition.label, data.valid.condition.label)
    assert made.fingerprint != data.fingerprint


# -- spectra -------------------------------------------------------------------------------------------------------
def test_the_spectrum_of_a_wave_is_one_ring() -> None:
    spec = specs.image(1, 32, 32)
    at = torch.arange(32).double()
    for k in (2, 5, 12):
        wave = (127.5 + 127 * torch.cos(2 * math.pi * k * at / 32)).round().to(torch.uint8).expand(1, 1, 32, 32)
        found = spectrum(wave, spec)[0]
        assert int(found[1:].argmax()) + 1 == k
        # the amplitude is 127/255 in two of the ring's frequencies, each (H W / 2 amplitude)^2
        u, v = torch.meshgrid(*(2 * [torch.fft.fftfreq(32).double() * 32]), indexing="ij")
        inside = int(((u**2 + v**2).sqrt().floor() == k).sum())
        power = 2 * (32 * 32 / 2 * 127 / 255) ** 2 / inside
        assert math.exp(float(found[k])) == pytest.approx(power, rel=0.02)


def test_the_spectrum_equals_a_sum_over_frequencies() -> None:
    spec = specs.image(3, 5, 8, levels=16)
    x = torch.randint(16, (2, 3, 5, 8), generator=rng.generator(0)).to(torch.uint8)
    rings: dict[int, list[float]] = {}
    for u in range(5):
        for v in range(8):
            a, b = torch.arange(5).double()[:, None], torch.arange(8).double()
            turn = torch.exp(-2j * math.pi * (u * a / 5 + v * b / 8))
            power = ((x[0].double() / 15 * turn).sum((1, 2)).abs() ** 2).mean()
            fu, fv = min(u, 5 - u) / 5, min(v, 8 - v) / 8
            rings.setdefault(int(8 * math.hypot(fu, fv) + 1e-9), []).append(float(power))
    floor = 5 * 8 / (12 * 15**2)
    expected = [math.log(sum(r) / len(r) + floor) for _, r in sorted(rings.items())]
    assert spectrum(x, spec)[0].tolist() == pytest.approx(expected, rel=1e-9)


def test_constant_and_single_images_have_a_finite_spectrum() -> None:
    spec = specs.image(1, 6, 6)
    found = spectrum(torch.zeros(1, 1, 6, 6, dtype=torch.uint8), spec)
    assert found.isfinite().all()
    assert float(found.max()) == pytest.approx(math.log(36 / (12 * 255**2)))
    assert spectrum(torch.ones(2, 1, 1, 1, dtype=torch.uint8), specs.image(1, 1, 1)).shape == (2, 1)
    with pytest.raises(DataError, match="a spectrum is made of images"):
        spectrum(torch.zeros(1, 2), SPEC)


# -- detectors -----------------------------------------------------------------------------------------------------
def normal(n: int, shift: float, seed: int) -> Tensor:
    return torch.randn(n, 2, generator=rng.generator(seed)) + shift


def test_a_detector_of_shifted_normals_is_near_the_optimum() -> None:
    # two normals at distance d: the best area is Phi(d / sqrt 2), here with d = shift sqrt 2
    for shift in (0.5, 1.5):
        best = 0.5 * (1 + math.erf(shift / math.sqrt(2)))
        made = Detector.fit(SPEC, normal(2000, 0, 0), normal(1500, shift, 1))
        area, low, high = made.auroc(normal(2000, 0, 2), normal(2000, shift, 3))
        assert best - 0.03 < area < best + 0.02
        assert low < area < high
    assert made.scores(normal(1, 0, 4)).shape == (1,)
    assert "2000 real and 1500 generated" in made.protocol


def test_a_detector_sees_shape_where_means_agree() -> None:
    made = Detector.fit(SPEC, normal(500, 0, 0), 2.5 * normal(500, 0, 1))
    assert made.auroc(normal(500, 0, 2), 2.5 * normal(500, 0, 3))[0] > 0.85


def test_the_same_seed_gives_the_same_detector() -> None:
    a, b = (Detector.fit(SPEC, normal(50, 0, 0), normal(50, 1, 1), seed=4) for _ in range(2))
    assert torch.equal(a.weights, b.weights)


def test_constant_and_copied_rows_are_chance() -> None:
    same = torch.ones(20, 2)
    made = Detector.fit(SPEC, same, same)
    assert made.auroc(same, same)[0] == 0.5
    x = normal(100, 0, 0)
    copied = Detector.fit(SPEC, x, x)
    assert copied.auroc(x, x)[0] == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("kind", ["tokens", "table", "image"])
def test_every_kind_of_data_has_features(kind: str) -> None:
    g = rng.generator(0)
    spec = {
        "tokens": specs.tokens(12, 5),
        "table": specs.table(
            (specs.Categorical("c", ("a", "b", "c")), specs.Numeric("v", -9.0, 9.0, 0.0, 1.0, missing=True))
        ),
        "image": specs.image(1, 8, 8, levels=4),
    }[kind]
    if kind == "table":
        colours = torch.randint(3, (2, 200), generator=g).double()
        values = torch.randn(2, 200, generator=g).double() + torch.tensor([[0.0], [2.0]])
        real, made = torch.stack([colours, values], -1)
        made[::7, 1] = torch.nan
    else:
        real, made = (torch.randint(top, (200, *spec.shape), generator=g).to(spec.dtype) for top in (2, 4))
    detector = Detector.fit(spec, real[:100], made[:100])
    assert detector.auroc(real[100:], made[100:])[0] > 0.85
    assert detector.features in ("bigrams", "raw", "spectrum and random-conv")


@pytest.mark.parametrize(
    ("real", "generated", "options", "sentence"),
    [
        (normal(7, 0, 0), normal(20, 0, 0), {}, "at least 8 real rows and there are 7"),
        (normal(20, 0, 0), normal(1, 0, 0), {}, "at least 8 generated rows and there are 1"),
        (normal(20, 0, 0), torch.zeros(20, 3), {}, "generated rows has shape"),
        (normal(20, 0, 0), torch.full((20, 2), torch.nan), {}, "NaN"),
        (normal(20, 0, 0), normal(20, 0, 0), {"features": "spectrum"}, "not a choice"),
    ],
)
def test_what_no_detector_can_learn_is_refused(real, generated, options, sentence) -> None:
    with pytest.raises(PolymodeError, match=sentence):
        Detector.fit(SPEC, real, generated, **options)


def test_the_matrix_holds_detectors_by_rows() -> None:
    real, test = normal(200, 0, 0), normal(200, 0, 1)
    made = {"near": normal(200, 0.5, 2), "far": normal(200, 3, 3), "behind": normal(200, -3, 4)}
    m = cross_generator_matrix(SPEC, real, test, made)
    assert m.trained == ("near", "far", "behind", POOLED)
    assert m.tested == ("near", "far", "behind", REAL)
    by_hand = Detector.fit(SPEC, real, made["far"][:100])
    expected = by_hand.auroc(test, made["near"][100:])
    assert (m.value[1, 0], m.low[1, 0], m.high[1, 0]) == pytest.approx(expected)
    assert m.value[1, 1] > 0.99
    assert m.value[1, 2] < 0.6  # what lies on the other side looks more real than real
    assert m.value[3, :3].isfinite().all()
    assert m.value[3, 3].isnan()
    assert m.n == 100
    cells = {(c["trained"], c["tested"]): c["auroc"] for c in m.to_dict()["cells"]}
    assert cells["far", "near"] == pytest.approx(expected[0])
    assert cells[POOLED, REAL] is None
    page = m.to_html("title <b>", {"data": "normal"})
    assert page.count("<td") == 16
    assert "title &lt;b&gt;" in page


def test_a_matrix_of_one_generator_and_of_none() -> None:
    m = cross_generator_matrix(SPEC, normal(50, 0, 0), normal(50, 0, 1), {"one": normal(50, 1, 2)})
    assert (m.trained, m.tested) == (("one",), ("one", REAL))
    for made, test, sentence in (
        ({}, normal(50, 0, 1), "no generator"),
        ({"real": normal(50, 0, 1)}, normal(50, 0, 1), "uses itself"),
        ({"one": normal(15, 0, 1)}, normal(50, 0, 1), "at least 16"),
        ({"one": normal(50, 0, 1)}, normal(1, 0, 1), "at least 2 real rows"),
    ):
        with pytest.raises(PolymodeError, match=sentence):
            cross_generator_matrix(SPEC, normal(50, 0, 0), test, made)


def test_the_conditions_of_a_reference_come_with_it() -> None:
    data = blobs(200, labels=True)
    model = pm.create("gaussian", data.spec, ConditionSpec(label=2), seed=0)
    pm.fit(model, data, seed=0)
    condition = Condition(label=torch.tensor([1]))
    found = anomaly_scores(model, torch.tensor([[2.0, 0.0]]), condition, reference=data.train)
    mean = -model.log_prob(data.train.x, data.train.condition).double().mean()
    expected = (-model.log_prob(torch.tensor([[2.0, 0.0]]), condition).double() - mean).abs()
    torch.testing.assert_close(found.values, expected, rtol=1e-6, atol=1e-6)
    assert len(data.train) < anomaly.REFERENCE_ROWS
