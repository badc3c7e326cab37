"""Futures that are done at a time at the latest, with one timer for all that wait equally long.

Law: who waits is woken when its time has come, and never before; what is done costs nothing more than its place in the
line, until those before it are done.
"""

from __future__ import annotations

import asyncio
from collections import deque

_TICK = 0.002  # seconds by which the loop's clock may be behind its timers


class Patience:
    """For waits of so many `seconds`. It holds futures and nobody who waits."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._loop = loop
        self._seconds = seconds
        self._waiting: deque[tuple[float, asyncio.Future[None]]] = deque()  # by when they are due
        self._timer: asyncio.TimerHandle | None = None

    def until(self, future: asyncio.Future[None]) -> asyncio.Future[None]:
        """The future, which is done in so many seconds if nobody sees to it before."""
        waiting = self._waiting
        while waiting and waiting[0][1].done():
            waiting.popleft()
        waiting.append((self._loop.time() + self._seconds, future))
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._due)
        return future

    def _due(self) -> None:
        waiting, now = self._waiting, self._loop.time() + _TICK
        while waiting and (waiting[0][1].done() or waiting[0][0] <= now):
            _, future = waiting.popleft()
            if not future.done():
                future.set_result(None)
        self._timer = self._loop.call_at(waiting[0][0], self._due) if waiting else None
