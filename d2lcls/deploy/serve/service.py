"""The routes: what the service answers at which address."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import re
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import parse_qs

from d2lcls.deploy.serve import openapi
from d2lcls.deploy.serve.batching import Batcher, Outcome, Ranked
from d2lcls.deploy.serve.decoders.lanes import Decoded, Decoding, Pictures
from d2lcls.deploy.serve.http import Connection, Request, http_date
from d2lcls.deploy.serve.limits import Limits, Refused, busy
from d2lcls.deploy.serve.logs import Repeated
from d2lcls.deploy.serve.metrics import Metrics
from d2lcls.deploy.serve.pictures import MEDIA_TYPES, encoded

TOP = 5
METRICS_EVERY = 0.1  # seconds, as writing them takes several milliseconds

log = logging.getLogger(__name__)


class Service:
    """The routes, the token and the state, in the event loop's thread.

    Args:
        limits: `Limits`.
        metrics: `Metrics`.
        token: that clients must send; None for a service without a token.
        reload: begins a reload and returns a future of (status, content).
        log_requests: log every request, not only those that failed.
        hosts: names that the header Host may have; empty for any.
    """

    batcher: Batcher

    def __init__(
        self,
        limits: Limits,
        metrics: Metrics,
        token: str | None,
        reload: Callable[[], asyncio.Future[tuple[int, dict[str, Any]]]],
        log_requests: bool = False,
        hosts: frozenset[str] = frozenset(),
    ) -> None:
        self.limits, self.metrics, self.log_requests, self.failures = limits, metrics, log_requests, Repeated(log)
        self.token = token.encode() if token else None
        self.reload, self.hosts = reload, hosts
        self.connections: set[Connection] = set()
        self.addresses: Counter[str] = Counter()
        self.held, self.closing, self.date = 0, False, http_date()
        self.decoding = Decoding(limits)
        self.document = _json(openapi.document(limits, MEDIA_TYPES, bool(token)))
        self.asking: list[Request] = []  # for the metrics
        self.metrics_from = 0.0  # when they may be written again
        self.routes: dict[tuple[str, str], Callable[[Request], None]] = {
            ("POST", "/v1/predict"): self._predict,
            ("GET", "/v1/models"): self._models,
            ("POST", "/v1/reload"): self._reload,
            ("GET", "/healthz"): self._health,
            ("GET", "/metrics"): self._metrics,
            ("GET", "/openapi.json"): self._openapi,
        }
        self.paths = {path for _, path in self.routes}
        metrics.waiting.set_function(lambda: self.batcher.waiting)
        metrics.held.set_function(lambda: self.held)
        metrics.connections.set_function(lambda: len(self.connections))

    def use(self, batcher: Batcher) -> None:
        """Answer with this model from now on."""
        self.batcher, self.since = batcher, time.time()
        self.name = json.dumps(batcher.manifest["name"])
        self.labels = [json.dumps(name) for name in batcher.manifest["classes"]]

    # Called by connections.

    def check(self, request: Request) -> None:
        """Raise `Refused` for a request whose headers already show that it will not be carried out."""
        host = request.headers.get(b"host")
        if self.hosts and host is not None and _name(host) not in self.hosts:
            raise Refused(421, "The header Host names another service. Allow that name with --allow-host.")
        if request.route not in self.routes:
            if request.path not in self.paths:
                raise Refused(404, f"There is no such address. There are {', '.join(sorted(self.paths))}.")
            allowed = ", ".join(sorted(method for method, path in self.routes if path == request.path))
            raise Refused(405, f"The method must be {allowed}.", {"Allow": allowed})
        if self.token and request.path not in ("/healthz", "/openapi.json"):
            scheme, _, token = request.headers.get(b"authorization", b"").partition(b" ")
            if scheme.lower() != b"bearer" or not hmac.compare_digest(token.strip(), self.token):
                raise Refused(
                    401,
                    "Send the header Authorization: Bearer TOKEN with the service's token.",
                    {"WWW-Authenticate": "Bearer"},
                )
        if request.path == "/v1/predict":
            if request.headers.get(b"content-encoding", b"identity").lower() != b"identity":
                raise Refused(415, "Content-Encoding is not supported. Send the body as it is.")
            self.batcher.check(request.connection.client)

    def handle(self, request: Request) -> None:
        """Respond to a request, now or later."""
        try:
            self.routes[request.route](request)
        except Refused as refused:
            request.refuse(refused)
        except Exception as error:
            request.refuse(self.failed(error, request.path))

    def record(self, request: Request, status: int) -> None:
        """Count and log a response."""
        route = request.path if request.path in self.paths else "other"
        seconds = time.monotonic() - request.begun
        self.metrics.request(route, str(status), seconds)
        details: dict[str, Any] = {"method": request.method, "path": request.path[:200], "status": status}
        if self.log_requests:
            log.info("request", {**details, "ms": round(1000 * seconds, 2)})
        elif status >= 400:
            event = "refused" if status != 500 else "failed"
            self.failures.log(logging.INFO if status < 500 else logging.WARNING, event, {**details, "path": route})

    def failed(self, error: BaseException | None, path: str | None) -> Refused:
        """Log an unexpected error, without its message, which may hold a picture, and return the `Refused`."""
        where = [
            f"{frame.name} in {frame.filename.rpartition('/')[2]}:{frame.lineno}"
            for frame in (traceback.extract_tb(error.__traceback__) if error else ())
        ]
        log.error("unforeseen", {"error": type(error).__name__, "where": where, "path": path})
        return Refused(500, "The service has failed; its log has the details.")

    def tick(self) -> None:
        """Close connections whose time is up, and update the date; to be called once a second."""
        self.date = http_date()
        now = time.monotonic()
        for connection in list(self.connections):
            connection.tick(now)
        self.failures.flush()

    def drain(self) -> None:
        """Close the idle connections."""
        for connection in list(self.connections):
            connection.drain()

    # Routes.

    def _predict(self, request: Request) -> None:
        batcher, name, labels = self.batcher, self.name, self.labels
        top: Any = _top(request.query) if request.query else TOP
        kind = request.headers.get(b"content-type", b"application/octet-stream").decode("latin-1")
        pictures, in_body = encoded(kind, request.body, self.limits)
        top = top if in_body is None else in_body
        if type(top) is not int or not 1 <= top <= 1000:
            raise Refused(400, "top must be a whole number from 1 to 1000.")

        def finish(outcome: Outcome) -> None:
            if isinstance(outcome, Refused):
                request.refuse(outcome)
            else:
                request.respond(200, _predictions(name, labels, outcome, top))

        client, size = request.connection.client, sum(map(len, pictures))
        ticket = batcher.admit(client, len(pictures), finish)

        def decoded(images: Decoded) -> None:
            self.held -= size
            if isinstance(images, Refused):
                batcher.abandon(ticket, images)
            else:
                batcher.submit(ticket, images)

        request.release()
        self.held += size  # also if the client is gone before its turn comes
        try:
            self.decoding.submit(Pictures(pictures, batcher.preprocess, client, lambda: ticket.finished, decoded))
        except Refused as refused:
            decoded(refused)

    def _models(self, request: Request) -> None:
        manifest = self.batcher.manifest
        side = manifest["preprocess"]["crop"]
        model = {key: manifest[key] for key in ("name", "form", "classes", "accuracy", "files", "made_from")}
        model["input"] = {"height": side, "width": side, **manifest["preprocess"]}
        model["since"] = round(self.since, 3)
        request.respond(200, _json({"models": [model]}))

    def _reload(self, request: Request) -> None:
        if not self.token:
            raise Refused(403, "The service has no token, so it is reloaded with the signal HUP only.")

        def reloaded(future: asyncio.Future[tuple[int, dict[str, Any]]]) -> None:
            status, content = future.result()
            request.respond(status, _json(content))

        self.reload().add_done_callback(reloaded)

    def _health(self, request: Request) -> None:
        if self.closing:
            raise busy(5, "The service is being stopped.")
        if not self.batcher.engines:
            raise busy(5, "The model is being restarted.")
        request.respond(200, _json({"status": "ok", "model": self.batcher.manifest["name"]}))

    def _metrics(self, request: Request) -> None:
        self.asking.append(request)
        if len(self.asking) == 1:
            asyncio.get_running_loop().call_at(self.metrics_from, self._write_metrics)

    def _write_metrics(self) -> None:
        """Write the metrics once for all who have asked since the last time."""
        self.metrics_from = asyncio.get_running_loop().time() + METRICS_EVERY
        asking, self.asking = self.asking, []
        text = self.metrics.text()
        for request in asking:
            request.respond(200, text, b"text/plain; version=0.0.4; charset=utf-8")

    def _openapi(self, request: Request) -> None:
        request.respond(200, self.document)


def _name(host: bytes) -> str:
    """Return the name in a header Host, without the port."""
    return re.sub(r":\d*$", "", host.decode("latin-1").strip().lower())


def _top(query: str) -> int:
    parameters = parse_qs(query, max_num_fields=8, keep_blank_values=True) if query.count("&") < 8 else {}
    text = parameters.pop("top", [""])[-1]
    if parameters or not (text.isascii() and text.isdigit()) or len(text) > 4:
        raise Refused(400, "The only parameter is top, a whole number from 1 to 1000.")
    return int(text)


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, allow_nan=False).encode()


def _predictions(name: str, labels: Sequence[str], results: Sequence[Ranked], top: int) -> bytes:
    """Write the body of a response; `name` and `labels` are JSON already, as this is done for every request."""
    pictures = []
    for order, probabilities in results:
        classes = ", ".join(
            [
                f'{{"class": {labels[index]}, "probability": {probability:.6g}}}'
                for index, probability in zip(order[:top].tolist(), probabilities[:top].tolist())
            ]
        )
        pictures.append(f"[{classes}]")
    return f'{{"model": {name}, "predictions": [{", ".join(pictures)}]}}'.encode()
