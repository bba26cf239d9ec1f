"""What the batcher counts and how it answers, with workers that answer when a test makes them.

test_serve_life.py has the same with real processes.
"""

import asyncio
import functools
import types
from collections import deque

import numpy as np
import pytest

pytest.importorskip("prometheus_client")

from d2lcls.deploy.serve.batching import Batcher
from d2lcls.deploy.serve.fair import Client
from d2lcls.deploy.serve.limits import Limits, Refused
from d2lcls.deploy.serve.metrics import Metrics

ME, OTHER = Client("192.0.2.1", 1), Client("192.0.2.2", 1)


class Process:
    """In the place of an `Engine`; a picture is a number here, which is also its answer."""

    def __init__(self):
        self.batches, self.since, self.killed = deque(), asyncio.get_running_loop().time(), 0
        self.process = types.SimpleNamespace(kill=self.kill, poll=lambda: -9)

    def send(self, batch, pictures):
        assert pictures == [item[2] for item in batch]
        self.batches.append(batch)

    def kill(self):
        self.killed += 1

    async def stop(self):
        pass

    def sizes(self):
        return [len(batch) for batch in self.batches]


class Room(Batcher):
    def __init__(self, engines=1, **limits):
        super().__init__(None, Limits(**{"batch_wait": 0, "pictures": 1, **limits}), engines, 1, Metrics())
        self.engines = [Process() for _ in range(engines)]
        self.outcomes = {}  # of each ticket, in the order of their numbers

    def ask(self, *pictures, client=ME):
        ticket = self.admit(client, len(pictures), self.outcomes.setdefault(len(self.outcomes), []).append)
        self.submit(ticket, pictures)
        return ticket

    def answer(self, engine=0):
        one = self.engines[engine]
        batch = one.batches.popleft()
        numbers = np.array([[item[2]] for item in batch])
        self._receive(one, batch, numbers.astype(np.int32).tobytes() + numbers.astype(np.float32).tobytes())

    def outcome(self, ticket):
        """The outcomes of a ticket: its pictures, or the status."""
        return [
            outcome.status if isinstance(outcome, Refused) else [int(order[0]) for order, _ in outcome]
            for outcome in self.outcomes[ticket]
        ]


def in_loop(test):
    @functools.wraps(test)
    def run():
        asyncio.run(test())

    return run


def refused(call, *arguments):
    with pytest.raises(Refused) as caught:
        call(*arguments)
    return caught.value.status


@in_loop
async def test_places_are_given_up_to_the_last_and_come_back():
    room = Room(waiting=4)
    ticket = room.admit(ME, 3, lambda outcome: None)
    assert refused(room.admit, ME, 2, None) == 503
    room.check(ME)
    room.admit(ME, 1, lambda outcome: None)
    assert refused(room.check, ME) == 503 and refused(room.admit, ME, 1, None) == 503
    room.abandon(ticket, None)
    assert room.waiting == 1
    room.admit(ME, 3, None)


@in_loop
async def test_every_ticket_gets_the_answers_to_its_own_pictures():
    room = Room()
    room.ask(1)
    room.ask(2, 3, 4)
    room.ask(5, 6)
    room.answer()
    assert room.outcome(0) == [[1]] and room.waiting == 5
    assert room.engines[0].sizes() == [4]  # the largest size up to 5: that of the last ticket's second comes later
    room.answer()
    assert room.outcome(1) == [[2, 3, 4]] and room.outcome(2) == []
    room.answer()
    assert room.outcome(2) == [[5, 6]] and room.waiting == 0


@in_loop
async def test_others_may_join_while_the_process_is_busy_and_for_a_moment_while_it_is_not():
    room = Room()
    room.ask(1)
    room.ask(2)
    room.ask(3)
    assert room.engines[0].sizes() == [1]
    room.answer()
    assert room.engines[0].sizes() == [2]
    room = Room(batch_wait=0.01)
    room.admit(ME, 1, None)  # its picture is being decoded
    room.ask(2)
    assert room.engines[0].sizes() == []
    await asyncio.sleep(0.1)
    assert room.engines[0].sizes() == [1]


@in_loop
async def test_two_batches_at_most_are_with_a_process_and_processes_share():
    room = Room(batch_size=1)
    room.ask(1, 2, 3, 4)
    assert room.engines[0].sizes() == [1, 1]
    room = Room(engines=2)
    room.ask(1, 2, 3, 4)
    assert [one.sizes() for one in room.engines] == [[2], [2]]


