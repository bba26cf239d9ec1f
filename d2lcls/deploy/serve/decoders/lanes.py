"""The service's side of the decoders: whose picture is next, what a killed one was working on, and a new one for it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict

from d2lcls.data.preprocess import Preprocess
from d2lcls.deploy.serve import frames
from d2lcls.deploy.serve.decoders.decoder import LENGTH, SECONDS, START, TIME
from d2lcls.deploy.serve.fair import Client, FairQueue
from d2lcls.deploy.serve.limits import Limits, Refused, busy

SMALL = 131_072, 1_000_000  # bytes and pixels of a picture that never waits for a large one
# Of small and of large pictures: decoders, and the fewest and most pictures sent to each in advance. The event loop may
# take some milliseconds until it sends the next ones, if hundreds of requests arrive at once.
_LANES = ((2, 4, 64), (2, 1, 1))
_ADVANCE = 0.01  # seconds of work that is sent in advance; another client's picture waits behind it
_START = 60.0  # seconds until a decoder must be ready

log = logging.getLogger(__name__)
Decoded = list[bytes] | Refused


class Pictures:
    """The encoded pictures of one request, until all are decoded or one is refused.

    Args:
        encoded: the pictures.
        preprocess: steps from a picture to the model's input.
        client: who sent them.
        unwanted: returns whether nobody waits for them any more.
        on_decoded: called once, with the uint8 pixels of each picture, (crop, crop, 3), or a `Refused`.
    """

    def __init__(
        self,
        encoded: Sequence[bytes],
        preprocess: Preprocess,
        client: Client,
        unwanted: Callable[[], bool],
        on_decoded: Callable[[Decoded], None],
    ) -> None:
        self.encoded, self.preprocess, self.client = encoded, preprocess, client
        self.unwanted, self.on_decoded = unwanted, on_decoded
        self.pixels: list[bytes] = [b""] * len(encoded)
        self.missing, self.finished = len(encoded), False

    def decoded(self, index: int, pixels: bytes) -> None:
        """Take the pixels of one picture."""
        self.pixels[index] = pixels
        self.missing -= 1
        if not self.missing:
            self.finish(self.pixels)

    def finish(self, outcome: Decoded) -> None:
        """Pass the outcome on, unless there was one before."""
        if not self.finished:
            self.finished = True
            self.on_decoded(outcome)


class Job:
    """One picture to decode."""

    __slots__ = ("pictures", "index", "failures")

    def __init__(self, pictures: Pictures, index: int) -> None:
        self.pictures, self.index, self.failures = pictures, index, 0

    def unwanted(self) -> bool:
        """Return whether its result is of no use any more."""
        return self.pictures.finished or self.pictures.unwanted()

    def refuse(self, status: int, reason: str) -> None:
        """Refuse the request that it belongs to."""
        self.pictures.finish(Refused(status, f"Picture {self.index} {reason}"))


class Decoder(asyncio.Protocol):
    """One decoder process."""

    transport: asyncio.Transport

    def __init__(self, lane: Lane) -> None:
        self.lane, self.jobs, self.buffer = lane, deque[Job](), bytearray()
        self.process, self.since = 0, 0.0  # its number, and since when it has been decoding the first job
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # a socket's, always
        """Keep the socket's transport."""
        self.transport = transport
        transport.set_write_buffer_limits(high=1 << 30)  # no more than a few pictures are on their way

    def send(self, job: Job) -> None:
        """Send a picture."""
        if not self.jobs:
            self.since = time.monotonic()
        self.jobs.append(job)
        order, picture = self.lane.order(job.pictures.preprocess), job.pictures.encoded[job.index]
        self.transport.write(frames.pack(frames.PICTURE, LENGTH.pack(len(order)), order, picture))

    def data_received(self, data: bytes) -> None:
        """Handle the frames that are complete."""
        self.buffer += data
        while frame := frames.unpack(self.buffer):
            kind, content = frame
            if kind == frames.READY:
                self.process = int(content)
                self.ready.set_result(None)
            else:
                now = time.monotonic()
                elapsed, self.since = now - self.since, now  # longer than it took, if the event loop was busy
                seconds = min(elapsed, TIME.unpack_from(content)[0] / 1e6)
                self.lane.answered(self.jobs.popleft(), seconds, kind, content[TIME.size :])
        self.lane.dispatch()

    def connection_lost(self, error: Exception | None) -> None:
        """Return the jobs that have no answer."""
        if not self.ready.done():
            self.ready.set_exception(OSError("A process that decodes pictures ended before it was ready."))
            self.ready.exception()  # marks it as retrieved
        self.lane.ended(self, time.monotonic() - self.since)


