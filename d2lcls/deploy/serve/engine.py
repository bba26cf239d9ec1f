"""The service's side of a process that computes: start it, send it batches, hear its answers, notice its end."""

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections import deque

from d2lcls.deploy.manifest import ModelError
from d2lcls.deploy.serve import frames


class Engine(asyncio.Protocol):
    """One process that computes.

    Args:
        on_answers: called with (engine, batch, content) for each batch; content is the bytes of its answers, or an
            exception where that batch failed.
        on_end: called with (engine, batches) when the process is gone: those are without an answer.
    """

    def __init__(self, on_answers, on_end):
        self.on_answers, self.on_end = on_answers, on_end
        self.ready = asyncio.get_running_loop().create_future()
        self.batches = deque()  # sent and not answered, the first is being computed
        self.buffer, self.process, self.transport, self.since = bytearray(), None, None, 0.0

    def connection_made(self, transport):
        self.transport = transport
        transport.set_write_buffer_limits(high=1 << 30)  # never more than two batches are on their way

    def data_received(self, data):
        self.buffer += data
        while True:
            frame = frames.unpack(self.buffer)
            if frame is None:
                return
            kind, content = frame
            if kind == frames.READY:
                self.ready.set_result(json.loads(content))
            elif kind == frames.ERROR:
                self.ready.set_exception(ModelError(content.decode()))
            else:
                batch = self.batches.popleft()
                self.on_answers(self, batch, content if kind == frames.ANSWERS else ArithmeticError(content.decode()))

    def connection_lost(self, error):
        if not self.ready.done():
            self.ready.set_exception(
                ModelError(
                    "The process that loads the model ended before it was ready; its last "
                    "words are above. Is there enough memory?"
                )
            )
            self.ready.exception()  # seen, should nobody wait any more
        batches, self.batches = list(self.batches), deque()
        self.on_end(self, batches)

    def send(self, batch, pictures):
        """Send a batch: what `on_answers` gets back with its answers, and its uint8 pictures (H, W, 3)."""
        if not self.batches:
            self.since = asyncio.get_running_loop().time()
        self.batches.append(batch)
        self.transport.write(frames.pack(frames.PICTURES, *pictures))

    async def stop(self, seconds=5):
        """Close the socket, which ends the process, and see to it that it is gone."""
        self.transport.close()
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(None, lambda: self.process.wait(seconds))
        except subprocess.TimeoutExpired:
            self.process.kill()
            await loop.run_in_executor(None, self.process.wait)


async def start(folder, limits, threads, on_answers, on_end):
    """Start a process that computes a model folder.

    Returns:
        (`Engine`, dict of its manifest).

    Raises:
        ModelError: the model cannot be loaded or tried, says why.
    """
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    with theirs:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "d2lcls.deploy.serve.worker",
                str(folder),
                str(theirs.fileno()),
                str(limits.batch_size),
            ],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            # No threads of MXNet's between a call and its computation: handing over takes half the time of one picture.
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "MXNET_ENGINE_TYPE": "NaiveEngine"},
        )
    _, engine = await loop.create_connection(lambda: Engine(on_answers, on_end), sock=ours)
    engine.process = process
    try:
        return engine, await asyncio.wait_for(asyncio.shield(engine.ready), limits.load)
    except TimeoutError:
        process.kill()
        raise ModelError(f"{folder}: was not ready within {limits.load:g} s. Allow it more time: --load.") from None
    finally:
        if not engine.ready.done() or engine.ready.exception():
            await engine.stop()
