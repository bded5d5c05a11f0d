"""WaveNet: units against plain dilated convolutions, steps against reading all again, what a local signal reaches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import polymode as pm
from polymode.core import spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import ConditionError
from polymode.parts.nn.dilated import DilatedStack

WAVE = specs.Spec("waveform", (24,), specs.Levels(5), {"sample_rate": 8000})
BOTH = ConditionSpec(label=3, series=(6, 2))


def wild(condition_spec: ConditionSpec | None = None, dtype: torch.dtype = torch.float64, **sizes: int) -> pm.WaveNet:
    """A model with weights that are large enough for strong dependence."""
    sizes = {"channels": 6, "skip": 7, "layers": 3, "stacks": 2} | sizes
    model = pm.create("wavenet", WAVE, condition_spec, seed=0, **sizes).to(dtype)
    g = torch.Generator().manual_seed(1)
    for p in model.parameters():
        p.data += 0.3 * torch.randn(p.shape, generator=g).to(dtype)
    return model.eval()


def waves(n: int) -> Tensor:
    return torch.randint(5, (n, 24), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def told(n: int) -> Condition:
    g = torch.Generator().manual_seed(2)
    return Condition(label=torch.arange(n) % 3, series=torch.randn(n, 6, 2, generator=g))


def by_convolutions(stack: DilatedStack, h: Tensor, context: Tensor) -> Tensor:
    """Equations 2 and 3 and figure 4 with torch's dilated convolutions, (B, C, T); context (B, T, W)."""
    c, h, total = stack.channels, h.transpose(1, 2), 0
    for i, d in enumerate(stack.dilations):
        weight = stack.gates[i].weight.unflatten(1, (2, c)).transpose(1, 2)  # (2C, C, 2), the earlier tap first
        a = F.conv1d(F.pad(h, (d, 0)), weight, stack.gates[i].bias, dilation=d)
        a = a + (context @ stack.context.weight[2 * c * i : 2 * c * (i + 1)].T).transpose(1, 2)
        z = torch.tanh(a[:, :c]) * torch.sigmoid(a[:, c:])
        total = total + F.conv1d(z, stack.skips.weight[:, c * i : c * (i + 1), None])
        if i < len(stack.out):
            h = h + F.conv1d(z, stack.out[i].weight[..., None])
    return total.transpose(1, 2) + stack.skips.bias


def test_units_are_gated_dilated_convolutions():
    stack = DilatedStack(4, 5, layers=3, stacks=2, context_features=3, hold=7).double()
    g = torch.Generator().manual_seed(0)
    h, frames = torch.randn(2, 20, 4, generator=g).double(), torch.randn(2, 3, 3, generator=g).double()
    with torch.no_grad():
        expected = by_convolutions(stack, h, frames.repeat_interleave(7, 1)[:, :20])
        torch.testing.assert_close(stack(h, frames), expected, rtol=0, atol=1e-12)
        expected = by_convolutions(stack, h, frames[:, :1].expand(-1, 20, -1))
        torch.testing.assert_close(stack(h, frames[:, 0]), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str)
@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("parts", [[1] * 24, [7, *[1] * 17], [1, 1, 9, 1, 12]], ids=["steps", "prefix", "mixed"])
def test_steps_give_the_logits_of_reading_everything(dtype: torch.dtype, near: float, conditional: bool, parts: list):
    model = wild(BOTH if conditional else None, dtype)
    x, condition = waves(4), told(4) if conditional else None
    with torch.no_grad():
        expected, context = model.logits(x, condition), model.context(condition)
        inputs = torch.cat([torch.full((4, 1), 5), x[:, :-1].long()], 1)
        state, start, found = model.empty_cache(4, context), 0, []
        for part in inputs.split(parts, 1):
            logits, state = model.run(part, start, state, context)
            found.append(logits.clone())
            start += part.shape[1]
    assert expected.std() > 0.3
    torch.testing.assert_close(torch.cat(found, 1), expected, rtol=near, atol=near)


def test_chosen_rows_go_on_as_if_alone():
    model, x, condition = wild(BOTH), waves(3), told(3)
    rows = torch.tensor([2, 0, 2, 1])
    with torch.no_grad():
        context = model.context(condition)
        state = model.empty_cache(3, context)
        inputs = torch.cat([torch.full((3, 1), 5), x[:, :-1].long()], 1)
        for t in range(11):
            model.run(inputs[:, t : t + 1], t, state, context)
        chosen = state.rows(rows)
        model.run(inputs[:, 11:12], 11, state, context)  # the first goes its own way
        found = [model.run(inputs[rows, t : t + 1], t, chosen, context[rows])[0] for t in range(11, 24)]
        expected = model.logits(x[rows], condition[rows])[:, 11:]
    torch.testing.assert_close(torch.cat(found, 1), expected, rtol=0, atol=1e-12)


def test_weights_that_changed_are_seen_by_the_next_sample():
    model = wild()
    before = model.sample(4, seed=0)
    model.last.bias.data[:] = torch.tensor([0.0, 0, 0, 0, 1e6])
    assert (model.sample(4, seed=0) == 4).all()
    assert not (before == 4).all()


@pytest.mark.parametrize("frame", [0, 2, 5])
def test_a_local_signal_reaches_the_samples_it_stands_for_and_later_ones(frame: int):
    model = wild(BOTH, layers=2)  # dilations 1, 2, 1, 2; a frame is 4 samples
    x, condition = waves(2), told(2)
    other = condition.series.clone()
    other[:, frame] += 1.0
    with torch.no_grad():
        before, after = (model.logits(x, Condition(condition.label, series=s)) for s in (condition.series, other))
    moved = (before != after).any(2).any(0).nonzero()[:, 0].tolist()
    # from its own samples through the layers above the first, whose dilations are 2, 1 and 2
    assert moved == list(range(4 * frame, min(24, 4 * frame + 4 + 5)))


def test_a_dropped_local_signal_says_nothing():
    model, x, condition = wild(BOTH), waves(2), told(2)
    with torch.no_grad():
        model.condition_encoder.null += 1.0
        free = [model.logits(x, c.drop(1.0, torch.Generator())) for c in (condition, condition[torch.tensor([1, 0])])]
        assert torch.equal(*free)
        assert not torch.equal(free[0], model.logits(x, condition))


def test_local_signals_that_do_not_fit_are_refused():
    model = wild(ConditionSpec(series=(6, 2)))
    with pytest.raises(ConditionError, match=r"expected \(B, 6, 2\)"):
        model.sample(2, Condition(series=torch.zeros(2, 5, 2)))
    with pytest.raises(ConditionError, match="expected series"):
        model.sample(2, Condition(label=torch.zeros(2, dtype=torch.int64)))
    saved = model.condition_spec.to_dict()
    assert ConditionSpec.from_dict(saved) == model.condition_spec
