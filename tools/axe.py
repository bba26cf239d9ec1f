"""Report what axe-core finds serious or critical on the pages of a built site, in light and in dark mode.

    make book
    python tools/axe.py                        every page of _build/html
    python tools/axe.py _build/html/book/networks/optimisation.html

axe-core is downloaded once through npm, in the version below, into `_build/axe`. The exit status is 1 if anything is
found, and 2 if axe-core or Chromium is missing.
"""

import argparse
import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools/browser"))
import chromium  # noqa: E402

VERSION = "4.11.1"
SHA512 = (  # of the package's archive
    "04048e83e6303b60bedf8eb1dcb64e7a8a2f4c8a13ad1a84b2a31ae9f99f015d"
    "0ff94f6616bf4db32384a6262f1636dceb834cad2b30855e7459d5f375bfd9e4"
)
SCRIPT = ROOT / f"_build/axe/axe-{VERSION}.min.js"
THEMES, IMPACTS = ("light", "dark"), ("serious", "critical")


class AxeMissing(Exception):
    """axe-core could not be downloaded; the message is the reason."""


@dataclass(frozen=True)
class Finding:
    """One rule that a page breaks: its name, how much that matters, what to do, and the elements, as CSS selectors."""

    rule: str
    impact: str
    help: str
    elements: tuple[str, ...]


def fetch_axe(path: Path | None = None) -> str:
    """Return the source of axe-core, which is downloaded to `path` (by default `SCRIPT`) unless that exists.

    Raises:
        AxeMissing: npm is not installed, or could not fetch the package.
    """
    path = path or SCRIPT
    if not path.exists():
        npm = shutil.which("npm")
        if not npm:
            raise AxeMissing("npm is not installed")
        with tempfile.TemporaryDirectory() as folder:
            command = [npm, "pack", f"axe-core@{VERSION}", "--ignore-scripts", "--prefer-offline", "--fetch-retries=1"]
            run = subprocess.run([*command, "--silent"], cwd=folder, capture_output=True, text=True, timeout=300)
            if run.returncode:
                raise AxeMissing("npm could not fetch axe-core")
            archive = Path(folder, f"axe-core-{VERSION}.tgz").read_bytes()
        if hashlib.sha512(archive).hexdigest() != SHA512:
            raise AxeMissing("npm fetched another file than the one whose checksum is in tools/axe.py")
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            script = files.extractfile("package/axe.min.js")
            assert script is not None
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(script.read())
    return path.read_text(encoding="utf-8")


def findings(page: Page, script: str) -> list[Finding]:
    """Run axe-core on the page that is open, and return what is serious or critical."""
    if not page.evaluate("typeof axe === 'object'"):
        page.evaluate(f"{script}; undefined")
    options = "{ resultTypes: ['violations'], preload: false }"  # else it looks for style sheets at wrong addresses
    found = page.evaluate(f"axe.run({options}).then((result) => result.violations)")
    return [
        Finding(
            rule=violation["id"],
            impact=violation["impact"],
            help=violation["help"],
            elements=tuple(" ".join(map(str, node["target"])) for node in violation["nodes"]),
        )
        for violation in found
        if violation["impact"] in IMPACTS
    ]


def set_theme(page: Page, theme: str) -> None:
    """Show the open page in "light" or "dark" mode, as the theme's button does."""
    page.evaluate("(theme) => Object.assign(document.documentElement.dataset, { theme, mode: theme })", theme)


def unfold(page: Page) -> None:
    """Open everything that is folded, because axe skips what cannot be seen, and stop what fades in."""
    page.add_style_tag(content="* { animation: none !important; transition: none !important; }")
    page.evaluate("for (const folded of document.querySelectorAll('details')) folded.open = true")
    page.evaluate(
        "document.querySelectorAll('.toggle-hidden').forEach((each) => each.classList.remove('toggle-hidden'))"
    )


def audit(
    site: Path, pages: Sequence[Path], script: str, width: int = 1280
) -> Iterator[tuple[Path, str, list[Finding]]]:
    """Yield (page, theme, findings) for each page of a site and each theme, in a window of that many pixels' width."""
    with chromium.web_server(site) as address, chromium.open_page() as page:
        page.set_viewport_size({"width": width, "height": 900})
        for path in pages:
            page.goto(f"{address}/{path.relative_to(site).as_posix()}", wait_until="load")
            unfold(page)
            for theme in THEMES:
                set_theme(page, theme)
                yield path, theme, findings(page, script)


def _is_page(path: Path) -> bool:
    """Whether the file is neither a part of the theme nor a mere redirection."""
    return "_static" not in path.parts and 'http-equiv="refresh"' not in path.read_text(encoding="utf-8").lower()


def main(argv: Sequence[str] | None = None) -> int:
    """Print the findings of every page, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pages", nargs="*", type=Path, help="HTML files of the site; all of them by default")
    parser.add_argument("--site", type=Path, default=ROOT / "_build/html", help="folder of the built site")
    parser.add_argument("--width", type=int, default=1280, help="width of the window, pixels")
    arguments = parser.parse_args(argv)
    site = arguments.site.resolve()
    if not site.is_dir():
        parser.error(f"{site} does not exist. Build the site first: make book")
    pages = [path.resolve() for path in arguments.pages] or sorted(filter(_is_page, site.rglob("*.html")))
    if chromium.BROWSER is None:
        print("Chromium is not installed.", file=sys.stderr)
        return 2
    try:
        script = fetch_axe()
    except AxeMissing as reason:
        print(f"{reason}.", file=sys.stderr)
        return 2
    number = 0
    for path, theme, found in audit(site, pages, script, arguments.width):
        print(f"{path.relative_to(site)} ({theme}): {len(found) or 'nothing'}", flush=True)
        for finding in found:
            number += 1
            print(f"  {finding.impact}: {finding.rule}: {finding.help} ({len(finding.elements)} elements)")
            for element in finding.elements[:3]:
                print(f"    {element}")
    print(f"{len(pages)} pages, {number} findings")
    return 1 if number else 0


if __name__ == "__main__":
    sys.exit(main())
