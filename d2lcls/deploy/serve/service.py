"""What the service answers to which address."""

import hmac
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qs

from d2lcls.deploy.serve import answers, openapi
from d2lcls.deploy.serve.http import date_now
from d2lcls.deploy.serve.limits import Refused, busy
from d2lcls.deploy.serve.logs import Often
from d2lcls.deploy.serve.pictures import FORMS, decode, encoded, pixels

DECODERS = 2
SMALL = 16_384, 65_536  # bytes and pixels of a picture that is decoded sooner than it is handed to another thread
TOP = 5


class Service:
    """The routes, the token and what is going on. Everything but the decoding of large pictures is in one thread.

    Args:
        limits: `Limits`.
        metrics: `Metrics`.
        log: function of (level, event) and named details.
        token: what clients must know, None for no such thing.
        reload: function without arguments that begins a reload and returns a Future of (status, content).
        access: log every request, not only those that failed.
    """

    def __init__(self, limits, metrics, log, token, reload, access=False):
        self.limits, self.metrics, self.log, self.often, self.access = limits, metrics, log, Often(log), access
        self.token = token.encode() if token else None
        self.reload = reload
        self.connections, self.held, self.closing, self.date = set(), 0, False, date_now()
        self.decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="decode")
        self.decoding, self.decoding_pace = 0, 0.0  # pictures that are with them, and seconds for one of these
        self.batcher, self.since, self.name, self.labels = None, None, None, None
        self.routes = {
            ("POST", "/v1/predict"): self._predict,
            ("GET", "/v1/models"): self._models,
            ("POST", "/v1/reload"): self._reload,
            ("GET", "/healthz"): self._health,
            ("GET", "/metrics"): self._metrics,
            ("GET", "/openapi.json"): self._openapi,
        }
        self.paths = {path for _, path in self.routes}
        metrics.waiting.set_function(lambda: self.batcher.waiting if self.batcher else 0)
        metrics.held.set_function(lambda: self.held)
        metrics.connections.set_function(lambda: len(self.connections))

    def use(self, batcher):
        """Answer with this model from now on."""
        self.batcher, self.since = batcher, time.time()
        self.name = answers.as_json(batcher.content["name"]).decode()
        self.labels = [answers.as_json(name).decode() for name in batcher.classes]

    # What a connection asks of the service.

    def check(self, request):
        """Raise `Refused` for a request whose headers already say that it will not be carried out."""
        method = "GET" if request.method == "HEAD" else request.method
        if (method, request.path) not in self.routes:
            if request.path not in self.paths:
                raise Refused(404, f"There is no such address. There are {', '.join(sorted(self.paths))}.")
            allowed = ", ".join(sorted(m for m, path in self.routes if path == request.path))
            raise Refused(405, f"This address takes {allowed}.", {"Allow": allowed})
        if self.token and request.path not in ("/healthz", "/openapi.json"):
            scheme, _, given = request.headers.get(b"authorization", b"").partition(b" ")
            if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self.token):
                raise Refused(
                    401,
                    "Send the header Authorization: Bearer TOKEN with the service's token.",
                    {"WWW-Authenticate": "Bearer"},
                )
        if request.path == "/v1/predict":
            if request.headers.get(b"content-encoding", b"identity").lower() != b"identity":
                raise Refused(415, "Content-Encoding is not understood. Send the body as it is.")
            self.batcher.check()

    def handle(self, request):
        """Answer a request, now or later."""
        method = "GET" if request.method == "HEAD" else request.method
        try:
            self.routes[method, request.path](request)
        except Refused as refused:
            request.refuse(refused)
        except Exception as error:
            request.refuse(self.failed(request, error))

    def answered(self, request, status):
        """Count and log an answer."""
        route = request.path if request.path in self.paths else "other"
        seconds = time.monotonic() - request.begun
        self.metrics.request(route, str(status), seconds)
        if self.access:
            self.log(
                "info",
                "request",
                method=request.method,
                path=request.path[:200],
                status=status,
                ms=round(1000 * seconds, 2),
            )
        elif status >= 400:
            self.often(
                "info" if status < 500 else "warning",
                "refused" if status != 500 else "failed",
                status=status,
                method=request.method,
                path=route,
            )

    def failed(self, request, error):
        """Log an error that nobody foresaw, without its message, which may hold a picture; return the `Refused`."""
        where = [
            f"{frame.name} in {frame.filename.rpartition('/')[2]}:{frame.lineno}"
            for frame in traceback.extract_tb(error.__traceback__)
        ]
        self.log("error", "unforeseen", error=type(error).__name__, where=where, path=request.path if request else None)
        return Refused(500, "Something went wrong here; the service's log says where.")

    def tick(self):
        """What is done once a second: close connections whose time is up, renew the date."""
        self.date = date_now()
        now = time.monotonic()
        for connection in list(self.connections):
            connection.tick(now)
        self.often.flush()

    def drain(self):
        """Close the connections on which nothing is going on."""
        for connection in list(self.connections):
            connection.drain()

    # Routes.

    def _predict(self, request):
        kind = request.headers.get(b"content-type", b"application/octet-stream").decode("latin-1")
        top = _top(request.query) if request.query else TOP
        batcher, name, labels = self.batcher, self.name, self.labels

        def done(outcome):
            if isinstance(outcome, Refused):
                request.refuse(outcome)
            else:
                request.answer(200, answers.predictions(name, labels, outcome, top))

        def bring(ticket, images):
            if isinstance(images, Refused):
                batcher.abandon(ticket, images)
            else:
                batcher.submit(ticket, images)

        blobs, asked = encoded(kind, request.body, self.limits)
        top = top if asked is None else asked
        if type(top) is not int or not 1 <= top <= 1000:
            raise Refused(400, "top must be a whole number from 1 to 1000.")
        if len(blobs) == 1 and len(blobs[0]) <= SMALL[0] and pixels(blobs[0]) <= SMALL[1]:
            ticket = batcher.admit(1, done)
            return bring(ticket, self._decoded(request, blobs, batcher, ticket))
        expected = self.decoding * self.decoding_pace
        if expected > self.limits.seconds / 2:
            raise busy(expected)
        ticket = batcher.admit(len(blobs), done)
        request.release()
        return self._decode_aside(request, blobs, batcher, ticket, bring)

    def _decode_aside(self, request, blobs, batcher, ticket, bring):
        count, size = len(blobs), sum(map(len, blobs))
        self.decoding += count
        self.held += size  # even if the client is gone before its turn comes

        def work():
            begun = time.monotonic()
            return self._decoded(request, blobs, batcher, ticket), time.monotonic() - begun

        def decoded(future):
            images, seconds = future.result()
            self.decoding -= count
            self.held -= size
            if not ticket.over:
                self.decoding_pace += 0.2 * (seconds / count / DECODERS - self.decoding_pace)
            bring(ticket, images)

        self.loop.run_in_executor(self.decoders, work).add_done_callback(decoded)

    def _decoded(self, request, blobs, batcher, ticket):
        try:
            return decode(blobs, batcher.preprocess, self.limits, lambda: ticket.over)
        except Refused as refused:
            return refused
        except Exception as error:
            return self.failed(request, error)

    def _models(self, request):
        content = self.batcher.content
        side = content["preprocess"]["crop"]
        model = {
            "name": content["name"],
            "form": content["form"],
            "classes": content["classes"],
            "input": {"height": side, "width": side, **content["preprocess"]},
            "accuracy": content["accuracy"],
            "files": content["files"],
            "made_from": content["made_from"],
            "since": round(self.since, 3),
        }
        request.answer(200, answers.as_json({"models": [model]}))

    def _reload(self, request):
        if not self.token:
            raise Refused(403, "The service has no token, so it is reloaded with the signal HUP only.")
        future = self.reload()
        future.add_done_callback(lambda future: request.answer(future.result()[0], answers.as_json(future.result()[1])))

    def _health(self, request):
        if self.closing:
            raise busy(5, "The service is being stopped.")
        if not self.batcher.engines:
            raise busy(5, "The model is being started anew.")
        request.answer(200, answers.as_json({"status": "ok", "model": self.batcher.content["name"]}))

    def _metrics(self, request):
        request.answer(200, self.metrics.text(), b"text/plain; version=0.0.4; charset=utf-8")

    def _openapi(self, request):
        request.answer(200, answers.as_json(openapi.document(self.limits, FORMS, bool(self.token))))


def _top(query):
    given = parse_qs(query, max_num_fields=8, keep_blank_values=True) if query.count("&") < 8 else {}
    text = given.pop("top", [""])[-1]
    if given or not text.isdigit() or len(text) > 4:
        raise Refused(400, "The only parameter is top, a whole number from 1 to 1000.")
    return int(text)
