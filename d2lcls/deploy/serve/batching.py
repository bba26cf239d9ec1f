"""The waiting room: pictures are admitted or refused at once, gathered into batches, and answered in time or not."""

import asyncio
import time
from collections import deque

from d2lcls.data.preprocess import Preprocess
from d2lcls.deploy.manifest import ModelError
from d2lcls.deploy.serve import engine
from d2lcls.deploy.serve.limits import Refused, busy
from d2lcls.deploy.serve.worker import batch_sizes

import numpy as np

IN_FLIGHT = 2  # batches sent to a process: one that it computes, one that it begins without a pause


class Ticket:
    """A request's place: `done` is called once, with the list of (order, probabilities) or with a `Refused`."""

    __slots__ = ("results", "missing", "deadline", "done", "over")

    def __init__(self, count, deadline, done):
        self.results, self.missing, self.deadline, self.done, self.over = [None] * count, count, deadline, done, False

    def finish(self, outcome):
        """Tell the outcome, unless another was told before."""
        if not self.over:
            self.over = True
            self.done(outcome)


class Batcher:
    """One loaded model with what waits for it; everything happens in the event loop's thread.

    Args:
        folder: the model's.
        limits: `Limits`.
        engines: how many processes compute.
        threads: how many threads each of them uses.
        metrics: `Metrics`.
        log: function of (level, event) and named details.
    """

    def __init__(self, folder, limits, engines, threads, metrics, log):
        self.folder, self.limits, self.metrics, self.log = folder, limits, metrics, log
        self.wanted, self.threads, self.sizes = engines, threads, batch_sizes(limits.batch_size)
        self.engines, self.queue, self.tickets = [], deque(), deque()
        self.waiting = 0  # pictures admitted and not done with
        self.pace = 0.0  # seconds a picture, averaged over the last batches
        self.closing, self.timer, self.content, self.preprocess = False, None, None, None

    async def open(self):
        """Start the processes; ModelError if one cannot load the model."""
        started = await asyncio.gather(*(self._start() for _ in range(self.wanted)), return_exceptions=True)
        failed = [outcome for outcome in started if isinstance(outcome, BaseException)]
        if failed:
            await self.close()
            raise failed[0]
        return self

    async def _start(self):
        one, content = await engine.start(self.folder, self.limits, self.threads, self._answered, self._ended)
        if self.content is None:
            self.content = content
            self.preprocess = Preprocess(**content["preprocess"])
            self.classes = tuple(content["classes"])
        elif content["files"] != self.content["files"]:
            await one.stop()
            raise ModelError(f"{self.folder}: its files changed while it was loaded. Reload once they are all there.")
        if self.closing:
            return await one.stop()
        self.engines.append(one)
        return self._dispatch()

    def check(self):
        """Raise the `Refused` that a request would get now, as `admit` does."""
        if not self.engines:
            raise busy(5, "The model is being started anew.")
        expected = self.waiting * self.pace
        if self.waiting >= self.limits.waiting or expected > self.limits.seconds / 2:
            raise busy(expected)

    def admit(self, count, done):
        """Give a request a place, whose time begins now.

        Args:
            count: of its pictures.
            done: function of the outcome, see `Ticket`.

        Raises:
            Refused: there is no room for so many, or what is there already takes too long.
        """
        self.check()
        if self.waiting + count > self.limits.waiting:
            raise busy(self.waiting * self.pace)
        self.waiting += count
        ticket = Ticket(count, time.monotonic() + self.limits.seconds, done)
        self.tickets.append(ticket)
        return ticket

    def submit(self, ticket, pictures):
        """Bring the uint8 pictures (crop, crop, 3) of a ticket, as many as were admitted."""
        now = time.monotonic()
        for place, picture in enumerate(pictures):
            self.queue.append((ticket, place, picture, now))
        self._dispatch()

    def abandon(self, ticket, outcome):
        """Give a ticket back whose pictures will not come."""
        self.waiting -= len(ticket.results)
        ticket.finish(outcome)

    def _dispatch(self):
        while self.queue:
            free = min(self.engines, key=lambda one: len(one.batches), default=None)
            if free is None or len(free.batches) >= IN_FLIGHT:
                return
            # A fair share of all that is here, or one process would compute everything while the others wait for it.
            share = -(-self.waiting // len(self.engines))
            size = max(one for one in self.sizes if one <= share)  # none of those that it would fill up to the next one
            if len(self.queue) < size and not self.closing:
                wait = self.queue[0][3] + self.limits.batch_wait - time.monotonic()
                if wait > 0 or free.batches:  # nobody would begin with it now, so others may join
                    if self.timer is None and not free.batches:
                        self.timer = asyncio.get_running_loop().call_later(wait, self._waited)
                    return
            batch = []
            while self.queue and len(batch) < size:
                item = self.queue.popleft()
                if item[0].over:
                    self.waiting -= 1
                else:
                    batch.append(item)
            if batch:
                free.send(batch, [item[2] for item in batch])

    def _waited(self):
        self.timer = None
        self._dispatch()

    def _answered(self, one, batch, content):
        now = asyncio.get_running_loop().time()
        seconds, one.since = now - one.since, now
        self.waiting -= len(batch)
        self._dispatch()  # first, so that the process has something to do
        if isinstance(content, Exception):
            self.log("error", "batch failed", pictures=len(batch), error=str(content))
            outcome = Refused(500, "The model failed on this batch of pictures.")
            for ticket, _, _, _ in batch:
                ticket.finish(outcome)
            return
        pace = seconds / len(batch) / len(self.engines)
        self.pace = 0.9 * self.pace + 0.1 * pace if self.pace else pace
        self.metrics.batch(len(batch), seconds)
        half = len(content) // 2
        order = np.frombuffer(content, np.int32, half // 4).reshape(len(batch), -1)
        probabilities = np.frombuffer(content, np.float32, half // 4, half).reshape(len(batch), -1)
        for row, (ticket, place, _, _) in enumerate(batch):
            ticket.results[place] = order[row], probabilities[row]
            ticket.missing -= 1
            if not ticket.missing:
                ticket.finish(ticket.results)

    def _ended(self, one, batches):
        if one not in self.engines:
            return
        self.engines.remove(one)
        if not self.closing:  # told before anybody gets the 500
            self.log("error", "engine ended", pictures=sum(map(len, batches)), code=one.process.poll())
        for batch in batches:
            self.waiting -= len(batch)
            for ticket, _, _, _ in batch:
                ticket.finish(Refused(500, "The process that computed this picture ended."))
        if not self.closing:
            self.metrics.restarts.inc()
            self.replacing = asyncio.ensure_future(self._replace(one))

    async def _replace(self, one):
        await one.stop()
        pause = 0.5
        while not self.closing:
            try:
                await self._start()
                return self.log("info", "engine restarted")
            except (ModelError, OSError) as error:
                self.log("error", "engine not restarted", error=str(error), again_in=pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, 30)

    def expire(self):
        """Answer those whose time is up, and end a process that has hung far longer; to be called often."""
        now = time.monotonic()
        while self.tickets and (self.tickets[0].over or self.tickets[0].deadline < now):
            self.tickets.popleft().finish(Refused(504, f"Not done within {self.limits.seconds:g} s."))
        while self.queue and self.queue[0][0].over:
            self.queue.popleft()
            self.waiting -= 1
        hung = max(30, 4 * self.limits.seconds)
        for one in self.engines:
            if one.batches and asyncio.get_running_loop().time() - one.since > hung:
                self.log("error", "engine hangs", seconds=hung)
                one.process.kill()

    async def close(self):
        """Finish what was admitted, then end the processes."""
        self.closing = True
        self._dispatch()
        while self.waiting and self.engines:
            await asyncio.sleep(0.01)
        for ticket in self.tickets:  # where the processes ended before they had computed everything
            ticket.finish(Refused(500, "The process that computes ended."))
        await asyncio.gather(*(one.stop() for one in self.engines))
