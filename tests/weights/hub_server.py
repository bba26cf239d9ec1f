"""The part of the Hugging Face hub that fetching one file needs, on this machine, with faults to order."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer:
    """Serves `model.safetensors` of each repository in `files`; `log` lists (method, path, Range header).

    Like the hub, it answers HEAD with the commit, the size and the sha256, and a redirect to another host.
    """

    def __init__(self):
        self.files, self.log = {}, []
        self.refuse = None  # (status, X-Error-Code) of every answer
        self.commit = COMMIT  # what "main" is
        self.cut = []  # for each next download: close the connection after so many bytes
        self.swap = None  # content that is sent instead, of the same length
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self):
                outer.log.append(("HEAD", self.path, None))
                outer.head(self)

            def do_GET(self):
                if self.path.startswith("/api/"):  # lists that huggingface_hub 2 asks for, and does without
                    return outer.answer(self, 404, {})
                outer.log.append(("GET", self.path, self.headers.get("Range")))
                return outer.send(self)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self):
        self.http.shutdown()
        self.http.server_close()

    def head(self, request):
        repository, _, name = request.path[1:].partition("/resolve/main/")
        content = self.files.get(repository)
        status, code = self.refuse or (404, "RepoNotFound" if content is None else "EntryNotFound")
        if self.refuse or content is None or name != "model.safetensors":
            return self.answer(request, status, {"X-Error-Code": code, "X-Repo-Commit": self.commit})
        sha256 = hashlib.sha256(content).hexdigest()
        return self.answer(
            request,
            302,
            {
                "X-Repo-Commit": self.commit,
                "X-Linked-Size": str(len(content)),
                "X-Linked-ETag": f'"{sha256}"',
                "Location": f"http://localhost:{self.http.server_port}/cdn/{sha256}",
            },
        )

    def send(self, request):
        contents = {hashlib.sha256(content).hexdigest(): content for content in self.files.values()}
        content = contents.get(request.path.removeprefix("/cdn/"))
        if content is None:
            return self.answer(request, 404, {})
        begin = int((request.headers.get("Range") or "bytes=0-")[6:].partition("-")[0])
        body = (self.swap or content)[begin:]
        self.answer(request, 206 if begin else 200, {}, body)
        return None

    def answer(self, request, status, headers, body=b""):
        request.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            if value:
                request.send_header(name, value)
        request.end_headers()
        if body and self.cut:
            body = body[: self.cut.pop(0)]
            request.close_connection = True
        request.wfile.write(body)
