"""Attacks on the service: what a stranger sends must not cost others their answers."""

import http.client
import io
import json
import socket
import struct
import threading
import time
import zlib

import numpy as np
import psutil
import pytest
from PIL import Image

pytest.importorskip("httptools")
pytest.importorskip("uvloop")
pytest.importorskip("multipart")

from serving import Serving, png, write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(scope="module")
def server(model, tmp_path_factory):
    serving = Serving(model, tmp_path_factory.mktemp("log") / "log")
    yield serving
    assert serving.stop() == 0
    assert not [event for event in serving.lines() if event["event"] in ("unforeseen", "batch failed", "engine ended")]


def chunk(kind, content=b""):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def header(side):
    return chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))


def as_png(*chunks):
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + chunk(b"IEND")


def rows(side, count):
    return zlib.compress(bytes((3 * side + 1) * count), 9)


def two_headers():
    """A PNG that claims 32 x 32 pixels first and 10,000 x 10,000 afterwards."""
    return as_png(header(32), header(10_000), chunk(b"IDAT", rows(10_000, 10_000)))


def much_behind_little():
    """A PNG of 32 x 32 pixels with 3 GB behind them."""
    packer = zlib.compressobj(9)
    data = packer.compress(bytes(97 * 32)) + b"".join(packer.compress(bytes(1 << 24)) for _ in range(180))
    return as_png(header(32), chunk(b"IDAT", data + packer.flush()))


def profiles(number):
    """A PNG with so many colour profiles."""
    profile = chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(500_000), 9))
    return as_png(header(32), profile * number, chunk(b"IDAT", rows(32, 32)))


def rle(width, height, codes=b""):
    """A BMP compressed with RLE8, which Pillow decodes in Python."""
    palette = bytes(4 * 256)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(codes), 0, 0, 256, 0)
    return (
        b"BM" + struct.pack("<IHHI", 54 + len(palette) + len(codes), 0, 0, 54 + len(palette)) + info + palette + codes
    )


def scans(number, side):
    """A JPEG whose last scan comes so many times."""
    stream = io.BytesIO()
    Image.new("RGB", (side, side)).save(stream, "JPEG", progressive=True)
    picture = stream.getvalue()
    scan = picture[picture.rindex(b"\xff\xda") : -2]
    return picture[:-2] + number * scan + picture[-2:]


def animation(frames, side):
    stream = io.BytesIO()
    pages = [Image.new("P", (side, side), number % 256) for number in range(frames)]
    pages[0].save(stream, "GIF", save_all=True, append_images=pages[1:])
    return stream.getvalue()


ATTACKS = {
    "a second header": two_headers(),
    "3 GB behind 32 x 32 pixels": much_behind_little(),
    "colour profiles": profiles(3000),
    "RLE8": rle(5000, 5000),
    "RLE8, small": rle(250, 250, b"\1\0" * 60_000),
    "RLE8, endless": rle(60_000, 60_000),
    "scans": scans(30_000, 2000),
    "a thousand frames": animation(1000, 100),
    "RIFF that is no WebP": b"RIFF\x10\0\0\0AVI LIST" + bytes(100),
    "no pixels": as_png(header(0), chunk(b"IDAT", b"")),
    "800,000 chunks": as_png(header(32), chunk(b"abCd") * 800_000, chunk(b"IDAT", rows(32, 32))),
    "texts": as_png(header(32), chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 20))) * 2000),
    "Exif": as_png(header(32), chunk(b"eXIf", b"MM\0*\0\0\0\x08" + b"\xff" * 720_000), chunk(b"IDAT", rows(32, 32))),
    "a GIF of comments": b"GIF89a\x08\0\x08\0\0\0\0" + b"!\xfe\x01a\0" * 1_900_000,
    "a GIF with a frame beyond its screen": b"GIF89a\1\0\1\0\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\2\2\x4c\1\0;",
    "RLE8, moves": rle(5000, 5000, b"\0\2\1\0" * 2_000_000),
    "JPEG markers": b"\xff\xd8" + b"\xff\xfe\0\2" * 2_400_000,
    "JPEG padding": b"\xff\xd8" + b"\xff" * 9_000_000,
    "a WebP of chunks": b"RIFF\x0c\x12\x7a\0WEBPVP8X\x0a\0\0\0" + bytes(10) + b"abcd\0\0\0\0" * 1_000_000,
    "a WebP with a large canvas": b"RIFF\x30\0\0\0WEBPVP8X\x0a\0\0\0\2\0\0\0"
    + b"\xff" * 6
    + b"ANIM\6\0\0\0"
    + bytes(12),
    "25 million pixels of nothing": as_png(header(5000), chunk(b"IDAT", rows(5000, 5000))),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_hostile_picture_costs_little(server, name):
    decoders = sum(child.memory_info().rss for child in psutil.Process(server.process.pid).children(recursive=True))
    begun = time.monotonic()
    status, content = server.predict(ATTACKS[name], "application/octet-stream")
    # 504 only on a busy machine: decoders have a limit of processor time, and requests one of real time.
    assert status in (200, 400, 413, 415, 504) and time.monotonic() - begun < 10, (status, content)
    after = sum(child.memory_info().rss for child in psutil.Process(server.process.pid).children(recursive=True))
    assert status == 504 or after - decoders < 100e6
    assert server.predict(png())[0] == 200


