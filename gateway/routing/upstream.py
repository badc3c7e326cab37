"""What a worker knows of a backend while it runs: breaker, speed, load, who streams there, who waits. No I/O.

Law: this outlives the configuration: a reload changes the rules and keeps what was learnt. Every place taken is given
back once, by the course that took it; with it goes the fleet's lease of it, to who waits here, or back to all.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections import deque
from collections.abc import Callable

from backends.contract.errors import BackendError
from config.schema import Backend
from gateway.routing.breaker import OVERLOADED, Breaker, verdict
from gateway.routing.places import Places
from gateway.routing.policies import Seen
from gateway.routing.retries import Refusals

_MEMORY = 128  # first tokens that are remembered for percentiles
_ENOUGH = 20  # before that a percentile says nothing
_FRESH = 60.0  # seconds in which the mean of first tokens sinks to a third: a backend that was slow is tried again
_WEIGHT = 0.3  # of the last first token in the mean


class Waiter:
    """Somebody waits for a place with any of several backends. `place`: told the backend's name."""

    def __init__(self, place: asyncio.Future[str]) -> None:
        self.place = place


class Upstream:
    """One backend. `active`: streams of this worker that are there now; `leases`: the fleet's places they hold."""

    def __init__(self, name: str, backend: Backend, clock: Callable[[], float], places: Places | None = None) -> None:
        self.name = name
        self.leases: list[str] = []
        self.crowded = 0.0  # until then the streams of other workers are known to have all places
        self.spent_by = ""  # the rate that is used up, and until when
        self._spent = 0.0
        self._clock, self._places = clock, places
        self.backend = backend
        self.breaker = Breaker(backend.breaker)
        self.active = 0
        self.spared = 0.0  # until then others are preferred: it said 429 or Retry-After
        self.refusals = Refusals()
        self.load: int | None = None  # requests it says it has, from everybody
        self.claim_after = 0.0  # until then no permit for a trial is asked for: another worker has it
        self.apis: dict[str, bool] = {}  # dialect of an API beside its main one -> whether it turned out to have it
        self._counted = 0  # `active` when `load` was heard
        self._mean: float | None = None
        self._measured = 0.0
        self._firsts: deque[float] = deque(maxlen=_MEMORY)
        self._queue: list[tuple[int, int, Waiter]] = []
        self._turn = 0

    @property
    def full(self) -> bool:
        """Whether no stream can be sent there now: all places are taken, or others wait for one, or it has had its
        requests of this minute."""
        most, now = self.backend.max_streams, self._clock()
        if not most and not self._spent:
            return False
        if most and (most <= self.active or now < self.crowded or (self._places is not None and self.waiting)):
            return True
        return now < self._spent

    def left(self) -> float:
        """Seconds until its rate allows another request; 0: at once."""
        return max(0.0, self._spent - self._clock())

    def spent(self, limit: str, seconds: float) -> None:
        """A rate of it is used up for so long."""
        self.spent_by, self._spent = limit, self._clock() + seconds

    def seen(self, now: float) -> Seen:
        """As policies see it."""
        busy = self.active if self.load is None else max(self.active, self.load + self.active - self._counted)
        mean = None if self._mean is None else self._mean * math.exp((self._measured - now) / _FRESH)
        return Seen(busy=busy, first_token=mean)

    def began(self, now: float, seconds: float) -> None:
        """A stream there gave its first token, so long after it was asked."""
        self._firsts.append(seconds)
        self.refusals.answered()
        old = self._mean
        self._mean, self._measured = (seconds if old is None else old + _WEIGHT * (seconds - old)), now

    def failed(self, now: float, error: BackendError, *, trial: bool) -> None:
        """An attempt there failed; `trial`: it was the breaker's."""
        kind = verdict(error)
        if kind != "nothing":
            self.refusals.heard(now, error)
        if kind == "failure":
            self.breaker.failure(now, f"{error.code.wire}: {error.message}", trial=trial)
        elif trial:
            self.breaker.neither()
        if kind == "overload" or (kind == "failure" and error.retry_after is not None):
            self.spared = now + (OVERLOADED if error.retry_after is None else error.retry_after)

    def percentile(self, percent: int) -> float | None:
        """Seconds within which so many of the last first tokens came; None before there are enough of them."""
        if len(self._firsts) < _ENOUGH:
            return None
        ordered = sorted(self._firsts)
        return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]

    def heard(self, load: int) -> None:
        """It said how many requests it has."""
        self.load, self._counted = load, self.active

    # -- places --------------------------------------------------------------------------------------------------------

    def take(self) -> None:
        """A stream is to be sent there."""
        self.active += 1

    def give(self) -> None:
        """A stream left; who waits first (of the highest priority) takes its place, and the lease of it."""
        self.active -= 1
        lease = self.leases.pop() if len(self.leases) > self.active else ""
        while (lease or self._places is None) and self._room_here() and (waiter := self._next()) is not None:
            waiter.place.set_result(self.name)
            self.take()
            if lease:
                self.leases.append(lease)
                return
        if lease and self._places is not None:
            self._places.give(self.name, lease)
            self.crowded = 0.0

    def leave(self, lease: str = "") -> None:
        """A place that was not to be had, or not wanted any more when it was: nobody here is any better off."""
        self.active -= 1
        self.keep(lease)

    def keep(self, lease: str) -> None:
        """A lease was granted; one too many goes back."""
        if lease:
            self.leases.append(lease)
        while len(self.leases) > self.active and self._places is not None:
            self._places.give(self.name, self.leases.pop())

    def _room_here(self) -> bool:
        return not 0 < self.backend.max_streams <= self.active

    def _next(self) -> Waiter | None:
        while self._queue:
            waiter = heapq.heappop(self._queue)[2]
            if not waiter.place.done():
                return waiter
        return None

    def first(self, waiter: Waiter) -> bool:
        """Whether nobody waits before this one, and this worker alone does not carry all it may."""
        waiting = (entry for entry in sorted(self._queue) if not entry[2].place.done())
        return self._room_here() and next((entry[2] for entry in waiting), None) is waiter

    def enqueue(self, waiter: Waiter, priority: int) -> bool:
        """Wait for a place; the highest priority first. False when as many wait as may."""
        self._queue = [entry for entry in self._queue if not entry[2].place.done()]
        if len(self._queue) >= self.backend.queue.size:
            return False
        self._turn += 1
        self._queue.append((-priority, self._turn, waiter))
        heapq.heapify(self._queue)
        return True

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(1 for entry in self._queue if not entry[2].place.done()) if self._queue else 0
