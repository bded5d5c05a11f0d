"""Readers of tables and series, with good and with bad input; fixtures are made here, none is downloaded."""

import numpy as np
import pandas as pd
import pytest
import torch

import polymode.data as data
from polymode.core.errors import DataError, MissingPackageError, PolymodeError
from polymode.core.spec import Categorical, Numeric
from polymode.data import assemble

RNG = np.random.default_rng(0)


def rows(found):
    return torch.cat([found.train.x, found.valid.x, found.test.x])


def total(found):
    return sum(len(s) for s in (found.train, found.valid, found.test))


@pytest.fixture
def people(tmp_path):
    n = 400
    frame = pd.DataFrame(
        {
            "age": RNG.integers(18, 90, n),
            "height": np.round(RNG.normal(1.7, 0.1, n), 2),
            "weight": RNG.normal(70, 10, n),
            "grade": RNG.integers(1, 6, n),
            "member": RNG.random(n) < 0.5,
            "city": RNG.choice(["Bonn", "Köln", "Trier"], n),
            "zip": RNG.choice(["00501", "10001"], n),
            "country": "DE",
            "one": 1,
        }
    )
    for column in ("age", "weight", "city"):
        frame[column] = frame[column].astype(object).where(RNG.random(n) > 0.05, None)
    frame.to_csv(tmp_path / "people.csv", index=False)
    return tmp_path / "people.csv"


def columns_of(found):
    return {c.name: c for c in found.spec.support.columns}


def test_types_are_inferred(people):
    c = columns_of(data.load(people))
    assert (c["age"].step, c["age"].missing) == (1.0, True)
    assert (c["height"].step, c["height"].missing) == (0.01, False)
    assert (c["weight"].step, c["weight"].missing) == (0.0, True)
    assert c["grade"].categories == ("1", "2", "3", "4", "5")
    assert c["member"].categories == ("False", "True")
    assert c["city"].categories == ("Bonn", "Köln", "Trier", "<missing>")
    assert c["zip"].categories == ("00501", "10001")
    assert c["country"].categories == ("DE",)
    assert c["one"].categories == ("1",)


def test_statistics_are_those_of_training_rows(people):
    found = data.load(people)
    j = [c.name for c in found.spec.support.columns].index("age")
    cells = found.train.x[:, j]
    cells = cells[~cells.isnan()]
    age = columns_of(found)["age"]
    assert [age.low, age.high, age.loc] == pytest.approx([f(cells).item() for f in (torch.min, torch.max, torch.mean)])
    assert age.scale == pytest.approx(float(cells.std(correction=0)))


def test_table_comes_back_as_it_was(people):
    found = data.load(people)
    frame = data.to_frame(found.spec, rows(found)).astype(object)
    truth = pd.read_csv(people, dtype={"zip": str})
    key = ["height", "weight", "age", "zip"]
    back, truth = (f.sort_values(key).reset_index(drop=True) for f in (frame, truth))
    for column in truth.columns:
        a, b = back[column], truth[column]
        assert (a.isna() == b.isna()).all(), column
        assert a[a.notna()].tolist() == b[b.notna()].tolist(), column
    dtypes = data.to_frame(found.spec, rows(found)).dtypes.astype(str).to_dict()
    assert dtypes["age"] == "Int64"
    assert dtypes["grade"] == "int64"
    assert dtypes["member"] == "bool"
    assert dtypes["height"] == "float64"


def test_columns_override(people):
    c = columns_of(data.load(people, columns={"grade": "numeric", "age": "categorical", "one": "drop"}))
    assert c["grade"].step == 1.0
    assert isinstance(c["age"], Categorical)
    assert c["age"].categories[:2] == ("18", "19")
    assert "one" not in c
    assert columns_of(data.load(people, columns={"height": "real"}))["height"].step == 0.0


def test_bad_overrides(people):
    with pytest.raises(DataError, match="'city'"):
        data.load(people, columns={"citty": "drop"})
    with pytest.raises(PolymodeError, match="is not a choice"):
        data.load(people, columns={"city": "text"})
    with pytest.raises(DataError, match="holds text"):
        data.load(people, columns={"city": "numeric"})
    with pytest.raises(DataError, match="fractions"):
        data.load(people, columns={"weight": "integer"})
    with pytest.raises(DataError, match="at least one"):
        data.load(people, columns=dict.fromkeys(pd.read_csv(people).columns, "drop"))


