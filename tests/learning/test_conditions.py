"""Every family learns its condition: samples follow it, and shuffled conditions must hurt."""

from __future__ import annotations

import pytest
import torch

import polymode as pm
from polymode.core import spec as specs
from polymode.core.condition import Condition
from polymode.data.dataset import DataSet, Split
from tests.zoo import CONDITIONAL, CONDITIONS, SMALL, SPECS, Case

#: what small networks need beyond their defaults to read the condition in 400 steps
TRAINING: dict[str, dict] = {
    "made": {"learning_rate": 4e-3}, "vae": {"learning_rate": 4e-3}, "gan": {"steps": 800},
    "fvsbn": {"learning_rate": 4e-2}, "wavenet": {"learning_rate": 1e-2},
    # two stages of half the steps each
    "m1_m2": {"learning_rate": 5e-3, "steps": 1200}, "cdbn": {"steps": 800},
    "dbn": {"steps": 800}, "dbm": {"steps": 800},
    "vqvae": {"learning_rate": 5e-3, "steps": 800}, "vqvae2": {"learning_rate": 5e-3, "steps": 800},
    "pix2pix": {"learning_rate": 2e-3}, "srgan": {"learning_rate": 4e-3},
    "stargan": {"learning_rate": 2e-3, "steps": 900},
    "latent_diffusion": {"learning_rate": 4e-3, "steps": 1200, "ema": 0.98},  # two stages
    "score_matching": {"learning_rate": 1e-2, "steps": 600, "ema": 0.99}, "short_run": {"learning_rate": 3e-3},
    # averaged weights follow slowly
    **{name: {"steps": 1500, "ema": 0.99} for name in ("infogan", "bigan", "sagan", "biggan", "stylegan", "stylegan2")},
}  # fmt: skip


def two_classes(signature: str, kind: str, n: int, seed: int) -> Split:
    """Data whose class is plain to see, and a condition that says the class (among noise)."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(2, (n,), generator=g)
    spec = SPECS[signature]
    d = spec.num_dims
    match signature:
        case "vector/real":
            x = 0.4 * torch.randn(n, 2, generator=g) + torch.stack([4.0 * y - 2, torch.zeros(n)], 1)
        case "vector/binary" | "image/binary" | "series/binary":
            clean = (torch.arange(d) < d // 2) != (y[:, None] == 1)  # the first half is on, or the second
            x = (clean ^ (torch.rand(n, d, generator=g) < 0.05)).to(torch.uint8)
        case _:
            noise = torch.randint(3, (n, d), generator=g)
            x = torch.where(torch.rand(n, d, generator=g) < 0.1, noise, 2 * y[:, None]).to(spec.dtype)
    x = x.view(n, *spec.shape)
    match kind:
        case "label":
            condition = Condition(label=y)
        case "vector":
            condition = Condition(vector=torch.cat([2.0 * y[:, None] - 1, torch.randn(n, 2, generator=g)], 1))
        case "series":
            told = torch.stack([2.0 * y - 1, torch.randn(n, generator=g)], 1)
            condition = Condition(series=told.unsqueeze(1).expand(-1, 3, -1))
        case "image":
            picture = torch.randint(5, (n, 1, 4, 4), generator=g)
            picture[..., 1] = 4 * y[:, None, None]
            condition = Condition(image=picture.to(torch.uint8))
        case _:
            tokens = torch.randint(4, (n, 5), generator=g)
            tokens[:, 2] = 3 * y
            condition = Condition(tokens=tokens)
    return Split(x, condition)


def class_of(signature: str, x: torch.Tensor) -> torch.Tensor:
    """The class that a datum plainly has."""
    match signature:
        case "vector/real":
            return (x[:, 0] > 0).long()
        case "vector/binary" | "image/binary" | "series/binary":
            x = x.flatten(1)
            return (x[:, x.shape[1] // 2 :].sum(1) > x[:, : x.shape[1] // 2].sum(1)).long()
        case _:
            return (x.float().flatten(1).mean(1) > 1).long()


#: it learns of two collections, and so never which picture of the one belongs to which of the other
UNPAIRED = {"cyclegan"}
#: those that learn in the default suite: a few of every kind of network
QUICK = {
    "gaussian", "gmm", "kde", "histogram", "ppca", "chow_liu", "made", "nade", "gpt", "vae", "m2", "acgan", "realnvp",
    "ddpm", "rbm", "sbn",
}  # fmt: skip


def first_of_each(cases: list[Case]) -> list:
    """The first condition of the quick ones in the default suite, all others in the slow one."""
    left = set(QUICK)
    found = []
    for case in cases:
        marks = [] if case.name in left else [pytest.mark.slow]
        left.discard(case.name)
        if case.name not in UNPAIRED:
            found.append(pytest.param(case, id=str(case), marks=marks))
    return found


@pytest.mark.parametrize("case", first_of_each(CONDITIONAL))
def test_samples_follow_their_condition(case: Case):
    signature = case.signature
    spec = specs.vector(2, scale=(2.0, 0.4)) if signature == "vector/real" else SPECS[signature]
    splits = [two_classes(signature, case.condition, n, seed) for n, seed in ((1000, 0), (200, 1), (200, 2))]
    data = DataSet("two classes", spec, *splits, condition_spec=CONDITIONS[case.condition])
    model = pm.create(case.name, spec, data.condition_spec, seed=0, **SMALL.get(case.name, {}))
    pm.fit(model, data, **{"steps": 400, "validate_every": 0} | TRAINING.get(case.name, {}))
    truth = class_of(signature, data.test.x)
    followed = class_of(signature, model.sample(condition=data.test.condition, seed=0))
    assert (followed == truth).float().mean() > 0.85
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    shuffled = class_of(signature, model.sample(condition=data.test.condition[order], seed=0))
    assert 0.3 < (shuffled == truth).float().mean() < 0.7
    if isinstance(model, pm.HasLogProb | pm.HasBound | pm.HasEnergy | pm.HasFrameEstimate):
        right, wrong = (
            pm.log_likelihood(model, data.test.x, c) for c in (data.test.condition, data.test.condition[order])
        )
        assert right.mean > wrong.mean + 0.2


@pytest.mark.slow
def test_conditions_that_begin_as_short_vectors_leave_the_code_something_to_say():
    """Label vectors of length sqrt(width) teach the decoder the means of classes before it reads its code."""
    data = pm.data.load("digits")
    told = []
    for times in (1.0, 500**0.5):
        model = pm.create("vae", data.spec, data.condition_spec, seed=0, hidden=(500, 500), latent_dims=40)
        with torch.no_grad():
            for p in model.condition_encoder.parameters():
                p.mul_(times)
        pm.fit(model, data, steps=300, validate_every=0)
        context = model.context(data.test.condition)
        with torch.no_grad():
            told.append(float(model.draw_posterior(data.test.x, context, torch.Generator().manual_seed(0))[1].mean()))
    assert told[0] > 0.5
    assert told[1] < 0.1
