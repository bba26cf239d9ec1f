"""A server that sends more than expected is stopped early; one that redirects elsewhere is refused."""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from d2lcls.data.download.transfer import SourceFailed, download

import pytest

LIMIT = 1 << 20


@pytest.fixture
def endless():
    """A server whose answers are decided by the path; `sent` counts the bytes of bodies."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path.startswith("/to/"):
                self.send_response(302)
                self.send_header("Location", self.path[len("/to/") :])
                return self.end_headers()
            self.send_response(206 if self.path == "/range" else 200)
            if self.path == "/announced":
                self.send_header("Content-Length", str(300 << 20))
            elif self.path == "/nonsense":
                self.send_header("Content-Length", "many")
            self.end_headers()
            try:
                while self.server.sent < 64 << 20:
                    self.server.sent += self.wfile.write(bytes(1 << 16))
            except ConnectionError:
                pass

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.sent = True, 0
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("path", ["announced", "uncounted", "nonsense", "range"])
@pytest.mark.parametrize("begun", [0, 1000])
def test_a_longer_file_is_not_received_whole(endless, tmp_path, path, begun):
    if begun:
        (tmp_path / f"{'0' * 40}.part").write_bytes(bytes(begun))
    with pytest.raises(SourceFailed, match=r"announced 314,\d{3},\d{3} bytes|sent more than the 1,048,576 bytes"):
        download(f"http://127.0.0.1:{endless.server_port}/{path}", "0" * 40, tmp_path, LIMIT)
    assert endless.sent < 32 << 20  # what the sockets buffer
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/a", "data:,a", "gopher://127.0.0.1"])
def test_other_schemes_are_not_followed(endless, tmp_path, target):
    with pytest.raises(SourceFailed, match="redirected to an address that is not http or https"):
        download(f"http://127.0.0.1:{endless.server_port}/to/{target}", "0" * 40, tmp_path, LIMIT)
    assert not list(tmp_path.iterdir())
