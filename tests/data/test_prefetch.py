import threading
import time

from d2lcls.data.prefetch import prefetch

import pytest


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_order_and_end():
    assert list(prefetch(iter(range(100)))) == list(range(100))
    assert list(prefetch(iter(()))) == [] and not threads()


def test_batches_are_made_ahead_and_no_further():
    made, wanted = [], threading.Event()

    def batches():
        for number in range(10):
            made.append(number)
            wanted.set()
            yield number

    ahead = prefetch(batches(), ahead=2)
    assert next(ahead) == 0
    deadline = time.monotonic() + 10
    while len(made) < 4 and time.monotonic() < deadline:  # 1 and 2 lie ready, 3 is in the maker's hands
        time.sleep(0.01)
    time.sleep(0.05)
    assert made == [0, 1, 2, 3]
    ahead.close()
    assert not threads()


def test_an_error_comes_where_its_batch_would_have_come():
    def batches():
        yield 1
        yield 2
        raise OSError("gone")

    found = []
    with pytest.raises(OSError, match="gone"):
        for batch in prefetch(batches()):
            found.append(batch)
    assert found == [1, 2] and not threads()


def test_the_maker_is_closed_with_it():
    closed = threading.Event()

    def batches():
        try:
            while True:
                yield 0
        finally:
            closed.set()

    ahead = prefetch(batches())
    next(ahead)
    ahead.close()
    assert closed.wait(10) and not threads()
