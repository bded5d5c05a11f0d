"""A human study end to end: made from runs, shown blind, answered once each, exported whole, analysed."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.request
import wave
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import polymode as pm
from polymode.app.cli.main import main
from polymode.app.service.study.analyse import analyse
from polymode.app.service.study.design import Design
from polymode.app.service.study.export import COLUMNS, whole
from polymode.app.service.study.stimuli import renderer, rows_a_stimulus
from polymode.app.service.study.store import OrderError, SessionError, Store, UnknownError, choices_of
from polymode.app.service.study.tables import Made, create
from polymode.core.errors import PolymodeError
from polymode.core.spec import Binary, Categorical, Columns, Levels, Numeric, Real, Spec, Tokens

starlette = pytest.importorskip("starlette.testclient", reason="needs polymode[study]")
pytest.importorskip("uvicorn", reason="needs polymode[study]")

REPOSITORY = Path(__file__).parents[2]
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Runs, made once: two conditional and one plain on digits, one on a table."""
    folder = tmp_path_factory.mktemp("kept")
    g = np.random.default_rng(0)
    rows = [f"{g.integers(18, 80)},{g.choice(['red', 'green'])},{g.normal():.5f}" for _ in range(400)]
    (folder / "people.csv").write_text("age,colour,height\n" + "\n".join(rows) + "\n")
    data = pm.data.load("digits")
    for name, model, condition, seed in (
        ("a", "made", data.condition_spec, 0), ("b", "made", data.condition_spec, 1), ("plain", "vae", None, 0),
    ):  # fmt: skip
        made = pm.create(model, data.spec, condition, seed=seed, hidden=[16])
        pm.fit(made, data, steps=1, out=folder / name, seed=seed)
    words = ("--model", "vae", "--steps", "2", "--no-report", "--quiet", "--device", "cpu", "--set", "hidden=[16]")
    assert main(["fit", str(folder / "people.csv"), *words, "--out", str(folder / "people")]) == 0
    return folder