def test_missing_cells(people):
    dropped = data.load(people, missing="drop")
    assert total(dropped) == int(pd.read_csv(people).notna().all(axis=1).sum())
    assert not dropped.spec.has_missing
    assert columns_of(dropped)["city"].categories == ("Bonn", "Köln", "Trier")
    mean = data.load(people, missing="mean")
    assert total(mean) == 400
    assert not mean.spec.has_missing
    assert (rows(mean)[:, 0] == rows(mean)[:, 0].round()).all()
    with pytest.raises(PolymodeError, match="missing='zero'"):
        data.load(people, missing="zero")


def test_labels_leave_the_data(people):
    found = data.load(people, labels="grade")
    assert "grade" not in columns_of(found)
    assert found.condition_spec.label_names == ("1", "2", "3", "4", "5")
    assert len(found.train.condition) == len(found.train)
    with pytest.raises(DataError, match="'grade'"):
        data.load(people, labels="grades")


def test_ten_thousand_categories(tmp_path):
    n = 20_000
    frame = pd.DataFrame({"code": [f"c{i % 10_000:05d}" for i in range(n)], "x": RNG.normal(size=n)})
    frame.to_csv(tmp_path / "wide.csv", index=False)
    found = data.load(tmp_path / "wide.csv")
    assert columns_of(found)["code"].levels == 10_000
    assert rows(found).shape == (n, 2)
    assert any("10000 categories" in note for note in found.notes)


def test_identifiers_are_refused(tmp_path):
    pd.DataFrame({"name": [f"n{i}" for i in range(60)], "x": range(60)}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError, match=r"columns=\{'name': 'drop'\}"):
        data.load(tmp_path / "t.csv")
    found = data.load(tmp_path / "t.csv", columns={"name": "drop"})
    assert any("row number" in note for note in found.notes)
    assert columns_of(data.load(tmp_path / "t.csv", columns={"name": "categorical"}))["name"].levels == 60


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"a,b\n", "0 rows"),
        (b"a,b\n1,2\n3,4,5\n6,7\n", "different lengths"),
        (b"a,b\n1,2,3\n3,4,5\n6,7,8\n", "different lengths"),
        (b"a,b\n1,2\n3\n6,7\n", "different lengths"),
        (b"a,b\n\xff\xfe\x00,2\n", "UTF-8"),
        (b"a,b\n1,2\ninf,3\n3,4\n", "column 'a' .* infinite"),
        (b"a,b\n1,2\n-Infinity,3\n3,4\n", "column 'a' .* infinite"),
    ],
)
def test_bad_csv(tmp_path, content, words):
    (tmp_path / "bad.csv").write_bytes(content)
    with pytest.raises(DataError, match=words):
        data.load(tmp_path / "bad.csv")


def test_separators_and_spaces(tmp_path):
    (tmp_path / "t.csv").write_text("a; b\n1; x\n2; y\n3; x\n")
    c = columns_of(data.load(tmp_path / "t.csv"))
    assert isinstance(c["a"], Numeric)
    assert c["b"].categories == ("x", "y")


def test_column_of_gaps(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n,1\n?,2\n,3\n")
    assert columns_of(data.load(tmp_path / "t.csv"))["a"].categories == ("<missing>",)


def test_parquet_keeps_types(tmp_path, people):
    frame = pd.read_csv(people, dtype={"zip": str})
    frame.to_parquet(tmp_path / "p.parquet")
    from_csv, from_parquet = data.load(people), data.load(tmp_path / "p.parquet")
    assert [type(c) for c in from_csv.spec.support.columns] == [type(c) for c in from_parquet.spec.support.columns]
    assert torch.equal(rows(from_csv).nan_to_num(-1), rows(from_parquet).nan_to_num(-1))
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match="parquet"):
        data.load(tmp_path / "bad.parquet")


def test_missing_pandas_is_named(people, monkeypatch):
    real = assemble.importlib.import_module

    def without(name, *rest):
        if name == "pandas":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(assemble.importlib, "import_module", without)
    with pytest.raises(MissingPackageError, match=r"polymode\[tables\]"):
        data.load(people)


def test_csv_as_series(tmp_path):
    frame = pd.DataFrame({"date": pd.date_range("2020-01-01", periods=100), "a": range(100), "b": RNG.normal(size=100)})
    frame.to_csv(tmp_path / "s.csv", index=False)
    found = data.load(tmp_path / "s.csv", kind="series", length=5)
    assert found.spec.shape == (5, 2)
    assert found.spec.extra["columns"] == ["a", "b"]
    assert found.train.x[3, :, 0].tolist() == [3, 4, 5, 6, 7]
    assert found.test.x[0, 0, 0] == 90
    frame.loc[3, "b"] = np.nan
    frame.to_csv(tmp_path / "s.csv", index=False)
    with pytest.raises(DataError, match=r"'b' \(1\)"):
        data.load(tmp_path / "s.csv", kind="series", length=5)
