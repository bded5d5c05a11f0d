"""FID, IS, KID and PRDC on features: closed forms, brute force, batches, bounded memory, refusals."""

import math
import tracemalloc

import numpy as np
import pytest
import torch
from torch import Tensor

from polymode.core import spec as specs
from polymode.core.errors import MissingPackageError, PolymodeError
from polymode.core.rng import generator
from polymode.evaluate.distances import Rows, in_balls, nearest_radii, tiles
from polymode.evaluate.features import pretrained
from polymode.evaluate.metrics import inception_score as scores
from polymode.evaluate.metrics.frechet import Moments, frechet, with_intervals
from polymode.evaluate.metrics.inception_score import ScoreSum, inception_score
from polymode.evaluate.metrics.kid import draw_subsets, kid, kid_by_subsets
from polymode.evaluate.metrics.prdc import prdc
from polymode.evaluate.statistics import jackknife, leave_groups_out


def normal(n: int, d: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(n, d, generator=generator(seed), dtype=dtype)


# -- Frechet distance ----------------------------------------------------------------------------------------------
def exactly(n: int, mean: Tensor, root: Tensor, seed: int) -> Tensor:
    """n rows whose sample mean is `mean` and whose sample covariance is root root^T, to rounding."""
    x = normal(n, len(mean), seed)
    x = x - x.mean(0)
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(x.T.cov()), x.T, upper=False).T
    return mean + whitened @ root.T


def test_frechet_is_the_closed_form_of_known_gaussians() -> None:
    # covariances that commute: tr (S1 S2)^(1/2) is the sum of products of standard deviations
    deviations = torch.tensor([[0.5, 1.0, 2.0, 3.0], [1.5, 0.2, 2.5, 1.0]], dtype=torch.float64)
    rotation = torch.linalg.qr(normal(4, 4, 0)).Q
    means = normal(2, 4, 1)
    x, y = (exactly(200 + 50 * i, means[i], rotation * deviations[i], i) for i in (0, 1))
    truth = float((means[0] - means[1]).square().sum() + (deviations[0] - deviations[1]).square().sum())
    assert frechet(x, y) == pytest.approx(truth, rel=1e-9)
    assert abs(frechet(x, x)) < 1e-9
    # and of a pair that does not commute, through scipy's matrix square root
    from scipy.linalg import sqrtm

    z = exactly(300, means[1], normal(4, 4, 5), 3)
    s1, s2 = x.T.cov(), z.T.cov()
    cross = np.trace(sqrtm((s1 @ s2).numpy()).real)
    assert frechet(x, z) == pytest.approx(
        float((means[0] - means[1]).square().sum() + s1.trace() + s2.trace()) - 2 * cross, rel=1e-7
    )


def test_frechet_of_features_that_never_vary_or_depend_on_one_another() -> None:
    x, y = normal(60, 3, 0), normal(60, 3, 1)
    wide = [torch.cat([v, torch.full((60, 1), 2.0, dtype=v.dtype), v[:, :1] + v[:, 1:2]], 1) for v in (x, y)]
    s1, s2 = (v.T.cov().numpy() for v in wide)
    cross = np.sqrt(np.linalg.eigvals(s1 @ s2).real.clip(min=0)).sum()
    truth = float((wide[0].mean(0) - wide[1].mean(0)).square().sum()) + np.trace(s1 + s2) - 2 * cross
    assert frechet(*wide) == pytest.approx(truth, abs=1e-5)


def test_moments_of_batches_are_those_of_all_rows_and_take_rows_off_again() -> None:
    # a mean far from zero, where sums of squares would cancel
    x = 1e5 + normal(500, 6, 0)
    batches = Moments.of(iter(x.split(37)))
    assert batches.n == 500
    torch.testing.assert_close(batches.mean, x.mean(0), rtol=1e-14, atol=0)
    torch.testing.assert_close(batches.covariance, x.T.cov(), rtol=1e-9, atol=1e-9)
    origin = x.mean(0)
    rest = Moments.of(x, origin) - Moments.of(x[::5], origin)
    left = x[torch.arange(500) % 5 != 0]
    torch.testing.assert_close(rest.covariance, left.T.cov(), rtol=1e-9, atol=1e-9)


def test_the_intervals_of_frechet_leave_groups_out() -> None:
    x, y = normal(90, 3, 0), 1.2 * normal(80, 3, 1)
    without = leave_groups_out(frechet, x, y)
    plain, corrected = with_intervals(x, y)
    value, low, high = jackknife(frechet(x, y), without, correct=False)
    assert plain == pytest.approx((value, max(0.0, low), high), rel=1e-7)
    assert corrected == pytest.approx(jackknife(frechet(x, y), without, correct=True), rel=1e-7)


