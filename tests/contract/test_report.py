"""What a report and a leaderboard promise: every number with its kind, interval and n; one file; refusals shown."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from polymode.core import spec as specs
from polymode.core.capabilities import HasBound, HasLatents, HasLogProb
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import DataError, PolymodeError
from polymode.core.loss import Loss
from polymode.core.model import GenerativeModel
from polymode.core.rng import generator
from polymode.data.dataset import DataSet, split_randomly
from polymode.evaluate import Evaluator, Leaderboard, Measurement, evaluate, features_for

pytest.importorskip("matplotlib")


class Normal(GenerativeModel, HasLogProb):
    """Independent normals of a given mean and standard deviation."""

    def __init__(self, spec: specs.Spec, condition_spec: ConditionSpec | None = None, *, loc: float, scale: float):
        super().__init__(spec, condition_spec)
        self.loc, self.scale = loc, scale

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        return Loss(-self._log_prob(x, condition))

    def _shift(self, condition: Condition | None) -> Tensor | float:
        return 0.0 if condition is None else 4.0 * condition.label[:, None] - 2.0

    def _log_prob(self, x: Tensor, condition: Condition | None) -> Tensor:
        z = (x - self.loc - self._shift(condition)) / self.scale
        return (-0.5 * z**2 - math.log(self.scale) - 0.5 * math.log(2 * math.pi)).sum(1)

    def _sample(self, n: int, condition: Condition | None, generator: torch.Generator) -> Tensor:
        noise = torch.randn(n, self.spec.num_dims, generator=generator)
        return self.loc + self._shift(condition) + self.scale * noise


class Copier(GenerativeModel, HasBound, HasLatents):
    """Repeats training rows; its bound and its codes are there to be shown."""

    def __init__(self, spec: specs.Spec, condition_spec: ConditionSpec | None = None, *, rows: Tensor) -> None:
        super().__init__(spec, condition_spec)
        self.register_buffer("rows", rows)

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        return Loss(torch.zeros(len(x)))

    def _sample(self, n: int, condition: Condition | None, generator: torch.Generator) -> Tensor:
        return self.rows[torch.randint(len(self.rows), (n,), generator=generator)]

    def _log_weight(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Tensor:
        return torch.full((len(x),), -100.0) + torch.randn(len(x), generator=generator)

    def _encode(self, x: Tensor, condition: Condition | None) -> Tensor:
        return x.flatten(1).float()

    def _decode(self, z: Tensor, condition: Condition | None) -> Tensor:
        return z.view(-1, *self.spec.shape).round()


class Mute(Copier):
    """Samples only."""

    withheld = (HasBound, HasLatents)


def toy(rows: int = 1200) -> DataSet:
    """Two normals at -2 and 2 in each of two dimensions, by label; density and modes are known."""
    g = generator(0)
    labels = torch.arange(rows) % 2
    x = torch.randn(rows, 2, generator=g) + (4.0 * labels[:, None] - 2.0)
    modes = torch.tensor([[-2.0, -2.0], [2.0, 2.0]])

    def log_density(x: Tensor) -> Tensor:
        squares = (x.double()[:, None] - modes).square().sum(-1)
        return torch.logsumexp(-0.5 * squares, 1) - math.log(2 * math.pi) - math.log(2)

    parts = split_randomly(x, Condition(label=labels), fractions=(0.1, 0.3))
    spec = specs.vector(2, loc=(0.0, 0.0), scale=(2.24, 2.24))
    return DataSet("two", spec, *parts, ConditionSpec(label=2), log_density=log_density, modes=modes)


def images(rows: int = 300, *, labelled: bool = False) -> DataSet:
    """6x6 images of 5 levels: a bright row or a bright column."""
    g = generator(1)
    labels = torch.arange(rows) % 2
    x = torch.randint(2, (rows, 1, 6, 6), generator=g)
    at = torch.randint(6, (rows,), generator=g)
    for i in range(rows):
        if labels[i]:
            x[i, 0, at[i]] = 4
        else:
            x[i, 0, :, at[i]] = 4
    parts = split_randomly(x.to(torch.uint8), Condition(label=labels) if labelled else None, fractions=(0.2, 0.3))
    return DataSet("bars", specs.image(1, 6, 6, levels=5), *parts, ConditionSpec(label=2) if labelled else None)


def table(rows: int = 400) -> DataSet:
    g = generator(2)
    columns = (
        specs.Numeric("age", 0.0, 60.0, 30.0, 8.0, step=1.0),
        specs.Categorical("colour", ("red", "white", "<b>green</b>")),
        specs.Numeric("rate", -5.0, 5.0, 0.0, 1.0, missing=True),
    )
    age = (30 + 8 * torch.randn(rows, generator=g)).round().clamp(0, 60)
    rate = torch.randn(rows, generator=g).masked_fill(torch.rand(rows, generator=g) < 0.2, torch.nan)
    x = torch.stack([age, torch.randint(3, (rows,), generator=g).float(), rate], 1).double()
    return DataSet("people", specs.table(columns), *split_randomly(x, fractions=(0.1, 0.4)))


def words(rows: int = 300) -> DataSet:
    x = (torch.arange(12) + torch.randint(4, (rows, 1), generator=generator(3))) % 4
    return DataSet("words", specs.tokens(12, tuple("ab<c")), *split_randomly(x, fractions=(0.1, 0.4)))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def check_page(text: str) -> None:
    """One file: nothing is fetched from anywhere."""
    assert text.startswith("<!doctype html>")
    assert not re.search(r"""\s(src|href)\s*=\s*(?!"data:)""", text)
    assert "url(" not in text
    assert "<script" not in text
    assert "@import" not in text


