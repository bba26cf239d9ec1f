"""Preparing the next batches while the network computes this one."""

from queue import Empty, Full, Queue
from threading import Event, Thread


def prefetch(batches, ahead=2):
    """Yield what an iterator of batches yields, prepared by a thread, up to `ahead` before they are wanted.

    The order stays, and what the iterator raises is raised where its batch would have come. When the generator is
    closed, so is the thread.
    """
    ready, stopped = Queue(ahead), Event()

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
        except BaseException as error:  # whatever it is, it belongs to the thread that asked
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
        try:
            ready.get_nowait()  # makes room for a thread that waits for it
        except Empty:
            pass
        thread.join()