def test_memory_of_moments_and_of_scores_does_not_grow_with_the_rows() -> None:
    def peak(batches: int) -> int:
        def rows():
            for i in range(batches):
                yield normal(256, 32, i, torch.float32)

        tracemalloc.start()
        moments, score = Moments(torch.zeros(32)), ScoreSum(32)
        for batch in rows():
            moments.add(batch)
            score.add(batch.softmax(1))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert moments.n == score.n == 256 * batches
        return found

    # python's own objects; tensors are of fixed size by construction: (F,), (F, F) and (K,)
    assert peak(40) < peak(4) + 100_000


# -- inception score -----------------------------------------------------------------------------------------------
def test_inception_score_of_known_probabilities() -> None:
    alike = torch.tensor([0.2, 0.5, 0.3]).expand(40, 3)
    assert inception_score(alike, splits=1) == (pytest.approx(1.0), 0.0)
    certain = torch.eye(7).repeat(10, 1)
    assert inception_score(certain, splits=1)[0] == pytest.approx(7.0)
    assert inception_score(certain, splits=10)[0] == pytest.approx(7.0)
    p = normal(50, 4, 0).softmax(1)
    q = p.mean(0)
    assert inception_score(p, splits=1)[0] == pytest.approx(math.exp(float((p * (p / q).log()).sum(1).mean())))


def test_inception_score_in_batches_and_its_interval() -> None:
    p = normal(300, 5, 0).softmax(1)
    total = ScoreSum(5)
    for part in p.split(41):
        total.add(part)
    assert total.value == pytest.approx(inception_score(p, splits=1)[0], rel=1e-12)
    value, low, high = scores.with_interval(p)
    assert low < value < high
    assert value == pytest.approx(total.value, rel=0.02)


@pytest.mark.parametrize("p", [torch.randn(20, 3), torch.full((20, 3), 0.5), torch.rand(20)])
def test_what_is_no_probability_is_refused(p: Tensor) -> None:
    with pytest.raises(PolymodeError, match="probabilities"):
        ScoreSum(3).add(p)


