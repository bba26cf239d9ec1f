"""What the service counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """Counters of one service, in a registry of their own."""

    def __init__(self) -> None:
        disable_created_metrics()  # one more line for each counter: when it began
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter("d2lcls_requests", "Requests answered.", ["route", "status"], registry=registry)
        self._seconds = Histogram(
            "d2lcls_request_seconds",
            "From a request's first byte to its response.",
            ["route", "status"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._pictures = Histogram(
            "d2lcls_batch_pictures", "Pictures computed at once.", buckets=(1, 2, 4, 8, 16, 32, 64), registry=registry
        )
        self._batch_seconds = Histogram(
            "d2lcls_batch_seconds", "Time that a batch took.", buckets=_SECONDS, registry=registry
        )
        self.waiting = Gauge("d2lcls_waiting_pictures", "Pictures accepted and not yet answered.", registry=registry)
        self.held = Gauge("d2lcls_held_bytes", "Bytes of bodies in memory.", registry=registry)
        self.connections = Gauge("d2lcls_connections", "Open connections.", registry=registry)
        self.restarts = Counter("d2lcls_engine_ends", "Workers that ended unexpectedly.", registry=registry)
        self.reloads = Counter("d2lcls_reloads", "Reloads of the model.", ["outcome"], registry=registry)
        self._children: dict[tuple[str, str], tuple[Counter, Histogram]] = {}  # a look-up costs more than counting

    def request(self, route: str, status: str, seconds: float) -> None:
        """Count a response."""
        children = self._children.get((route, status))
        if children is None:
            children = self._requests.labels(route, status), self._seconds.labels(route, status)
            self._children[route, status] = children
        children[0].inc()
        children[1].observe(seconds)

    def batch(self, pictures: int, seconds: float) -> None:
        """Count a batch."""
        self._pictures.observe(pictures)
        self._batch_seconds.observe(seconds)

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)
