import random

import psutil
import pytest

pytest.importorskip("httptools")
pytest.importorskip("uvloop")
pytest.importorskip("multipart")

from serving import Serving, png, write_model


@pytest.mark.slow
def test_thousands_of_malformed_requests_do_no_harm(tmp_path):
    serving = Serving(write_model(tmp_path / "model"), tmp_path / "log")
    chance, service = random.Random(0), psutil.Process(serving.process.pid)
    kinds = ["image/png", "image/jpeg", "application/json", "multipart/form-data; boundary=b", "text/plain", "\x80"]
    bodies = [
        png(),
        png(1, 20, "JPEG"),
        png(2, 9, "GIF"),
        png(3, 9, "BMP"),
        b'{"images": ["iVBORw0KGgo="], "top": 2}',
        b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\n' + png() + b"\r\n--b--\r\n",
    ]
    sizes = []
    for number in range(5000):
        body = bytearray(chance.choice(bodies))
        data = bytearray(
            f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: {chance.choice(kinds)}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode("latin-1")
        )
        target = data if chance.random() < 0.4 else body
        for _ in range(chance.randint(1, 6)):
            target[chance.randrange(len(target))] = chance.randrange(256)
        answer = serving.raw(bytes(data + body[: chance.choice([len(body), chance.randrange(len(body))])]))
        assert not answer.startswith(b"HTTP/1.1 500"), serving.log.read_text()[-1000:]
        if number % 1000 == 999:
            sizes.append(service.memory_info().rss / 1e6)
    assert sizes[-1] - sizes[0] < 8, sizes  # MB
    assert serving.predict(png())[0] == 200 and not serving.lines("unforeseen")
    assert serving.stop() == 0
