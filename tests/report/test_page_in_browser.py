"""The page of a run in Chromium, from a file: nothing runs, nothing is fetched, and it fits every screen."""

import sys
from pathlib import Path

from d2lcls.report import report_page

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools/browser"))
sys.path.insert(0, str(ROOT / "tools"))
import axe  # noqa: E402
import chromium  # noqa: E402


@pytest.fixture(scope="module")
def browser():
    if chromium.BROWSER is None:
        pytest.skip("Chromium is not installed")
    with chromium.open_page() as page:
        yield page


@pytest.fixture(scope="module")
def opened(browser, findings, tmp_path_factory):
    """The page, opened in the browser, and what happened meanwhile: requests, messages and dialogs."""
    file, events = tmp_path_factory.mktemp("page") / "report.html", []
    file.write_text(report_page(findings))
    browser.on("request", lambda request: events.append(request.url))
    browser.on("console", lambda message: events.append(message.text))
    browser.on("pageerror", lambda error: events.append(str(error)))
    browser.on("dialog", lambda dialog: (events.append("dialog"), dialog.dismiss()))
    browser.goto(file.as_uri())
    return browser, file, events


def test_nothing_is_fetched_and_no_name_runs_as_code(opened):
    page, file, events = opened
    assert [event for event in events if not event.startswith("data:image/")] == [file.as_uri()]
    loaded = page.locator("img").evaluate_all("(images) => images.map((image) => image.naturalWidth)")
    assert len(loaded) > 4 and min(loaded) > 0


@pytest.mark.parametrize("width", [1280, 390, 320])
def test_it_fits_the_screen(opened, width):
    page, _, _ = opened
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    left_out = page.evaluate(
        "(width) => [...document.querySelectorAll('p, li, h1, h2, pre, figure, dd, .facts td')]"
        ".filter((e) => e.checkVisibility() && e.getBoundingClientRect().right > width + 1).map((e) => e.outerHTML)",
        width,
    )
    assert left_out == []
    size = page.evaluate("parseFloat(getComputedStyle(document.querySelector('td')).fontSize)")
    assert size >= 14


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_everybody_can_read_it_in_light_and_in_dark(opened, scheme, width):
    page, _, _ = opened
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
    try:
        script = axe.fetch_axe()
    except axe.AxeMissing as reason:
        pytest.skip(f"axe-core is missing: {reason}")
    axe.unfold(page)
    assert axe.findings(page, script) == []


def test_it_prints_in_light_colours_on_a_few_pages(opened):
    page, _, _ = opened
    page.emulate_media(color_scheme="dark", media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.emulate_media(media="screen")
    content = page.pdf(format="A4")
    assert content.startswith(b"%PDF") and 1 <= content.count(b"/Type /Page\n") + content.count(b"/Type /Page ") <= 12
