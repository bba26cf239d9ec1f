"""HTTP/1.1 for one connection: llhttp reads the bytes, this file keeps the bounds, the order and the time.

Requests of one connection are answered one after the other. Whoever sends too much, too slowly or nonsense gets one
answer that says so, and the connection is closed.
"""

import asyncio
import time
from collections import deque
from email.utils import formatdate
from http import HTTPStatus

from d2lcls.deploy.serve.answers import problem
from d2lcls.deploy.serve.limits import Refused, busy

import httptools

PIPELINED = 16  # requests of one connection that may wait for the one before them
HEADERS = 64  # lines of one request
LINGER = 2.0  # seconds in which a client may read the last answer before the connection is torn down
STATUS = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_ONCE = {b"host", b"content-length", b"content-type", b"authorization", b"transfer-encoding", b"expect"}


class Request:
    """One request: `method`, `path` and `query` are texts, `headers` a dict from lower-case bytes to bytes."""

    __slots__ = ("connection", "method", "path", "query", "headers", "body", "keep", "refused", "begun", "answered")

    def __init__(self, connection):
        self.connection, self.method, self.path, self.query, self.headers = connection, "", "", "", {}
        self.body, self.keep, self.refused, self.begun, self.answered = b"", True, None, time.monotonic(), False

    def answer(self, status, body, kind=b"application/json", headers=None):
        """Send the answer, unless one was sent or the client has gone."""
        if not self.answered:
            self.answered = True
            self.connection.send(self, status, body, kind, headers)

    def refuse(self, refused):
        """Answer with a `Refused`."""
        body = problem(refused.status, refused.reason)
        self.answer(refused.status, body, b"application/problem+json", refused.headers)

    def release(self):
        """Let go of the body, which is no longer needed."""
        self.connection.front.held -= len(self.body)
        self.body = b""


