"""VQ-VAE and VQ-VAE-2 against enumeration of every code and every image."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import polymode as pm
from polymode.core import rng
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.spec import image
from polymode.data.dataset import DataSet, Split
from polymode.evaluate import Evaluator
from polymode.evaluate.metrics.codebook import psnr, squared_errors
from tests.zoo import data

PRIOR = {"width": 8, "layers": 1, "heads": 2}
SMALL: dict[str, Any] = {"codes": 3, "code_dims": 2, "width": 6, "blocks": 1, "halvings": 1, "prior_options": PRIOR}
OPTIONS: dict[str, dict[str, Any]] = {
    "vqvae": SMALL,
    "vqvae2": SMALL | {"bottom_prior_options": PRIOR},
}
#: 2 x 3 bits, whose codes are a grid of 1 x 2, and for VQ-VAE-2 a top grid of one code besides
TINY = image(1, 2, 3, levels=2)


def wild(name: str, condition_spec: ConditionSpec | None = None, **arguments: Any) -> Any:
    """A model in float64 with weights far from where they begin, whose codes depend on the image."""
    model = pm.create(name, TINY, condition_spec, seed=0, **(OPTIONS[name] | arguments)).double()
    for p in model.parameters():
        p.data *= 1.5
    model.prepare(data(TINY, 64), None, rng.generator(0))
    return model.eval()


def every_image() -> Tensor:
    return torch.tensor(list(itertools.product([0, 1], repeat=6)), dtype=torch.uint8).view(-1, 1, 2, 3)


def every_code(model: Any) -> dict[str, Tensor]:
    sizes = [model.priors[level].spec.num_dims for level in model.levels]
    ranges = [range(model.num_codes[level]) for level in model.levels for _ in range(sizes[model.levels.index(level)])]
    rows = torch.tensor(list(itertools.product(*ranges)))
    split = rows.split(sizes, dim=1)
    return {
        level: part.reshape(-1, *model.priors[level].spec.shape)
        for level, part in zip(model.levels, split, strict=True)
    }


def joint(model: Any, x: Tensor, condition: Condition | None = None) -> Tensor:
    """log p(x, z) of images and all codes, (B, number of codes)."""
    codes = every_code(model)
    count = len(codes[model.levels[0]])
    with torch.no_grad():
        many = None if condition is None else condition[torch.zeros(count, dtype=torch.int64)]
        prior = torch.stack(list(model.log_prior(codes, many).values())).sum(0)
        params = model.parameters_given(model.values_of(codes))
        given = torch.stack([model.head.log_prob(row.expand(count, -1, -1, -1), params).sum(1) for row in x])
    return given + prior


@pytest.mark.parametrize("name", OPTIONS)
def test_the_bound_lies_below_the_likelihood_by_enumeration_which_sums_to_one(name: str):
    model, x = wild(name), every_image()
    table = joint(model, x)
    exact = table.logsumexp(1)
    torch.testing.assert_close(exact.exp().sum(), torch.ones((), dtype=torch.float64))
    bound = model.elbo(x, seed=0)
    assert (bound < exact).all()
    # the bound is one of the summands, that of the encoder's codes
    codes, every = model.codes(x), every_code(model)
    same = torch.stack([
        (every[level].flatten(1) == codes[level].flatten(1).unsqueeze(1)).all(2) for level in model.levels
    ]).all(0)  # fmt: skip
    assert (same.sum(1) == 1).all()
    torch.testing.assert_close(bound, table[same])
    assert len(same.nonzero()[:, 1].unique()) > 1, "all images have the same codes, and the test shows nothing"
    torch.testing.assert_close(model.iwae_bound(x, 5, seed=1), bound)
    torch.testing.assert_close(-model.loss(x, generator=rng.generator(0)).per_example.detach(), bound)


@pytest.mark.parametrize("name", OPTIONS)
def test_probabilities_under_a_label_sum_to_one_too(name: str):
    model, x = wild(name, ConditionSpec(label=2)), every_image()
    tables = [joint(model, x, Condition(label=torch.tensor([y]))).logsumexp(1) for y in range(2)]
    for table in tables:
        torch.testing.assert_close(table.exp().sum(), torch.ones((), dtype=torch.float64))
    assert not torch.allclose(*tables)
    withheld = Condition(label=torch.tensor([0]), dropped=torch.tensor([True]))
    assert not torch.allclose(joint(model, x, withheld).logsumexp(1), tables[0])


@pytest.mark.parametrize("name", OPTIONS)
def test_samples_are_distributed_as_enumeration_says(name: str):
    model = wild(name)
    n = 20_000
    x = model.sample(n, seed=0).flatten(1)
    p = joint(model, every_image()).logsumexp(1).exp()
    index = (x.long() * 2 ** torch.arange(5, -1, -1)).sum(1)
    counts = torch.bincount(index, minlength=64).double()
    often = p * n > 5
    expected = torch.cat([p[often], p[~often].sum(0, keepdim=True)]) * n
    seen = torch.cat([counts[often], counts[~often].sum(0, keepdim=True)])
    kept = expected > 0.5
    statistic = float(((seen - expected) ** 2 / expected)[kept].sum())
    freedom = int(kept.sum()) - 1
    # the 1e-3 quantile of chi squared, by Wilson and Hilferty
    assert statistic < freedom * (1 - 2 / (9 * freedom) + 3.09 * (2 / (9 * freedom)) ** 0.5) ** 3


@pytest.mark.parametrize("name", OPTIONS)
def test_what_was_encoded_decodes_as_its_codes_do(name: str):
    model, x = wild(name), every_image()
    z = model.encode(x)
    assert z.shape == (64, sum(2 * model.priors[level].spec.num_dims for level in model.levels))
    back = model.decode(z)
    with torch.no_grad():
        direct = model.head.mean(model.parameters_given(model.values_of(model.codes(x))))
    assert torch.equal(back, direct)
    # vectors near codes are those codes
    assert torch.equal(model.decode(z + 1e-6), back)
    with pytest.raises(PolymodeError, match="codes have shape"):
        model.decode(z[:, :-1])


@pytest.mark.parametrize("name", OPTIONS)
def test_the_first_stage_leaves_the_priors_alone_and_the_second_the_rest(name: str):
    model, x = pm.create(name, TINY, seed=0, **OPTIONS[name]), data(TINY, 32)
    model.prepare(x, None, rng.generator(0))
    stages = {phase.stage: {id(p) for q in model.phases() if q.stage == phase.stage for p in q.parameters()}
              for phase in model.phases()}  # fmt: skip
    priors = {id(p) for p in model.priors.parameters()}
    assert stages[1] == priors
    assert stages[0] == {id(p) for p in model.parameters()} - priors
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.phases()[-1].loss(x, None, rng.generator(0)).value.backward()
    assert all(p.grad is None for p in model.parameters() if id(p) not in priors)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    model.phases()[0].loss(x, None, rng.generator(0))
    assert not torch.equal(model.state_dict()[f"quantisers.{model.levels[0]}.count"],
                           before[f"quantisers.{model.levels[0]}.count"])  # fmt: skip
    learned = {k: v.clone() for k, v in model.state_dict().items()}
    model.eval().phases()[0].loss(x, None, rng.generator(0))
    assert all(torch.equal(v, learned[k]) for k, v in model.state_dict().items()), "codes learn in training only"


@pytest.mark.parametrize("name", OPTIONS)
def test_finite_scalars_take_the_place_of_codebooks(name: str):
    model, x = wild(name, fsq=(2, 2)), every_image()
    assert set(model.num_codes.values()) == {4}
    exact = joint(model, x).logsumexp(1)
    torch.testing.assert_close(exact.exp().sum(), torch.ones((), dtype=torch.float64))
    assert (model.elbo(x, seed=0) < exact).all()


def test_priors_that_do_not_fit_are_refused():
    refusals = {"can't take grid/tokens": ("gan", "realnvp"), "can't be the prior of codes": ("ngram", "bert", "vae")}
    for why, priors in refusals.items():
        for prior in priors:
            with pytest.raises(PolymodeError, match=why):
                pm.create("vqvae", TINY, **(SMALL | {"prior": prior, "prior_options": None}))
    with pytest.raises(PolymodeError, match="has no option 'widht'"):
        pm.create("vqvae", TINY, **(SMALL | {"prior_options": {"widht": 8}}))
    with pytest.raises(PolymodeError, match="commitment=-1"):
        pm.create("vqvae", TINY, commitment=-1, **SMALL)
    with pytest.raises(PolymodeError, match="has no option 'top_k'"):
        wild("vqvae", prior="made", prior_options={"hidden": (8,)}).sample(2, seed=0, top_k=2)


def test_the_metric_is_that_of_counting():
    spec = image(1, 4, 4, levels=5)
    x = data(spec, 90)
    found = DataSet("grey", spec, *(Split(part) for part in x.split(30)))
    model: Any = pm.create("vqvae2", spec, seed=0, **(OPTIONS["vqvae2"] | {"codes": 6}))
    model.prepare(x, None, rng.generator(0))
    row = Evaluator(found, metrics=["codebook"], ceiling=False, n=30).report(model.eval()).row
    measured = {m.metric: m for m in row.measurements}
    codes = model.codes(found.test.x)
    for level in ("top", "bottom"):
        counts = [int((codes[level] == k).sum()) for k in range(6)]
        shares = [c / sum(counts) for c in counts if c]
        perplexity = torch.tensor(shares).double()
        assert measured[f"codebook use ({level})"].value == len(shares) / 6
        expected = float((-(perplexity * perplexity.log()).sum()).exp())
        assert abs(measured[f"codebook perplexity ({level})"].value - expected) < 1e-6
    back = model.decode(model.encode(found.test.x)).double()
    mse = float(((back - found.test.x.double()) / 4).square().mean())
    known = measured["reconstruction PSNR"]
    assert abs(10 ** (-known.value / 10) - mse) < 1e-9
    assert known.low < known.value < known.high
    assert Evaluator(found, ceiling=False, n=30).report(pm.create("vae", spec)).row
    with pytest.raises(PolymodeError, match="no reconstructions of levels"):
        squared_errors(pm.create("pixelcnn", spec), x)
    assert psnr(torch.zeros(3))[0] == float("inf")


@pytest.mark.parametrize("name", OPTIONS)
def test_any_model_of_grids_is_a_prior(name: str):
    pixels = {"width": 6, "layers": 2, "first_kernel": 3}
    bottom = {"bottom_prior": "pixelcnn", "bottom_prior_options": pixels} if name == "vqvae2" else {}
    model, x = wild(name, prior="pixelcnn", prior_options=pixels, **bottom), every_image()
    exact = joint(model, x).logsumexp(1)
    torch.testing.assert_close(exact.exp().sum(), torch.ones((), dtype=torch.float64))
    assert (model.elbo(x, seed=0) < exact).all()
    assert model.sample(4, seed=0, temperature=0.5).shape == (4, 1, 2, 3)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_run_that_broke_off_goes_on_bit_identically(name: str, tmp_path: Path):
    found = DataSet("bits", TINY, *(Split(part) for part in data(TINY, 96).split(32)))

    def fitted(folder: Path, *, breaks: int | None = None, resume: bool = False) -> dict[str, Tensor]:
        def listener(event: Any) -> None:
            if event.kind == "train" and event.step == breaks:
                raise KeyboardInterrupt

        options = {"steps": 12, "batch_size": 8, "log_every": 1, "checkpoint_every": 4, "seed": 0}
        model = pm.create(name, TINY, seed=0, **(OPTIONS[name] | {"restart": 0.5, "decay": 0.6}))
        run = pm.fit(model, found, out=folder, resume=resume, listeners=[listener], **options)
        return run.model.state_dict()

    whole = fitted(tmp_path / "whole")
    for breaks in (5, 9):  # in the first stage, and in the second
        with pytest.raises(KeyboardInterrupt):
            fitted(tmp_path / str(breaks), breaks=breaks)
        resumed = fitted(tmp_path / str(breaks), resume=True)
        for key, value in whole.items():
            assert torch.equal(value, resumed[key]), key
