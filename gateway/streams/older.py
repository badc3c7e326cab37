"""What of a transcript came before its last few blocks: many texts held in one. Pure.

Law: what is taken out, or read, is what was put in, under its number, whichever way it is held.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from operator import methodcaller

_BETWEEN = "\n"  # two texts held in one: texts are printable
_SLOT = 8  # bytes of a reference
_PLACED = 48  # bytes to find one run by its number
takes: Callable[[object], int] = methodcaller("__sizeof__")


def joined(texts: deque[bytes | str]) -> str | None:
    """Texts as one; None: there are blocks among them."""
    try:
        return _BETWEEN.join(texts)  # type: ignore[arg-type]  # an error caught
    except TypeError:
        return None


class Older:
    """Blocks, and texts of blocks, in runs: texts in one, or whatever there was, the last one first."""

    __slots__ = ("_firsts", "_runs")

    def __init__(self) -> None:
        self._runs: list[str | list[bytes | str]] = []
        self._firsts: list[int] = []  # the numbers of their first blocks

    def put(self, first: int, run: str | deque[bytes | str]) -> None:
        """Add one that is not empty, from number `first` on, right behind the last one: texts `joined`, or all."""
        self._runs.append(run if isinstance(run, str) else [*reversed(run)])
        self._firsts.append(first)

    def extend(self, other: Older) -> None:
        """Add all that another one has, which stays as it is."""
        self._runs.extend(run if isinstance(run, str) else [*run] for run in other._runs)
        self._firsts.extend(other._firsts)

    def pop(self) -> bytes | str:
        """Take the oldest block out, or its text."""
        run = self._runs[0]
        if isinstance(run, str):
            run = self._runs[0] = [*reversed(run.split(_BETWEEN))]  # the others will go, too
        oldest = run.pop()
        self._firsts[0] += 1
        if not run:
            del self._runs[0], self._firsts[0]
        return oldest

    def each(self, first: int, end: int) -> Iterator[bytes | str]:
        """Those from number `first`, which is held, as far as they go, and before number `end`."""
        place = bisect_right(self._firsts, first) - 1
        while first < end and place < len(self._runs):
            run = self._runs[place]
            texts = run.split(_BETWEEN)[::-1] if isinstance(run, str) else run
            last = len(texts) - 1 - first + self._firsts[place]  # those of this run that are told, from this place down
            yield from map(texts.__getitem__, range(last, max(-1, last - end + first), -1))
            first += last + 1
            place += 1

    @property
    def memory(self) -> int:
        """Bytes of the process it takes to hold them, about."""
        loose = sum(sum(map(takes, run)) for run in self._runs if not isinstance(run, str))
        return loose + sum(map(takes, self._runs)) + _PLACED * len(self._runs)


def memory_of(held: deque[bytes | str]) -> int:
    """Bytes of the process that these take, about: a text of two letters takes sixty, or eighty."""
    return sum(map(takes, held)) + _SLOT * len(held)
