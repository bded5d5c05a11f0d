"""FID, KID, IS and precision/recall on the same features as torch-fidelity 0.4, clean-fid 0.1.35 and prdc 0.2.

    pip install --no-deps torch-fidelity clean-fid prdc tqdm

`benchmarks/_peers.py` says how they are loaded.
"""

import importlib.util
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks._peers import clean_fid_distance, torch_fidelity
from polymode.core import spec as specs
from polymode.core.rng import generator
from polymode.evaluate.features import pretrained
from polymode.evaluate.metrics.frechet import frechet
from polymode.evaluate.metrics.inception_score import inception_score
from polymode.evaluate.metrics.kid import kid_by_subsets
from polymode.evaluate.metrics.prdc import prdc

SEED = 2020


@pytest.fixture(scope="module")
def fidelity() -> Iterator[dict[str, ModuleType]]:
    if importlib.util.find_spec("torch_fidelity") is None:
        pytest.skip("torch-fidelity is not installed")
    with torch_fidelity() as modules:
        yield modules


def features() -> tuple[Tensor, Tensor]:
    """Rectified, correlated, single precision, as Inception's are."""
    g = generator(0)
    mix = torch.randn(64, 64, generator=g) / 8
    x, y = (torch.relu(torch.randn(n, 64, generator=g) @ mix + shift) for n, shift in ((1500, 0.3), (1200, 0.4)))
    return x, y


def test_fid(fidelity) -> None:
    x, y = features()
    theirs = fidelity["fid"].fid_statistics_to_metric(
        *(fidelity["fid"].fid_features_to_statistics(v) for v in (x, y)), verbose=False
    )["frechet_inception_distance"]
    assert frechet(x, y) == pytest.approx(theirs, rel=1e-6)


def test_fid_of_clean_fid() -> None:
    if importlib.util.find_spec("cleanfid") is None:
        pytest.skip("clean-fid is not installed")
    x, y = features()
    statistics = [v for f in (x.numpy(), y.numpy()) for v in (f.mean(0), np.cov(f, rowvar=False))]
    assert frechet(x, y) == pytest.approx(float(clean_fid_distance()(*statistics)), rel=1e-6)


def test_kid(fidelity) -> None:
    x, y = features()
    theirs = fidelity["kid"].kid_features_to_metric(
        x, y, kid_subsets=20, kid_subset_size=300, rng_seed=SEED, verbose=False
    )
    draws = np.random.RandomState(SEED)
    rows = [[draws.choice(len(v), 300, replace=False) for v in (x, y)] for _ in range(20)]
    of_x, of_y = (torch.tensor(np.array([pair[i] for pair in rows])) for i in (0, 1))
    mean, deviation = kid_by_subsets(x, y, of_real=of_x, of_samples=of_y)
    assert mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4)
    assert deviation == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-3)


def test_inception_score(fidelity) -> None:
    logits = 2 * features()[0]
    theirs = fidelity["isc"].isc_features_to_metric(logits, splits=10, shuffle=False)
    mean, deviation = inception_score(logits.double().softmax(1), splits=10)
    assert mean == pytest.approx(theirs["inception_score_mean"], rel=1e-9)
    assert deviation == pytest.approx(theirs["inception_score_std"], rel=1e-7)


def test_precision_and_recall(fidelity) -> None:
    # its balls are closed and ours, as in the paper's equations and in prdc, are open; they differ on ties only
    x, y = (v.double() for v in features())
    theirs = fidelity["prc"].prc_features_to_metric(
        y, x, prc_neighborhood=3, prc_batch_size=10_000, save_cpu_ram=False, verbose=False
    )
    found = prdc(x, y, k=3)
    assert float(found.precise.double().mean()) == pytest.approx(theirs["precision"], rel=1e-6)
    assert float(found.recalled.double().mean()) == pytest.approx(theirs["recall"], rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_prdc(dtype: torch.dtype) -> None:
    package = pytest.importorskip("prdc")
    x, y = (v.to(dtype) for v in features())
    theirs = package.compute_prdc(x.numpy(), y.numpy(), nearest_k=5)
    found = prdc(x, y)
    ours = {
        "precision": found.precise, "recall": found.recalled, "density": found.dense, "coverage": found.covered,
    }  # fmt: skip
    assert {k: float(v.double().mean()) for k, v in ours.items()} == pytest.approx(theirs, abs=1e-12)


@pytest.mark.slow
def test_prdc_of_the_toy_in_its_readme() -> None:
    # published, with another seed: precision 0.4772, recall 0.4705, density 1.0555, coverage 0.9735
    draws = np.random.RandomState(0)
    x, y = (torch.from_numpy(draws.normal(0, 1, (10_000, 1000)).astype(np.float32)) for _ in "xy")
    found = prdc(x, y)
    shares = [float(v.double().mean()) for v in (found.precise, found.recalled, found.covered)]
    assert shares == pytest.approx([0.4772, 0.4705, 0.9735], abs=0.03)
    # a few rows near the centre are in most balls, so the density of one seed says little: seven seeds gave 0.86 to
    # 1.15, deviation 0.085
    assert float(found.dense.mean()) == pytest.approx(1.0555, abs=0.25)


def test_inception_with_a_file_of_weights(fidelity, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    made = {}

    def caught(self: torch.nn.Module, weights: dict) -> None:
        made.update(self.state_dict())

    # the constructor insists on weights: the random ones that it makes first are caught and written as a file
    with monkeypatch.context() as patch:
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", caught)
        patch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *_, **__: {})
        FeatureExtractorInceptionV3("inception", ["2048"])
    torch.save(made, tmp_path / "weights.pth")
    spec = specs.image(1, 8, 8, levels=17)
    name, embed, dim, protocol, classify = pretrained.space(spec, "inception", str(tmp_path / "weights.pth"))
    x = torch.randint(17, (2, 1, 8, 8), generator=generator(0))
    assert (name, dim, "weights.pth" in protocol) == ("inception-v3", 2048, True)
    assert embed(x).shape == (2, 2048)
    assert classify is not None
    torch.testing.assert_close(classify(x).sum(1), torch.ones(2, dtype=torch.float64))
