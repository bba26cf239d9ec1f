"""A queue that shares fairly between clients: between addresses first, and within an address between connections."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Client(NamedTuple):
    """Who sent a request: an address, and one of its connections."""

    address: str
    connection: int


def ahead(counts: Mapping[Client, int], client: Client) -> int:
    """Return how many pictures are served before one more of a client, where all cost the same and take fair turns.

    Args:
        counts: pictures of each client that wait already.
        client: whose picture it is.
    """
    own = counts.get(client, 0) + 1
    addresses: Counter[str] = Counter()
    turns = 0  # of the connections of the same address, until it is this one's turn
    for other, count in counts.items():
        addresses[other.address] += count
        if other.address == client.address:
            turns += min(count, own)
    return turns + sum(min(count, turns + 1) for address, count in addresses.items() if address != client.address)


class FairQueue(Generic[T]):
    """A queue whose next item is of the address that has had least, and there of each connection in turn.

    Between addresses this is start-time fair queueing (Goyal, Vin and Cheng, 1996): an address that comes anew starts
    level with the one served last, so that nobody gains by waiting. The items of one connection keep their order.
    """

    def __init__(self) -> None:
        self._lines: dict[str, dict[int, deque[T]]] = {}  # of each address: the items of each connection
        self._charged: defaultdict[str, float] = defaultdict(float)
        self._level, self._count = 0.0, 0

    def __len__(self) -> int:
        return self._count

    def put(self, client: Client, item: T) -> None:
        """Add an item at the end of its connection's line."""
        lines = self._lines.get(client.address)
        if lines is None:
            self._charged[client.address] = max(self._charged[client.address], self._level)
            lines = self._lines[client.address] = {}
        lines.setdefault(client.connection, deque()).append(item)
        self._count += 1

    def peek(self) -> T:
        """Return the item that `pop` would return.

        Raises:
            StopIteration: the queue is empty.
        """
        return next(iter(self._lines[self._next()].values()))[0]

    def pop(self, cost: float = 1.0) -> T:
        """Remove the next item, and charge its address.

        Raises:
            StopIteration: the queue is empty.
        """
        address = self._next()
        lines = self._lines[address]
        connection = next(iter(lines))
        items = lines.pop(connection)
        item = items.popleft()
        self._count -= 1
        if items:
            lines[connection] = items  # at the end: the others come first
        elif not lines:
            del self._lines[address]
        self._level = self._charged[address]
        self.charge(address, cost)
        return item

    def _next(self) -> str:
        if len(self._lines) < 2:
            return next(iter(self._lines))
        return min(self._lines, key=self._charged.__getitem__)

    def charge(self, address: str, cost: float) -> None:
        """Count what an address has had, in any unit, the same for all."""
        self._charged[address] += cost
        if not self._lines or len(self._charged) > 10_000:  # start again, or the table would grow with every client
            self._charged.clear()
            self._level = 0.0

    def ahead(self, client: Client) -> int:
        """Return how many items would be served before a new one of this client, as `ahead` does."""
        counts = {
            Client(address, one): len(items) for address, lines in self._lines.items() for one, items in lines.items()
        }
        return ahead(counts, client)

    def remove(self, unwanted: Callable[[T], bool]) -> list[T]:
        """Remove items and return them."""
        removed: list[T] = []
        for address, lines in list(self._lines.items()):
            for connection, items in list(lines.items()):
                lines[connection] = deque()
                for item in items:
                    (removed if unwanted(item) else lines[connection]).append(item)
                if not lines[connection]:
                    del lines[connection]
            if not lines:
                del self._lines[address]
        self._count -= len(removed)
        return removed
