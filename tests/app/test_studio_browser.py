"""The studio in a real browser: a KL falls, a fit is stopped and goes on, a picture brings itself back, a hole is
painted and filled; and the same samples through the page's client and the command line."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import polymode as pm
from polymode.core import spec as specs
from polymode.data.dataset import DataSet, Split

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
pytest.importorskip("gradio", reason="needs polymode[studio]")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("needs a chromium on the path", allow_module_level=True)

REPOSITORY = Path(__file__).parents[2]
#: milliseconds that a page may take on a machine with other work
PATIENCE = 90_000
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


class Studio:
    """`polymode studio` in a process of its own."""

    def __init__(self, runs: Path, *more: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "polymode", "studio", "--runs", str(runs), "--port", "0", *more],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().split()[1]

    def end(self, how: signal.Signals = signal.SIGTERM) -> str:
        """End it; what it said on stderr."""
        self.process.send_signal(how)
        return self.process.communicate(timeout=60)[1]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    data = pm.data.load("digits")
    pm.fit(pm.create("ppca", data.spec, seed=0), data, out=folder / "ppca", seed=0)
    return folder


@pytest.fixture(scope="module")
def studio(runs):
    served = Studio(runs)
    yield served
    served.end()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, studio):
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on(
        "request", lambda r: troubles.append(r.url) if not r.url.startswith((studio.url, "data:", "blob:")) else None
    )
    page.goto(studio.url)
    page.wait_for_selector("#start")
    yield page
    context.close()
    assert troubles == [], "errors, or requests to elsewhere"


def tab(page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def choose(page, element: str, value: str) -> None:
    """Type and take the first that is listed, again where a page that was still loading put the old choice back."""
    box, listed = page.locator(f"#{element} input"), page.locator(f"#{element} [role=option]").first
    for _ in range(5):
        box.fill(value)
        listed.wait_for()
        box.press("Enter")
        listed.wait_for(state="hidden")
        page.wait_for_timeout(200)
        if value in box.input_value():
            return
    raise AssertionError(f"#{element} is {box.input_value()!r} and not {value!r}")


def test_a_histogram_is_learned_and_its_divergence_is_read(page):
    page.get_by_label("target").click()
    page.get_by_role("option", name="histogram").click()
    page.wait_for_selector("#weights .pm-draw div")
    box = page.locator("#weights .pm-draw").bounding_box()
    page.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + 0.8 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.95 * box["width"], box["y"] + 0.3 * box["height"], steps=5)
    page.mouse.up()
    page.get_by_label("steps", exact=True).fill("200")
    page.get_by_label("steps a frame").fill("10")
    page.get_by_label("frames a second, at most").first.fill("20")
    page.click("#start")
    page.wait_for_selector("#stage svg")
    read = lambda: re.match(r"made: ([\d.]+) at step (\d+)", page.input_value("#numbers textarea"))  # noqa: E731
    first = float(read()[1])
    page.click("#play")
    values = []
    deadline = time.monotonic() + 4 * PATIENCE / 1000
    while time.monotonic() < deadline and (not values or values[-1][0] < 200):
        found = read()
        if not values or int(found[2]) != values[-1][0]:
            values.append((int(found[2]), float(found[1])))
        time.sleep(0.05)
    assert values[-1][0] == 200
    assert first > 0.1
    assert values[-1][1] < 0.01
    falls = sum(b[1] <= a[1] for a, b in itertools.pairwise(values))
    assert falls >= 0.95 * (len(values) - 1)
    page.click("#replay")
    page.wait_for_function(
        "document.querySelector('#numbers textarea').value.includes('at step 200')", timeout=4 * PATIENCE
    )
    assert float(read()[1]) == values[-1][1]


def test_a_fit_is_started_stopped_and_goes_on(page, runs):
    tab(page, "Fit")
    page.click("#read")
    page.wait_for_selector("#understood table")
    choose(page, "model", "realnvp")
    page.fill("#minutes input", "10")
    page.fill("#run-name textarea", "flow")
    page.fill("#options textarea", "hidden = [16,16]")
    page.click("#fit")
    page.wait_for_function("document.querySelector('#jobs').innerText.includes('running')")
    deadline = time.monotonic() + PATIENCE / 1000
    while (
        not (runs / "flow" / "metrics.jsonl").is_file() or "train" not in (runs / "flow" / "metrics.jsonl").read_text()
    ):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    begun = time.monotonic()
    page.click("#stop-job")
    page.wait_for_function("/stopping|stopped/.test(document.querySelector('#jobs').innerText)")
    assert time.monotonic() - begun < 5
    page.wait_for_function("document.querySelector('#jobs').innerText.includes('stopped')")
    assert (runs / "flow" / "trainer.pt").is_file()
    page.click("#go-on")
    page.wait_for_function("document.querySelector('#jobs').innerText.includes('running')")
    page.wait_for_selector("#course svg")
    page.click("#stop-job")
    page.wait_for_function("!document.querySelector('#jobs').innerText.includes('running')")


def test_a_saved_picture_brings_itself_back_and_all_faces_draw_alike(page, studio, runs, tmp_path):
    tab(page, "Sample")
    choose(page, "sample-run", "ppca")
    page.fill("#n input", "9")
    page.locator("#sample-seed input").fill("7")
    page.click("#draw")
    page.wait_for_selector("#samples img")
    with page.expect_download() as download:
        page.locator("#sample-file a[download]").first.click()
    saved = tmp_path / "kept.png"
    download.value.save_as(saved)
    page.locator("#sample-seed input").fill("8")
    page.click("#draw")
    time.sleep(1)
    page.set_input_files("#recipe input[type=file]", str(saved))
    page.wait_for_function("document.querySelector('#samples img') && true")
    page.wait_for_function("[...document.querySelectorAll('#n input')][0].value === '9'")
    time.sleep(2)
    with page.expect_download() as download:
        page.locator("#sample-file a[download]").first.click()
    again = tmp_path / "again.png"
    download.value.save_as(again)
    assert page.locator("#sample-seed input").input_value() == "7"
    assert again.read_bytes() == saved.read_bytes()

    from gradio_client import Client

    client = Client(studio.url, verbose=False, download_files=str(tmp_path / "client"))
    _, path, _ = client.predict("ppca", n=9, seed=7, api_name="/sample")
    assert Path(path).read_bytes() == saved.read_bytes()
    typed = tmp_path / "typed.png"
    subprocess.run(
        [sys.executable, "-m", "polymode", "sample", str(runs / "ppca"), "-n", "9", "--seed", "7", "--out", str(typed)],
        check=True, capture_output=True, cwd=REPOSITORY,
    )  # fmt: skip
    assert typed.read_bytes() == saved.read_bytes()


def test_a_studio_ends_at_the_first_signal_though_a_page_is_open(runs):
    from gradio_client import Client

    served = Studio(runs)
    held = Client(served.url, verbose=False)
    assert Path(held.predict("ppca", api_name="/sample")[1]).is_file()
    begun = time.monotonic()
    assert not served.end()
    assert time.monotonic() - begun < 20


def on_canvas(page, what: str) -> None:
    """Wait until a picture can be painted on."""
    page.wait_for_function(f"document.querySelector('#on-canvas').innerText.includes('{what}')")
    page.wait_for_function("!document.querySelector('#canvas').innerText.includes('upload a picture')")
    time.sleep(2)


def paint(page, *stops: tuple[float, float]) -> None:
    """A stroke over the canvas, through places that are shares of its sides."""
    box = page.locator("#canvas canvas").first.bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stops]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=3)
    page.mouse.up()


def saved(page, element: str, number: int, path: Path) -> Path:
    """One of the files that are offered for download."""
    with page.expect_download() as download:
        page.locator(f"#{element} a[download]").nth(number).click()
    download.value.save_as(path)
    return path


def test_a_hole_is_painted_and_filled(page):
    tab(page, "Restore")
    choose(page, "restore-run", "ppca")
    page.wait_for_selector("#canvas canvas")
    page.click("#take")
    on_canvas(page, "test picture 0 of ppca")
    paint(page, (0.4, 0.4), (0.6, 0.4), (0.6, 0.55), (0.4, 0.55))
    page.click("#fill")
    page.wait_for_selector("#filled img")
    facts = page.inner_text("#restore-facts")
    assert "unchanged" in facts
    assert re.search(r"row\s+0", facts)


def test_an_uploaded_picture_is_painted_on_and_completed(page, tmp_path):
    """Beyond the paint it stays what it was: a bright picture remains bright, which no digit of the data is."""
    np = pytest.importorskip("numpy")
    image = pytest.importorskip("PIL.Image")
    own = tmp_path / "own.png"
    colours = np.zeros((160, 240, 3), dtype=np.uint8)
    colours[:, 40:120] = 255  # the left half of what is left of it about the centre
    image.fromarray(colours).save(own)
    tab(page, "Restore")
    choose(page, "restore-run", "ppca")
    page.wait_for_selector("#canvas canvas")
    page.click("#take")
    on_canvas(page, "test picture 0 of ppca")
    page.set_input_files("#canvas input[type=file]", str(own))
    on_canvas(page, "your own picture")
    paint(page, (0.6, 0.3), (0.6, 0.7), (0.7, 0.7), (0.7, 0.3))
    page.click("#fill")
    page.wait_for_selector("#filled img")
    facts = page.inner_text("#restore-facts")
    assert "unchanged" in facts
    assert "240x160, fitted to 8x8" in facts
    sheet = np.asarray(image.open(saved(page, "restored-file", 0, tmp_path / "sheet.png")))
    shown = sheet[:64:8].reshape(8, -1)
    whole = shown[:, 7 * 66 : 7 * 66 + 64 : 8]  # the picture itself, behind six draws
    assert (whole[:, :4] > 200).all()
    assert (whole[:, 4:] < 55).all()
    hole = shown[:, :64:8] == 128
    assert 0 < hole.sum() < 40
    for i in range(1, 7):
        draw = shown[:, i * 66 : i * 66 + 64 : 8]
        assert (draw[~hole] == whole[~hole]).all()
        assert (draw[hole] != whole[hole]).any()


def test_pictures_are_varied_and_what_a_model_can_t_do_is_told(page, runs, tmp_path):
    """On the page and typed: the same bytes; a task without a way is refused in a sentence."""
    tab(page, "Restore")
    choose(page, "restore-run", "ppca")
    page.get_by_label("vary", exact=True).check()
    page.wait_for_selector("#strength")
    page.locator("#restore-n input").fill("4")
    page.locator("#restore-seed input").fill("7")
    page.click("#mend")
    page.wait_for_selector("#filled img")
    drawn = saved(page, "restored-file", 0, tmp_path / "drawn.png")
    typed = tmp_path / "typed.png"
    words = ["--task", "vary", "-n", "4", "--seed", "7", "-o", str(typed)]
    subprocess.run(
        [sys.executable, "-m", "polymode", "restore", str(runs / "ppca"), *words],
        check=True, capture_output=True, cwd=REPOSITORY,
    )  # fmt: skip
    assert drawn.read_bytes() == typed.read_bytes()
    page.get_by_label("upscale", exact=True).check()
    page.wait_for_selector("#factor")
    page.click("#mend")
    page.wait_for_selector("text=has no restore")


def test_rows_are_edited_by_a_slider(page):
    tab(page, "Explore")
    choose(page, "explore-run", "ppca")
    page.get_by_label("edit", exact=True).check()
    page.wait_for_function("document.querySelector('#along input') && document.querySelector('#along input').value")
    choose(page, "along", "principal:2")
    slider = page.locator("#edit-strength input[type=range]")
    box = slider.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + box["height"] / 2, steps=4)
    page.mouse.up()
    page.wait_for_selector("#walked img")
    assert "principal direction 2" in page.inner_text("body")


def test_a_phone_in_the_dark_has_room(browser, studio):
    context = browser.new_context(viewport={"width": 400, "height": 800}, color_scheme="dark")
    page = context.new_page()
    page.goto(f"{studio.url}?__theme=dark")
    page.wait_for_selector("#start")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    context.close()


# -- a studio with a study, a model of texts, and two runs of the same data -------------------------------------------
@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """(its folder, the studio)."""
    folder = tmp_path_factory.mktemp("judged")
    data = pm.data.load("digits")
    for name in ("ppca", "histogram"):
        pm.fit(pm.create(name, data.spec, seed=0), data, out=folder / "runs" / name, seed=0)
    spec = specs.tokens(32, tuple("abc \n"))
    rows = Split(torch.randint(5, (50, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8))
    letters = pm.create("gru", spec, seed=0, hidden=16)
    pm.fit(letters, DataSet("letters", spec, rows, rows, rows), steps=2, out=folder / "runs" / "letters", seed=0)
    polymode("study", "create", *(str(folder / "runs" / r) for r in ("ppca", "histogram")), "--out",
             str(folder / "study.db"), "--trials", "10", "--checks", "0")  # fmt: skip
    served = Studio(folder / "runs", "--study", str(folder / "study.db"))
    yield folder, served
    served.end()


def polymode(*words: str) -> str:
    """What a command prints."""
    return subprocess.run(
        [sys.executable, "-m", "polymode", *words], check=True, capture_output=True, text=True, cwd=REPOSITORY
    ).stdout


def opened(browser, url: str):
    """(a context, its page, troubles on it)."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", lambda r: troubles.append(r.url) if not r.url.startswith((url, "data:", "blob:")) else None)
    page.goto(url)
    return context, page, troubles


