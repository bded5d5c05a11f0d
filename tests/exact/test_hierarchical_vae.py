"""Hierarchical autoencoders against grids over their codes: the ladder, the plain hierarchy and the very deep one."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import polymode as pm
from polymode.core import rng
from polymode.core import spec as specs
from polymode.parts.distributions.gaussian import log_normal, log_normal_at, product_of, split_gaussian

BITS = specs.Spec("vector", (4,), specs.Binary())
PICTURE = specs.image(1, 2, 2, levels=2)
ALL_BITS = torch.tensor(list(itertools.product([0, 1], repeat=4)), dtype=torch.uint8)
KINDS = {
    "ladder": ("ladder", BITS, {"latent_dims": (1, 1), "hidden": (8, 8), "depth": 1, "anneal": 0}),
    "bottom_up": (
        "ladder",
        BITS,
        {"latent_dims": (1, 1), "hidden": (8, 8), "depth": 1, "anneal": 0, "inference": "bottom_up"},
    ),
    "vdvae": ("vdvae", PICTURE, {"blocks": (2,), "latent_dims": 1, "width": 6, "middle": 6}),
}
kinds = pytest.mark.parametrize("kind", KINDS)


def wild(kind: str, **arguments) -> pm.GenerativeModel:
    """A model whose parts are far from their first values."""
    name, spec, given = KINDS[kind]
    model = pm.create(name, spec, seed=0, **(given | arguments)).double()
    g = rng.generator(7)
    for p in model.parameters():
        p.data += 0.25 * torch.randn(p.shape, generator=g, dtype=torch.float64)
    return model.eval()


def data_of(model: pm.GenerativeModel) -> torch.Tensor:
    return ALL_BITS.view(16, *model.spec.shape)


def fitted(kind: str) -> pm.GenerativeModel:
    """A wild model whose q has learned, so that few samples tell the truth."""
    model = wild(kind, num_samples=10)  # which makes q wide enough for all of a posterior
    x = data_of(model)
    q = [p for name, p in model.named_parameters() if name.startswith(("stem", "ups")) or ".q." in name]
    optimizer, g = torch.optim.Adam(q, lr=1e-2), rng.generator(4)
    for _ in range(100 if kind == "vdvae" else 600):
        optimizer.zero_grad()
        model.loss(x, generator=g).value.backward()
        optimizer.step()
    return model


def grid(model: pm.GenerativeModel, reach: float = 7.0, points: int = 141) -> torch.Tensor:
    """log p(x), (16,), of all data by a sum over the plane of what both codes are in deviations from p's mean."""
    axis = torch.linspace(-reach, reach, points, dtype=torch.float64)
    eps = torch.cartesian_prod(axis, axis)
    if isinstance(model, pm.LadderVAE):
        mu, log_sigma = split_gaussian(model.downs[1](eps[:, :1]))
        params = model.downs[0](mu + log_sigma.exp() * eps[:, 1:])
    else:  # s <- s + r, s <- s + W z, s <- s + f(s), twice
        state = model.biases[0].expand(len(eps), -1, -1, -1)
        for layer, e in zip(model.blocks, eps.t()[:, :, None, None, None], strict=True):
            mu, log_sigma, residual = layer.p(state, None).split([1, 1, 6], dim=1)
            state = state + residual + layer.codes(mu + log_sigma.exp() * e)
            state = state + layer.f(state, None)
        params = model.last(state).flatten(1)
    log_z = log_normal(eps).sum(1) + 2 * math.log(axis[1] - axis[0])
    bits = ALL_BITS.double()
    on, off = torch.nn.functional.logsigmoid(params), torch.nn.functional.logsigmoid(-params)
    return torch.logsumexp(bits @ on.T + (1 - bits) @ off.T + log_z, 1)


def test_product_of_gaussians_is_their_normalised_product():
    g = rng.generator(0)
    mu_a, ls_a, mu_b, ls_b = (0.5 * torch.randn(5, 1, generator=g, dtype=torch.float64) for _ in range(4))
    z = torch.linspace(-15, 15, 4001, dtype=torch.float64).expand(5, -1)
    both = log_normal_at(z, mu_a, ls_a) + log_normal_at(z, mu_b, ls_b)
    normalised = both - torch.logsumexp(both, 1, keepdim=True) - math.log(z[0, 1] - z[0, 0])
    mu, log_sigma = product_of(mu_a, ls_a, mu_b, ls_b)
    torch.testing.assert_close(log_normal_at(z, mu, log_sigma), normalised)
    # eq. of the paper: precisions add, means weigh by them
    a, b = (-2 * ls_a).exp(), (-2 * ls_b).exp()
    torch.testing.assert_close((-2 * log_sigma).exp(), a + b)
    torch.testing.assert_close(mu, (a * mu_a + b * mu_b) / (a + b))
    mu, log_sigma = product_of(mu_a, ls_a + 400, mu_b, ls_b - 400)  # where precisions overflow
    torch.testing.assert_close(mu, mu_b)
    torch.testing.assert_close(log_sigma, ls_b - 400)


