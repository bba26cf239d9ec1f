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
import time
from collections import deque
from email.utils import formatdate
from http import HTTPStatus
from typing import Protocol

from d2lcls.deploy.serve.fair import Client
from d2lcls.deploy.serve.limits import Limits, Refused, busy

import httptools

PIPELINED = 16  # requests of one connection that may wait for the one before them
HEADERS = 64  # lines of one request
LINGER = 2.0  # seconds in which a client may read the last response before the connection is torn down
STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
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
        self.ending = False  # nothing more is read
        self.reading_paused = False
        self.writing_paused = False  # the client does not read its responses, so it gets no more of them
        self.deadline = 0.0  # when the connection's time is up, 0 for never

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # a socket's, always
        """Count the connection, and refuse it if there are too many."""
        self.transport = transport
        self.client = Client(transport.get_extra_info("peername")[0], id(self))
        self.service.connections.add(self)
        self.deadline = time.monotonic() + self.limits.receive
        if len(self.service.connections) > self.limits.connections:
            self._give_up(busy(1, "Too many connections."))
            self.transport.close()  # without time to read that, or the system would soon be out of files

    def connection_lost(self, error: Exception | None) -> None:
        """Free what the connection holds."""
        self.service.connections.discard(self)
        if self.arriving:
            self.request.release()
        for request in (self.active, *self.pipeline):
            if request:
                request.release()
        self.ending, self.arriving, self.active = True, False, None
        self.pipeline.clear()

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
        self.ending = True
        return self.active is not None

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        if self.ending:
            return
        self.overhead += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:  # the request is valid; what follows is of a protocol not supported here
            self.ending = True
            if not self.active:
                self.close()
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
        path, _, query = self.url.partition(b"?")
        request.path, request.query = path.decode("latin-1"), query.decode("latin-1")
        if len(self.url) > self.limits.header:
            raise Refused(414, f"The address is longer than {self.limits.header} bytes.")
        version, expect = parser.get_http_version(), request.headers.get(b"expect", b"").lower()
        if version not in ("1.0", "1.1"):
            raise Refused(505, "Only HTTP/1.1 is supported.")
        if version == "1.1" and b"host" not in request.headers:
            raise Refused(400, "The header Host is missing.")
        length = int(request.headers.get(b"content-length", b"0"))  # llhttp has checked that it is a number
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
        self.arriving, self.in_headers, self.overhead = False, True, 0
        if self.active is None and not self.writing_paused:
            return self._begin(self.request)
        self.pipeline.append(self.request)
        self.ending = self.ending or len(self.pipeline) >= PIPELINED
        return self._pause_reading()

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
        keep_alive = request.keep_alive and (bool(self.pipeline) or not (self.ending or self.service.closing))
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
        self.active = None
        if not keep_alive:
            self.close()
        elif not self.writing_paused:
            self._continue()

    def _continue(self) -> None:
        if self.pipeline:
            self._begin(self.pipeline.popleft())
        else:
            self.deadline = time.monotonic() + self.limits.idle
            if self.reading_paused:
                self.reading_paused = False
                self.transport.resume_reading()

    def _give_up(self, refused: Refused) -> None:
        """Refuse what is no request or too large a one, and close."""
        request = self.request if self.arriving else Request(self)
        self.arriving, self.ending = False, True
        if self.active:  # its response comes, and then the end
            request.release()
            return
        self.active, request.keep_alive = request, False
        request.refuse(refused)

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

    def drain(self) -> None:
        """Take no further request; one that is arriving or being answered is still finished."""
        if not (self.active or self.arriving or self.ending):
            self.close()


def http_date() -> bytes:
    """Return the time in the form of HTTP's Date header."""
    return formatdate(usegmt=True).encode()
