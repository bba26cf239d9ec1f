"""What the service's HTTP connection answers to bytes that arrive in given pieces, without a socket."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterable

from d2lcls.deploy.serve.http import Connection, Request
from d2lcls.deploy.serve.limits import Limits, Refused

# The last answer. Of two faults in one request, llhttp finds the one or the other first.
_REFUSAL = re.compile(rb"HTTP/1\.1 [45]\d\d [^{]*\r\nConnection: close\r\n[^{]*\{[^}]*\}\Z")
_LOOP = asyncio.new_event_loop()


class Transport:
    """The client's side: collects what is written."""

    def __init__(self) -> None:
        self.written, self.closed, self.ended = b"", False, False

    def get_extra_info(self, name: str) -> tuple[str, int]:
        return "127.0.0.1", 1

    def write(self, data: bytes) -> None:
        assert not self.ended, f"{data!r} was written after the end"
        self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True

    close = abort

    def write_eof(self) -> None:
        self.ended = True

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


class Echo:
    """A service that answers every request with what it has understood, now or at the next turn of the event loop."""

    held, closing, date = 0, False, b"now"

    def __init__(self, later: bool) -> None:
        self.later, self.limits = later, Limits()
        self.connections: set[Connection] = set()
        self.addresses: Counter[str] = Counter()

    def check(self, request: Request) -> None:
        if request.path == "/refused":
            raise Refused(404, "There is no such address.")

    def handle(self, request: Request) -> None:
        understood = (request.method, request.path, request.query, sorted(request.headers.items()), bytes(request.body))
        answer = lambda: request.respond(200, repr(understood).encode())  # noqa: E731
        asyncio.get_running_loop().call_soon(answer) if self.later else answer()

    def record(self, request: Request, status: int) -> None:
        pass

    def failed(self, error: BaseException | None, path: str | None) -> Refused:
        raise AssertionError("a request made the parser fail") from error


async def _answers(pieces: Iterable[bytes], later: bool, half_closed: bool = False) -> bytes:
    service, transport = Echo(later), Transport()
    connection = Connection(service)
    failures: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: failures.append(context))
    connection.connection_made(transport)  # type: ignore[arg-type]
    for piece in pieces:
        connection.data_received(piece)
        await asyncio.sleep(0)
    if half_closed and not connection.eof_received():
        transport.closed = True
    while connection.scheduled or (connection.active and not transport.closed):
        await asyncio.sleep(0)
        assert not failures, failures
    assert transport.closed or connection.ending or not connection.unparsed, "requests are left"
    assert transport.closed or not connection.pipeline, "requests are left"
    connection.connection_lost(None)
    assert service.held == 0, f"{service.held} bytes are still counted"
    assert not service.connections and not service.addresses
    answers = transport.written.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")  # not sent while another is answered
    return _REFUSAL.sub(b"refused", answers)


def check_pieces(data: bytes, points: Iterable[int], later: bool = False, half_closed: bool = False) -> bytes:
    """Return the answers to `data`, after checking that they are the same if it is cut at these points.

    Args:
        later: the service answers at the next turn of the event loop.
        half_closed: behind the last piece, the client closes its sending half.
    """
    cuts = [0, *sorted(points), len(data)]

    async def both() -> tuple[bytes, bytes]:
        whole = await _answers([data], later)
        return whole, await _answers([data[a:b] for a, b in zip(cuts, cuts[1:])], later, half_closed)

    whole, cut = _LOOP.run_until_complete(both())
    if half_closed:
        whole, cut = (answers.replace(b"Connection: close\r\n", b"") for answers in (whole, cut))
    assert whole == cut, f"{whole!r} in one piece, {cut!r} cut at {cuts[1:-1]}"
    return whole
