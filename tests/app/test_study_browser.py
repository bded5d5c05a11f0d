"""A participant in a real browser: consent, keys, clicks, leaving, coming back, the end; then the analysis."""

from __future__ import annotations

import re
import shutil
import signal

import pytest

from polymode.app.service.study.analyse import analyse
from polymode.app.service.study.export import whole

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
pytest.importorskip("starlette.testclient", reason="needs polymode[study]")
pytest.importorskip("uvicorn", reason="needs polymode[study]")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("needs a chromium on the path", allow_module_level=True)

from tests.app.test_study import Served, make  # noqa: E402


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def served(tmp_path):
    server = Served(make(tmp_path / "study.db", trials=10, checks=0, png=True))
    yield server
    server.end(signal.SIGTERM)


def place(page) -> int:
    return int(page.locator("#place").inner_text().split()[0])


def test_a_participant_answers_leaves_returns_and_ends(browser, served, tmp_path):
    troubles: list[str] = []
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.goto(served.url)
    assert "I agree & understand." in page.inner_text("main")
    with page.expect_navigation():
        page.click("#begin")
    assert page.locator("img.sharp").count() == 2
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth === 8)")
    page.wait_for_function("getComputedStyle(document.querySelector('img')).imageRendering === 'pixelated'")
    for k, key in enumerate(("1", "2", "0", "ArrowLeft", "ArrowRight", "ArrowDown"), 1):
        assert place(page) == k
        with page.expect_navigation():
            page.keyboard.press(key)
    for k, choice in enumerate(("left", "right"), 7):
        assert place(page) == k
        with page.expect_navigation():
            page.click(f"button[value={choice}]")
    code = page.inner_text("#mycode")
    context.close()

    phone = browser.new_context(viewport={"width": 400, "height": 780}, color_scheme="dark")
    page = phone.new_page()
    page.on("console", lambda message: troubles.append(message.text))
    page.goto(served.url)
    page.fill("#code", code.upper())
    page.click("#resume")
    assert place(page) == 9
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.keyboard.press("x")  # no key of ours
    assert place(page) == 9
    for _ in range(2):
        with page.expect_navigation():
            page.dblclick("button[value=tie]", no_wait_after=True)
    page.wait_for_selector("#done")
    phone.close()
    assert troubles == []

    path = str(tmp_path / "study.db")
    answers = whole(path)["answers"]
    expected = ["left", "right", "tie", "left", "right", "tie", "left", "right", "tie", "tie"]
    assert [a["choice"] for a in answers] == expected
    assert all(0 < a["seconds"] < 60 for a in answers)
    found = analyse(path)
    assert (found["answers"], found["raters"], found["ties"]) == (10, 1, 4)
    assert re.fullmatch(r"[a-z2-9]{4}-[a-z2-9]{4}", code)


def test_the_page_works_without_scripts(browser, served):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(served.url)
    with page.expect_navigation():
        page.click("#begin")
    page.click("button[value=left]")
    assert place(page) == 2
    context.close()