def picture(item: int, slot: int) -> bytes:
    """A real PNG of 8 x 8."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng([item + 5, slot]).integers(0, 256, (8, 8), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def make(path: Path, *, kind="pairs", items=2, trials=6, checks=2, ties=True, seed=0, text=False, png=False) -> Path:
    """A study of made-up stimuli: its item and slot is all that a stimulus holds."""
    design = Design(kind, items, trials, None, checks, seed)
    named = {i: {"name": f"run {i}", "kind": "run"} for i in range(items)}
    named |= {-1: {"name": "check: real data", "kind": "check"}, -2: {"name": "check: noise", "kind": "check"}}
    shown = [(i, s) for i in range(items) for s in design.slots(i)] + [(i, c) for i in (-1, -2) for c in range(checks)]
    media = "text/plain" if text else "image/png"
    facts = {
        "question": "Which <b>one</b>?", "consent": "I agree & understand.", "ties": ties, "matched": False,
        "design": {"kind": kind, "items": items, "trials": trials, "units": design.num_units, "checks": checks,
                   "seed": seed},
        "sharp": True, "notes": [], "versions": {}, "data": {}, "command": "",
    }  # fmt: skip
    content = b"<script>alert(%d)</script>" if text else PNG + bytes(8) + b"\0\0\0\x08\0\0\0\x08 %d"
    made = [Made(i, s, media, picture(i, s) if png else content % (1000 * (i + 5) + s)) for i, s in shown]
    create(path, facts, named, made)
    return path


@pytest.fixture
def study(tmp_path) -> Path:
    return make(tmp_path / "study.db")


def client(study: Path, **options):
    from polymode.app.study.server import application

    return starlette.TestClient(application(Store(study), **options), raise_server_exceptions=False)


def token(page) -> str:
    return re.search(r'name="token" value="([0-9a-f]{64})"', page.text)[1]


def trial_of(page) -> str:
    return re.search(r'name="trial" value="([0-9a-f]{32})"', page.text)[1]


def begin(c):
    return c.post("/begin", data={"token": token(c.get("/"))})


def send(c, page, choice="left", **more):
    return c.post("/answer", data={"token": token(page), "trial": trial_of(page), "choice": choice, **more})


def counted(study: Path) -> int:
    with sqlite3.connect(study) as c:
        (n,) = c.execute("SELECT COUNT(*) FROM answer").fetchone()
    c.close()
    return n


def judge(store: Store, session: str, better, *, consent="yes") -> int:
    """A whole rater; `better(left item, right item)` says the choice, and checks are answered rightly."""
    rater = store.begin(session, consent)
    while (step := store.step(rater)).trial:
        with sqlite3.connect(store.path) as c:
            row = c.execute(
                "SELECT a.item, b.item FROM trial JOIN stimulus a ON a.id = first "
                "LEFT JOIN stimulus b ON b.id = second WHERE trial.id = ?", (step.trial,),
            ).fetchone()  # fmt: skip
        c.close()
        store.answer(rater, step.trial, better(*row), 1.5)
    return rater


def lower(left: int, right: int) -> str:
    """Item 0 is always preferred, and the real data of a check."""
    if min(left, right) < 0:
        return "left" if left > right else "right"
    return "left" if left < right else "right"


# -- made from runs ------------------------------------------------------------------------------------------------
def answer(capsys, *words: object) -> dict:
    capsys.readouterr()
    assert main([*map(str, words), "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def test_conditional_runs_are_matched_and_real_data_take_part(capsys, kept):
    words = ("--real", "--trials", "6", "--checks", "2", "--out", "s.db", "--quiet", "--seed", "3")
    found = answer(capsys, "study", "create", kept / "a", kept / "b", *words)
    assert found["names"] == ["a", "b", "real data"]
    assert found["matched"]
    assert found["stimuli"] == 6 * 2 + 2 * 2
    dump = Store("s.db").dump()
    weights = {item["weights"] for item in dump["items"] if item["kind"] == "run"}
    assert len(weights) == 2
    (real,) = [item for item in dump["items"] if item["kind"] == "real"]
    assert dump["study"]["data"]["fingerprint"] == real["data"]
    assert {"polymode", "torch", "python"} <= dump["study"]["versions"].keys()
    with sqlite3.connect("s.db") as c:
        rows = c.execute("SELECT item, slot, media, content, condition FROM stimulus").fetchall()
    c.close()
    by_slot: dict = {}
    for item, slot, media, content, condition in rows:
        assert media == "image/png"
        assert Image.open(io.BytesIO(content)).size == (8, 8)
        assert not any(word in content for word in (b"made", b"real", b"kept", b"run"))
        if item >= 0:
            by_slot.setdefault(slot, set()).add(condition)
        else:
            assert condition == ""
    assert all(len(told) == 1 and next(iter(told)).isdigit() for told in by_slot.values())
    contents = [content for _, _, _, content, _ in rows]
    assert len(set(contents)) == len(contents), "two runs must not show the same draw"


def test_the_same_seed_makes_the_same_stimuli(capsys, kept):
    for out in ("one.db", "two.db"):
        answer(capsys, "study", "create", kept / "a", kept / "plain", "--trials", "3", "--out", out, "--quiet")
    shown = []
    for out in ("one.db", "two.db"):
        with sqlite3.connect(out) as c:
            shown.append(c.execute("SELECT item, slot, content FROM stimulus ORDER BY 1, 2").fetchall())
        c.close()
    assert shown[0] == shown[1]
    assert any("conditional ones share" in note for note in Store("one.db").facts["notes"])


def test_a_table_is_shown_as_rows(capsys, kept):
    answer(capsys, "study", "create", kept / "people", "--real", "--trials", "4", "--out", "s.db", "--quiet")
    c = client(Path("s.db"))
    page = begin(c)
    assert page.text.count("<table>") == 2
    assert "<th>colour</th>" in page.text
    assert re.search(r"<td>(red|green)</td>", page.text)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("{a}", "--out", "s.db"), "needs two; add a run or --real"),
        (("{a}", "{a}", "--out", "s.db"), "given twice"),
        (("{a}", "{people}", "--out", "s.db"), "compare runs of the same data"),
        (("{a}", "nowhere", "--out", "s.db"), "is not a run"),
        (("{a}", "{b}", "--out", "{a}"), "is there already"),
        (("{a}", "{b}", "--out", "s.db", "--design", "triads"), "'pairs' or 'opinion'"),
        (("{a}", "{b}", "--out", "s.db", "--trials", "0"), "above 0"),
        (("{a}", "{b}", "--out", "s.db", "--trials", "5000"), "fewer --trials"),
        (("{a}", "{b}", "--real", "--out", "s.db", "--trials", "2"), "3 pairs of items"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(capsys, kept, words, sentence):
    given = [w.format(a=kept / "a", b=kept / "b", people=kept / "people") for w in words]
    assert main(["study", "create", *given, "--quiet"]) == 2
    told = capsys.readouterr().err.strip()
    assert sentence in told
    assert told.count("\n") == 0
    assert not Path("s.db").exists()


@pytest.mark.parametrize(
    ("spec", "x", "media"),
    [
        (Spec("image", (3, 6, 6), Levels(256)), torch.randint(256, (4, 3, 6, 6), dtype=torch.uint8), "image/png"),
        (Spec("image", (1, 6, 6), Binary()), torch.zeros(4, 1, 6, 6, dtype=torch.uint8), "image/png"),
        (Spec("image", (1, 6, 6), Real()), torch.randn(4, 1, 6, 6), "image/png"),
        (Spec("grid", (5, 7), Tokens(4)), torch.randint(4, (4, 5, 7)), "image/png"),
        (Spec("series", (20, 3), Real()), torch.randn(4, 20, 3), "image/png"),
        (Spec("vector", (2,), Real()), torch.randn(4, 2), "image/png"),
        (Spec("vector", (5,), Real()), torch.randn(4, 5), "application/json"),
        (Spec("tokens", (3,), Tokens(3, ("a", "b", "c"))), torch.tensor([[0, 1, 2]]), "text/plain"),
        (Spec("waveform", (50,), Levels(256), {"sample_rate": 8000}), torch.full((1, 50), 128).byte(), "audio/wav"),
        (Spec("waveform", (50,), Real()), torch.zeros(1, 50), "audio/wav"),
    ],
    ids=lambda v: str(v)[:30] if isinstance(v, Spec) else "",
)
def test_every_kind_of_data_can_be_shown(spec, x, media):
    kind, render = renderer(spec, x)
    assert kind == media
    content = render(x[: rows_a_stimulus(spec)])
    assert content == render(x[: rows_a_stimulus(spec)])
    if media == "image/png":
        picture = Image.open(io.BytesIO(content))
        picture.verify()
        assert spec.kind not in ("image", "grid") or picture.size == spec.shape[-2:][::-1]
        assert not picture.info.keys() - {"dpi", "Software"}
    elif media == "audio/wav":
        with wave.open(io.BytesIO(content)) as stream:
            assert stream.getnframes() == 50
            assert stream.getframerate() == spec.extra.get("sample_rate", 16_000)
            assert np.abs(np.frombuffer(stream.readframes(50), "<i2")).max() <= 4, "code 128 is silence"
    elif media == "text/plain":
        assert content == b"abc"
    else:
        assert json.loads(content)["heads"] == ["x0", "x1", "x2", "x3", "x4"]


def test_cells_of_a_table_look_alike_whoever_made_them():
    columns = (Numeric("n", 0.0, 1.0, 0.0, 1.0, missing=True), Categorical("c", ("x<y", "z")))
    spec = Spec("table", (2,), Columns(columns))
    real = torch.tensor([[70.25, 0], [81.5, 1], [float("nan"), 0]], dtype=torch.float64)
    _, render = renderer(spec, real)
    assert json.loads(render(real))["rows"] == [["70.25", "x<y"], ["81.50", "z"], ["–", "x<y"]]
    drawn = torch.tensor([[64.27391, 1], [1e6, 0]], dtype=torch.float64)
    assert json.loads(render(drawn)) == {"heads": ["n", "c"], "rows": [["64.27", "z"], ["1000000.00", "x<y"]]}
    for values, shown in (
        ([3.0, 5.0], "3"),
        ([0.0, 0.0], "0"),
        ([1 / 3, 0.5], "0.3333"),
        ([12345.678, 99999.0], "12346"),
    ):
        _, render = renderer(spec, torch.tensor([[v, 0] for v in values], dtype=torch.float64))
        assert json.loads(render(torch.tensor([[values[0], 0]], dtype=torch.float64)))["rows"][0][0] == shown


def test_boxes_cannot_be_shown():
    with pytest.raises(PolymodeError, match="can't be shown"):
        rows_a_stimulus(Spec("boxes", (4,), Real()))


# -- shown and answered --------------------------------------------------------------------------------------------
def test_a_rater_goes_from_consent_to_the_end(study):
    c = client(study)
    page = c.get("/")
    assert "I agree &amp; understand." in page.text
    assert "Which &lt;b&gt;one&lt;/b&gt;?" in page.text
    assert c.get("/trial").url.path == "/", "nothing is shown before consent"
    page = begin(c)
    total = 6 + 2
    for k in range(total):
        assert f">{k + 1} of {total}<" in page.text
        for name in re.findall(r"/stimulus/([0-9a-f]{32})", page.text):
            shown = c.get(f"/stimulus/{name}")
            assert shown.status_code == 200
            assert shown.headers["content-type"] == "image/png"
            assert shown.content.startswith(PNG)
        page = send(c, page, ("left", "right", "tie")[k % 3], seconds="2.5")
    assert "Thank you" in page.text
    rows = whole(str(study))
    assert len(rows["answers"]) == total
    assert {a["seconds"] for a in rows["answers"]} == {2.5}
    assert all(a["seconds_server"] >= 0 for a in rows["answers"])
    (rater,) = rows["raters"]
    assert rater["consent"] == "I agree & understand."
    assert rater["consented"] <= min(a["shown"] for a in rows["answers"])
    assert rater["finished"]
    page = c.post("/leave", data={"token": token(page)})
    assert "I agree, begin" in page.text


def test_pages_say_nothing_of_the_source(study):
    c = client(study)
    text = begin(c).text
    assert "run 0" not in text
    assert "run 1" not in text
    assert "check" not in text


def test_headers_forbid_what_pages_do_not_need(study):
    c = client(study)
    for path in ("/", "/style.css", "/study.js", "/icon.svg", "/nothing", "/stimulus/x"):
        found = c.get(path).headers
        assert "default-src 'none'" in found["content-security-policy"]
        assert "unsafe" not in found["content-security-policy"]
        assert found["x-content-type-options"] == "nosniff"
    text = c.get("/").text + begin(c).text
    assert not re.search(r"style=|<style|\son\w+=|https?://|javascript:", text)
    assert "httponly" in client(study).get("/").headers["set-cookie"].lower()


def test_texts_are_escaped(tmp_path):
    text = begin(client(make(tmp_path / "t.db", text=True))).text
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text


def test_a_code_resumes_elsewhere(study):
    first = client(study)
    page = begin(first)
    code = re.search(r'id="mycode">([\w-]+)<', page.text)[1]
    second_trial = trial_of(send(first, page))
    other = client(study)
    wrong = other.post("/resume", data={"token": token(other.get("/")), "code": "nope-nope"})
    assert wrong.status_code == 404
    assert "no such code" in wrong.text
    page = other.post("/resume", data={"token": token(other.get("/")), "code": f" {code.upper()} "})
    assert trial_of(page) == second_trial
    assert len(whole(str(study))["raters"]) == 1


def test_a_second_answer_changes_nothing(study):
    c = client(study)
    page = begin(c)
    send(c, page, "left")
    again = send(c, page, "right")
    assert again.status_code == 200
    assert trial_of(again) != trial_of(page)
    rows = whole(str(study))["answers"]
    assert [r["choice"] for r in rows] == ["left"]


def test_beginning_twice_makes_one_rater(study):
    c = client(study)
    word = token(c.get("/"))
    first, second = (c.post("/begin", data={"token": word}) for _ in range(2))
    assert trial_of(first) == trial_of(second)
    assert len(whole(str(study))["raters"]) == 1


def test_what_does_not_belong_is_refused(study):
    c, stranger = client(study), client(study)
    page = begin(c)
    other = begin(stranger)
    word, mine = token(page), trial_of(page)
    with sqlite3.connect(study) as db:
        (last,) = db.execute("SELECT id FROM trial WHERE rater = 0 ORDER BY position DESC LIMIT 1").fetchone()
    db.close()
    good = {"token": word, "trial": mine, "choice": "left"}
    for status, data in (
        (403, {**good, "token": "0" * 64}), (403, {**good, "token": ""}), (403, {**good, "token": token(other)}),
        (403, {**good, "token": "é"}), (404, {**good, "trial": trial_of(other)}), (404, {**good, "trial": "' OR 1=1"}),
        (409, {**good, "trial": last}), (400, {**good, "choice": "both"}), (400, {**good, "choice": ""}),
        (413, {**good, "more": "x" * 20_000}),
    ):  # fmt: skip
        assert c.post("/answer", data=data).status_code == status, data
    assert counted(study) == 0
    assert starlette.TestClient(c.app).post("/answer", data=good).status_code == 403, "no session"
    assert c.get("/answer").status_code == 405
    assert c.post("/answer", content=b"\xff\xfe=1&" + b"a=1&" * 50).status_code == 413


def test_stimuli_of_others_and_files_cannot_be_read(study):
    c, stranger = client(study), client(study)
    page = begin(c)
    name = re.search(r"/stimulus/([0-9a-f]{32})", page.text)[1]
    assert c.get(f"/stimulus/{name}").status_code == 200
    assert stranger.get(f"/stimulus/{name}").status_code == 403
    for path in ("/stimulus/../study.db", "/stimulus/..%2fstudy.db", "/stimulus/%2e%2e/%2e%2e/etc/passwd", "/study.db",
                 f"/stimulus/{'0' * 32}", "/stimulus/%00", "/stimulus/' OR '1'='1", "//etc/passwd"):  # fmt: skip
        found = c.get(path)
        assert found.status_code == 404, path
        assert b"SQLite" not in found.content
        assert b"root:" not in found.content


def test_other_host_names_are_refused(study):
    c = client(study, hosts=("127.0.0.1", "localhost", "[::1]"))
    assert c.get("/", headers={"host": "evil.example"}).status_code == 400
    for host in ("127.0.0.1:8377", "localhost", "[::1]:8377"):
        assert c.get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(("sent", "kept"), [("nan", None), ("-1", None), ("1e9", None), ("soon", None), ("0.25", 0.25)])
def test_seconds_that_cannot_be_are_not_kept(study, sent, kept):
    c = client(study)
    send(c, begin(c), seconds=sent)
    assert whole(str(study))["answers"][0]["seconds"] == kept


def test_ties_can_be_left_out(tmp_path):
    c = client(make(tmp_path / "t.db", ties=False))
    page = begin(c)
    assert "No difference" not in page.text
    assert send(c, page, "tie").status_code == 400
    assert choices_of("pairs", ties=False) == ("left", "right")


def test_an_opinion_is_a_number_from_1_to_5(tmp_path):
    c = client(make(tmp_path / "o.db", kind="opinion", items=3, trials=6))
    page = begin(c)
    assert ">1 of 10<" in page.text
    assert send(c, page, "6").status_code == 400
    assert ">2 of 10<" in send(c, page, "5").text


# -- many at once --------------------------------------------------------------------------------------------------
WHOLE_RATER = """
import sys
from polymode.app.service.study.store import Store
store = Store(sys.argv[1])
rater = store.begin(sys.argv[2], "yes")
while (step := store.step(rater)).trial:
    try:
        store.answer(rater, step.trial, "left", 1.0)
    except ValueError:  # the other process of this session was first
        pass