class Connection(asyncio.Protocol):
    """One client. `front` is the `Service`: its limits, what is open and held, its `check`, `handle` and `answered`."""

    def __init__(self, front):
        self.front, self.limits = front, front.limits
        self.parser = httptools.HttpRequestParser(self)
        self.in_headers, self.lines, self.url, self.size = True, 0, b"", 0
        self.overhead = 0  # bytes that came since there was a whole header or a piece of a body
        self.reading = None  # the request that is arriving
        self.active = None  # the request that is being answered
        self.complete = deque()  # requests that wait for it
        self.last = False  # nothing more is read
        self.paused = False
        self.unread = False  # the client does not read its answers, so it gets no more of them
        self.until = 0.0  # when the connection's time is up, 0 for never

    def connection_made(self, transport):
        self.transport = transport
        self.front.connections.add(self)
        self.until = time.monotonic() + self.limits.receive
        if len(self.front.connections) > self.limits.connections:
            self._give_up(busy(1, "Too many connections."))
            self.transport.close()  # no time to read that, or the system would be out of files soon

    def connection_lost(self, error):
        self.front.connections.discard(self)
        for request in (self.reading, self.active, *self.complete):
            if request:
                request.release()
        self.last, self.reading, self.active = True, None, None
        self.complete.clear()

    def pause_writing(self):
        self.unread, self.until = True, time.monotonic() + self.limits.receive
        self._pause()

    def resume_writing(self):
        self.unread = False
        if not self.active and (self.complete or not self.last):
            self._go_on()

    def eof_received(self):
        self.last = True
        return self.active is not None  # a client may close its half and still read the answer

    def data_received(self, data):
        if self.last:
            return
        self.overhead += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:  # the request stands, what follows is of no protocol spoken here
            self.last = True
            if not self.active:
                self.close()
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            self._give_up(cause if isinstance(cause, Refused) else self.front.failed(self.reading, cause))
        except httptools.HttpParserError:
            self._give_up(Refused(400, "This is not HTTP/1.1."))
        else:
            if self.overhead > self.limits.header:  # of the body's last chunk there may be headers, too
                self._give_up(self._long_headers())

    # What llhttp found, in this order.

    def on_message_begin(self):
        self.reading, self.url, self.lines, self.size = Request(self), b"", 0, 0
        if not self.active:
            self.until = time.monotonic() + self.limits.receive

    def on_url(self, url):
        self.url += url

    def on_header(self, name, value):
        if not self.in_headers:  # trailers of a chunked body mean nothing here
            return
        self.lines += 1
        self.size += len(name) + len(value)
        if self.lines > HEADERS or self.size > self.limits.header:
            raise self._long_headers()
        name, headers = name.lower(), self.reading.headers
        if name in _ONCE and name in headers:
            raise Refused(400, f"The header {name.decode('latin-1')} is there twice.")
        headers[name] = value

    def on_headers_complete(self):
        request, parser = self.reading, self.parser
        self.in_headers, self.overhead, self.size = False, 0, 0
        request.method, request.keep = parser.get_method().decode("latin-1"), parser.should_keep_alive()
        path, _, query = self.url.partition(b"?")
        request.path, request.query = path.decode("latin-1"), query.decode("latin-1")
        if len(self.url) > self.limits.header:
            raise Refused(414, f"The address is longer than {self.limits.header} bytes.")
        version, expect = parser.get_http_version(), request.headers.get(b"expect", b"").lower()
        if version not in ("1.0", "1.1"):
            raise Refused(505, "HTTP/1.1 is spoken here.")
        if version == "1.1" and b"host" not in request.headers:
            raise Refused(400, "The header Host is missing.")
        length = int(request.headers.get(b"content-length", b"0"))  # llhttp has seen to it that it is a number
        try:
            if length > self.limits.body:
                raise self._large_body()
            if self.front.held + length > self.limits.held:
                raise busy(1)
            self.front.check(request)
        except Refused as refused:
            if length > 65_536 or expect:
                raise  # its body is not waited for
            request.refused = refused
        if expect == b"100-continue" and not self.active:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data):
        request, self.overhead = self.reading, 0
        self.size += len(data)
        if self.size > self.limits.body:
            raise self._large_body()
        if request.refused:
            return
        self.front.held += len(data)
        if not request.body:
            request.body = data
        else:
            request.body = request.body if isinstance(request.body, bytearray) else bytearray(request.body)
            request.body += data
        if self.front.held > self.limits.held:
            raise busy(1)

    def on_message_complete(self):
        request, self.reading, self.in_headers, self.overhead = self.reading, None, True, 0
        if self.active is None and not self.unread:
            return self._begin(request)
        self.complete.append(request)
        self.last = self.last or len(self.complete) >= PIPELINED
        return self._pause()

    def _pause(self):
        self.paused = True
        self.transport.pause_reading()

    def _long_headers(self):
        return Refused(431, f"More than {HEADERS} headers, or more than {self.limits.header} bytes of them.")

    def _large_body(self):
        return Refused(413, f"The body is more than the {self.limits.body} bytes that are taken.")

    # Answers.

    def _begin(self, request):
        self.active, self.until = request, 0.0
        if request.refused:
            request.refuse(request.refused)
        else:
            self.front.handle(request)

    def send(self, request, status, body, kind, headers):
        """Write an answer and go on with the next request."""
        request.release()
        self.front.answered(request, status)
        if self.active is not request or self.transport.is_closing():
            return
        keep = request.keep and (bool(self.complete) or not (self.last or self.front.closing))
        head = [
            STATUS[status],
            b"Content-Type: ",
            kind,
            b"\r\nContent-Length: %d\r\nDate: " % len(body),
            self.front.date,
            b"\r\nX-Content-Type-Options: nosniff\r\n",
        ]
        for name, value in (headers or {}).items():
            head.append(f"{name}: {value}\r\n".encode("latin-1"))
        head.append(b"\r\n" if keep else b"Connection: close\r\n\r\n")
        if request.method != "HEAD":
            head.append(body)
        self.transport.write(b"".join(head))
        self.active = None
        if not keep:
            self.close()
        elif not self.unread:
            self._go_on()

    def _go_on(self):
        if self.complete:
            self._begin(self.complete.popleft())
        else:
            self.until = time.monotonic() + self.limits.idle
            if self.paused:
                self.paused = False
                self.transport.resume_reading()

    def _give_up(self, refused):
        """Answer what is no request or too large a one, and close."""
        request, self.reading, self.last = self.reading or Request(self), None, True
        if self.active:  # its answer comes, and then the end
            request.release()
            return
        self.active, request.keep = request, False
        request.refuse(refused)

    def close(self):
        """Send what is written, end our half, and give the client a moment to read it."""
        self.last, self.until = True, time.monotonic() + LINGER
        if not self.transport.is_closing():
            self.transport.write_eof()
            self.transport.resume_reading()  # what still comes is thrown away, or the answer would be lost to a reset

    def tick(self, now):
        """Close the connection if its time is up; called about once a second."""
        if not self.until or now < self.until:
            return
        if self.reading and not (self.last or self.unread):
            self._give_up(Refused(408, f"The request did not arrive within {self.limits.receive:g} s."))
        else:
            self.transport.abort()

    def drain(self):
        """Take no further request; one that is arriving or being answered still is."""
        if not (self.active or self.reading or self.last):
            self.close()


def date_now():
    """Return the time as HTTP's Date header has it."""
    return formatdate(usegmt=True).encode()
