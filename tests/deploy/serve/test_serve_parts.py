import io
import json
import logging
import subprocess
import sys
import types
from datetime import datetime

from d2lcls.deploy.predictor import likeliest
from d2lcls.deploy.serve import frames
from d2lcls.deploy.serve.batching import Batcher
from d2lcls.deploy.serve.fair import Client
from d2lcls.deploy.serve.limits import Limits
from d2lcls.deploy.serve.logs import Repeated
from d2lcls.deploy.serve.worker import batch_sizes, rank

import numpy as np
import pytest


def test_rank_names_the_likeliest_as_the_predictor_does():
    logits = np.random.default_rng(0).normal(size=(3, 7)).astype(np.float32) * 5
    logits[0, 2] = logits[0, 4]
    order, probabilities = rank(logits)
    for row in range(3):
        names, expected = zip(*likeliest(logits[row], range(7), 7))
        assert order[row].tolist() == list(names)
        np.testing.assert_allclose(probabilities[row], expected, rtol=1e-6)
    logits[1, 1] = np.nan
    with pytest.raises(ArithmeticError, match="not finite"):
        rank(logits)


def test_batch_sizes():
    assert batch_sizes(1) == [1] and batch_sizes(5) == [1, 2, 3, 4, 5]
    assert batch_sizes(32) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32]


def test_frames_arrive_in_any_pieces():
    sent = frames.pack(b"A", b"one", np.arange(3, dtype=np.int32).data) + frames.pack(b"B")
    buffer, received = bytearray(), []
    for index in range(len(sent)):
        buffer += sent[index : index + 1]
        frame = frames.unpack(buffer)
        if frame:
            received.append(frame)
    assert received == [(b"A", b"one" + np.arange(3, dtype=np.int32).tobytes()), (b"B", b"")] and not buffer
    stream = io.BytesIO(sent + b"A")
    assert [frames.read(stream)[0], frames.read(stream)[0], frames.read(stream)] == [b"A", b"B", None]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"waiting": 0}, "waiting must be above 0"),
        ({"seconds": -1}, "seconds must"),
        ({"pictures": 9, "waiting": 8}, "never fit"),
        ({"held": 10}, "never fit"),
    ],
)
def test_limits_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        Limits(**options)


def test_log_of_what_happens_often(caplog):
    caplog.set_level("INFO")
    failures = Repeated(logging.getLogger("d2lcls.test"))
    for _ in range(1000):
        failures.log(logging.WARNING, "refused", {"status": 503, "path": "/v1/predict"})
    failures.flush()
    failures.flush()
    assert [(record.msg, record.args.get("times")) for record in caplog.records] == [
        ("refused", None),
        ("refused, again", 999),
    ]


def test_log_holds_events_and_what_is_printed():
    script = (
        "import logging, os\n"
        "from d2lcls.deploy.serve.logs import json_log\n"
        "with json_log('info'):\n"
        "    logging.getLogger('d2lcls.test').info('reloaded', {'model': 'small', 'path': os.path})\n"
        "    logging.getLogger('d2lcls.test').debug('left out')\n"
        "    os.write(2, b'MXNet start using engine: NaiveEngine\\n' + 30 * b'a library: failed\\n')\n"
    )
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stderr
    first, *others = [json.loads(line) for line in printed.splitlines()]
    assert list(first) == ["time", "level", "event", "model", "path"]
    assert (first["level"], first["event"], first["model"]) == ("info", "reloaded", "small")
    assert datetime.fromisoformat(first["time"]).tzinfo
    assert {(line["event"], line["text"]) for line in others} == {("printed", "a library: failed")}
    assert 20 <= len(others) <= 30  # in one second, or where the next one begins


ME = Client("192.0.2.1", 1)


def test_no_batch_has_to_be_filled_up():
    batcher, sizes = Batcher(None, Limits(batch_wait=0), 1, 1, None), []
    engine = types.SimpleNamespace(batches=[])
    engine.send = lambda batch, pictures: (engine.batches.append(batch), sizes.append(len(batch)))
    batcher.engines = [engine]
    batcher.submit(batcher.admit(ME, 7, None), [b""] * 7)
    assert sizes == [6]  # of 6 or 8, and of the other one later, when the process is free
    batcher.waiting -= len(engine.batches.pop())
    batcher.submit(batcher.admit(ME, 30, None), [b""] * 30)
    assert sizes == [6, 24]