def test_a_report_on_a_toy_has_kind_ceiling_floor_and_truth(tmp_path: Path) -> None:
    data = toy()
    model = Normal(data.spec, data.condition_spec, loc=0.0, scale=1.0)
    report = evaluate(model, data, name="right", command="polymode fit two", history=[{"loss": 2.0}, {"loss": 1.0}])
    text = report.save(tmp_path / "report.html").read_text(encoding="utf-8")
    check_page(text)
    for needed in (
        "exact",
        "lower bound",
        "estimate",
        "(ceiling)",
        "(floor)",
        "independent normal noise",
        "polymode fit",
    ):
        assert needed in text
    assert text.count("data:image/png;base64,") >= 3
    assert report.likelihood.kind == "exact"
    rows = {row["metric"]: row for row in report.table()}
    for name in ("KID", "sliced W2", "MMD²", "C2ST", "precision", "recall"):
        assert rows[name]["title"] == f"{name}[raw, n=360]"
        assert rows[name]["low"] <= rows[name]["value"] <= rows[name]["high"]
        assert not math.isnan(rows[name]["ceiling"])
        assert not math.isnan(rows[name]["floor"])
    # the model is the data's own density, but for the shares of labels among training rows
    assert rows["KL(data||model)"]["value"] == pytest.approx(0.0, abs=1e-3)
    assert rows["KL(data||model)"]["floor"] > 0.3
    assert rows["modes hit"]["value"] == 2
    assert report.better_than_floor()
    json.dumps(report.to_dict(), allow_nan=False)


def test_a_bad_model_does_not_beat_the_floor() -> None:
    data = toy()
    report = evaluate(Normal(data.spec, loc=30.0, scale=1.0), data, ceiling=False)
    assert not report.better_than_floor()
    assert report.ceiling is None
    assert {m.metric: m.value for m in report.measurements}["C2ST"] > 0.95


def test_too_few_rows_show_the_sentence_and_what_works() -> None:
    data = toy(60)
    report = evaluate(Normal(data.spec, loc=0.0, scale=2.0), data)
    refused = {m.metric: m for m in report.measurements if m.refusal}
    assert "needs at least 40 rows" in refused["KID"].refusal
    assert "sliced_wasserstein" in refused["KID"].refusal
    assert refused["KID"].refusal in report.to_html().replace("&#x27;", "'")
    shown = {m.metric for m in report.measurements if not m.refusal}
    assert "sliced W2" in shown
    json.dumps(report.to_dict(), allow_nan=False)


def test_a_frechet_distance_refuses_fewer_rows_than_features() -> None:
    data = images(400)
    report = evaluate(Mute(data.spec, rows=data.train.x), data, metrics=["frechet", "kid"], ceiling=False)
    by_name = {m.metric: m for m in report.measurements}
    assert set(by_name) == {"FID", "KID"}
    assert "use kid" in by_name["FID"].refusal


def test_copies_are_called_copies(tmp_path: Path) -> None:
    data = images()
    report = evaluate(Copier(data.spec, rows=data.train.x), data, num_samples=2)
    by_name = {m.metric: m for m in report.measurements}
    assert by_name["copies"].value == 1.0
    assert by_name["memorisation"].low > 0.9
    assert "repeats what it was trained on" in report.verdict()
    text = report.save(tmp_path / "r.html").read_text(encoding="utf-8")
    check_page(text)
    assert "≤" in text
    assert "iwae-2, elbo" in text
    assert "between two images" in text
    assert report.likelihood.kind == "lower bound"


