"""On the built site, no page scrolls sideways, at the width of a laptop or of a phone, and no code is cut off."""

from pathlib import Path

import chromium
import pytest

SITE = Path(__file__).parents[2] / "_build/html"
PAGES = sorted((SITE / "book").rglob("*.html"))
WIDE = """
() => [...document.querySelectorAll("article *")]
  .filter((each) => each.offsetParent && each.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
  .map((each) => `${each.tagName} ${each.className} ${each.textContent.trim().slice(0, 60)}`)
"""
CUT_OFF = """
() => [...document.querySelectorAll("div.highlight pre, .cell_output pre")]
  .filter((each) => each.offsetParent && each.scrollWidth > each.clientWidth + 1)
  .map((each) => each.textContent.trim().split("\\n").sort((a, b) => b.length - a.length)[0])
"""
SCROLLS = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture
def pages(browser):
    """A function that opens every page at a width and yields (name, page)."""
    if not PAGES:
        pytest.skip("the site is not built; build it with: make book")

    def opened(width):
        with chromium.web_server(SITE) as address:
            browser.set_viewport_size({"width": width, "height": 900})
            for path in PAGES:
                browser.goto(f"{address}/{path.relative_to(SITE).as_posix()}", wait_until="load")
                yield path.stem, browser

    return opened


@pytest.mark.parametrize("width", [1280, 390])
def test_no_page_scrolls_sideways(pages, width):
    found = {name: page.evaluate(WIDE)[:3] for name, page in pages(width) if page.evaluate(SCROLLS) > 0}
    assert not found


def test_no_code_and_no_output_is_cut_off(pages):
    found = {name: lines for name, page in pages(1280) if (lines := page.evaluate(CUT_OFF))}
    assert not found, "\n".join(f"{name}: {len(lines)}, such as {lines[0]}" for name, lines in found.items())