print(rater)
"""


def whole_rater(path: str, session: str) -> int:
    """One rater from begin to end."""
    store = Store(path)
    rater = store.begin(session, "yes")
    while (step := store.step(rater)).trial:
        store.answer(rater, step.trial, "left", 1.0)
    return rater


def test_threads_neither_lose_nor_double(study):
    c = client(study)
    with ThreadPoolExecutor(8) as pool:
        raters = list(pool.map(lambda i: whole_rater(str(study), f"session {i}"), range(8)))
    assert sorted(raters) == list(range(8))
    assert counted(study) == 8 * 8
    page = begin(c)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda choice: send(c, page, choice), ["left", "right"] * 8))
    assert counted(study) == 8 * 8 + 1


def test_processes_neither_lose_nor_double(study):
    """Six processes for three sessions, so that every two of them answer the same trials."""
    begun = [
        subprocess.Popen(
            [sys.executable, "-c", WHOLE_RATER, str(study), f"session {i // 2}"], stdout=subprocess.PIPE, cwd=REPOSITORY
        )
        for i in range(6)
    ]
    raters = [int(process.communicate(timeout=120)[0]) for process in begun]
    assert sorted(raters) == [0, 0, 1, 1, 2, 2]
    assert raters[0::2] == raters[1::2]
    assert counted(study) == 3 * 8


# -- analysed ------------------------------------------------------------------------------------------------------
def test_export_is_complete_and_analyses_the_same(capsys, tmp_path):
    path = make(tmp_path / "s.db", items=3, trials=6)
    store = Store(path)
    for k in range(5):
        judge(store, f"s{k}", lower)
    store.begin("one who stops", "yes")
    assert answer(capsys, "study", "export", path, "--out", "x.json")["answers"] == 5 * 8
    assert answer(capsys, "study", "export", path, "--out", "x.csv")["raters"] == 6
    study = json.loads(Path("x.json").read_text())
    assert study["study"]["design"] == {"kind": "pairs", "items": 3, "trials": 6, "units": 6, "checks": 2, "seed": 0}
    assert "secret" not in json.dumps(study)
    assert len(study["items"]) == 5
    for row in study["answers"]:
        assert set(row) == set(COLUMNS)
        assert row["first"] != row["second"]
        assert row["chosen"] == (row["first"] if row["choice"] == "left" else row["second"])
        assert row["check"] == (row["unit"] < 0)
    with open("x.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [r["trial"] for r in table] == [r["trial"] for r in study["answers"]]
    assert analyse("x.json") == analyse(str(path))
    with_seed = Store(path)
    assert [t.unit for t in with_seed.design.plan(0)] == [a["unit"] for a in study["answers"] if a["rater"] == 0]


def test_a_clear_preference_is_found(capsys, tmp_path):
    path = make(tmp_path / "s.db", items=3, trials=12)
    store = Store(path)
    for k in range(6):
        judge(store, f"s{k}", lambda a, b, k=k: "tie" if a + b == 1 + k % 3 else lower(a, b))
    found = analyse(str(path))
    assert [i["name"] for i in found["items"]] == ["run 0", "run 1", "run 2"]
    assert found["items"][0]["low"] > found["items"][2]["high"]
    assert found["answers"] == 6 * 12
    assert found["ties"] == 6 * 4
    assert found["left_out"] == []
    top = found["matrix"][0]["against"]["run 2"]
    assert top["share"] == pytest.approx((4 * 4 + 8 / 2) / 24)
    # two of six raters tie on every pair: P = (4 * 3 + 2 * 1) / 30, chance (2/3)^2 + (1/3)^2, kappa = (P - c) / (1 - c)
    assert found["agreement"][0]["value"] == pytest.approx((14 / 30 - 5 / 9) / (1 - 5 / 9))
    assert main(["study", "analyse", str(path)]) == 0
    printed = capsys.readouterr().out
    for words in ("Bradley-Terry, ties as half wins", "preferred over", "Fleiss' kappa", "left out   nobody", "Wilson"):
        assert words in printed


def test_careless_raters_are_left_out_and_counted(capsys, tmp_path):
    path = make(tmp_path / "s.db", trials=10)
    store = Store(path)
    for k in range(2):
        judge(store, f"good{k}", lower)
    bad = judge(store, "bad", lambda a, b: "tie")
    code = store.dump()["raters"][bad]["code"]
    found = analyse(str(path))
    assert found["missed_checks"] == {code: "2 of 2 checks missed"}
    assert found["left_out"] == [code]
    assert (found["answers"], found["raters"]) == (20, 2)
    assert "won every comparison" in found["notes"][0]
    kept = answer(capsys, "study", "analyse", path, "--keep-failed")
    assert (kept["answers"], kept["raters"], kept["left_out"]) == (30, 3, [])


def test_opinions_are_scored_and_noise_must_be_rated_below_real(tmp_path):
    path = make(tmp_path / "o.db", kind="opinion", items=2, trials=10)
    store = Store(path)
    for k in range(5):
        judge(store, f"good{k}", lambda a, _, k=k: {0: "4", 1: str(2 + k % 2), -1: "5", -2: "1"}[a])
    judge(store, "bad", lambda a, _: "3")
    found = analyse(str(path))
    assert len(found["left_out"]) == 1
    assert [(i["name"], i["score"]) for i in found["items"]] == [("run 0", 4.0), ("run 1", pytest.approx(2.4))]
    assert found["items"][1]["low"] < 2.4 < found["items"][1]["high"]
    assert [a["name"] for a in found["agreement"]][-1] == "Krippendorff's alpha, interval"


def test_too_few_answers_are_refused_in_one_sentence(capsys, tmp_path):
    path = make(tmp_path / "s.db", trials=4)
    assert main(["study", "analyse", str(path)]) == 2
    assert "0 answers are too few" in capsys.readouterr().err
    store = Store(path)
    for k in range(2):
        judge(store, f"s{k}", lower)
    for k in range(3):
        judge(store, f"bad{k}", lambda a, b: "left")
    assert main(["study", "analyse", str(path)]) == 2
    assert "8 answers (3 raters who missed a check left out) are too few" in capsys.readouterr().err


# -- files and servers ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("command", ["serve", "export", "analyse"])
def test_what_is_no_study_is_refused(capsys, tmp_path, command):
    (tmp_path / "text.db").write_text("hello, this is not a database at all" * 50)
    sqlite3.connect(tmp_path / "other.db").execute("CREATE TABLE x (y)").connection.close()
    for name, words in (("no.db", "there is no study"), ("text.db", "is not a study"), ("other.db", "is not a study")):
        more = ["--out", "x.json"] if command == "export" else []
        assert main(["study", command, str(tmp_path / name), *more]) == 2
        assert words in capsys.readouterr().err
    for name, words in (("x.txt", ".json or .csv"), ("text.json", "no JSON"), ("list.json", "not an exported study")):
        (tmp_path / "text.json").write_text("{")
        (tmp_path / "list.json").write_text("[1]")
        study = make(tmp_path / f"{name}.db")
        bad = ["export", str(study), "--out", name] if name == "x.txt" else ["analyse", name]
        assert main(["study", *bad]) == 2
        assert words in capsys.readouterr().err


def test_the_store_says_who_is_wrong(study):
    store = Store(study)
    rater = store.begin("s", "yes")
    with pytest.raises(SessionError):
        store.check_token("s", store.token("t"))
    with pytest.raises(UnknownError):
        store.resume("t", "")
    with sqlite3.connect(study) as c:
        (last,) = c.execute("SELECT id FROM trial ORDER BY position DESC LIMIT 1").fetchone()
    c.close()
    with pytest.raises(OrderError, match="trial 8 came before trial 1"):
        store.answer(rater, last, "left")


class Served:
    """`polymode study serve` in a process of its own."""

    def __init__(self, study: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "polymode", "study", "serve", str(study), "--port", "0"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            # a shell's background jobs ignore interrupts, and so would their children
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        self.url = self.process.stdout.readline().split()[1]

    def end(self, how: signal.Signals) -> tuple[int, str]:
        self.process.send_signal(how)
        _, told = self.process.communicate(timeout=30)
        return self.process.returncode, told


def test_a_server_ends_cleanly_and_goes_on_where_it_was(study):
    rater = Store(study).begin("cookie", "yes")
    for how, status, told in ((signal.SIGTERM, 0, ""), (signal.SIGINT, 130, "polymode: interrupted\n")):
        served = Served(study)
        assert served.url.startswith("http://127.0.0.1:")
        name = f"study_{Store(study).facts['id']}"
        request = urllib.request.Request(f"{served.url}trial", headers={"Cookie": f"{name}=cookie"})
        with urllib.request.urlopen(request, timeout=20) as page:
            text = page.read().decode()
        step = Store(study).step(rater)
        assert f">{step.done + 1} of 8<" in text
        Store(study).answer(rater, step.trial, "left")
        assert served.end(how) == (status, told)
    assert counted(study) == 2
    with sqlite3.connect(study) as c:
        assert c.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    c.close()


def test_an_address_in_use_is_told(capsys, study):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["study", "serve", str(study), "--port", str(taken.getsockname()[1])]) == 2
    assert "give another --port" in capsys.readouterr().err
    assert main(["study", "serve", str(study), "--port", "65536"]) == 2
    assert "0 to 65535" in capsys.readouterr().err


def test_help_stays_light():
    code = (
        "import sys; from polymode.app.cli.main import main\n"
        "main(['study', '--help']); main(['study', 'create', '--help']); main(['study', 'serve', '--help'])\n"
        "heavy = [m for m in ('torch', 'starlette', 'uvicorn', 'numpy') if m in sys.modules]; assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert pm.__version__