class Lane:
    """The queue and the decoders of small or of large pictures."""

    def __init__(self, fork: Callable[[Lane], None], pixels: int, decoders: int, least: int, most: int) -> None:
        self.fork, self.pixels, self.count, self.least, self.most = fork, pixels, decoders, least, most
        self.queue: FairQueue[Job] = FairQueue()
        self.decoders: list[Decoder] = []
        self.larger: Lane | None = None  # where pictures go that have too many pixels for this one
        self.pace = 0.0  # seconds per picture
        self._orders: dict[Preprocess, bytes] = {}

    def order(self, preprocess: Preprocess) -> bytes:
        """Return what a decoder is to do with a picture."""
        order = self._orders.get(preprocess)
        if order is None:
            order = json.dumps({**asdict(preprocess), "pixels": self.pixels}).encode()
            self._orders = {preprocess: order}  # of one model; two only during a reload
        return order

    def expected(self, client: Client) -> float:
        """Return the seconds that another picture of this client would wait."""
        return self.queue.ahead(client) * self.pace / self.count

    def put(self, job: Job) -> None:
        """Queue a picture."""
        self.queue.put(job.pictures.client, job)
        self.dispatch()

    def dispatch(self) -> None:
        """Send pictures to the decoders that have room."""
        ahead = max(self.least, min(self.most, int(_ADVANCE / self.pace) if self.pace else self.least))
        for decoder in self.decoders:
            while self.queue and len(decoder.jobs) < ahead:
                job = self.queue.pop(cost=0.0)
                if job.unwanted():
                    job.refuse(504, "was not decoded in time.")
                else:
                    decoder.send(job)

    def answered(self, job: Job, seconds: float, kind: bytes, content: bytes) -> None:
        """Take a decoder's answer."""
        self.queue.charge(job.pictures.client.address, seconds)
        self.pace += 0.1 * (seconds - self.pace)
        if kind == frames.DECODED:
            job.pictures.decoded(job.index, content)
        elif kind == frames.BROKEN:
            job.refuse(400, "is broken and cannot be read.")
        elif self.larger:
            self.larger.put(job)
        elif content == b"pixels":
            job.refuse(413, f"has more than {self.pixels} pixels, the limit. Make it smaller.")
        else:
            job.refuse(413, "takes more memory than a picture may. Make it smaller.")

    def ended(self, decoder: Decoder, seconds: float) -> None:
        """Blame the picture that a decoder was working on when it ended, and start another decoder."""
        if decoder not in self.decoders:
            return
        self.decoders.remove(decoder)
        if decoder.jobs:
            job = decoder.jobs.popleft()
            job.failures += 1
            self.queue.charge(job.pictures.client.address, seconds)
            log.warning("decoder ended", {"process": decoder.process, "seconds": round(seconds, 3)})
            if seconds >= SECONDS or job.failures > 1:  # otherwise it may have been killed from outside
                job.refuse(413, "takes too much time or memory to decode for its size. Save it again, smaller.")
            else:
                decoder.jobs.appendleft(job)
        for job in decoder.jobs:
            self.queue.put(job.pictures.client, job)
        self.fork(self)


class Decoding:
    """The decoders of one service.

    Args:
        limits: `Limits`.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits, self.closing, self.process = limits, False, 0
        self.parent: subprocess.Popen | None = None  # of the decoders
        self.control: socket.socket | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        sizes = min(SMALL[1], limits.pixels), limits.pixels
        self.small, self.large = (Lane(self._fork, pixels, *lane) for pixels, lane in zip(sizes, _LANES))
        self.small.larger = self.large

    def start(self) -> None:
        """Start the decoders' parent, which takes a moment to import Pillow."""
        if self.control is not None:
            self.control.close()
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.parent = subprocess.Popen(
                [sys.executable, "-m", "d2lcls.deploy.serve.decoders.decoder", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # a process with threads cannot be forked
            )

    async def open(self) -> None:
        """Start the decoders.

        Raises:
            OSError: they do not start.
        """
        await asyncio.gather(*(self._start(lane) for lane in (self.small, self.large) for _ in range(lane.count)))

    def submit(self, pictures: Pictures) -> None:
        """Decode the pictures of a request.

        Raises:
            Refused: they would have to wait for too long.
        """
        large = any(len(picture) > SMALL[0] for picture in pictures.encoded)
        expected = (self.large if large else self.small).expected(pictures.client)
        if expected > self.limits.seconds / 2:
            raise busy(expected)
        for index, picture in enumerate(pictures.encoded):
            (self.small if len(picture) <= SMALL[0] else self.large).put(Job(pictures, index))

    def expire(self) -> None:
        """Drop what nobody waits for, and kill a decoder that hangs without using the processor."""
        now = time.monotonic()
        for lane in (self.small, self.large):
            for job in lane.queue.remove(Job.unwanted):
                job.refuse(504, "was not decoded in time.")
            for decoder in lane.decoders:
                if decoder.jobs and now - decoder.since > max(30, 4 * self.limits.seconds):
                    os.kill(decoder.process, signal.SIGKILL)

    def _fork(self, lane: Lane) -> None:
        if not self.closing:
            task = asyncio.ensure_future(self._replace(lane))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def _replace(self, lane: Lane) -> None:
        while not self.closing:
            try:
                return await self._start(lane)
            except OSError as error:
                log.error("decoder not started", {"error": str(error)})
                await asyncio.sleep(0.5)

    async def _start(self, lane: Lane) -> None:
        if self.parent is None or self.parent.poll() is not None:
            self.start()
        assert self.control is not None
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self.control, [START.pack(lane.pixels, lane is self.large)], [theirs.fileno()])
        _, decoder = await asyncio.get_running_loop().create_connection(lambda: Decoder(lane), sock=ours)
        try:
            await asyncio.wait_for(asyncio.shield(decoder.ready), _START)
        except BaseException:  # also when the service is stopped meanwhile
            decoder.transport.abort()
            raise
        lane.decoders.append(decoder)
        lane.dispatch()

    def close(self) -> None:
        """End the decoders and their parent."""
        self.closing = True
        for lane in (self.small, self.large):
            for decoder in lane.decoders:
                decoder.transport.abort()
        if self.control is not None:
            self.control.close()
        if self.parent is not None:
            self.parent.wait()  # it has nothing to finish
