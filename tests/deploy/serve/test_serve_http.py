import base64
import io
import json
import socket
import struct
import time
import zlib

import psutil
import pytest
import requests
from PIL import Image

pytest.importorskip("httptools")
pytest.importorskip("uvloop")
pytest.importorskip("multipart")

from serving import Serving, png, write_model

TOKEN = "secret-of-the-test"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(scope="module")
def server(model, tmp_path_factory):
    serving = Serving(
        model,
        tmp_path_factory.mktemp("log") / "log",
        "--body",
        200_000,
        "--pictures",
        4,
        "--pixels",
        90_000,
        "--receive",
        3,
        token=TOKEN,
    )
    yield serving
    assert serving.stop() == 0
    events = serving.lines()
    assert not [event for event in events if event["event"] in ("unforeseen", "batch failed", "engine ended")]
    text = serving.log.read_text()
    assert TOKEN not in text and "IHDR" not in text and base64.b64encode(png())[:20].decode() not in text


@pytest.fixture(scope="module")
def expected(model):
    from d2lcls.deploy.predictor import open_model

    return open_model(model).predict_many([png(0), png(1, 20, "JPEG")], top=3)


def same(prediction, expected):
    assert [entry["class"] for entry in prediction] == [name for name, _ in expected]
    assert [entry["probability"] for entry in prediction] == pytest.approx([p for _, p in expected], rel=1e-4)


def test_one_picture(server, expected):
    status, content = server.predict(png(), **BEARER)
    assert status == 200 and content["model"] == "small0"
    same(content["predictions"][0], expected[0])
    status, content = server.predict(png(1, 20, "JPEG"), "application/octet-stream", "?top=2", **BEARER)
    same(content["predictions"][0], expected[1][:2])
    status, content = server.predict(in_parts(4000)[0], **BEARER)
    same(content["predictions"][0], expected[0])
    status, content = server.predict(png(), "application/x-www-form-urlencoded", **BEARER)  # curl's, if it is not told
    same(content["predictions"][0], expected[0])


def test_several_pictures(server, expected):
    address = f"http://127.0.0.1:{server.port}/v1/predict"
    pictures = [png(0), png(1, 20, "JPEG")]
    form = [("image", ("a.png", pictures[0])), ("images", ("b.jpg", pictures[1])), ("top", (None, "3"))]
    texts = [base64.b64encode(picture).decode() for picture in pictures]
    for answer in (
        requests.post(address, files=form, headers=BEARER),
        requests.post(address, json={"images": texts, "top": 3}, headers=BEARER),
    ):
        assert answer.status_code == 200
        for prediction, names in zip(answer.json()["predictions"], expected):
            same(prediction, names)
    answer = requests.post(address, json={"image": texts[0]}, headers=BEARER)
    same(answer.json()["predictions"][0], expected[0])


def test_chunked_body_and_expect(server):
    def parts():
        picture = png(size=80)
        for first in range(0, len(picture), 700):
            yield picture[first : first + 700]

    answer = requests.post(f"http://127.0.0.1:{server.port}/v1/predict", data=parts(), headers=BEARER)
    assert answer.status_code == 200
    head = (
        f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
        f"Content-Length: {len(png())}\r\n"
        "Expect: 100-continue\r\nConnection: close\r\n\r\n"
    )
    assert server.raw(head.encode() + png()).startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")


def test_other_addresses(server):
    status, _, body = server.ask("GET", "/healthz")
    assert status == 200 and json.loads(body)["status"] == "ok"
    status, _, body = server.ask("GET", "/v1/models", headers=BEARER)
    content = json.loads(body)["models"][0]
    assert status == 200 and content["classes"] == ["red", "green", "blue"] and content["input"]["crop"] == 8
    server.predict(png(), **BEARER)
    status, headers, body = server.ask("GET", "/metrics", headers=BEARER)
    assert status == 200 and headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert b'd2lcls_requests_total{route="/v1/predict",status="200"}' in body and b"d2lcls_waiting_pictures 0.0" in body
    status, headers, body = server.ask("HEAD", "/healthz")
    assert status == 200 and body == b"" and int(headers["Content-Length"]) > 0


