"""A mapping that forgets: what a node remembers for a while only.

Law: bounded, by time and by count. The clock is seconds, injected.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Expiring(Generic[T]):
    """A mapping that forgets a value `life` seconds after it was put, and the oldest beyond `limit`."""

    def __init__(self, life: float, limit: int, clock: Callable[[], float]) -> None:
        self._life = life
        self._limit = limit
        self._clock = clock
        self._items: OrderedDict[str, tuple[float, T]] = OrderedDict()

    def put(self, key: str, value: T) -> None:
        """Keep a value, anew."""
        self._items[key] = (self._clock() + self._life, value)
        self._items.move_to_end(key)
        self._sweep()

    def get(self, key: str) -> T | None:
        """The value, while it lives."""
        self._sweep()
        found = self._items.get(key)
        return None if found is None else found[1]

    def pop(self, key: str) -> None:
        """Forget a value now."""
        self._items.pop(key, None)

    def keys(self) -> list[str]:
        """What lives, oldest first."""
        self._sweep()
        return list(self._items)

    def __len__(self) -> int:
        self._sweep()
        return len(self._items)

    def _sweep(self) -> None:
        now = self._clock()
        while self._items:
            oldest = next(iter(self._items))
            if len(self._items) <= self._limit and self._items[oldest][0] > now:
                return
            del self._items[oldest]
