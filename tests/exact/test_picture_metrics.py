"""PSNR, SSIM, bicubic enlargement, and what translations and enlargements are judged by, against loops and by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import polymode as pm
from polymode.core import spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.model import GenerativeModel
from polymode.data import sources
from polymode.data.dataset import DataSet, Split
from polymode.evaluate.evaluator import Evaluator
from polymode.evaluate.fidelity import bicubic, psnr, ssim
from polymode.evaluate.metrics.resolution import consistency, factor_of
from polymode.evaluate.metrics.translation import cubic_mmd

BIG = specs.image(3, 16, 16)


def pictures(n: int, shape: tuple[int, ...] = (3, 16, 16), seed: int = 0) -> Tensor:
    """Smooth coloured pictures: sums of a few waves."""
    g = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(*(torch.linspace(0, 3, s) for s in shape[1:]), indexing="ij")
    waves = torch.rand(n, shape[0], 4, 3, generator=g)
    found = sum(torch.sin(w[..., 0, None, None] * 3 * x + w[..., 1, None, None] * 3 * y + 6 * w[..., 2, None, None])
                for w in waves.unbind(2))  # fmt: skip
    return ((found + 4) / 8 * 255).round().to(torch.uint8)


# -- one picture against another -----------------------------------------------------------------------------------
def test_psnr_by_hand():
    x = torch.zeros(2, 1, 2, 2, dtype=torch.uint8)
    y = torch.tensor([[[[3, 0], [0, 0]]], [[[1, 1], [1, 1]]]], dtype=torch.uint8)
    spec = specs.image(1, 2, 2, levels=16)
    assert psnr(x, y, spec).tolist() == pytest.approx([10 * math.log10(15**2 / 2.25), 10 * math.log10(15**2)])
    assert psnr(x, x, spec).isinf().all()


def test_ssim_agrees_with_loops_over_windows():
    x, y = pictures(2, (1, 13, 14)), pictures(2, (1, 13, 14), seed=1)
    spec = specs.image(1, 13, 14)
    weights = torch.tensor([[math.exp(-((i - 5) ** 2 + (j - 5) ** 2) / (2 * 1.5**2)) for j in range(11)]
                            for i in range(11)], dtype=torch.float64)  # fmt: skip
    weights /= weights.sum()
    for k in range(2):
        total, count = 0.0, 0
        for top in range(3):
            for left in range(4):
                u, v = (p[k, 0, top : top + 11, left : left + 11].double() for p in (x, y))
                mu, mv = (weights * u).sum(), (weights * v).sum()
                su, sv = (weights * (u - mu) ** 2).sum(), (weights * (v - mv) ** 2).sum()
                both = (weights * (u - mu) * (v - mv)).sum()
                c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
                total += float((2 * mu * mv + c1) * (2 * both + c2) / ((mu**2 + mv**2 + c1) * (su + sv + c2)))
                count += 1
        assert float(ssim(x, y, spec)[k]) == pytest.approx(total / count, rel=1e-9)
    torch.testing.assert_close(ssim(x, x, spec), torch.ones(2, dtype=torch.float64))
    with pytest.raises(PolymodeError, match="no room for a window"):
        ssim(x[..., :10], y[..., :10], specs.image(1, 13, 10))


def test_bicubic_keeps_what_is_even_and_slopes():
    small, big = specs.image(1, 8, 8, levels=16), specs.image(1, 16, 16)
    even = torch.full((1, 1, 8, 8), 5, dtype=torch.uint8)
    assert (bicubic(even, small, big) == 85).all()  # 5 of 15 is 85 of 255
    slope = (20 * torch.arange(8, dtype=torch.uint8)).expand(1, 1, 8, 8)
    found = bicubic(slope, specs.image(1, 8, 8), big)[0, 0, 8]
    # away from the border a slope is a slope: pixel j of 16 lies at (j + 1/2) / 2 - 1/2 of 8
    assert found[4:12].tolist() == [20 * ((j + 0.5) / 2 - 0.5) for j in range(4, 12)]


def test_consistency_by_hand():
    big = torch.tensor([[[[10, 20], [30, 40]]]], dtype=torch.uint8)
    small = torch.tensor([[[[23]]]], dtype=torch.uint8)
    spec, source = specs.image(1, 2, 2), specs.image(1, 1, 1)
    assert float(consistency(big, small, spec, source)) == pytest.approx(10 * math.log10(255**2 / 4))
    assert float(consistency(big, small + 2, spec, source)) == pytest.approx(10 * math.log10(255**2 * 12))
    assert factor_of(ConditionSpec(image=(1, 1, 1, 256)), spec) == 2
    assert factor_of(ConditionSpec(image=(1, 2, 1, 256)), spec) == factor_of(None, spec) == 1


# -- a model of pictures given pictures ----------------------------------------------------------------------------
class Rule(GenerativeModel, pm.Translates):
    """Draws by a rule and leads back by another."""

    def __init__(self, spec: specs.Spec, condition_spec: ConditionSpec, rule: Callable[[Tensor], Tensor],
                 back: Callable[[Tensor], Tensor] | None = None) -> None:  # fmt: skip
        super().__init__(spec, condition_spec)
        self.rule, self.back = rule, back

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Any:
        raise NotImplementedError

    @property
    def routes(self) -> dict[str, tuple[specs.Spec, specs.Spec]]:
        source = self.condition_spec.source
        return {"b": (source, self.spec)} | ({} if self.back is None else {"a": (self.spec, source)})

    def _sample(self, n: int, condition: Condition | None, generator: torch.Generator) -> Tensor:
        return self.rule(condition.image)

    def _translate(self, x: Tensor, to: str, generator: torch.Generator) -> Tensor:
        return (self.rule if to == "b" else self.back)(x)


def negatives(*, unpaired: bool = False, known: bool = True) -> DataSet:
    x = pictures(60)
    splits = [(255 - rows, rows) for rows in x.split(20)]
    if unpaired:
        extra = {"paired": ("test",)} if known else {}
        return sources.unpaired("negatives", BIG, BIG, splits, extra=extra)
    return sources.paired("negatives", BIG, BIG, splits)


def measured(data: DataSet, model: GenerativeModel, metric: str) -> dict[str, Any]:
    evaluator = Evaluator(data, metrics=[metric], ceiling=False)
    return {m.metric: m for m in evaluator.measure(evaluator.compare(model, scored=False))}


def test_a_perfect_translation_and_a_copy():
    data = negatives()
    right = measured(data, Rule(BIG, data.condition_spec, lambda x: 255 - x, lambda x: 255 - x), "translation")
    gap = right.pop("gap over copying")
    assert {k: m.value for k, m in right.items()} == {
        "L1": 0, "L1 over copying": 0, "own nearest": 1, "cycle L1": 0,
    }  # fmt: skip
    assert gap.value < 0  # the unbiased estimate of equal sets
    assert right["own nearest"].low < 1
    copy = measured(data, Rule(BIG, data.condition_spec, lambda x: x), "translation")
    real = data.test.x.double()
    assert copy["L1"].value == pytest.approx(float((2 * real - 255).abs().mean()) / 255)
    assert copy["L1 over copying"].value == pytest.approx(1)
    assert copy["gap over copying"].value == pytest.approx(1)
    assert (copy["gap over copying"].low, copy["gap over copying"].high) == pytest.approx((1, 1))
    share = float(copy["own nearest"].value)
    assert f"a copy's is in {share:.2g}" in copy["own nearest"].protocol
    assert "cycle L1" not in copy


def test_the_gap_is_that_of_kid():
    x, y = torch.randn(2, 30, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    k = [[(float(u @ v) / 4 + 1) ** 3 for v in (*x, *y)] for u in (*x, *y)]
    inside = [sum(k[i][j] for i in side for j in side if i != j) / (30 * 29) for side in (range(30), range(30, 60))]
    across = sum(k[i][j] for i in range(30) for j in range(30, 60)) / 900
    assert cubic_mmd(x, y) == pytest.approx(sum(inside) - 2 * across)


def test_a_cycle_that_shifts_is_told():
    data = negatives(unpaired=True, known=False)
    model = Rule(BIG, data.condition_spec, lambda x: x, lambda x: x // 2)
    found = measured(data, model, "translation")
    assert set(found) == {"cycle L1", "gap over copying"}  # no row says what was meant
    a = data.test.condition.image
    assert found["cycle L1"].value == pytest.approx(float((a.double() - a // 2).abs().mean()) / 255)
    assert "own nearest" in measured(negatives(unpaired=True), model, "translation")


def test_sources_of_other_shape_have_no_copy():
    data = negatives()
    grey = ConditionSpec(image=(1, 16, 16, 256))
    splits = [Split(s.x, Condition(image=s.x[:, :1])) for s in (data.train, data.valid, data.test)]
    data = replace(data, train=splits[0], valid=splits[1], test=splits[2], condition_spec=grey)
    found = measured(data, Rule(BIG, grey, lambda x: x.expand(-1, 3, -1, -1)), "translation")
    assert set(found) == {"L1", "own nearest"}


def test_enlargement_beside_bicubic():
    x = pictures(60)
    rows = [Split(part) for part in x.split(20)]
    data = sources.shrunken(DataSet("waves", BIG, *rows), 2)
    source = data.condition_spec.source
    plain = measured(data, Rule(BIG, data.condition_spec, lambda a: bicubic(a, source, BIG)), "resolution")
    assert plain["PSNR over bicubic"].value == plain["SSIM over bicubic"].value == 0
    real, small = data.test.x, data.test.condition.image
    expected = psnr(real, bicubic(small, source, BIG), BIG)
    assert plain["PSNR"].value == pytest.approx(float(expected.mean()))
    copied = measured(
        data, Rule(BIG, data.condition_spec, lambda a: a.repeat_interleave(2, 2).repeat_interleave(2, 3)), "resolution"
    )
    assert copied["consistency"].value == pytest.approx(10 * math.log10(255**2 * 12))
    assert copied["PSNR over bicubic"].value < 0
    assert set(copied) == {"PSNR", "PSNR over bicubic", "SSIM", "SSIM over bicubic", "consistency"}
    # the plain metrics of translations are there, without a copy of another size
    assert "L1 over copying" not in measured(
        data, Rule(BIG, data.condition_spec, lambda a: bicubic(a, source, BIG)), "translation"
    )