def test_openapi_tells_every_address(server):
    status, _, body = server.ask("GET", "/openapi.json")
    document = json.loads(body)
    assert status == 200 and document["openapi"] == "3.1.0"
    assert set(document["paths"]) == {
        "/v1/predict",
        "/v1/models",
        "/v1/reload",
        "/healthz",
        "/metrics",
        "/openapi.json",
    }
    for path, operations in document["paths"].items():
        for method in operations:
            secured = "security" in operations[method]
            assert (server.ask(method.upper(), path)[0] == 401) == secured, path


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": "Bearer"},
        {"Authorization": f"Bearer {TOKEN}x"},
    ],
)
def test_wrong_token(server, header):
    status, headers, _ = server.ask("POST", "/v1/predict", png(), header)
    assert status == 401 and headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "method, path, status",
    [
        ("GET", "/", 404),
        ("POST", "/v1/models", 405),
        ("GET", "/v1/predict", 405),
        ("DELETE", "/v1/predict", 405),
        ("POST", "/v1/predict/..", 404),
    ],
)
def test_wrong_address(server, method, path, status):
    actual, headers, body = server.ask(method, path, headers=BEARER)
    assert actual == status and headers["Content-Type"] == "application/problem+json"
    assert status == 404 or headers["Allow"]


def bomb(side):
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes((3 * side + 1) * 10), 9)
    return as_png(header, data, b"IEND")


def as_png(*parts):
    """A PNG of chunks, each of them its name and its content."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in parts
    )


def drawn_over(times):
    """A JPEG whose last scan comes so many times."""
    stream = io.BytesIO()
    Image.new("RGB", (300, 300)).save(stream, "JPEG", progressive=True)
    picture = stream.getvalue()
    scan = picture[picture.rindex(b"\xff\xda") : -2]
    return picture[:-2] + times * scan + picture[-2:]


def unknown_filter():
    """A PNG whose rows are filtered in a way that does not exist."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    return as_png(header, b"IDAT" + zlib.compress((b"\x07" + bytes(24)) * 8), b"IEND")


def in_parts(number):
    """A PNG and a JPEG with so many parts that mean nothing."""
    chunk = bytes(4) + b"teSt" + struct.pack(">I", zlib.crc32(b"teSt"))
    photograph = png(0, 8, "JPEG")
    return png()[:33] + number * chunk + png()[33:], photograph[:2] + number * b"\xff\xe5\x00\x02" + photograph[2:]


@pytest.mark.parametrize(
    "body, kind, status, message",
    [
        (b"", "image/png", 400, "empty"),
        (b"hello", "image/png", 415, "none of"),
        (png()[:-40], "image/png", 400, "broken"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "image/png", 400, "broken"),
        (b"GIF89a", "image/gif", 400, "broken"),
        (unknown_filter(), "image/png", 400, "broken"),
        (png(), "text/plain", 415, "Content-Type"),
        (bomb(301), "image/png", 413, "pixels"),
        (bomb(60_000), "image/png", 413, "pixels"),
        (drawn_over(3000), "image/jpeg", 413, "too much time"),
        (b"[" + b"1," * 50_000 + b"1]", "application/json", 413, "4 pictures"),
        (bytes(200_001), "image/png", 413, "200000 bytes"),
        (b"{", "application/json", 400, "not JSON"),
        (b"[" * 100_000, "application/json", 400, "not JSON"),
        (b"{}", "application/json", 400, "must be"),
        (b"[]", "application/json", 400, "must be"),
        (b'{"image": 1}', "application/json", 400, "strings"),
        (b'{"images": []}', "application/json", 400, "empty"),
        (b'{"image": "?"}', "application/json", 400, "base64"),
        (b'{"image": "AA=="}', "application/json", 415, "none of"),
        (b'{"image": "%s", "top": 1.5}' % base64.b64encode(png()), "application/json", 400, "top must be"),
        (b'{"image": "AA==", "url": "x"}', "application/json", 400, "must be"),
        (b'{"images": ["AA==", "AA==", "AA==", "AA==", "AA=="]}', "application/json", 413, "4 are accepted"),
        (b"x", "multipart/form-data", 400, "multipart"),
        (b"x", "multipart/form-data; boundary=b", 400, "multipart"),
        (
            b"--b\r\nContent-Disposition: form-data; name=other\r\n\r\nx\r\n--b--\r\n",
            "multipart/form-data; boundary=b",
            400,
            "neither",
        ),
        (
            b"--b\r\nContent-Disposition: form-data; name=image\r\n\r\nx",
            "multipart/form-data; boundary=b",
            400,
            "multipart",
        ),
        (b"--b--\r\n", "multipart/form-data; boundary=b", 400, ""),
    ],
)
def test_bodies_that_are_refused(server, body, kind, status, message):
    actual, content = server.predict(body, kind, **BEARER)
    assert (actual, content["status"]) == (status, status) and message in content["detail"]


