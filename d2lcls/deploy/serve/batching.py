"""The queue: pictures are admitted or refused at once, collected into batches, and answered within the time limit."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from d2lcls.data.preprocess import Preprocess
from d2lcls.deploy.manifest import ModelError
from d2lcls.deploy.serve import engine
from d2lcls.deploy.serve.engine import Batch, Engine
from d2lcls.deploy.serve.fair import Client, FairQueue, ahead
from d2lcls.deploy.serve.limits import Limits, Refused, busy
from d2lcls.deploy.serve.metrics import Metrics
from d2lcls.deploy.serve.worker import batch_sizes

import numpy as np

IN_FLIGHT = 2  # batches sent to a worker: one that it computes, one that it can begin without a pause
Ranked = tuple[np.ndarray, np.ndarray]  # order and probabilities of the classes, see `worker.rank`
Outcome = list[Ranked] | Refused

log = logging.getLogger(__name__)


class Ticket:
    """A request's place in the queue.

    Args:
        client: who sent it.
        count: number of pictures.
        deadline: `time.monotonic` at which the request has taken too long.
        on_finish: called once, with the list of (order, probabilities) or with a `Refused`.
    """

    __slots__ = ("client", "results", "missing", "held", "sent", "deadline", "on_finish", "finished")

    def __init__(self, client: Client, count: int, deadline: float, on_finish: Callable[[Outcome], None]) -> None:
        self.client, self.results = client, [None] * count
        self.missing = self.held = count  # pictures without a result, and those that take up room
        self.sent = 0  # pictures that went to a worker
        self.deadline, self.on_finish, self.finished = deadline, on_finish, False

    def finish(self, outcome: Outcome) -> None:
        """Pass the outcome on, unless there was one before."""
        if not self.finished:
            self.finished = True
            self.on_finish(outcome)


class Item(NamedTuple):
    """A picture in the queue: its request, its position there, its pixels, and when it came."""

    ticket: Ticket
    position: int
    picture: bytes
    since: float


class Batcher:
    """One loaded model with its queue; everything happens in the event loop's thread.

    Args:
        folder: of the model.
        limits: `Limits`.
        engines: number of worker processes.
        threads: number of threads of each of them.
        metrics: `Metrics`.
    """

    manifest: dict[str, Any]
    preprocess: Preprocess

    def __init__(
        self, folder: Path, limits: Limits, engines: int, threads: int, metrics: Metrics, trust: bool = False
    ) -> None:
        self.folder, self.limits, self.metrics, self.trust = folder, limits, metrics, trust
        self.engine_count, self.threads, self.sizes = engines, threads, batch_sizes(limits.batch_size)
        self.engines: list[Engine] = []
        self.queue: FairQueue[Item] = FairQueue()
        self.tickets: deque[Ticket] = deque()
        self.waiting = 0  # pictures admitted and not finished
        # Those that went to no worker yet, of each client and of each address: a refusal must not take long to decide.
        self.unsent: Counter[Client] = Counter()
        self.unsent_of: Counter[str] = Counter()
        self.pace = 0.0  # seconds per picture, averaged over the last batches
        self.closing = False
        self.timer: asyncio.TimerHandle | None = None

    async def open(self) -> Batcher:
        """Start the workers.

        Raises:
            ModelError: one of them cannot load the model.
        """
        started = await asyncio.gather(*(self._start() for _ in range(self.engine_count)), return_exceptions=True)
        for outcome in started:
            if outcome is not None:
                await self.close()
                raise outcome
        return self

    async def _start(self) -> None:
        one, manifest = await engine.start(
            self.folder, self.limits, self.threads, self._receive, self._ended, self.trust
        )
        if not hasattr(self, "manifest"):
            self.manifest, self.preprocess = manifest, Preprocess(**manifest["preprocess"])
        elif manifest["files"] != self.manifest["files"]:
            await one.stop()
            raise ModelError(f"{self.folder}: its files changed while it was loaded. Reload when all are in place.")
        if self.closing:
            return await one.stop()
        self.engines.append(one)
        return self._dispatch()

    def check(self, client: Client) -> None:
        """Raise the `Refused` that a request of one picture would get now."""
        if not self.engines:
            raise busy(5, "The model is being restarted.")
        expected = self.waiting * self.pace
        if expected > self.limits.seconds / 2:
            expected = (self.waiting - self.unsent.total() + ahead(self.unsent, client)) * self.pace
        if expected > self.limits.seconds / 2 or self.waiting >= self.limits.waiting and not self._larger(client, 1):
            raise busy(expected)

    def admit(self, client: Client, count: int, on_finish: Callable[[Outcome], None]) -> Ticket:
        """Give a request a place in the queue; its time begins now.

        Where there is no room, the last request of the client that has most of it is refused instead, if that one
        has more than this one would have.

        Args:
            client: who sent it.
            count: number of pictures.
            on_finish: receives the outcome, see `Ticket`.

        Raises:
            Refused: there is no room for so many, or what is in the queue already takes too long.
        """
        self.check(client)
        while self.waiting + count > self.limits.waiting:
            larger = self._larger(client, count)
            last = self._last(larger) if larger else None
            if not last:
                raise busy(self.waiting * self.pace)
            self._evict(last)
        self.waiting += count
        self._count(client, count)
        ticket = Ticket(client, count, time.monotonic() + self.limits.seconds, on_finish)
        self.tickets.append(ticket)
        return ticket

    def _larger(self, client: Client, count: int) -> Client | None:
        """Return the client that has most unsent pictures, if it has more than this one with so many more.

        Of several with as many, it is the one that came last.
        """
        if not self.unsent:
            return None
        address = max(reversed(self.unsent_of), key=self.unsent_of.__getitem__)
        if address != client.address and self.unsent_of[address] <= self.unsent_of[client.address] + count:
            return None
        other = max((one for one in reversed(self.unsent) if one.address == address), key=self.unsent.__getitem__)
        if address == client.address and self.unsent[other] <= self.unsent[client] + count:
            return None
        return other

    def _last(self, client: Client) -> Ticket | None:
        """Return the last request of a client that can still be refused."""
        for ticket in reversed(self.tickets):
            if ticket.client == client and not ticket.finished and ticket.sent < len(ticket.results):
                return ticket
        return None  # all its requests have expired, and some of their pictures are still being decoded

    def _evict(self, ticket: Ticket) -> None:
        self._drop(ticket, len(self.queue.remove(lambda item: item.ticket is ticket)))
        if not ticket.sent:  # its pictures are still being decoded
            self._drop(ticket, ticket.held)
        ticket.finish(busy(self.waiting * self.pace))

    def _count(self, client: Client, change: int) -> None:
        """Change the number of a client's unsent pictures."""
        counts: tuple[tuple[Counter[Any], Any], ...] = (self.unsent, client), (self.unsent_of, client.address)
        for counter, key in counts:
            counter[key] += change
            if not counter[key]:
                del counter[key]

    def _drop(self, ticket: Ticket, count: int) -> None:
        """Free the room of unsent pictures."""
        self._count(ticket.client, -count)
        self._release(ticket, count)

    def _release(self, ticket: Ticket, count: int) -> None:
        ticket.held -= count
        self.waiting -= count

    def submit(self, ticket: Ticket, pictures: Sequence[bytes]) -> None:
        """Queue a ticket's pictures, uint8 (crop, crop, 3) each, as many as were admitted."""
        if ticket.finished:
            return self._drop(ticket, ticket.held)
        now = time.monotonic()
        for index, picture in enumerate(pictures):
            self.queue.put(ticket.client, Item(ticket, index, picture, now))
        return self._dispatch()

    def abandon(self, ticket: Ticket, refused: Refused) -> None:
        """Give up a ticket whose pictures cannot be submitted."""
        self._drop(ticket, ticket.held)
        ticket.finish(refused)

    def _dispatch(self) -> None:
        while self.queue:
            free = min(self.engines, key=lambda one: len(one.batches), default=None)
            if free is None or len(free.batches) >= IN_FLIGHT:
                return
            # A fair share of all that waits, or one worker would compute everything while the others have nothing.
            share = -(-self.waiting // len(self.engines))
            size = max(one for one in self.sizes if one <= share)  # no size that would have to be filled up
            if len(self.queue) < size and not self.closing:
                wait = self.queue.peek().since + self.limits.batch_wait - time.monotonic()
                if wait > 0 or free.batches:  # no worker would begin with it now, so others may join
                    if self.timer is None and not free.batches:
                        self.timer = asyncio.get_running_loop().call_later(wait, self._waited)
                    return
            batch: Batch = []
            while self.queue and len(batch) < size:
                item = self.queue.pop()
                if item.ticket.finished:
                    self._drop(item.ticket, 1)
                else:
                    item.ticket.sent += 1
                    self._count(item.ticket.client, -1)
                    batch.append(item)
            if batch:
                free.send(batch, [item.picture for item in batch])

    def _waited(self) -> None:
        self.timer = None
        self._dispatch()

    def _receive(self, one: Engine, batch: Batch, content: bytes | Exception) -> None:
        now = asyncio.get_running_loop().time()
        seconds, one.since = now - one.since, now
        for item in batch:
            self._release(item.ticket, 1)
        self._dispatch()  # first, so that the worker has something to do
        if isinstance(content, Exception):
            log.error("batch failed", {"pictures": len(batch), "error": str(content)})
            for item in batch:
                item.ticket.finish(Refused(500, "The model failed on this batch of pictures."))
            return
        pace = seconds / len(batch) / len(self.engines)
        self.pace = 0.9 * self.pace + 0.1 * pace if self.pace else pace
        self.metrics.batch(len(batch), seconds)
        half = len(content) // 2
        order = np.frombuffer(content, np.int32, half // 4).reshape(len(batch), -1)
        probabilities = np.frombuffer(content, np.float32, half // 4, half).reshape(len(batch), -1)
        for row, (ticket, position, _, _) in enumerate(batch):
            ticket.results[position] = order[row], probabilities[row]
            ticket.missing -= 1
            if not ticket.missing:
                ticket.finish(ticket.results)

    def _ended(self, one: Engine, batches: list[Batch]) -> None:
        if one not in self.engines:
            return
        self.engines.remove(one)
        if not self.closing:  # logged before anybody gets the 500
            log.error("engine ended", {"pictures": sum(map(len, batches)), "code": one.process.poll()})
        for batch in batches:
            for item in batch:
                self._release(item.ticket, 1)
                item.ticket.finish(Refused(500, "The process that computed this picture ended."))
        if not self.closing:
            self.metrics.restarts.inc()
            self.replacing = asyncio.ensure_future(self._replace(one))

    async def _replace(self, one: Engine) -> None:
        await one.stop()
        pause = 0.5
        while not self.closing:
            try:
                await self._start()
                return log.info("engine restarted")
            except (ModelError, OSError) as error:
                log.error("engine not restarted", {"error": str(error), "again_in": pause})
            await asyncio.sleep(pause)
            pause = min(2 * pause, 30)

    def expire(self) -> None:
        """Answer requests whose time is up, and kill a worker that has hung far longer; to be called often."""
        now = time.monotonic()
        while self.tickets and (self.tickets[0].finished or self.tickets[0].deadline < now):
            self.tickets.popleft().finish(Refused(504, f"Not done within {self.limits.seconds:g} s."))
        for item in self.queue.remove(lambda item: item.ticket.finished):
            self._drop(item.ticket, 1)
        longest = max(30, 4 * self.limits.seconds)
        for one in self.engines:
            if one.batches and asyncio.get_running_loop().time() - one.since > longest:
                log.error("engine hangs", {"seconds": longest})
                one.process.kill()

    async def close(self, finish: bool = True) -> None:
        """End the workers, as soon as they have computed what was admitted, or at once if not `finish`."""
        self.closing = True
        if finish:
            self._dispatch()
            while self.waiting and self.engines:
                await asyncio.sleep(0.01)
            for ticket in self.tickets:  # where the workers ended before they had computed everything
                ticket.finish(Refused(500, "The process that computes ended."))
        await asyncio.gather(*(one.stop() for one in self.engines))
