"""HTTP/1.1 for one connection: llhttp parses the bytes; this file keeps the limits, the order and the time.

Requests of one connection are answered one after the other. A client that sends too much, too slowly or no HTTP gets
one response with the reason, and the connection is closed.

Why not uvicorn or granian: both were put in front of the same batcher, and were quick enough for 2,500 requests/s
(processor time per request +12% and +31%), but neither bounds what a client may do before or after the application
runs, and ASGI has no hook for it.

- uvicorn 0.54 with httptools limits neither the size of headers and trailers nor their time: one client that sent an
  endless header made it grow by 150 MB per second. Connections that send nothing, or half a header, are never closed.
  It reads on from a client that sends requests and reads no responses: 1.8 GB after 20 s. Where a request is followed
  by nonsense, or its client has closed its sending half, the response is lost.
- granian 2.8 bounds headers and their time, but waits forever for clients that read no responses: as many of them as
  there may be connections, and nobody else is served, nor can the service be stopped. Half-closed clients get no
  response. To run in the batcher's process it needs its embedded server, which its authors call experimental.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter, deque
from email.utils import formatdate
from http import HTTPStatus
from typing import Protocol

from d2lcls.deploy.serve.fair import Client
from d2lcls.deploy.serve.limits import Limits, Refused, busy

import httptools

SLICE = 4096  # bytes that are parsed at once: a hundred small requests, after which others have their turn
HEADERS = 64  # lines of one request
LINGER = 2.0  # seconds in which a client may read the last response before the connection is torn down
STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_AUTHORITY = re.compile(rb"https?://([^/?#]*)", re.IGNORECASE)
_ONCE = {b"host", b"content-length", b"content-type", b"authorization", b"transfer-encoding", b"expect"}


class Request:
    """One request: `method`, `path` and `query` are texts, `headers` a dict from lower-case bytes to bytes."""

    __slots__ = ("connection", "method", "path", "query", "headers", "body", "keep_alive", "refused", "begun", "done")

    def __init__(self, connection: Connection) -> None:
        self.connection, self.method, self.path, self.query = connection, "", "", ""
        self.headers: dict[bytes, bytes] = {}
        self.body: bytes | bytearray = b""
        self.refused: Refused | None = None
        self.keep_alive, self.begun, self.done = True, time.monotonic(), False

    @property
    def route(self) -> tuple[str, str]:
        """Method and path, where HEAD is GET."""
        return "GET" if self.method == "HEAD" else self.method, self.path

    def respond(
        self, status: int, body: bytes, kind: bytes = b"application/json", headers: dict[str, str] | None = None
    ) -> None:
        """Send the response, unless one was sent or the client is gone."""
        if not self.done:
            self.done = True
            self.connection.send(self, status, body, kind, headers or {})

    def refuse(self, refused: Refused) -> None:
        """Respond with problem details (RFC 9457)."""
        status = refused.status
        problem = {"status": status, "title": HTTPStatus(status).phrase, "detail": refused.reason}
        self.respond(status, json.dumps(problem).encode(), b"application/problem+json", refused.headers)

    def release(self) -> None:
        """Free the body, which is no longer needed."""
        self.connection.service.held -= len(self.body)
        self.body = b""


class Front(Protocol):
    """What a connection needs of the service behind it."""

    limits: Limits
    connections: set[Connection]
    addresses: Counter[str]  # how many connections each address has
    held: int  # bytes of all bodies in memory
    closing: bool
    date: bytes

    def check(self, request: Request) -> None:
        """Raise `Refused` if a request is refused by its headers alone."""

    def handle(self, request: Request) -> None:
        """Answer a complete request, now or later."""

    def record(self, request: Request, status: int) -> None:
        """Count a response that is being sent."""

    def failed(self, error: BaseException | None, path: str | None) -> Refused:
        """Log an error of the program and return the response to it."""


class Connection(asyncio.Protocol):
    """One client of a service."""

    transport: asyncio.Transport
    request: Request  # the last one that began to arrive

    def __init__(self, service: Front) -> None:
        self.service, self.limits = service, service.limits
        self.client = Client("", id(self))
        self.parser = httptools.HttpRequestParser(self)
        self.in_headers, self.header_lines, self.url, self.size = True, 0, b"", 0
        self.overhead = 0  # bytes since the last complete headers or piece of a body
        self.arriving = False  # whether the request is incomplete
        self.active: Request | None = None  # the request that is being answered
        self.pipeline: deque[Request] = deque()  # complete requests that wait for the active one
        self.unparsed = bytearray()  # what came after them
        self.first = True  # whether the next request is the first one of this turn of the event loop
        self.scheduled = False  # whether another turn has been asked for
        self.upgrading = False  # whether the parser is about to end for a protocol that is not supported here
        self.since = time.monotonic()  # since when nothing has been answered
        self.answered = False  # whether anything has been
        self.ending = False  # nothing more is read
        self.half_closed = False  # nothing more comes; what is in `unparsed` is still answered
        self.reading_paused = False
        self.writing_paused = False  # the client does not read its responses, so it gets no more of them
        self.deadline = 0.0  # when the connection's time is up, 0 for never

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # a socket's, always
        """Count the connection, and refuse it if there are too many."""
        self.transport = transport
        self.client = Client(transport.get_extra_info("peername")[0], id(self))
        service, limits = self.service, self.limits
        service.connections.add(self)
        service.addresses[self.client.address] += 1
        self.deadline = time.monotonic() + limits.receive
        if service.addresses[self.client.address] > limits.address_connections:
            self._make_room(self.client.address)
        elif len(service.connections) > limits.connections:
            self._make_room(max(service.addresses, key=service.addresses.__getitem__))

    def _make_room(self, address: str) -> None:
        """Close the idlest connection of an address, or this one if all are in use."""
        idle = [
            other
            for other in self.service.connections
            if other.client.address == address
            and other is not self
            and not (other.active or other.pipeline or other.transport.is_closing())
        ]
        if idle:
            min(idle, key=lambda other: (other.answered, other.since)).transport.abort()
        else:
            self._give_up(busy(1, "Too many connections."))
            self.transport.close()  # without time to read that, or the system would soon be out of files

    def connection_lost(self, error: Exception | None) -> None:
        """Free what the connection holds."""
        service, address = self.service, self.client.address
        service.connections.discard(self)
        service.addresses[address] -= 1
        if not service.addresses[address]:
            del service.addresses[address]
        if self.arriving:
            self.request.release()
        for request in (self.active, *self.pipeline):
            if request:
                request.release()
        self.ending, self.arriving, self.active = True, False, None
        self.pipeline.clear()
        self.unparsed.clear()

    def pause_writing(self) -> None:
        """Stop reading and responding until the client has read what was sent."""
        self.writing_paused, self.deadline = True, time.monotonic() + self.limits.receive
        self._pause_reading()

    def resume_writing(self) -> None:
        """Continue."""
        self.writing_paused = False
        if not self.active and (self.pipeline or not self.ending):
            self._continue()

    def eof_received(self) -> bool:
        """Keep the connection open if a response is due: a client may close its half and still read."""
        self.half_closed, self.ending = True, self.ending or not self.unparsed
        return self.active is not None or bool(self.pipeline or self.unparsed)

    def data_received(self, data: bytes) -> None:
        """Parse what came, up to the end of a request."""
        if self.ending and not self.pipeline:
            return
        self.unparsed += data
        if self.active or self.pipeline or self.scheduled or self.writing_paused:
            self._pause_reading()
        else:
            self._parse()

    def _parse(self) -> None:
        self.first = True
        while self.unparsed and not (self.ending or self.active or self.pipeline or self.scheduled):
            data = bytes(self.unparsed[:SLICE])
            del self.unparsed[:SLICE]
            self._feed(data)
        if self.pipeline and not self.active:
            self._schedule()
        elif self.unparsed and not self.ending:
            self._pause_reading()

    def _feed(self, data: bytes) -> None:
        self.overhead += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            if not isinstance(cause, Refused):
                cause = self.service.failed(cause, self.request.path if self.arriving else None)
            self._give_up(cause)
        except httptools.HttpParserError:
            self._give_up(Refused(400, "This is not HTTP/1.1."))
        else:
            if self.overhead > self.limits.header:  # also of the last chunk, which may have headers
                self._give_up(self._long_headers())

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Parse the request again without its wish for another protocol, which llhttp takes for the end of HTTP."""
        if not self.upgrading:  # CONNECT, which has been refused
            self.ending = True
            return
        self.upgrading = False
        request, version = self.request, self.parser.get_http_version()
        headers = {name: value for name, value in request.headers.items() if name != b"upgrade"}
        head = [f"{request.method} ".encode(), self.url, f" HTTP/{version}\r\n".encode()]
        head += [b"%s: %s\r\n" % header for header in headers.items()]
        begun, self.parser = request.begun, httptools.HttpRequestParser(self)
        self.unparsed[:0] = rest
        self._feed(b"".join((*head, b"\r\n")))
        self.request.begun = begun

    # Called by llhttp, in this order.

    def on_message_begin(self) -> None:
        """Begin a request."""
        self.request, self.arriving = Request(self), True
        self.url, self.header_lines, self.size = b"", 0, 0
        if not self.active:
            self.deadline = time.monotonic() + self.limits.receive

    def on_url(self, url: bytes) -> None:
        """Take a piece of the address."""
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        if not self.in_headers:  # trailers of a chunked body have no meaning here
            return
        self.header_lines += 1
        self.size += len(name) + len(value)
        if self.header_lines > HEADERS or self.size > self.limits.header:
            raise self._long_headers()
        name, headers = name.lower(), self.request.headers
        if name in _ONCE and name in headers:
            raise Refused(400, f"The header {name.decode('latin-1')} is there twice.")
        headers[name] = value

    def on_headers_complete(self) -> None:
        """Check whether the request can be carried out, before its body is read."""
        request, parser = self.request, self.parser
        self.in_headers, self.overhead, self.size = False, 0, 0
        request.method, request.keep_alive = parser.get_method().decode("latin-1"), parser.should_keep_alive()
        self.upgrading = parser.should_upgrade() and request.method != "CONNECT"
        if self.upgrading:  # what follows is parsed again
            return
        authority = _AUTHORITY.match(self.url)
        if authority:  # the form of the address that proxies get, whose authority replaces the header Host
            request.headers[b"host"] = authority[1]
        path, _, query = (self.url[authority.end() :] or b"/" if authority else self.url).partition(b"?")
        request.path, request.query = path.decode("latin-1"), query.decode("latin-1")
        if len(self.url) > self.limits.header:
            raise Refused(414, f"The address is longer than {self.limits.header} bytes.")
        version, expect = parser.get_http_version(), request.headers.get(b"expect", b"").lower()
        if version not in ("1.0", "1.1"):
            raise Refused(505, "Only HTTP/1.1 is supported.")
        if version == "1.1" and b"host" not in request.headers:
            raise Refused(400, "The header Host is missing.")
        if request.headers.get(b"transfer-encoding", b"chunked").strip().lower() != b"chunked":
            raise Refused(501, "Transfer-Encoding must be chunked, and nothing else.")
        digits = request.headers.get(b"content-length", b"").strip().lstrip(b"0")  # Python refuses thousands of zeros
        length = int(digits or b"0")  # llhttp has checked that it is a number
        try:
            if length > self.limits.body:
                raise self._large_body()
            if self.service.held + length > self.limits.held:
                raise busy(1)
            self.service.check(request)
        except Refused as refused:
            if length > 65_536 or expect:
                raise  # without reading the body
            request.refused = refused
        if expect == b"100-continue" and not self.active:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        """Take a piece of the body."""
        request, self.overhead = self.request, 0
        self.size += len(data)
        if self.size > self.limits.body:
            raise self._large_body()
        if request.refused:
            return
        self.service.held += len(data)
        if not request.body:
            request.body = data
        else:
            request.body = request.body if isinstance(request.body, bytearray) else bytearray(request.body)
            request.body += data
        if self.service.held > self.limits.held:
            raise busy(1)

    def on_message_complete(self) -> None:
        """Answer the request, or let it wait for the one before it."""
        self.in_headers, self.overhead = True, 0
        if self.upgrading:
            return
        self.arriving = False
        if self.first and not (self.active or self.pipeline or self.writing_paused):
            self.first = False
            self._begin(self.request)
        else:  # also if the one before it has been answered at once: other connections have their turn first
            self.pipeline.append(self.request)
            self._pause_reading()

    def _pause_reading(self) -> None:
        self.reading_paused = True
        self.transport.pause_reading()

    def _long_headers(self) -> Refused:
        return Refused(431, f"More than {HEADERS} headers, or more than {self.limits.header} bytes of them.")

    def _large_body(self) -> Refused:
        return Refused(413, f"The body has more than {self.limits.body} bytes, the limit.")

    # Responses.

    def _begin(self, request: Request) -> None:
        self.active, self.deadline = request, 0.0
        if request.refused:
            request.refuse(request.refused)
        else:
            self.service.handle(request)

    def send(self, request: Request, status: int, body: bytes, kind: bytes, headers: dict[str, str]) -> None:
        """Write a response and continue with the next request."""
        request.release()
        self.service.record(request, status)
        if self.active is not request or self.transport.is_closing():
            return
        keep_alive = request.keep_alive and (
            bool(self.pipeline) or not self.ending and (bool(self.unparsed) or not self.service.closing)
        )
        head = [
            STATUS_LINES[status],
            b"Content-Type: ",
            kind,
            b"\r\nContent-Length: %d\r\nDate: " % len(body),
            self.service.date,
            b"\r\nX-Content-Type-Options: nosniff\r\n",
            *(f"{name}: {value}\r\n".encode("latin-1") for name, value in headers.items()),
            b"\r\n" if keep_alive else b"Connection: close\r\n\r\n",
        ]
        if request.method != "HEAD":
            head.append(body)
        self.transport.write(b"".join(head))
        self.active, self.answered = None, True
        if not keep_alive:
            self.close()
        elif not self.writing_paused:
            self._continue()

    def _continue(self) -> None:
        self.since = time.monotonic()
        if self.pipeline or self.unparsed or self.half_closed:
            self._schedule()
        elif self.service.closing:
            self.close()
        else:
            self.deadline = time.monotonic() + self.limits.idle
            if self.reading_paused:
                self.reading_paused = False
                self.transport.resume_reading()

    def _schedule(self) -> None:
        if not self.scheduled:
            self.scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self.scheduled = False
        if self.active or self.writing_paused or self.transport.is_closing():
            return
        if self.pipeline:
            self._begin(self.pipeline.popleft())
        elif self.half_closed and not self.unparsed:
            self.close()
        elif not self.ending:
            self._parse()
            if not (self.active or self.scheduled or self.unparsed):
                self._continue()

    def _give_up(self, refused: Refused) -> None:
        """Refuse what is no request or too large a one, and close; nothing follows a response that was the last."""
        if self.ending:
            return
        request = self.request if self.arriving else Request(self)
        self.arriving, self.ending = False, True
        request.release()
        request.refused, request.keep_alive = refused, False
        last = self.pipeline[-1] if self.pipeline else self.active
        if last is None:
            self._begin(request)
        elif last.keep_alive:
            self.pipeline.append(request)  # after the responses to those before it

    def close(self) -> None:
        """Send what is written, end our half, and give the client a moment to read it."""
        self.ending, self.deadline = True, time.monotonic() + LINGER
        if not self.transport.is_closing():
            self.transport.write_eof()
            self.transport.resume_reading()  # what still comes is dropped; unread, it would reset the connection

    def tick(self, now: float) -> None:
        """Close the connection if its time is up; called about once a second."""
        if not self.deadline or now < self.deadline:
            return
        if self.arriving and not (self.ending or self.writing_paused):
            self._give_up(Refused(408, f"The request did not arrive within {self.limits.receive:g} s."))
        else:
            self.transport.abort()

    def waited_for(self) -> bool:
        """Return whether a stop should wait for this connection: not if the client does not read its responses."""
        return (self.active is not None or self.arriving) and not self.writing_paused

    def drain(self) -> None:
        """Take no further request; one that is arriving or being answered is still finished."""
        if not (self.active or self.arriving or self.ending):
            self.close()


def http_date() -> bytes:
    """Return the time in the form of HTTP's Date header."""
    return formatdate(usegmt=True).encode()
