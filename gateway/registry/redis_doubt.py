"""Whether this node slept for so long that the fleet may have given it up, and what waits until that is known.

Law: a node that was awake is never in doubt, whatever Redis does. One that wakes up after its lease may find the end
of an answer in its socket before it hears that the answer was declared lost: no stream ends until its heartbeat was
answered, or Redis had a moment to answer it; then what was to end does, in the order in which it came. Nothing here
costs a token anything: a look when a stream ends, and a few a lease.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

import structlog

log = structlog.get_logger(__name__)

PATIENCE = 1.0  # seconds a node that slept waits for its heartbeat's answer

Act = Callable[[], object]


def _clock() -> float:
    """Seconds, those in which the machine was suspended included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Doubt:
    """`whole`: seconds from a heartbeat until a node is given up at the soonest; `beat`: between two heartbeats."""

    def __init__(self, whole: float, beat: float, clock: Callable[[], float] = _clock) -> None:
        self._whole, self._clock = whole, clock
        self._nap = (whole - beat) / 2  # an awake node's clock is looked at more often than that
        self._awake = clock()
        self._sure = math.inf  # until when it cannot be given up; before its first heartbeat nobody knows of it
        self._held: list[Act] | None = None  # None: there is no doubt
        self._decided = False
        self._timer: asyncio.TimerHandle | None = None
        self._end: asyncio.TimerHandle | None = None

    @property
    def now(self) -> float:
        """The clock heartbeats are timed by."""
        return self._clock()

    def start(self) -> None:
        """Look at the clock from now on."""
        self._awake = self._clock()
        self._timer = asyncio.get_running_loop().call_later(self._nap / 2, self._look)

    def stop(self) -> None:
        """No more looks; what waits is done."""
        if self._timer is not None:
            self._timer.cancel()
        self._sure = math.inf
        self._over()

    def holds(self, act: Act) -> bool:
        """A stream is about to end. True: `act` is called when it may."""
        if self._decided or not self._doubts():
            return False
        assert self._held is not None
        self._held.append(act)
        return True

    def decide(self, act: Act) -> None:
        """What the fleet has said of a stream: that does not wait."""
        self._decided = True
        try:
            act()
        finally:
            self._decided = False

    def heard(self, sent: float) -> bool:
        """The heartbeat of that time was answered, and what it told has been done. False: it says nothing of now, since
        it is from before a sleep; the next one is to."""
        self._sure = sent + self._whole
        if self._clock() >= self._sure:
            return False
        self._over()
        return True

    def _doubts(self) -> bool:
        if self._held is None:
            now = self._clock()
            if now < self._sure or now - self._awake < self._nap:
                return False
            self._held = []
            self._wait(now)
        return True

    def _wait(self, now: float) -> None:
        self._end = asyncio.get_running_loop().call_later(PATIENCE, self._in_time, now + PATIENCE)

    def _in_time(self, due: float) -> None:
        """Redis had its moment; unless this node slept again."""
        now = self._clock()
        if now - due > PATIENCE / 4:
            self._wait(now)
        else:
            self._over()

    def _look(self) -> None:
        self._doubts()
        self.start()

    def _over(self) -> None:
        held, self._held = self._held, None
        if self._end is not None:
            self._end.cancel()
            self._end = None
        self._awake = self._clock()
        for act in held or ():
            try:
                act()
            except Exception:  # of one stream: the others wait for their ends, too
                log.exception("registry.ending_failed")
