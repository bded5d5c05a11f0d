"""Every recipe begins to train, one is reproduced whole, and results/ holds what recipes say."""

from __future__ import annotations

import json
import os
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from polymode import catalogue, recipes
from polymode.app.cli.main import main
from polymode.app.service import data as sources
from polymode.app.service import fit
from polymode.app.service import reproduce as service
from polymode.app.service.building import build
from polymode.app.service.reproduce import reproduce
from polymode.app.service.schemas import ReproduceRequest
from polymode.core.errors import PolymodeError
from polymode.data.dataset import DataSet
from polymode.data.index import BY_NAME
from polymode.data.sets.networks import asia_network
from polymode.recipes import RECIPES, Measure, Recipe
from polymode.train.options import FitOptions

RESULTS = Path(__file__).parents[2] / "results"
SMALL = Recipe(
    "small", "histogram", "digits", (Measure(aim=1000.0, published=1.0, source="nobody"), Measure(unit="bits/symbol"),
                                     Measure("frechet", n=300, aim=0.0)), condition="none", cost="a second",
)  # fmt: skip


def use(monkeypatch: pytest.MonkeyPatch, recipe: Recipe) -> None:
    monkeypatch.setattr(recipes, "RECIPES", (recipe,))
    monkeypatch.setattr(service, "RECIPES", (recipe,))


def test_names_are_unique_and_models_and_data_exist():
    assert len({r.name for r in RECIPES}) == len(RECIPES)
    for recipe in RECIPES:
        row = catalogue.find(recipe.model)
        catalogue.check_arguments(recipe.model, catalogue.load(row), recipe.settings)
        assert recipe.data in BY_NAME
        assert recipe.measures
        assert recipe.cost


def test_the_edges_of_asia_are_those_that_drew_the_data():
    edges = recipes.find("bayes_net_asia").settings["edges"]
    assert {tuple(edge) for edge in edges} == {tuple(edge) for edge in asia_network().edges}


def first_of_each_family() -> list[Any]:
    """All recipes; but for the first of each family they are slow."""
    seen: set[str] = set()
    found = []
    for recipe in RECIPES:
        family = catalogue.find(recipe.model).family
        found.append(pytest.param(recipe, id=recipe.name, marks=[pytest.mark.slow] if family in seen else []))
        seen.add(family)
    return found


@pytest.fixture(scope="module")
def read() -> Any:
    """Data sets, each read once."""
    known: dict[str, DataSet] = {}

    def load(name: str, reading: dict[str, Any]) -> DataSet:
        key = f"{name} {reading}"
        if key not in known:
            known[key] = sources.load(name, reading)
        return known[key]

    return load


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.name)
def test_a_recipe_makes_its_model_for_its_data(recipe: Recipe, read: Any):
    needs_files(recipe)
    data = read(recipe.data, recipe.reading)
    condition_spec = sources.condition_for(data, catalogue.find(recipe.model), recipe.condition)
    model = build(recipe.model, data, condition_spec, recipe.settings, 0)
    assert model.spec == data.spec
    if recipe.condition == "none":
        assert model.condition_spec is None
    FitOptions.make(**recipe.training)


def needs_files(recipe: Recipe) -> None:
    """Skip a recipe whose data are not here."""
    if BY_NAME[recipe.data].files and not os.environ.get("POLYMODE_DATA"):
        pytest.skip(f"{recipe.data} is looked for in $POLYMODE_DATA, which is not set")


def _not_measured(*_: Any, **__: Any) -> None:
    raise PolymodeError("not measured here")


