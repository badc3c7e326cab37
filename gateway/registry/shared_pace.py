"""How often all streams of a worker are looked at for what is new in them. Pure; both clocks are arguments.

Law: copies cost a small part of what the streams cost themselves, whether one runs or a thousand. What a token costs
depends on how busy the worker is, and on the machine: so it is measured, by the worker's own processor time.
"""

from __future__ import annotations

_BATCH_COST = 400e-6  # seconds of the worker for a batch, about: it wakes a worker that has nothing else to do
_ENTRY_COST = 25e-6  # and for an entry: what it touches was touched by nobody since the last one
_SHARE = 16  # the part of what the worker spends that it may take: one of so many
_SOONEST = 0.1  # seconds between two looks at streams that nobody reads elsewhere
_LONGEST = 0.25  # the same, at most: what a node that is killed takes with it


class Pace:
    """`tick`: seconds between two looks at least. `now`, `spent`: seconds by the loop's clock, and of the processor."""

    def __init__(self, tick: float, now: float, spent: float) -> None:
        self._tick, self._now, self._spent = tick, now, spent

    def rest(self, now: float, spent: float, batches: int, entries: int) -> float:
        """Seconds until the next look, after so much was sent since the last one."""
        busy = (spent - self._spent) / max(now - self._now, 1e-3)
        self._now, self._spent = now, spent
        cost = batches * _BATCH_COST + entries * _ENTRY_COST
        return max(self._tick, _SOONEST, min(_LONGEST, cost * _SHARE / max(busy, 1e-3)))


_COMPANY = 0.003  # seconds for each stream of the last batch
_HOLD = 0.024  # seconds between two batches that readers wait for, at most


class AheadPace:
    """How long the next batch of what is written ahead waits for company. `tick`: seconds, at least.

    A batch wakes the worker, and each entry and each write to a client has its price: where many streams talk, most of
    it is saved by waiting for as long as nobody notices. A lone stream need not wait."""

    def __init__(self, tick: float) -> None:
        self._tick = tick

    def rest(self, streams: int) -> float:
        """Seconds from the batch that is sent now, with so many streams, to the next one."""
        return max(self._tick, min(_HOLD, self._tick + streams * _COMPANY))