@pytest.mark.parametrize("query", ["?top=0", "?top=-1", "?top=1001", "?top=x", "?top=", "?bottom=1", "?" + "&" * 3000])
def test_wrong_parameters(server, query):
    assert server.predict(png(), query=query, **BEARER)[0] == 400


HEAD = f"Host: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"


@pytest.mark.parametrize(
    "data, status",
    [
        ("nonsense\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nHost: b\r\n\r\n", 400),
        ("GET / HTTP/3.9\r\nHost: localhost\r\n\r\n", 400),
        ("\x16\x03\x01\x02\x00", 400),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (f"GET /{'a' * 20_000} HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
        (f"GET / HTTP/1.1\r\nHost: localhost\r\nX: {'a' * 20_000}\r\n\r\n", 431),
        ("GET / HTTP/1.1\r\nHost: localhost\r\n" + "X: 1\r\n" * 70 + "\r\n", 431),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nX: " + "a" * 17_000, 431),
        (f"POST /v1/predict HTTP/1.1\r\n{HEAD}Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 400),
        (f"POST /v1/predict HTTP/1.1\r\n{HEAD}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (f"POST /v1/predict HTTP/1.1\r\n{HEAD}Content-Length: -5\r\n\r\nhello", 400),
        (f"POST /v1/predict HTTP/1.1\r\n{HEAD}Content-Length: 99999999999999999999999\r\n\r\n", 400),
        (f"POST /v1/predict HTTP/1.1\r\n{HEAD}Content-Length: 300000\r\n\r\n", 413),
        (
            f"POST /v1/predict HTTP/1.1\r\n{HEAD}Transfer-Encoding: chunked\r\n\r\n"
            + ("8000\r\n" + "a" * 0x8000 + "\r\n") * 9,
            413,
        ),
        (f"POST /v1/predict HTTP/1.1\r\n{HEAD}Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (f"POST /v1/predict HTTP/1.1\r\n{HEAD}Transfer-Encoding: chunked\r\n\r\n0\r\nX: " + "a" * 1_000_000, 431),
        (f"POST /v1/predict HTTP/1.1\r\n{HEAD}Transfer-Encoding: chunked\r\n\r\n1;" + "a" * 1_000_000, 431),
        (f"GET /healthz HTTP/1.1\r\n{HEAD} folded: 1\r\n\r\n", 400),
        ("GET /healthz HTTP/1.0\r\n\r\n", 200),
    ],
)
def test_malformed_http(server, data, status):
    answer = server.raw(data.encode("latin-1"))
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer[:200]
    assert answer.count(b"HTTP/1.1 ") == 1 and b"Connection: close" in answer


def test_pipelined_requests_are_answered_in_order(server):
    request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    picture = f"POST /v1/predict HTTP/1.1\r\n{HEAD}Content-Length: {len(png())}\r\n\r\n".encode() + png()
    answer = server.raw(picture + request + b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n" + request)
    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200", b"200", b"404", b"200"]
    assert answer.index(b"predictions") < answer.index(b'"ok"')
    assert 1 <= server.raw(request * 500).count(b"200 OK") <= 500


def test_silent_clients_are_closed(server):
    for data in (b"", b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(data)
            answer = connection.recv(1000)
            assert answer.startswith(b"HTTP/1.1 408 ") if data else answer == b""


def test_nonsense_after_a_request_does_not_cost_its_answer(server):
    picture = f"POST /v1/predict HTTP/1.1\r\n{HEAD}Content-Length: {len(png())}\r\n\r\n".encode() + png()
    answer = server.raw(picture + b"nonsense\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ") and answer.count(b"HTTP/1.1 400 Bad Request") == 1


def test_slow_client_gets_408_and_is_closed(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(f"POST /v1/predict HTTP/1.1\r\n{HEAD}Content-Length: 10\r\n\r\nabc".encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")


def test_client_that_does_not_read_is_not_listened_to(server):
    requests_, process = (
        1000 * b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n",
        psutil.Process(server.process.pid),
    )
    before, sent, until = process.memory_info().rss, 0, time.monotonic() + 20
    with socket.create_connection(("127.0.0.1", server.port), timeout=1) as connection:
        try:
            while time.monotonic() < until:
                sent += connection.send(requests_)
        except OSError:  # nothing more is taken, or the service has closed the connection
            pass
        deadline = time.monotonic() + 10
        while any(one.laddr.port == server.port and one.raddr for one in process.net_connections()):
            assert time.monotonic() < deadline, "the connection stays open"
            time.sleep(0.1)
    assert time.monotonic() < until and sent < 20e6, f"{sent / 1e6:.0f} MB of requests were taken"
    assert process.memory_info().rss - before < 60e6
