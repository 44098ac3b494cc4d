"""The page of `zipr1 play` in a real browser."""

import shutil

import pytest
from play_server import ROOT, served

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no `chromium` on the path"),
]


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    pytest.importorskip("gradio", reason="gradio is not installed: make play-test")
    with served(tmp_path_factory.mktemp("play")) as (url, _):
        yield url


@pytest.fixture
def page(url):
    """The page, opened; whatever it asks another host for fails the test."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: make play-test")
    elsewhere: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("request", lambda one: elsewhere.append(one.url))
        page.goto(url)
        page.get_by_label("Question").wait_for()
        yield page
        browser.close()
    assert not [one for one in elsewhere if not one.startswith((url, "data:", "blob:"))]


def press(page) -> None:
    page.get_by_role("button", name="Answer", exact=True).click()


def test_a_question_is_answered_and_drawn(page):
    page.locator("input[type=file]").first.set_input_files(str(ROOT / "docs/shapes.png"))
    page.get_by_label("Question").fill("What colour is the circle?")
    page.get_by_label("number input for p: attention to keep").fill("0.9")
    page.get_by_role("radio", name="layer").check()
    press(page)
    page.locator("table").wait_for()
    for name in ("Sparse attention", "Dense attention"):
        assert page.get_by_role("textbox", name=name).input_value() == "orange"
    assert "p = 0.9, of 100 prompt tokens" in page.locator("code").inner_text()
    rows = [row.inner_text().split("\t") for row in page.locator("table tr").all()]
    assert [row[0].strip() for row in rows[1:4]] == ["tokens", "prefill", "per token"]
    pictures = page.locator(".thumbnails img")
    assert pictures.count() == 6
    shown = page.locator(".preview img").first
    before = shown.get_attribute("src")
    pictures.nth(3).click()  # the third layer
    page.wait_for_function("was => document.querySelector('.preview img').src !== was", arg=before)


def test_a_mistake_is_shown_until_it_is_closed_and_can_be_corrected(page):
    page.get_by_label("Question").fill("What colour is the circle?")
    press(page)
    page.get_by_text("no image or video: upload one").wait_for()
    page.locator("input[type=file]").first.set_input_files(
        {"name": "a.png", "mimeType": "image/png", "buffer": b"\x89PNG\r\n\x1a\nbroken"}
    )
    page.wait_for_timeout(1000)  # until the upload is there
    press(page)
    page.get_by_text("a.png: ").first.wait_for()
    assert page.get_by_role("textbox", name="Sparse attention").input_value() == ""