@in_loop
async def test_whose_time_is_up_is_told_once_and_not_computed():
    room = Room(batch_size=2)
    for number in range(6):
        room.ask(2 * number, 2 * number + 1)
    assert room.engines[0].sizes() == [2, 2] and room.waiting == 12
    for ticket in list(room.tickets)[:3]:
        ticket.deadline = 0
    room.expire()
    assert [room.outcome(number) for number in range(6)] == [[504]] * 3 + [[]] * 3
    assert room.waiting == 10  # without those of the third; the process has those of the first two
    room.tickets[1].finish(Refused(504, "gone"))  # the fifth, in the middle of the queue
    room.answer()
    room.answer()
    assert room.outcome(0) == [504] and room.engines[0].sizes() == [2, 2] and room.waiting == 4
    room.answer()
    room.answer()
    assert (
        room.outcome(3) == [[6, 7]] and room.outcome(4) == [504] and room.outcome(5) == [[10, 11]] and room.waiting == 0
    )


@in_loop
async def test_the_pace_is_an_average_and_refuses_what_would_take_too_long():
    room = Room(seconds=5, pictures=4)
    for seconds, expected in ((8, 4), (16, 0.9 * 4 + 0.1 * 8)):
        room.ask(1, 2)
        room.engines[0].since = asyncio.get_running_loop().time() - seconds
        room.answer()
        assert room.pace == pytest.approx(expected, rel=0.01)
    room.pace = 1.0
    room.admit(ME, 2, None)
    room.check(ME)
    room.admit(ME, 1, None)
    assert refused(room.check, ME) == 503
    room.check(OTHER)  # whose picture would be the second one


@in_loop
async def test_who_has_most_makes_room():
    room = Room(waiting=8, pictures=2, batch_size=1)
    busy_ones = [Client("192.0.2.9", number) for number in range(4)]
    for number, client in enumerate(busy_ones):
        room.ask(2 * number, 2 * number + 1, client=client)
    assert room.waiting == 8 and room.engines[0].sizes() == [1, 1]
    room.ask(20, client=ME)  # another address: the last ticket of the busy one goes
    assert [room.outcome(number) for number in range(5)] == [[], [], [], [503], []] and room.waiting == 7
    room.ask(21, client=OTHER)
    assert room.waiting == 8
    assert refused(room.admit, busy_ones[3], 2, None) == 503  # nobody else has more
    answers = []
    for _ in range(20):
        if room.engines[0].batches:
            answers.append(room.engines[0].batches[0][0][2])
            room.answer()
    assert answers.index(20) <= 4 and answers.index(21) <= 5, answers  # not behind all of the busy address
    assert room.waiting == 0


@in_loop
async def test_a_batch_that_fails_is_500_and_the_next_is_computed():
    room = Room()
    room.ask(1)
    room.ask(2)
    one = room.engines[0]
    room._receive(one, one.batches.popleft(), ArithmeticError("nan"))
    assert room.outcome(0) == [500] and one.sizes() == [1] and room.waiting == 1


@in_loop
async def test_a_process_that_ends_is_replaced_and_one_that_hangs_is_ended():
    room, started = Room(batch_size=1, seconds=10), []

    async def start():
        started.append(Process())
        room.engines.append(started[-1])
        room._dispatch()

    room._start = start
    room.ask(1)
    room.ask(2)
    room.ask(3)
    one = room.engines[0]
    one.since = asyncio.get_running_loop().time() - 39  # four times the limit of a request, and at least 30 s
    room.expire()
    assert not one.killed
    one.since -= 2
    room.expire()
    assert one.killed
    room._ended(one, list(one.batches))
    assert [room.outcome(number) for number in range(3)] == [[500], [500], []] and room.waiting == 1
    assert room.engines == [] and refused(room.check, ME) == 503
    assert "d2lcls_engine_ends_total 1.0" in room.metrics.text().decode()
    await room.replacing
    assert len(started) == 1 and started[0].sizes() == [1]


@in_loop
async def test_closing_computes_what_was_admitted():
    room = Room(batch_wait=1000)
    room.admit(ME, 1, lambda outcome: None)
    room.ask(2)
    closing = asyncio.ensure_future(room.close())
    await asyncio.sleep(0.05)
    assert room.engines[0].sizes() == [1] and not closing.done()
    room.answer()
    room.waiting -= 1  # the other one was abandoned
    await asyncio.wait_for(closing, 10)
    assert room.outcome(0) == [[2]]


@in_loop
async def test_closing_without_a_process_tells_everybody():
    room = Room(batch_size=1)
    for number in range(3):
        room.ask(number)
    room.closing = True
    room._ended(room.engines[0], list(room.engines[0].batches))
    await asyncio.wait_for(room.close(), 10)
    assert [room.outcome(number) for number in range(3)] == [[500]] * 3
    assert "d2lcls_engine_ends_total 0.0" in room.metrics.text().decode()
