"""How much the service accepts: whatever exceeds a limit is refused at once, with a status that names the reason."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any


def _limit(default: Any, text: str, option: bool = True) -> Any:
    """Return a field whose metadata are its help text and whether `d2lcls serve` has an option for it."""
    return field(default=default, metadata={"help": text, "option": option})


@dataclass(frozen=True)
class Limits:
    """Limits of the service.

    The texts below are also the help of `d2lcls serve`.

    Raises:
        ValueError: a limit is not above 0 (`batch_wait` may be 0), or contradicts another one.
    """

    batch_size: int = _limit(32, "pictures computed at once")
    batch_wait: float = _limit(0.002, "seconds that a picture waits for others to share its batch")
    waiting: int = _limit(256, "pictures accepted and not yet answered; more get 503")
    seconds: float = _limit(5.0, "time limit of a request once it has arrived, then 504")
    pictures: int = _limit(32, "pictures in one request; more get 413")
    pixels: int = _limit(25_000_000, "pixels of one picture, checked before it is decoded; more get 413")
    body: int = _limit(10_000_000, "bytes of one request's body; more get 413")
    held: int = _limit(128_000_000, "bytes of all bodies together; more get 503", option=False)
    header: int = _limit(16_384, "bytes of a request line and its headers; more get 431", option=False)
    connections: int = _limit(1000, "open connections; the one idle for longest is closed", option=False)
    address_connections: int = _limit(256, "open connections of one address; the one idle for longest is closed")
    receive: float = _limit(20.0, "seconds for a request to arrive, then 408; and for a client to read its answers")
    idle: float = _limit(60.0, "seconds that a connection stays open between two requests", option=False)
    grace: float = _limit(10.0, "seconds for accepted requests when the service is stopped")
    load: float = _limit(120.0, "seconds for the model to be loaded and tried")

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if not value > 0 and not (entry.name == "batch_wait" and value == 0):
                raise ValueError(f"{entry.name} must be above 0, not {value!r}.")
        if self.pictures > self.waiting:
            raise ValueError(
                f"A request of pictures={self.pictures} never fits where waiting={self.waiting} are accepted. "
                "Raise waiting, or lower pictures."
            )
        if self.body > self.held:
            raise ValueError(
                f"A body of body={self.body} bytes never fits where held={self.held} are kept in memory. "
                "Raise held, or lower body."
            )


class Refused(Exception):
    """A request that is not carried out.

    Args:
        status: of HTTP.
        reason: a sentence for the client.
        headers: additional headers of the response.
    """

    def __init__(self, status: int, reason: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.headers = status, reason, headers or {}


def busy(seconds: float, reason: str = "The service is busy.") -> Refused:
    """Return the `Refused` for a request that may be sent again after so many seconds."""
    wait = max(1, min(60, int(seconds + 0.999)))
    return Refused(503, f"{reason} Try again in {wait} s.", {"Retry-After": str(wait)})
