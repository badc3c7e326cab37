"""When a reader's bytes leave: at once while the worker is idle, together once per window when it is busy.

The same moderation as a network card's interrupts. A frame is never split or merged, only written together with others;
a reader's first bytes and its last ones never wait (the reader flushes those itself). One pacer per worker.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

# Seconds between two writes of one stream while the worker is busy (CONTRACT.md row 10).
WINDOWS = {"immediate": 0.0, "high_performance": 0.004, "balanced": 0.008, "battery_saver": 0.033}
# Writes that may leave at once per second before the worker counts as busy.
_IMMEDIATE_PER_SECOND = 2000


class Flushable(Protocol):
    """What a pacer holds back: `dirty` is the pacer's own mark."""

    dirty: bool

    def flush(self) -> None:
        """Write what is there."""


class Pacer:
    """Shared by all readers of a worker. Must be used from the event loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, mode: str) -> None:
        self._loop = loop
        self._window = WINDOWS[mode]
        self._burst = max(1, int(self._window * _IMMEDIATE_PER_SECOND))
        self._written = 0
        self._armed = False
        self._waiting: list[Flushable] = []

    def submit(self, reader: Flushable) -> None:
        """The reader has something new: flush it now, or with the next window."""
        if not self._window:
            reader.flush()
            return
        if reader.dirty:
            return
        self._written += 1
        if not self._armed:
            self._armed = True
            self._loop.call_later(self._window, self._tick)
        if self._written <= self._burst:
            reader.flush()
        else:
            reader.dirty = True
            self._waiting.append(reader)

    def _tick(self) -> None:
        waiting, self._waiting = self._waiting, []
        idle, self._written = self._written == 0, 0
        if idle:
            self._armed = False
        else:
            self._loop.call_later(self._window, self._tick)
        for reader in waiting:
            reader.dirty = False
            reader.flush()
