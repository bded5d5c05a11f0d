"""A sweep over a sampling option: a curve, its area, and sentences on what can't be swept."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor

from polymode.core import rng
from polymode.core import spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.loss import Loss
from polymode.core.model import GenerativeModel
from polymode.data.dataset import DataSet, Split
from polymode.evaluate import Evaluator, sweep_option
from polymode.evaluate.diagnostics.sweep import area, area_interval
from tests.zoo import Case


class Wide(GenerativeModel):
    """Normals of the data's spread at temperature 1; at the label, where there is one."""

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        return Loss(torch.zeros(len(x)))

    def _sample(
        self, n: int, condition: Condition | None, generator: torch.Generator, *, temperature: float = 1.0
    ) -> Tensor:
        shift = 0.0 if condition is None else 5.0 * condition.label[:, None]
        return shift + temperature * torch.randn(n, 2, generator=generator)


def normal_data(n: int = 300, *, labelled: bool = False) -> DataSet:
    g = rng.generator(0)
    label = torch.arange(n) % 2
    condition = Condition(label=label) if labelled else None
    splits = [Split(torch.randn(n, 2, generator=g) + 5.0 * label[:, None] * labelled, condition) for _ in range(3)]
    return DataSet("normal", specs.vector(2), *splits, ConditionSpec(label=2) if labelled else None)


# -- the area ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([(1.0, 1.0)], 1.0),
        ([(0.0, 1.0)], 0.0),
        ([(0.2, 0.9), (0.5, 0.8), (0.8, 0.4)], 0.2 * 0.9 + 0.3 * 0.8 + 0.3 * 0.4),
        ([(0.8, 0.4), (0.2, 0.9), (0.5, 0.8)], 0.54),  # in any order
        ([(0.2, 0.5), (0.5, 0.8)], 0.4),  # the first is dominated
        ([(0.5, 0.8), (0.5, 0.6), (0.5, 0.8)], 0.4),
    ],
)
def test_the_area_of_curves_drawn_by_hand(curve: list[tuple[float, float]], expected: float) -> None:
    assert area(curve) == pytest.approx(expected)


def test_the_area_is_that_of_a_fine_grid_and_grows_with_points() -> None:
    points = torch.rand(7, 2, generator=rng.generator(1), dtype=torch.float64)
    curve = [tuple(p) for p in points.tolist()]
    grid = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    heights = torch.where(points[:, :1] >= grid, points[:, 1:], 0.0).max(0).values
    assert area(curve) == pytest.approx(float(heights.mean()), abs=1e-4)
    assert area(curve[:4]) <= area(curve)


def test_what_has_no_area_is_refused() -> None:
    with pytest.raises(PolymodeError, match="none came"):
        area([])
    for bad in ((1.2, 0.5), (math.nan, 0.5), (0.5, -0.1)):
        with pytest.raises(PolymodeError, match="between 0 and 1"):
            area([bad])


def test_intervals_of_the_area_cover_what_many_rows_give() -> None:
    """The area of equal samplers over two widths, against its mean over many draws of the same size."""
    g, found = rng.generator(2), []
    for _ in range(20):
        real = torch.randn(150, 2, generator=g)
        samples = [t * torch.randn(150, 2, generator=g) for t in (0.5, 1.0)]
        found.append(area_interval(real, samples))
    mean = sum(v for v, _, _ in found) / len(found)
    assert sum(low <= mean <= high for _, low, high in found) >= 18


# -- sweeps --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("labelled", [False, True])
def test_lower_temperatures_are_more_precise_and_less_diverse(labelled: bool, tmp_path) -> None:
    pytest.importorskip("matplotlib")
    data = normal_data(labelled=labelled)
    model = Wide(data.spec, data.condition_spec)
    evaluator = Evaluator(data, metrics=["sliced_wasserstein"], ceiling=False)
    found = sweep_option(evaluator, model, "temperature", [0.2, 0.6, 1.0], name="wide")
    precision, recall = ([p.get(name).value for p in found.points] for name in ("precision", "recall"))
    assert precision == sorted(precision, reverse=True)
    assert recall == sorted(recall)
    assert recall[0] < 0.5 < recall[2]
    assert found.curve() == list(zip(recall, precision, strict=True))
    assert found.area == pytest.approx(area(found.curve()))
    assert found.low < found.area < found.high
    names = ("precision", "recall", "density", "coverage")
    assert {*names, "Frechet"} <= {m.metric for m in found.points[0].measurements}
    assert all(m.low <= m.value <= m.high for p in found.points for m in map(p.get, names))
    assert "closed level to recall 0" in found.protocol
    report = evaluator.report(model).with_section(found.section())
    saved = report.to_dict()
    json.dumps(saved, allow_nan=False)
    assert [p["value"] for p in saved["sweep"]["points"]] == [0.2, 0.6, 1.0]
    text = report.save(tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Quality against diversity" in text
    assert "temperature = 0.2" in text


def test_wrong_options_and_values_are_refused() -> None:
    data = normal_data(40)
    evaluator, model = Evaluator(data, ceiling=False), Wide(data.spec)
    with pytest.raises(PolymodeError, match="no option 'temperatur'"):
        sweep_option(evaluator, model, "temperatur", [0.5, 1.0])
    with pytest.raises(PolymodeError, match="can't sample with temperature='hot'"):
        sweep_option(evaluator, model, "temperature", ["hot", "cold"])
    for values in ([], [1.0], [1.0, 0.5, 1.0]):
        with pytest.raises(PolymodeError, match="two or more different values"):
            sweep_option(evaluator, model, "temperature", values)


def test_too_few_rows_leave_the_area_out() -> None:
    data = normal_data(10)
    found = sweep_option(Evaluator(data, ceiling=False), Wide(data.spec), "temperature", [0.5, 1.0])
    assert math.isnan(found.area)
    assert "needs at least 20 rows" in found.sentence()
    assert found.to_dict()["area"] is None
    assert found.curve() == []
    assert found.picture() is None
    assert "Quality against diversity" in found.section().to_html()


@pytest.mark.parametrize(
    ("name", "option", "values"),
    [("made", "temperature", [0.5, 1.0]), ("gan", "truncation", [0.5, 1.0]), ("ddpm", "steps", [2, 4]),
     ("realnvp", "temperature", [0.5, 1.0])],
)  # fmt: skip
def test_options_of_models_can_be_swept(name: str, option: str, values: list[float]) -> None:
    case = Case(name, "vector/real")
    model, g = case.ready(), rng.generator(3)
    splits = [Split(torch.randn(60, 2, generator=g)) for _ in range(3)]
    data = DataSet("normal", model.spec, *splits)
    found = sweep_option(Evaluator(data, ceiling=False), model, option, values)
    assert len(found.curve()) == 2
    assert 0 <= found.area <= 1