def test_labelled_images_are_compared_by_a_classifier_that_is_kept(tmp_path: Path) -> None:
    data = images(400, labelled=True)
    space = features_for(data)
    assert space.name == "bars-cnn"
    assert "held-out accuracy" in space.protocol
    kept = list((tmp_path / "cache").rglob("*.safetensors"))
    assert len(kept) == 1
    assert torch.equal(space(data.test.x), features_for(data)(data.test.x))
    # a damaged file is made again, not believed
    kept[0].write_bytes(kept[0].read_bytes()[:-40])
    assert torch.allclose(space(data.test.x), features_for(data)(data.test.x), atol=1e-4)
    assert features_for(data, "random-conv").name == "random-conv"
    with pytest.raises(PolymodeError, match="'bigrams' is not a choice"):
        features_for(data, "bigrams")


def test_tables_and_texts_have_their_own_pictures_and_are_escaped() -> None:
    data = table()
    report = evaluate(Mute(data.spec, rows=data.train.x), data)
    text = report.to_html()
    check_page(text)
    assert "Marginals" in text
    assert report.row.name.endswith("Mute")
    assert report.likelihood.kind == "none"
    data = words()
    report = evaluate(Copier(data.spec, rows=data.train.x), data, num_samples=1)
    text = report.to_html()
    check_page(text)
    assert "b&lt;ca" in text
    assert "bits/token" in text
    assert "KID[bigrams, n=120]" in text


def test_a_leaderboard_keeps_one_protocol_and_no_single_ranking(tmp_path: Path) -> None:
    data = toy()
    evaluator = Evaluator(data)
    right = Normal(data.spec, data.condition_spec, loc=0.0, scale=1.0)
    wide = Normal(data.spec, loc=0.0, scale=2.24)
    reports = [
        evaluator.report(wide, name="wide", seconds=2.0),
        evaluator.report(right, name="right", seconds=10.0),
        evaluator.report(Mute(data.spec, rows=data.train.x), name="mute", seconds=1.0),
    ]
    board = Leaderboard(reports, failures={"glow": "glow can't take <vector> data"}, sort="sliced W2")
    rows = board.rows()
    assert [row["role"] for row in rows] == ["model"] * 3 + ["ceiling", "floor"]
    values = [row["metrics"]["sliced W2"]["value"] for row in rows[:3]]
    assert values == sorted(values)
    assert board.better_than_floor("right")
    assert rows[2]["name"] == "wide"
    assert board.best("KL(data||model)") == "right"
    assert board.best("memorisation") is None
    text = board.save(tmp_path / "board.html").read_text(encoding="utf-8")
    check_page(text)
    for needed in (
        "glow can&#x27;t take &lt;vector&gt; data",
        "real data (ceiling)",
        "(floor)",
        "none",
        "exact",
        "best",
    ):
        assert needed in text
    assert text.count("<th") >= 10
    json.dumps(board.to_dict(), allow_nan=False)
    by_likelihood = Leaderboard(reports, sort="likelihood").rows()
    assert by_likelihood[2]["name"] == "mute"
    with pytest.raises(PolymodeError, match="did you mean 'KID'"):
        Leaderboard(reports, sort="KIDD")
    with pytest.raises(PolymodeError, match="under another seed"):
        Leaderboard([reports[0], Evaluator(data, seed=1).report(wide, name="other")])
    with pytest.raises(PolymodeError, match="glow: no"):
        Leaderboard([], failures={"glow": "no"})


def test_the_same_seed_gives_the_same_numbers() -> None:
    data = toy(300)
    model = Normal(data.spec, loc=0.0, scale=2.0)
    once, again = ([m.value for m in evaluate(model, data, metrics=ALL).measurements] for _ in range(2))
    assert once == again
    other = [m.value for m in evaluate(model, data, metrics=ALL, seed=1).measurements]
    assert once != other


ALL = ["kid", "prdc", "mmd", "sliced_wasserstein", "c2st", "modes", "memorisation"]


def test_a_model_of_other_data_is_refused() -> None:
    with pytest.raises(DataError, match="was made for"):
        evaluate(Normal(specs.vector(3), loc=0.0, scale=1.0), toy(100))
    with pytest.raises(PolymodeError, match="n=1"):
        Evaluator(toy(100), n=1)


def test_measurements_compare_by_direction() -> None:
    low = Measurement("KID", 1.0, 0.5, 1.5, 10, "lower", "")
    high = Measurement("KID", 2.0, 1.5, 2.5, 10, "lower", "")
    assert low.beats(high)
    assert not high.beats(low)
    assert not Measurement.refused("KID", 3, "lower", "why").beats(high)
    assert Measurement.refused("KID", 3, "lower", "why").to_dict()["value"] is None


def test_importing_evaluate_is_light() -> None:
    code = "import sys, polymode.evaluate; print([m for m in ('matplotlib', 'sklearn', 'pandas') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