@pytest.mark.parametrize("recipe", first_of_each_family())
def test_a_recipe_begins_to_train(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    needs_files(recipe)
    training = {k: v for k, v in recipe.training.items() if k not in ("minutes", "epochs", "steps")}
    quick = {"max_iterations": 1, "restarts": 1} if recipe.model == "hmm" else {}  # it knows no steps
    settings = recipe.settings | quick
    use(
        monkeypatch,
        replace(
            recipe, settings=settings, training=training | {"steps": 2, "validation_rows": 8}, measures=(), seeds=1
        ),
    )
    asked = ReproduceRequest(recipe=recipe.name, out=str(tmp_path), results=str(tmp_path / "results"))
    monkeypatch.setattr(fit, "ROWS", 4)
    monkeypatch.setattr(fit, "SHOWN", 2)
    if catalogue.find(recipe.model).family in ("energy", "boltzmann"):
        # minutes of annealing, which the machine's own tests do on small machines
        monkeypatch.setattr("polymode.evaluate.likelihood.log_likelihood", _not_measured)
    assert reproduce(asked)["reached"]
    assert (tmp_path / recipe.name / "model.safetensors").is_file()


def test_a_recipe_is_trained_measured_and_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    use(monkeypatch, SMALL)
    words = ["reproduce", "small", "--out", str(tmp_path), "--results", str(tmp_path / "r"), "--quiet"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "≤ 1,000" in printed or "≤ 1000" in printed
    saved = json.loads((tmp_path / "r" / "small.json").read_text(encoding="utf-8"))
    nats, bits, frechet = saved
    assert [m["reached"] for m in saved] == [True, None, False]
    assert nats["value"] == pytest.approx(bits["value"] * 64 * 0.6931471805599453)
    assert nats["n"] == 180
    assert frechet["n"] in (180, 300)
    assert frechet["std_error"] > 0
    assert nats["reference"] == {"value": 1.0, "source": "nobody"}
    assert "curve" in nats
    before = (tmp_path / "small" / "model.safetensors").read_bytes()
    assert main(words) == 0  # finished before: measured again
    assert (tmp_path / "small" / "model.safetensors").read_bytes() == before
    assert main(["reproduce"]) == 0
    assert "small" in capsys.readouterr().out
    assert main(["reproduce", "smal"]) == 2
    assert "did you mean 'small'" in capsys.readouterr().err


def test_several_seeds_are_trained_and_their_mean_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    small = Recipe("small", "m2", "digits", (Measure(unit="bits/symbol", aim=100.0), Measure("labels", "accuracy")),
                   settings={"hidden": (8,)}, reading={"labelled": 20}, training={"steps": 3}, seeds=3,
                   cost="a second")  # fmt: skip
    use(monkeypatch, small)
    found = reproduce(ReproduceRequest(recipe="small", out=str(tmp_path), results=str(tmp_path / "r")))
    saved = json.loads((tmp_path / "r" / "small.json").read_text(encoding="utf-8"))
    assert saved == json.loads(json.dumps(found["measurements"]))
    for m in saved:
        assert m["seeds"] == [0, 1, 2]
        assert m["value"] == pytest.approx(statistics.mean(m["values"]))
        assert m["std_error"] == pytest.approx(statistics.stdev(m["values"]) / 3**0.5)
        assert "mean of 3 trainings" in m["protocol"]
    assert len(set(saved[0]["values"])) == 3
    assert saved[0]["reached"]
    notes = [json.loads((tmp_path / n / "config.json").read_text())["source"] for n in ("small", "small-1", "small-2")]
    assert [n["options"].get("seed", 0) for n in notes] == [0, 1, 2]
    one = reproduce(ReproduceRequest(recipe="small", seeds=1, out=str(tmp_path), results=str(tmp_path / "r")))
    assert one["measurements"][0]["value"] == saved[0]["values"][0]


def test_results_are_of_recipes_and_hold_their_aims():
    known = {r.name: r for r in RECIPES}
    for path in RESULTS.glob("*.json"):
        if path.stem.startswith("bench_"):
            continue
        assert path.stem in known, f"{path.name} is of no recipe"
        saved = json.loads(path.read_text(encoding="utf-8"))
        aims = [(m.aim, m.published) for m in known[path.stem].measures]
        assert [(m["aim"], m["reference"]["value"]) for m in saved] == aims
        assert all(m["command"] == f"polymode reproduce {path.stem}" for m in saved)


def test_an_unknown_metric_row_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    use(monkeypatch, replace(SMALL, measures=(Measure("frechet", row="nothing", n=300),)))
    with pytest.raises(PolymodeError, match="expected nothing"):
        reproduce(ReproduceRequest(recipe="small", out=str(tmp_path), results=str(tmp_path / "r")))
