"""Preparing the next batches while the network computes this one."""

from collections.abc import Generator, Iterable
from contextlib import suppress
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import TypeVar

Batch = TypeVar("Batch")


def prefetch(batches: Iterable[Batch], ahead: int = 2) -> Generator[Batch, None, None]:
    """Yield the batches of an iterator in their order, with up to `ahead` of them prepared by a thread.

    An exception of the iterator is raised in place of its batch. Closing the generator ends the thread.
    """
    ready: Queue = Queue(ahead)  # of pairs (batch, None) and at the end (None, exception)
    stopped = Event()

    def put(item):
        while not stopped.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except Full:
                continue

    def work():
        try:
            for batch in batches:
                put((batch, None))
                if stopped.is_set():
                    return
            put((None, StopIteration()))
        except BaseException as error:  # raised again in the caller's thread
            put((None, error))

    thread = Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            batch, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield batch
    finally:
        stopped.set()
        with suppress(Empty):
            ready.get_nowait()  # makes room for a thread that is waiting to put a batch
        thread.join()
