"""How much a service takes on: what is beyond is refused at once, with a status that says why."""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Limits:
    """Bounds of the service, each with the status that a request beyond it gets.

    Args:
        batch_size: pictures computed at once.
        batch_wait: seconds that a picture waits for others to share its batch.
        waiting: pictures accepted and not yet answered; more are 503.
        seconds: time limit of a request once it is received; then 504.
        pictures: in one request; more are 413.
        pixels: of one picture, read from its header before it is decoded; more are 413.
        body: bytes of one request; more are 413.
        held: bytes of all requests' bodies together; more are 503.
        header: bytes of a request line with its headers; more are 431.
        connections: open at once; more are 503 and closed.
        receive: seconds for a request to arrive; then 408.
        idle: seconds that a connection may stay open between two requests; then it is closed.
        grace: seconds for accepted requests when the service is told to stop.
        load: seconds for a model to be loaded and tried.
    """

    batch_size: int = 32
    batch_wait: float = 0.002
    waiting: int = 256
    seconds: float = 5.0
    pictures: int = 32
    pixels: int = 25_000_000
    body: int = 10_000_000
    held: int = 128_000_000
    header: int = 16_384
    connections: int = 1000
    receive: float = 20.0
    idle: float = 60.0
    grace: float = 10.0
    load: float = 120.0

    def __post_init__(self):
        for entry in fields(self):
            value = getattr(self, entry.name)
            if not value > 0 and not (entry.name == "batch_wait" and value == 0):
                raise ValueError(f"{entry.name} must be above 0, not {value!r}.")
        if self.pictures > self.waiting:
            raise ValueError(
                f"pictures={self.pictures} in a request never fit where waiting={self.waiting} are "
                "accepted. Raise waiting, or lower pictures."
            )
        if self.body > self.held:
            raise ValueError(
                f"body={self.body} bytes never fit where held={self.held} are held. Raise held, or lower body."
            )


class Refused(Exception):
    """A request that is not carried out.

    Args:
        status: of HTTP.
        reason: a sentence for the client.
        headers: dict of more headers of the answer.
    """

    def __init__(self, status, reason, headers=None):
        super().__init__(reason)
        self.status, self.reason, self.headers = status, reason, headers or {}


def busy(seconds, reason="The service is busy."):
    """Return the `Refused` of a request that may come back after so many seconds."""
    wait = max(1, min(60, int(seconds + 0.999)))
    return Refused(503, f"{reason} Try again in {wait} s.", {"Retry-After": str(wait)})
