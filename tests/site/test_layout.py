"""On the built site, no page scrolls sideways on a laptop or a phone, and no code, formula or table is cut off."""

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
FORMULAS = """
async () => {
  await (window.MathJax?.startup?.promise ?? Promise.resolve());
  return [...document.querySelectorAll("div.math, mjx-container[display=true], .bd-article table")]
    .filter((each) => each.offsetParent && !each.closest("details:not([open])"))
    .filter((each) => each.scrollWidth > each.clientWidth + 1)
    .map((each) => `${each.tagName} ${each.textContent.trim().slice(0, 60)} ${each.scrollWidth} > ${each.clientWidth}`);
}
"""
RAW_TABLES = """
() => [...document.querySelectorAll("article p")]
  .map((each) => each.textContent.trim())
  .filter((text) => text.startsWith("| "))
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
def test_nothing_scrolls_sideways_and_nothing_is_cut_off(pages, width):
    found = {}
    for name, page in pages(width):
        wide = page.evaluate(WIDE) if page.evaluate(SCROLLS) > 0 else []
        wide += page.evaluate(RAW_TABLES)
        if width == 1280:  # on a phone, wide tables and formulas scroll by themselves
            wide += page.evaluate(CUT_OFF) + page.evaluate(FORMULAS)
        if wide:
            found[name] = wide
    assert not found, "\n".join(f"{name}: {len(wide)}, such as {wide[0]}" for name, wide in found.items())