def test_people_judge_in_the_studio_and_are_counted(browser, judged):
    folder, studio = judged
    context, page, troubles = opened(browser, studio.url)
    tab(page, "Judge")
    page.wait_for_selector("#count")
    assert page.get_by_text("take part").get_attribute("href") == "/judge/"
    page.goto(f"{studio.url}judge/")
    with page.expect_navigation():
        page.click("#begin")
    for k, key in enumerate("1201201201"):
        page.wait_for_function(f"document.querySelector('#place').innerText === '{k + 1} of 10'")
        page.wait_for_function("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
        with page.expect_navigation():
            page.keyboard.press(key)
    page.wait_for_selector("#done")
    found = json.loads(polymode("study", "analyse", str(folder / "study.db"), "--json"))
    assert (found["answers"], found["raters"], found["ties"]) == (10, 1, 3)
    assert {item["name"] for item in found["items"]} == {"ppca", "histogram"}
    page.goto(studio.url)
    tab(page, "Judge")
    page.click("#count")
    page.wait_for_selector("#judgements table.pm-table")
    assert "10 of 1 people" in page.inner_text("#judgements")
    context.close()
    assert troubles == []


def test_a_text_grows_and_is_stopped(browser, judged):
    _, studio = judged
    context, page, troubles = opened(browser, studio.url)
    tab(page, "Sample")
    choose(page, "sample-run", "letters")
    page.get_by_text("a text: prompt, and how it goes on").click()
    page.fill("#prompt textarea", "ab")
    page.fill("#length input", "40")
    page.click("#write")
    page.wait_for_function("document.querySelector('#text textarea').value.length === 42")
    written = page.input_value("#text textarea")
    found = json.loads(polymode("generate", str(judged[0] / "runs" / "letters"), "--prompt", "ab", "--length", "40",
                                "--seed", "0", "--json"))  # fmt: skip
    assert written == found["texts"][0]["generated_text"]
    page.fill("#length input", "20000")
    page.click("#write")
    lengths, deadline = [], time.monotonic() + PATIENCE / 1000
    while len(set(lengths)) < 5:
        assert time.monotonic() < deadline
        lengths.append(len(page.input_value("#text textarea")))
        time.sleep(0.05)
    page.click("#stop-writing")
    time.sleep(3)
    stopped = len(page.input_value("#text textarea"))
    time.sleep(2)
    assert len(page.input_value("#text textarea")) == stopped < 20_002
    context.close()
    assert troubles == []


def test_two_runs_are_held_against_each_other(browser, judged):
    _, studio = judged
    context, page, troubles = opened(browser, studio.url)
    tab(page, "Compare")
    choose(page, "first-run", "ppca")
    choose(page, "second-run", "letters")
    page.click("#pair")
    page.get_by_text("choose two runs of the same data").first.wait_for()
    choose(page, "second-run", "histogram")
    page.fill("#pair-n input", "60")
    page.click("#pair")
    page.wait_for_selector("#differences table svg")
    assert "ppca against histogram on the same rows" in page.inner_text("#differences")
    context.close()
    assert troubles == []
