"""A headless Chromium, driven through the protocol of its developer tools."""

import contextlib
import functools
import http.server
import json
import shutil
import subprocess
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import websocket

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page:
    """One page of a running browser.

    Args:
        address: of its debugger, "ws://...".
    """

    def __init__(self, address):
        self._socket = websocket.create_connection(address, timeout=120, suppress_origin=True)
        self._count = 0

    def call(self, method, **arguments):
        """Call a method of the DevTools protocol and return its result; RuntimeError if it fails."""
        self._count += 1
        self._socket.send(json.dumps({"id": self._count, "method": method, "params": arguments}))
        while True:
            answer = json.loads(self._socket.recv())
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def evaluate(self, expression):
        """Return what a JavaScript expression, or the promise that it is, evaluates to; RuntimeError if it throws."""
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"].get("exception", {}).get("description", "JavaScript failed"))
        return result["result"].get("value")

    def open(self, address):
        """Go to a page and wait until it has loaded."""
        self.call("Page.navigate", url=address)
        self.wait(f"location.href === {json.dumps(address)} && document.readyState === 'complete'")

    def wait(self, condition, seconds=60):
        """Wait until a JavaScript condition holds; TimeoutError if it does not."""
        end = time.monotonic() + seconds
        while not self.evaluate(f"Boolean({condition})"):
            if time.monotonic() > end:
                raise TimeoutError(f"After {seconds} s this did not hold: {condition}")
            time.sleep(0.05)

    def choose_file(self, selector, path):
        """Choose a file in a file input, as a reader does."""
        self.call("DOM.enable")
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def close(self):
        """Close the connection."""
        self._socket.close()


@contextlib.contextmanager
def browse(*options):
    """Start a browser with a profile of its own, hand out a `Page`, and end the browser."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [
            BROWSER,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--remote-debugging-port=0",
            f"--user-data-dir={profile}",
            *options,
            "about:blank",
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port = _port(Path(profile, "DevToolsActivePort"), process)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=60) as answer:
                page = next(target for target in json.load(answer) if target["type"] == "page")
            page = Page(page["webSocketDebuggerUrl"])
            yield page
            page.close()
        finally:
            process.terminate()
            try:
                process.wait(timeout=60)
            finally:
                process.kill()  # does nothing to a process that has ended


def _port(file, process, seconds=60):
    end = time.monotonic() + seconds
    while not (file.is_file() and file.read_text().strip()):
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"{BROWSER} did not start (exit status {process.poll()}).")
        time.sleep(0.05)
    return file.read_text().split()[0]


@contextlib.contextmanager
def web_server(folder):
    """Serve a folder as `python -m http.server` does, and hand out its address."""
    handler = functools.partial(_Silent, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


class _Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        """Print nothing."""
