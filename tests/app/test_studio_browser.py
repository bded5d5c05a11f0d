"""The studio in a real browser: a KL falls, a fit is stopped and goes on, a picture brings itself back, a hole is
painted and filled; and the same samples through the page's client and the command line."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import polymode as pm

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

    def __init__(self, runs: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "polymode", "studio", "--runs", str(runs), "--port", "0"],
            stdout=subprocess.PIPE, text=True, cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().split()[1]

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(how)
        self.process.communicate(timeout=60)


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
    page.fill(f"#{element} input", value)
    page.keyboard.press("Enter")


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
    _, path, _ = client.predict("ppca", 9, 7, None, "", api_name="/sample")
    assert Path(path).read_bytes() == saved.read_bytes()
    typed = tmp_path / "typed.png"
    subprocess.run(
        [sys.executable, "-m", "polymode", "sample", str(runs / "ppca"), "-n", "9", "--seed", "7", "--out", str(typed)],
        check=True, capture_output=True, cwd=REPOSITORY,
    )  # fmt: skip
    assert typed.read_bytes() == saved.read_bytes()


def test_a_hole_is_painted_and_filled(page):
    tab(page, "Restore")
    choose(page, "restore-run", "ppca")
    page.click("#take")
    page.wait_for_selector("#canvas canvas")
    time.sleep(2)
    box = page.locator("#canvas canvas").first.bounding_box()
    page.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 0.4 * box["height"])
    page.mouse.down()
    for share in (0.5, 0.6, 0.45, 0.55):
        page.mouse.move(box["x"] + share * box["width"], box["y"] + (1 - share) * box["height"], steps=6)
    page.mouse.up()
    page.click("#fill")
    page.wait_for_selector("#filled img")
    assert "unchanged" in page.inner_text("body")


def test_a_phone_in_the_dark_has_room(browser, studio):
    context = browser.new_context(viewport={"width": 400, "height": 800}, color_scheme="dark")
    page = context.new_page()
    page.goto(f"{studio.url}?__theme=dark")
    page.wait_for_selector("#start")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    context.close()