def honest(server, seconds, rate=20):
    """Send pictures at a steady rate; returns the seconds that each took, and the statuses."""
    waits, statuses, until = [], set(), time.monotonic() + seconds
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    photograph = png(0, 200, "JPEG")
    while time.monotonic() < until:
        for picture in (png(), photograph):
            begun = time.monotonic()
            connection.request("POST", "/v1/predict", picture, {"Content-Type": "application/octet-stream"})
            answer = connection.getresponse()
            answer.read()
            statuses.add(answer.status)
            waits.append(time.monotonic() - begun)
            time.sleep(max(0, 1 / rate - waits[-1]))
    connection.close()
    return np.array(waits), statuses


def attack_pictures(server, stop, source):
    pictures = list(ATTACKS.values())
    number = 0
    while not stop.is_set():
        number += 1
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20, source_address=(source, 0))
        connection.request("POST", "/v1/predict", pictures[number % len(pictures)])
        connection.getresponse().read()
        connection.close()


def attack_pipeline(server, stop, source, paths=("healthz",)):
    """Send health checks without end on one connection, and read little of what comes."""
    requests = b"".join(b"GET /%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path.encode() for path in paths) * 1000
    while not stop.is_set():
        try:
            with socket.create_connection(("127.0.0.1", server.port), 20, (source, 0)) as connection:
                connection.settimeout(0.2)
                while not stop.is_set():
                    connection.send(requests)
                    connection.recv(1 << 20)
        except OSError:
            pass


def attack_pipeline_of_all_kinds(server, stop, source):
    """Send requests that are answered at once, some of which take longer to answer than others."""
    attack_pipeline(server, stop, source, ("metrics", "openapi.json", "v1/models", "nowhere", "v1/predict", "healthz"))


def attack_idle(server, stop, source):
    """Open as many connections as possible, and send half a request on each."""
    held = []
    while not stop.is_set():
        try:
            held.append(socket.create_connection(("127.0.0.1", server.port), 5, (source, 0)))
            held[-1].send(b"POST /v1/predict HTTP/1.1\r\nHo")
        except OSError:
            pass
        if len(held) > 500:
            held.pop(0).close()
    for connection in held:
        connection.close()


def attack_crowd(server, stop, source):
    """Ask for 32 pictures at a time, as often as possible."""
    from base64 import b64encode

    body = json.dumps({"images": [b64encode(png(0, 60)).decode()] * 32})
    while not stop.is_set():
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20, source_address=(source, 0))
        connection.request("POST", "/v1/predict", body, {"Content-Type": "application/json"})
        connection.getresponse().read()
        connection.close()


@pytest.mark.parametrize("source", ["127.0.0.2", "127.0.0.1"])
@pytest.mark.parametrize(
    "attack", [attack_pictures, attack_pipeline, attack_pipeline_of_all_kinds, attack_idle, attack_crowd]
)
@pytest.mark.parametrize("seconds", [3, pytest.param(60, marks=pytest.mark.slow)])
def test_an_honest_client_is_answered_during_an_attack(server, attack, source, seconds):
    stop = threading.Event()
    attackers = [threading.Thread(target=attack, args=(server, stop, source)) for _ in range(4)]
    for attacker in attackers:
        attacker.start()
    try:
        waits, statuses = honest(server, seconds)
    finally:
        stop.set()
        for attacker in attackers:
            attacker.join()
    p99 = np.quantile(waits, 0.99)
    print(f"{attack.__name__} from {source}: {len(waits)} requests, p99 {1000 * p99:.0f} ms")
    assert statuses == {200}
    assert p99 < 2  # the goal is 0.5 s; the attackers are threads of the same machine, in this process


def test_stop_does_not_wait_for_a_pipeline_without_end(model, tmp_path):
    serving = Serving(model, tmp_path / "log")
    stop = threading.Event()
    attacker = threading.Thread(target=attack_pipeline, args=(serving, stop, "127.0.0.1"))
    attacker.start()
    time.sleep(0.5)
    begun = time.monotonic()
    try:
        assert serving.stop() == 0 and time.monotonic() - begun < 20
    finally:
        stop.set()
        attacker.join()


def test_stop_does_not_wait_for_pictures_whose_request_has_expired(model, tmp_path):
    from base64 import b64encode

    serving = Serving(model, tmp_path / "log", "--seconds", 0.5)
    slow = as_png(chunk(b"IHDR", struct.pack(">IIBBBBB", 5000, 5000, 8, 2, 0, 0, 1)), chunk(b"IDAT", rows(5010, 5010)))
    body = json.dumps({"images": [b64encode(slow).decode()] * 12}).encode()
    assert serving.predict(body, "application/json")[0] == 504
    begun = time.monotonic()
    assert serving.stop() == 0 and time.monotonic() - begun < 8
    assert not serving.lines("printed")


