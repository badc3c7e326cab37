"""When a reader's bytes leave: at once while the worker is idle, at most once per window and once at its end when it is
busy.

The same moderation as a network card's interrupts, in both directions: a busy worker also dozes for a part of a window,
so that what arrives meanwhile is read, and written, in one go (`Intake`); a request that comes in keeps it awake. A
frame is never split or merged, only written together with others; a reader's first bytes and its last ones never wait
(the reader flushes those itself). One per worker, and one for each mode that requests ask for by name (`Pacers`); only
the worker's own dozes.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Protocol

from backends.intake import Intake

# Seconds between two writes of one stream while the worker is busy (CONTRACT.md row 10).
WINDOWS = {"immediate": 0.0, "high_performance": 0.004, "balanced": 0.008, "battery_saver": 0.033}
# Writes that may leave at once per second before the worker counts as busy.
_IMMEDIATE_PER_SECOND = 2000
_LONGEST = 0.004  # seconds of one doze
_CYCLE = 0.75  # of a window, from one waking to the next: what is read last is still written within a window or so
_AWAKE = 0.01  # seconds without a doze after a request came in: it has several turns of the loop to go


class Flushable(Protocol):
    """What a pacer holds back: `dirty` is the pacer's own mark."""

    dirty: bool

    def flush(self) -> None:
        """Write what is there."""


def doze(window: float, since: float) -> float:
    """Seconds a busy worker may sleep that woke `since` seconds ago: the rest of a cycle. What it needs for itself, or
    others take from it, comes first."""
    return max(0.0, min(window * _CYCLE - since, _LONGEST))


class Pacer:
    """Shared by all readers of a worker. Must be used from the event loop's thread.

    A reader that writes by itself keeps to this: it may while `free(stamp)`, and then notes `turn` as its stamp and
    calls `wrote`; else it calls `hold` and is flushed at the end of the window.
    """

    __slots__ = (
        "_armed",
        "_awake",
        "_busy",
        "_dozes",
        "_dozing",
        "_loop",
        "_waiting",
        "_window",
        "_woke",
        "burst",
        "intake",
        "time",
        "turn",
        "written",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, mode: str, *, dozes: bool = True) -> None:
        self._loop = loop
        self.time = loop.time
        self._window = 0.0
        self._dozes = dozes
        self._armed = self._busy = self._dozing = False
        self._woke = self._awake = 0.0
        self._waiting: list[Flushable] = []
        self.turn = 0  # the number of the present window
        self.written = 0  # writes in it
        self.burst = 0  # writes after which a reader's second one in a window waits
        self.intake = Intake(loop.call_soon, loop.time, self._took)
        self.set_mode(mode)

    def set_mode(self, mode: str) -> None:
        """From now on, in a new window: by other rules a reader might write before what waits of it, or wait for an
        end of the old one that does not come. Raises KeyError for a mode there is none of."""
        self._window = WINDOWS[mode]
        self.burst = max(1, int(self._window * _IMMEDIATE_PER_SECOND)) if self._window else sys.maxsize
        self._busy = self.intake.busy = False
        self._end_window()

    def free(self, stamp: int) -> bool:
        """Whether a reader that last wrote in window `stamp` may write now."""
        return stamp != self.turn or self.written < self.burst

    def wrote(self) -> None:
        """A reader has written."""
        self.written += 1
        if self._busy:
            if not self._dozing:
                self._dozing = True
                self._loop.call_soon(self._loop.call_soon, self._doze)  # behind the writes of this turn of the loop
        elif not self._armed and self._window:
            self._arm()

    def _arm(self) -> None:
        self._armed = True
        self._loop.call_later(self._window, self._tick)

    def _took(self, count: int) -> None:
        """So many were read together, and written. A window may have ended between the two, and was no busy one."""
        self.written += count
        if not self._armed and self._window:
            self._arm()
        if not self._dozing:
            self._doze()

    def hold(self, reader: Flushable) -> None:
        """Flush this reader when the window ends."""
        if not reader.dirty:
            reader.dirty = True
            self._waiting.append(reader)

    def hurry(self, seconds: float = _AWAKE) -> None:
        """A request came in: it must not wait at every turn it takes. Or something else comes within so many
        seconds that others wait for."""
        self._awake = max(self._awake, time.monotonic() + seconds)

    def _tick(self) -> None:
        written = self.written
        self._end_window()
        self._busy = self.intake.busy = self._dozes and written > self.burst and bool(self._window)
        self._armed = False
        if written and self._window:
            self._arm()

    def _end_window(self) -> None:
        """What waits goes out, and all may write at once again."""
        waiting, self._waiting = self._waiting, []
        self.written = 0
        self.turn += 1
        for reader in waiting:
            reader.dirty = False
            try:
                reader.flush()
            except Exception as error:  # of one stream: the others wait for their bytes too
                self._loop.call_exception_handler({"message": "a reader failed", "exception": error})

    def _doze(self) -> None:
        now = time.monotonic()
        if self._busy and now >= self._awake:
            time.sleep(doze(self._window, now - self._woke))
        self._woke, self._dozing = time.monotonic(), False


class Pacers:
    """The worker's own pacer, and those of the modes that single requests chose."""

    def __init__(self, loop: asyncio.AbstractEventLoop, own: Pacer) -> None:
        self._loop = loop
        self._own = own
        self._chosen: dict[str, Pacer] = {}

    def of(self, mode: str) -> Pacer:
        """The pacer of a mode; "": the worker's own, as operators set it. Raises KeyError for an unknown one."""
        if not mode:
            return self._own
        if mode not in self._chosen:
            self._chosen[mode] = Pacer(self._loop, mode, dozes=False)
        return self._chosen[mode]
