"""Samples of the autoregressive models follow their own density: failure rate 1e-3, fixed seeds."""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy import stats

import polymode as pm
from polymode.core import spec as specs
from polymode.core.condition import Condition, ConditionSpec

BITS = specs.Spec("vector", (6,), specs.Binary())
ROWS = torch.tensor(list(itertools.product([0, 1], repeat=6)), dtype=torch.uint8)
MODELS = {
    "made": ("made", {"hidden": (24, 24)}),
    "made, random order": ("made", {"hidden": (24, 24), "order": "random"}),
    "gru": ("gru", {"embed": 8, "hidden": 16}),
    "lstm": ("gru", {"embed": 8, "hidden": 16, "cell": "lstm"}),
}


def wild(name: str, spec: specs.Spec, condition_spec: ConditionSpec | None = None) -> pm.GenerativeModel:
    kind, arguments = MODELS[name]
    model = pm.create(kind, spec, condition_spec, seed=0, **arguments).double()
    g = torch.Generator().manual_seed(1)
    for p in model.parameters():
        p.data += 0.3 * torch.randn(p.shape, generator=g, dtype=torch.float64)
    return model


@pytest.mark.parametrize("label", [None, 0, 1])
@pytest.mark.parametrize("name", MODELS)
def test_samples_on_six_bits_fit_the_density(name: str, label: int | None):
    n = 20_000
    model = wild(name, BITS, None if label is None else ConditionSpec(label=2))
    given = None if label is None else Condition(label=torch.full((n,), label))
    x = model.sample(n, given, seed=0)
    expected = n * model.log_prob(ROWS, None if given is None else given[:64]).exp().numpy()
    observed = torch.bincount(x.long() @ (2 ** torch.arange(5, -1, -1)), minlength=64).numpy()
    rare = expected < 5  # chi-square wants five a cell: rare ones are put together
    if rare.any():
        observed = [*observed[~rare], observed[rare].sum()]
        expected = [*expected[~rare], expected[rare].sum()]
    assert len(expected) > 10
    assert stats.chisquare(observed, expected).pvalue > 1e-3


def test_samples_of_reals_fit_the_density():
    """The marginal of the first dimension by its cumulative distribution, the second by its conditional one."""
    model = pm.create("made", specs.vector(2, loc=(1.0, -2.0), scale=(2.0, 0.5)), seed=0, hidden=(24, 24)).double()
    x = model.sample(5000, seed=0)
    with torch.no_grad():
        params = model.params(x).view(5000, 2, 3, -1)
    weights, centres, scales = params[:, :, 0].softmax(-1), params[:, :, 1], params[:, :, 2].exp()
    y = ((x - torch.tensor([1.0, -2.0])) / torch.tensor([2.0, 0.5])).double().unsqueeze(-1)
    uniform = (weights * torch.special.ndtr((y - centres) / scales)).sum(-1)  # (n, 2), the probability transform
    for d in range(2):
        assert stats.kstest(uniform[:, d].numpy(), "uniform").pvalue > 1e-3
    assert abs(stats.spearmanr(uniform[:, 0], uniform[:, 1]).statistic) < 3.3 / 5000**0.5
