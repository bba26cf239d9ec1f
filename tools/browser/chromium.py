"""A page in the system's Chromium, driven by Playwright, and a web server for a folder."""

import contextlib
import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextlib.contextmanager
def open_page() -> Iterator[Page]:
    """Start Chromium without a window, yield an empty page, and stop Chromium.

    An asyncio event loop runs in this thread until then, so that no other can be started.
    """
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=BROWSER, timeout=60_000) as browser,
    ):
        page = browser.new_page()
        page.set_default_timeout(60_000)  # ms
        yield page


@contextlib.contextmanager
def web_server(folder: Path | str) -> Iterator[str]:
    """Serve a folder as `python -m http.server` does, and yield its address."""
    handler = functools.partial(_SilentHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


class _SilentHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *arguments):
        """Print nothing."""