# -- KID by subsets ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("subsets", [5, 30])  # each subset by itself, and all pairs of rows once
def test_kid_by_subsets_is_the_paper_s_estimate(subsets: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polymode.evaluate.metrics.kid.tiles", lambda n: tiles(n, 16))
    x, y = normal(60, 8, 0), 1.2 * normal(70, 8, 1) + 0.3
    of_x, of_y = (draw_subsets(n, subsets=subsets, size=20, generator=generator(n)) for n in (60, 70))
    each = [kid(x[i], y[j])[0] for i, j in zip(of_x, of_y, strict=True)]
    mean, deviation = kid_by_subsets(x, y, of_real=of_x, of_samples=of_y)
    assert mean == pytest.approx(np.mean(each), rel=1e-4)
    assert deviation == pytest.approx(np.std(each), rel=1e-4)
    assert all(len(rows.unique()) == 20 for rows in of_x)
    with pytest.raises(PolymodeError, match="subset of 100"):
        draw_subsets(60, size=100, generator=generator(0))


# -- distances -----------------------------------------------------------------------------------------------------
def plain(x: Tensor, y: Tensor) -> Tensor:
    return (x[:, None].double() - y[None].double()).square().sum(2).sqrt()


CLOUDS = {
    "normal": lambda g: torch.randn(300, 5, generator=g, dtype=torch.float64) + 50,
    "lattice": lambda g: torch.randint(0, 4, (300, 3), generator=g).double(),
    "copies": lambda g: torch.randn(3, 4, generator=g, dtype=torch.float64)[torch.randint(3, (300,), generator=g)],
    "tight clusters": lambda g: torch.randint(0, 2, (300, 1), generator=g) * 1e4 + torch.randn(300, 2, generator=g),
    "an outlier": lambda g: torch.cat([torch.full((1, 6), 1e6), torch.randn(299, 6, generator=g)]).double(),
    "constant": lambda g: torch.full((300, 2), 7.0),
}


@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_radii_and_balls_are_those_of_brute_force(
    cloud: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polymode.evaluate.distances.TILE", 128)
    x, y = (CLOUDS[cloud](generator(seed)).to(dtype) for seed in (0, 1))
    truth = plain(x, x).to(dtype).double().kthvalue(6, dim=1).values
    radii = nearest_radii(x, 5)
    torch.testing.assert_close(radii, truth, rtol=1e-7 if dtype is torch.float32 else 1e-15, atol=0)
    a, b = (Rows(v, x.double().mean(0)) for v in (x, y))
    inside = torch.zeros(len(x), len(y), dtype=torch.bool)
    for i in tiles(len(x), 128):
        for j in tiles(len(y), 128):
            low, high = a.bounds(i, b, j)
            assert bool((low <= plain(x[i], y[j]).square()).all())
            assert bool((high >= plain(x[i], y[j]).square()).all())
            inside[i, j] = in_balls(a, radii, b, i, j, low, high)
    everyone = torch.cartesian_prod(torch.arange(len(x)), torch.arange(len(y)))
    distance = a.again(everyone[:, 0], b, everyone[:, 1]).view(len(x), len(y))
    torch.testing.assert_close(distance, plain(x, y).to(dtype).double())
    assert torch.equal(inside, distance < radii[:, None])


def test_prdc_of_identical_sets_and_of_half_the_modes() -> None:
    centres = 20 * torch.eye(8, dtype=torch.float64)
    x, y = (centres.repeat(50, 1) + normal(400, 8, seed) for seed in (0, 1))
    same = prdc(x, x)
    assert bool(same.precise.all())
    assert bool(same.recalled.all())
    half = prdc(x, y[(torch.arange(400) % 8) < 4])
    assert float(half.recalled.double().mean()) == pytest.approx(0.5, abs=0.05)
    assert float(half.precise.double().mean()) > 0.9


@pytest.mark.parametrize(
    ("real", "samples", "sentence"),
    [
        (torch.zeros(0, 3), normal(20, 3, 0), "at least one row"),
        (normal(20, 3, 0), torch.full((20, 3), torch.nan), "not all finite"),
        (normal(20, 3, 0), normal(20, 4, 0), r"expected \(rows, 3\)"),
        (normal(1, 3, 0), normal(20, 3, 0), "more than 5 rows"),
    ],
)
def test_prdc_refuses_what_it_can_not_measure(real: Tensor, samples: Tensor, sentence: str) -> None:
    with pytest.raises(PolymodeError, match=sentence):
        prdc(real, samples)


@pytest.mark.parametrize(
    ("real", "samples", "sentence"),
    [
        (torch.zeros(0, 3), normal(20, 3, 0), "no rows"),
        (normal(20, 3, 0), torch.full((20, 3), torch.nan), "not finite"),
        (normal(20, 3, 0), normal(20, 4, 0), "one feature space"),
        (normal(1, 3, 0), normal(20, 3, 0), "at least 2 rows"),
    ],
)
def test_frechet_refuses_what_it_can_not_measure(real: Tensor, samples: Tensor, sentence: str) -> None:
    with pytest.raises(PolymodeError, match=sentence):
        frechet(real, samples)


# -- networks of others --------------------------------------------------------------------------------------------
def test_eight_bit_colour() -> None:
    x = torch.tensor([0, 1, 16]).view(1, 1, 1, 3)
    assert pretrained.to_colour(x, 17)[0, :, 0].tolist() == [[0, 16, 255]] * 3


@pytest.mark.parametrize("network", ["dinov2", "clip"])
def test_a_local_transformer_gives_features(network: str, tmp_path) -> None:
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    torch.manual_seed(0)
    if network == "dinov2":
        net = transformers.Dinov2Model(transformers.Dinov2Config(**small))
    else:
        config = transformers.CLIPVisionConfig(**small, intermediate_size=32, projection_dim=8)
        net = transformers.CLIPVisionModelWithProjection(config)
    net.save_pretrained(tmp_path / "net")
    spec = specs.image(3, 28, 28, levels=256)
    name, features, dim, protocol, classes = pretrained.space(spec, network, str(tmp_path / "net"))
    assert (name, dim, classes) == (f"{network}-net", 16 if network == "dinov2" else 8, None)
    assert "28 x 28" in protocol
    x = torch.randint(256, (2, 3, 28, 28), generator=generator(0))
    loc, scale = (np.array(v).reshape(1, 3, 1, 1) for v in pretrained.COLOURS[network])
    pixels = torch.from_numpy((x.numpy() / 255 - loc) / scale).float()
    with torch.no_grad():
        found = net.eval()(pixel_values=pixels)
    expected = found.pooler_output if network == "dinov2" else found.image_embeds
    torch.testing.assert_close(features(x), expected, rtol=1e-4, atol=1e-5)


def test_networks_that_are_not_there_end_in_a_sentence(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = specs.image(1, 8, 8, levels=17)
    with pytest.raises(PolymodeError, match="one or three channels"):
        pretrained.space(specs.image(2, 8, 8, levels=4), "clip")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match="pip install torch-fidelity"):
        pretrained.space(spec, "inception")
    with pytest.raises(MissingPackageError, match="pip install transformers"):
        pretrained.space(spec, "dinov2")


def test_files_that_are_no_weights_are_refused_unread(tmp_path) -> None:
    import pickle

    with pytest.raises(PolymodeError, match="there is no file"):
        pretrained._check_weights(tmp_path / "none.pth")
    bad = tmp_path / "bad.pth"
    bad.write_bytes(pickle.dumps(print, protocol=2))
    with pytest.raises(PolymodeError, match="no file of weights"):
        pretrained._check_weights(bad)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(PolymodeError, match="no dictionary of tensors"):
        pretrained._check_weights(tmp_path / "list.pth")
