"""A small data set and a web server for it on this machine, with faults to order."""

import hashlib
import io
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from d2lcls.data.download.dataset import Dataset, Download, File, Source

import numpy as np

CONTENTS = {
    name: np.random.default_rng(seed).bytes(size)  # noise, which gzip cannot shrink
    for seed, (name, size) in enumerate([("a.bin", 900_000), ("b.bin", 100_000)])
}


def sha1(content):
    return hashlib.sha1(content).hexdigest()


def tar(members):
    """A .tar.gz with these (name, content) members."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


ARCHIVE = tar([(f"folder/{name}", content) for name, content in CONTENTS.items()])


class Server:
    """A web server with faults to order; `log` lists the (path, Range header) of the requests."""

    def __init__(self):
        self.pages, self.log = {"/good.tar.gz": ARCHIVE}, []
        self.ranges = True  # whether it heeds the Range header
        self.cut = []  # for each next answer: close the connection after so many bytes
        self.hold = None  # an Event to wait for in the middle of each answer
        self.pause = 0  # seconds after each 16 kB
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, request):
        self.log.append((request.path, request.headers.get("Range")))
        content = self.pages.get(request.path)
        if content is None:
            return request.send_error(404)
        begin = int(request.headers.get("Range", "bytes=0-")[6:-1]) if self.ranges else 0
        if begin >= len(content):
            return request.send_error(416)
        request.send_response(206 if begin else 200)
        request.send_header("Content-Length", str(len(content) - begin))
        request.end_headers()
        body = content[begin:]
        if self.cut:
            request.wfile.write(body[: self.cut.pop(0)])
            return None  # and the connection is closed before all is sent
        half = len(body) // 2
        try:
            request.wfile.write(body[:half])
            if self.hold:
                self.hold.wait(10)
            for first in range(half, len(body), 1 << 14):
                request.wfile.write(body[first : first + (1 << 14)])
                time.sleep(self.pause)
        except ConnectionError:  # the other side was killed: as planned
            pass

    def source(self, path="/good.tar.gz", title="source"):
        return Source(title, "web", (Download(self.address + path, sha1(ARCHIVE)),))


def dataset_of(*sources, contents=CONTENTS):
    files = tuple(
        File(name, len(content), sha1(content), "test" if name[0] in "bt" else "train")
        for name, content in contents.items()
    )
    return Dataset("fake", "Fake", ("one",), (1, 1, 1), {}, files, "cifar", sources, 9_000_000, "", "")


def holds(folder, contents=CONTENTS):
    return {path.name: path.read_bytes() for path in folder.iterdir()} == contents
