"""The HTTP parser: where a request is cut into pieces makes no difference, and no bytes make it fail."""

import pytest

pytest.importorskip("httptools")

from hypothesis import given, settings
from hypothesis import strategies as st
from pieces import check_pieces

NAMES = st.sampled_from(
    ["Host", "Content-Length", "Transfer-Encoding", "Connection", "Expect", "Upgrade", "X", "Content-Type", "host"]
)
VALUES = st.sampled_from(
    [
        "localhost",
        "0",
        "5",
        "3",
        "chunked",
        "close",
        "keep-alive",
        "100-continue",
        "websocket",
        "Upgrade",
        "-1",
        "9" * 30,
    ]
) | st.text(st.characters(max_codepoint=255), max_size=8)
BODIES = st.sampled_from(["", "12345", "3\r\nabc\r\n0\r\n\r\n", "3;x=y\r\nabc\r\n0\r\nTrailer: 1\r\n\r\n", "5\r\nab"])


@st.composite
def requests(draw):
    """Something like a request; most are valid."""
    method = draw(st.sampled_from(["GET", "POST", "HEAD", "CONNECT", "BREW"]))
    path = draw(st.sampled_from(["/", "/a?b=c", "/refused", "http://h/p", "*", "", "/%00\x80"]))
    version = draw(st.sampled_from(["HTTP/1.1"] * 5 + ["HTTP/1.0", "HTTP/2.0", "HTTP"]))
    body = draw(BODIES)
    headers = [("Host", "localhost")] * draw(st.sampled_from([1, 1, 1, 0, 2]))
    if draw(st.booleans()):
        headers.append(("Transfer-Encoding", "chunked") if "\r" in body else ("Content-Length", str(len(body))))
    headers += draw(st.lists(st.tuples(NAMES, VALUES), max_size=3))
    lines = [f"{method} {path} {version}", *(f"{name}: {value}" for name, value in headers), "", body]
    return "\r\n".join(lines).encode("latin-1")


STREAMS = st.lists(requests(), min_size=1, max_size=4).map(b"".join) | st.binary(max_size=200)


@given(STREAMS, st.lists(st.integers(0, 1000), max_size=8), st.booleans(), st.booleans())
def test_answers_do_not_depend_on_the_pieces(data, points, later, half_closed):
    check_pieces(data, [point % (len(data) + 1) for point in points], later, half_closed)


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("half_closed", [False, True])
def test_more_requests_than_are_parsed_at_once_are_all_answered(later, half_closed):
    data = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n" * 1000
    assert check_pieces(data, [5000], later, half_closed).count(b"HTTP/1.1 200 OK") == 1000


@settings(max_examples=40)
@given(STREAMS)
def test_bytes_may_come_one_by_one(data):
    check_pieces(data, range(len(data)))


def test_requests_are_understood():
    data = b"POST /a?b=c HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi"
    answer = check_pieces(data * 2, [3, 30])
    understood = b"""('POST', '/a', 'b=c', [(b'content-length', b'2'), (b'host', b'h')], b'hi')"""
    assert answer.count(understood) == answer.count(b"HTTP/1.1 200 OK") == 2
