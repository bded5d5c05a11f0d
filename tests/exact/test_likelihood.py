"""Units of likelihood are identities, and protocols say split, binarisation and dequantisation."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import polymode.core.spec as specs
from polymode.core import rng
from polymode.core.checkpoint import create
from polymode.core.condition import Condition
from polymode.core.errors import CapabilityError, PolymodeError
from polymode.core.likelihood import Likelihood
from polymode.core.loss import Loss
from polymode.data.dataset import DataSet, Split, split_randomly
from polymode.data.toys import load_toy
from polymode.evaluate import Evaluator, Noise, log_likelihood
from polymode.evaluate.likelihood import Scorer, split_words
from polymode.parts.dequantized import DequantizedDensity
from polymode.parts.solvers.flow import FlowOptions


def bits(nats: float, dims: int, *, levels: int = 1) -> float:
    """bits/dim of a density of data scaled to [0, 1]: what is stored counts cells of width 1 / levels."""
    return -nats / (dims * math.log(2)) + math.log2(levels)


# -- identities ----------------------------------------------------------------------------------------------------
def test_bits_are_nats_over_d_log_two() -> None:
    found = Likelihood("exact", torch.tensor([-10.0, -20.0]), 5, discrete=True)
    assert found.bits_per_dim == pytest.approx(15 / (5 * math.log(2)))
    assert found.bits_per_dim == bits(-15.0, 5)


@pytest.mark.parametrize("shape", [(1, 2, 2), (3, 4, 4)])
def test_the_uniform_model_of_256_levels_has_eight_bits(shape: tuple[int, int, int]) -> None:
    spec = specs.image(*shape)
    x = torch.randint(256, (20, *shape), generator=rng.generator(0)).to(torch.uint8)
    found = log_likelihood(Noise(spec), x)
    assert found.kind == "exact"
    assert found.bits_per_dim == pytest.approx(8.0, abs=1e-6)


def test_the_identity_of_nice() -> None:
    """Dinh, Krueger and Bengio 2014 (arXiv:1410.8516, table 3): 1980.50 nats of MNIST in [0, 1] are 4.36 bits/dim."""
    assert bits(1980.50, 784, levels=256) == pytest.approx(4.36, abs=0.005)
    # the same in data space: the density there is smaller by 256 a dimension
    in_data_space = Likelihood("lower bound", torch.tensor([1980.50 - 784 * math.log(256)] * 2).double(), 784, True)
    assert in_data_space.bits_per_dim == pytest.approx(bits(1980.50, 784, levels=256))


class UniformFlow(DequantizedDensity):
    """The density whose preimage is uniform over all levels: a logistic in logit space."""

    def log_density(self, y: Tensor, condition: Condition | None) -> Tensor:
        # v is uniform on [0, 1]; y = logit(m + (1 - 2 m) v), so p(y) = s(y) (1 - s(y)) / (1 - 2 m)
        return (-torch.nn.functional.softplus(y) - torch.nn.functional.softplus(-y) - math.log(0.9)).sum(1)

    def draw(self, n: int, condition: Condition | None, generator: torch.Generator) -> Tensor:
        u = 0.05 + 0.9 * torch.rand(n, self.spec.num_dims, generator=generator)
        return u.logit()

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        return Loss(-self._log_weight(x, condition, generator))


def test_the_jacobian_of_the_logit_is_counted() -> None:
    spec = specs.image(1, 3, 3)
    x = torch.randint(256, (50, 1, 3, 3), generator=rng.generator(0)).to(torch.uint8)
    found = log_likelihood(UniformFlow(spec, squash=True).double(), x, num_samples=1)
    assert (found.kind, found.bits_per_dim) == ("lower bound", pytest.approx(8.0, abs=1e-6))
    assert found.protocol == "iwae-1, uniform dequantisation"


# -- protocols -----------------------------------------------------------------------------------------------------
def binary_images(*, draw: bool = False, test_draw: bool = False) -> DataSet:
    x = torch.randint(2, (60, 1, 2, 2), generator=rng.generator(0)).to(torch.uint8)
    train, valid, test = split_randomly(x, fractions=(0.2, 0.5))

    def drawn(split: Split, wanted: bool) -> Split:
        return replace(split, draw=lambda x, g: rng.bernoulli(x.float(), g).to(torch.uint8)) if wanted else split

    return DataSet(
        "bits", specs.image(1, 2, 2, levels=2), drawn(train, draw), drawn(valid, draw), drawn(test, test_draw)
    )


def test_a_split_names_its_binarisation() -> None:
    assert split_words(binary_images(), "test") == "test split, static binarisation"
    dynamic = binary_images(draw=True)
    assert "drawn at every visit" in split_words(dynamic, "train")
    assert split_words(dynamic, "test") == "test split, static binarisation (drawn once; that of training is dynamic)"
    said = replace(binary_images(), extra={"binarisation": "threshold at half"})
    assert split_words(said, "valid") == "valid split, threshold at half binarisation"
    assert split_words(load_toy("moons", n=100, n_test=20), "test") == "test split"


def test_a_protocol_names_split_rows_and_dequantisation() -> None:
    data = binary_images()
    noise = Noise(data.spec)
    whole = log_likelihood(noise, data)
    assert whole.protocol == (
        "log p(x), probability, no dequantisation, test split, static binarisation, 30 of 30 rows"
    )
    part = log_likelihood(noise, data, split="train", limit=5)
    assert part.protocol.endswith("train split, static binarisation, 5 of 18 rows")
    # a tensor has no name
    assert log_likelihood(noise, data.test.x).protocol == "log p(x), probability, no dequantisation"
    assert log_likelihood(Noise(specs.vector(2)), torch.zeros(3, 2)).protocol == "log p(x)"


def test_every_number_of_a_report_carries_kind_unit_split_and_count() -> None:
    pytest.importorskip("matplotlib")
    data = binary_images()
    report = Evaluator(data, metrics=["gap", "sliced_wasserstein"], ceiling=False).report(
        Noise(data.spec), name="noise"
    )
    first = report.table()[0]
    assert first["title"] == "negative log-likelihood[bits/dim, exact, n=30]"
    assert "test split, static binarisation, 30 of 30 rows" in first["protocol"]
    assert "no dequantisation" in first["protocol"]
    saved = report.to_dict()["likelihood"]
    assert (saved["title"], saved["protocol"]) == (first["title"], first["protocol"])
    text = report.to_html()
    assert first["title"] in text
    assert "test split, static binarisation" in text
    gap = report.row.get("train/test gap")
    assert gap is not None
    assert "train split, static binarisation, 18 of 18 rows" in gap.protocol


# -- the ODE estimator ---------------------------------------------------------------------------------------------
def test_an_ode_estimate_names_solver_tolerance_and_probes() -> None:
    spec = specs.vector(2)
    model = create("ddpm", spec, seed=0, widths=(8, 8)).double()
    torch.nn.init.normal_(model.network.body.last.weight)  # an untrained network says 0, of no divergence
    x = torch.randn(6, 2, generator=rng.generator(0))
    found = log_likelihood(model, x, estimator="ode", flow=FlowOptions(tolerance=1e-3))
    assert (found.kind, found.std_error) == ("estimate", 0.0)
    assert found.protocol.startswith("probability-flow ODE, dopri5 at tolerance 0.001, exact divergence, ")
    options = FlowOptions(method="rk4", steps=20, divergence="hutchinson", probes=2)
    found = log_likelihood(model, x, estimator="ode", flow=options)
    assert "rk4 with 20 steps, Hutchinson divergence of 2 rademacher probes a row, standard error" in found.protocol
    assert found.std_error > 0
    one = log_likelihood(model, x, estimator="ode", flow=replace(options, probes=1))
    assert "one probe, so no standard error" in one.protocol
    assert torch.equal(found.nats, log_likelihood(model, x, estimator="ode", flow=options).nats)
    assert log_likelihood(model, x).kind == "lower bound"


def test_an_ode_estimate_on_levels_is_dequantised() -> None:
    spec = specs.Spec("vector", (2,), specs.Levels(4))
    model = create("ddpm", spec, seed=0, widths=(8, 8))
    x = torch.tensor([[0, 3], [1, 2]], dtype=torch.uint8)
    found = log_likelihood(model, x, estimator="ode", flow=FlowOptions(method="rk4", steps=10))
    assert "one draw of uniform dequantisation" in found.protocol
    assert "no dequantisation" not in found.protocol


def test_other_models_have_no_flow() -> None:
    with pytest.raises(CapabilityError, match="has no probability flow"):
        Scorer(Noise(specs.vector(2)), estimator="ode")
    with pytest.raises(PolymodeError, match="'ode'"):
        log_likelihood(Noise(specs.vector(2)), torch.zeros(2, 2), estimator="odd")  # type: ignore[arg-type]