def test_a_large_webp_of_few_bytes_is_not_called_broken(server):
    stream = io.BytesIO()
    Image.new("RGB", (4900, 4900)).save(stream, "WEBP")
    status, content = server.predict(stream.getvalue())
    assert status in (200, 504), content  # the latter on a busy machine


def test_a_decoder_that_is_killed_from_outside_costs_no_answer(server):
    for _ in range(5):
        for parent in server.children("d2lcls.deploy.serve.decoders.decoder"):
            for decoder in parent.children():
                decoder.kill()
        assert server.predict(png())[0] == 200
        assert server.predict(png(0, 300, "JPEG"))[0] == 200
    for parent in server.children("d2lcls.deploy.serve.decoders.decoder"):
        parent.kill()
        for decoder in parent.children():
            decoder.kill()
    time.sleep(0.2)
    assert server.predict(png())[0] == 200


@pytest.mark.parametrize(
    "request_, status",
    [
        (b"POST /v1/predict?top=%C2%B2 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", 400),
        (b"POST /v1/predict?top=\xb2 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", 400),
        (b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: identity\r\n\r\n", 501),
        (b"GET http://localhost/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
        (b"GET http://localhost:8080/healthz?x=1 HTTP/1.1\r\nHost: other\r\n\r\n", 200),
        (b"GET http://evil.example/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 421),
        (b"GET /healthz HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost.evil.example:80\r\n\r\n", 421),
        (b"GET /healthz HTTP/1.1\r\nHost: LOCALHOST:80\r\n\r\n", 200),
        (b"GET /healthz HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", 200),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", 200),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close, Upgrade\r\nUpgrade: h2c\r\n\r\n" * 2, 200),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + b"0" * 5000 + b"\r\n\r\n", 200),
        (b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    ],
)
def test_unusual_requests(server, request_, status):
    answer = server.raw(request_)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()) and answer.count(b"HTTP/1.1 ") == 1, answer[:300]


@pytest.mark.parametrize("chunked", [False, True])
def test_upgrade_is_ignored_and_the_body_kept(server, chunked):
    body, length = png(), f"Content-Length: {len(png())}"
    if chunked:
        body, length = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body), "Transfer-Encoding: chunked"
    head = f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\n{length}\r\nConnection: Upgrade, HTTP2-Settings\r\n"
    head += "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
    healthy = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    answer = server.raw(head.encode() + body + healthy)
    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200", b"200"] and b"predictions" in answer


def test_many_pipelined_requests_are_all_answered(server):
    answer = server.raw(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2000, 20)
    assert answer.count(b"HTTP/1.1 200 OK") == 2000


def test_metrics_are_written_ten_times_a_second_at_most(server):
    begun = time.monotonic()
    answer = server.raw(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 15, 20)
    assert answer.count(b"HTTP/1.1 200 OK") == 15 and time.monotonic() - begun > 1.3


def test_the_connection_that_has_been_idle_for_longest_makes_room(server):
    connections = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(300)]
    try:
        assert server.predict(png())[0] == 200
        connections[0].settimeout(5)
        assert connections[0].recv(10) == b""
        connections[-1].sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connections[-1].recv(12) == b"HTTP/1.1 200"
    finally:
        for connection in connections:
            connection.close()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
def test_decoders_decode_as_the_predictor_does(server, model, kind):
    from d2lcls.deploy.predictor import open_model

    predictor = open_model(model)
    noise = np.random.default_rng(0).integers(0, 256, (60, 40, 4)).astype(np.uint8)
    modes = {"PNG": ("RGB", "RGBA", "L", "LA", "P", "I;16", "1"), "JPEG": ("RGB", "L", "CMYK"), "GIF": ("P", "L")}
    for mode in modes.get(kind, ("RGB", "L")):
        if mode == "I;16":
            picture = Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
        else:
            picture = Image.fromarray(noise).convert("RGB" if mode in ("L", "P", "1", "CMYK") else mode).convert(mode)
        for side in (40, 400):
            stream = io.BytesIO()
            exif = Image.Exif()
            exif[0x0112] = 6
            extra = {"exif": exif} if kind in ("JPEG", "PNG", "WEBP") else {}
            picture.resize((side, side), Image.Resampling.NEAREST).save(stream, kind, **extra)
            status, content = server.predict(stream.getvalue(), "application/octet-stream", "?top=3")
            assert status == 200, (mode, content)
            expected = predictor.predict_many([stream.getvalue()], top=3)[0]
            for entry, (name, probability) in zip(content["predictions"][0], expected):
                assert entry["class"] == name and abs(entry["probability"] - probability) < 1e-4, (mode, side)
