"""The service's side of a worker process: start it, send it batches, receive the results, notice its end."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d2lcls.deploy.manifest import ModelError
from d2lcls.deploy.serve import frames

if TYPE_CHECKING:
    from d2lcls.deploy.serve.limits import Limits

Batch = list[Any]  # of whatever the sender needs to assign the results; it comes back as it was sent
OnResults = Callable[["Engine", Batch, bytes | Exception], None]
OnEnd = Callable[["Engine", list[Batch]], None]


class Engine(asyncio.Protocol):
    """One worker process.

    Args:
        on_results: called with (engine, batch, content) for each batch; content is the bytes of the results, or an
            exception where that batch failed.
        on_end: called with (engine, batches) when the process is gone; those batches have no results.
    """

    process: subprocess.Popen
    transport: asyncio.Transport

    def __init__(self, on_results: OnResults, on_end: OnEnd) -> None:
        self.on_results, self.on_end = on_results, on_end
        self.ready: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.batches: deque[Batch] = deque()  # sent and without results, the first is being computed
        self.buffer, self.since = bytearray(), 0.0  # since when the first batch is being computed

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # a socket's, always
        """Keep the socket's transport."""
        self.transport = transport
        transport.set_write_buffer_limits(high=1 << 30)  # never more than two batches are on their way

    def data_received(self, data: bytes) -> None:
        """Handle the frames that are complete."""
        self.buffer += data
        while frame := frames.unpack(self.buffer):
            kind, content = frame
            if kind == frames.READY:
                self.ready.set_result(json.loads(content))
            elif kind == frames.ERROR:
                self.ready.set_exception(ModelError(content.decode()))
            else:
                failed = kind == frames.FAILED
                self.on_results(self, self.batches.popleft(), ArithmeticError(content.decode()) if failed else content)

    def connection_lost(self, error: Exception | None) -> None:
        """Return the batches that will have no results."""
        if not self.ready.done():
            self.ready.set_exception(
                ModelError(
                    "The process that loads the model ended before it was ready; what it printed last is above. "
                    "Is there enough memory?"
                )
            )
            self.ready.exception()  # marks it as retrieved, should nobody wait for it any more
        batches, self.batches = list(self.batches), deque()
        self.on_end(self, batches)

    def send(self, batch: Batch, pictures: Sequence[bytes]) -> None:
        """Send a batch: what `on_results` gets back with the results, and its pictures, uint8 (H, W, 3)."""
        if not self.batches:
            self.since = asyncio.get_running_loop().time()
        self.batches.append(batch)
        self.transport.write(frames.pack(frames.PICTURES, *pictures))

    async def stop(self, seconds: float = 5) -> None:
        """Close the socket, which ends the process, and make sure that it is gone."""
        self.transport.close()
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(None, self.process.wait, seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            await loop.run_in_executor(None, self.process.wait)


async def start(
    folder: Path, limits: Limits, threads: int, on_results: OnResults, on_end: OnEnd, trust: bool = False
) -> tuple[Engine, dict[str, Any]]:
    """Start a worker process for a model folder.

    Returns:
        (`Engine`, the manifest).

    Raises:
        ModelError: the model cannot be loaded or tried; the message says why.
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
                *["--trust"] * trust,
            ],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            # No threads of MXNet's between a call and its computation: handing over takes half the time of one picture.
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "MXNET_ENGINE_TYPE": "NaiveEngine"},
        )
    _, engine = await loop.create_connection(lambda: Engine(on_results, on_end), sock=ours)
    engine.process = process
    try:
        return engine, await asyncio.wait_for(asyncio.shield(engine.ready), limits.load)
    except TimeoutError:
        process.kill()
        raise ModelError(f"{folder}: was not ready within {limits.load:g} s. Allow it more time: --load.") from None
    finally:
        if not engine.ready.done() or engine.ready.exception():
            await engine.stop()