def test_ladder_corrects_the_prior_by_the_likelihood_that_it_reads():
    model = wild("ladder")
    x = data_of(model)
    seen, drawn = model.read(x, None), {}

    def choose(layer, state, prior):
        drawn[layer] = state, prior, model.posterior(layer, state, prior, seen, None)
        return drawn[layer][2].mu

    with torch.no_grad():
        model.walk(16, None, choose)
        mu_hat, ls_hat = split_gaussian(model.ups[0](model.features(x)))
        top, q_top = drawn[1][0], drawn[0][2]
        mu_p, ls_p = split_gaussian(model.downs[1](top))
    torch.testing.assert_close(top, q_top.mu)
    a, b = (-2 * ls_hat).exp(), (-2 * ls_p).exp()
    torch.testing.assert_close((-2 * drawn[1][2].log_sigma).exp(), a + b)
    torch.testing.assert_close(drawn[1][2].mu, (a * mu_hat + b * mu_p) / (a + b))


@kinds
def test_bounds_lie_below_the_truth_and_reach_it(kind: str):
    model = fitted(kind)
    x = data_of(model)
    with torch.no_grad():
        exact = grid(model)
    torch.testing.assert_close(exact.exp().sum(), torch.ones((), dtype=torch.float64), rtol=0, atol=1e-6)
    several = torch.stack([model.iwae_bound(x, 3, seed=s) for s in range(50)])
    assert (several.mean(0) < exact + 3.3 * several.std(0) / 50**0.5).all()
    torch.testing.assert_close(model.iwae_bound(x, 10_000, seed=0), exact, rtol=0, atol=0.1)


@kinds
def test_samples_are_of_the_distribution_that_is_scored(kind: str):
    model, n = wild(kind), 20_000
    with torch.no_grad():
        expected = n * grid(model).exp()
    drawn = model.sample(n, seed=0).flatten(1).long() @ torch.tensor([8, 4, 2, 1])
    counts = torch.bincount(drawn, minlength=16)
    assert float(((counts - expected) ** 2 / expected).sum()) < 37.7  # chi-square of 15 degrees, 1e-3


@kinds
def test_loss_is_the_negative_bound(kind: str):
    rows = data_of(wild(kind))[5:6].expand(2_000, *KINDS[kind][1].shape)
    for samples in (1, 4):
        model = wild(kind, num_samples=samples)
        with torch.no_grad():
            loss = model.loss(rows, generator=rng.generator(0)).per_example
        bound = model.iwae_bound(rows, samples, seed=1)
        assert abs(loss.mean() + bound.mean()) < 3.3 * ((loss.var() + bound.var()) / len(rows)).sqrt()


@kinds
def test_each_layer_is_told_charged_and_weighed(kind: str):
    model = wild(kind, anneal=4)
    x = data_of(model)
    parts = model.loss(x, generator=rng.generator(5)).parts
    layers = [parts[f"kl {name}"] for name in model.layers]
    assert len(layers) == 2
    torch.testing.assert_close(sum(layers), parts["kl"])
    model.train()
    quarter = model.loss(x, generator=rng.generator(5)).per_example
    torch.testing.assert_close(quarter, parts["reconstruction"] + 0.25 * parts["kl"])
    free = wild(kind, free_bits=float(layers[0].mean()) + 1.0)
    plain = free.loss(x, generator=rng.generator(5)).per_example  # the bound itself while validating
    torch.testing.assert_close(plain, parts["reconstruction"] + parts["kl"])
    charged = free.train().loss(x, generator=rng.generator(5)).per_example
    more = sum(max(float(k.mean()), free.free_bits) - float(k.mean()) for k in layers)
    torch.testing.assert_close(charged, plain + more)


@kinds
def test_decoding_a_code_is_what_inference_at_its_means_decodes(kind: str):
    model = wild(kind)
    x = data_of(model)
    with torch.no_grad():
        params, _, codes = model.infer(model.read(x, None), None, torch.zeros_like)
    z = model.encode(x)
    assert torch.equal(model.decode(z), model.head.mean(params))
    whole = [c.flatten(1) for c in codes]
    torch.testing.assert_close(z, torch.cat(whole, 1) if kind == "vdvae" else whole[-1])
    with pytest.raises(pm.PolymodeError, match="expected"):
        model.decode(z[:, :0])


@pytest.mark.parametrize("size", [(28, 28), (5, 7), (3, 1)])
@pytest.mark.parametrize("halvings", [0, 1, 2])
def test_images_of_any_size_go_down_and_up(size, halvings: int):
    spec = specs.image(2, *size, levels=3)
    model = pm.create("vdvae", spec, seed=0, blocks=(1, 0, 1, 0), latent_dims=1, width=4, middle=4, halvings=halvings)
    x = torch.randint(3, (2, 2, *size), generator=rng.generator(0), dtype=torch.uint8)
    assert model.decode(model.encode(x)).shape == x.shape
    model.loss(x, generator=rng.generator(0)).value.backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    ("kind", "arguments", "sentence"),
    [
        ("ladder", {"latent_dims": (1, 1, 1)}, "a width for every layer"),
        ("ladder", {"latent_dims": (), "hidden": ()}, "at least 1"),
        ("ladder", {"inference": "top_down"}, "inference"),
        ("ladder", {"free_bits": -1.0}, "free_bits"),
        ("ladder", {"num_samples": 3, "anneal": 10}, "no KL term"),
        ("vdvae", {"blocks": (0, 2)}, "one layer at 1x1"),
        ("vdvae", {"halvings": -1}, "halvings"),
        ("vdvae", {"width": 0}, "width"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(kind: str, arguments, sentence: str):
    with pytest.raises(pm.PolymodeError, match=sentence):
        wild(kind, **arguments)
