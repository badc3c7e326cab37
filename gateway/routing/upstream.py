"""What a worker knows of each backend while it runs: breaker, speed, load, who streams there, who waits. No I/O.

Law: this outlives the configuration: a reload changes the rules and keeps what was learnt. Every place taken is given
back once, by the course that took it.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping

from backends.contract.errors import BackendError, ErrorCode
from config.schema import Backend
from gateway.routing.breaker import OVERLOADED, Breaker, verdict
from gateway.routing.policies import Seen
from gateway.routing.retries import Budget

_MEMORY = 128  # first tokens that are remembered for percentiles
_ENOUGH = 20  # before that a percentile says nothing
_FRESH = 60.0  # seconds in which the mean of first tokens sinks to a third: a backend that was slow is tried again
_WEIGHT = 0.3  # of the last first token in the mean


class Waiter:
    """Somebody waits for a place with any of several backends. `place`: told the backend's name."""

    def __init__(self, place: asyncio.Future[str]) -> None:
        self.place = place


class Upstream:
    """One backend. `active`: streams of this worker that are there now."""

    def __init__(self, name: str, backend: Backend) -> None:
        self.name = name
        self.backend = backend
        self.breaker = Breaker(backend.breaker)
        self.active = 0
        self.spared = 0.0  # until then others are preferred: it said 429 or Retry-After
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
        """Whether it carries as many streams of this worker as it may."""
        return 0 < self.backend.max_streams <= self.active

    def seen(self, now: float) -> Seen:
        """As policies see it."""
        busy = self.active if self.load is None else max(self.active, self.load + self.active - self._counted)
        mean = None if self._mean is None else self._mean * math.exp((self._measured - now) / _FRESH)
        return Seen(busy=busy, first_token=mean)

    def began(self, now: float, seconds: float) -> None:
        """A stream there gave its first token, so long after it was asked."""
        self._firsts.append(seconds)
        old = self._mean
        self._mean, self._measured = (seconds if old is None else old + _WEIGHT * (seconds - old)), now

    def failed(self, now: float, error: BackendError, *, trial: bool) -> None:
        """An attempt there failed; `trial`: it was the breaker's."""
        kind = verdict(error)
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
        """A stream left; who waits first (of the highest priority) takes its place."""
        self.active -= 1
        while self._queue and not self.full:
            waiter = heapq.heappop(self._queue)[2]
            if not waiter.place.done():
                waiter.place.set_result(self.name)
                self.take()

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
        return sum(1 for entry in self._queue if not entry[2].place.done())


class Upstreams:
    """All of them, and the retry budget. `clock`: monotonic seconds; `claim` asks for the fleet's permit for a trial
    (the backend, for how many seconds), `unclaim` gives it back; `paused`: backends operators have switched off."""

    def __init__(
        self,
        backends: Mapping[str, Backend],
        clock: Callable[[], float],
        claim: Callable[[str, float], Awaitable[bool]],
        unclaim: Callable[[str], None],
        paused: Callable[[], Collection[str]] = tuple,
    ) -> None:
        self.clock, self.claim, self.unclaim, self.paused = clock, claim, unclaim, paused
        self.budget = Budget()
        self._known: dict[str, Upstream] = {}
        self.configure(backends)

    def configure(self, backends: Mapping[str, Backend]) -> None:
        """A new configuration: rules change, what was learnt stays; backends that are gone are forgotten, when
        nobody is there any more."""
        for name, backend in backends.items():
            known = self._known.get(name)
            if known is None:
                self._known[name] = Upstream(name, backend)
            else:
                known.backend, known.breaker.rules = backend, backend.breaker
        gone = [up for name, up in self._known.items() if name not in backends]
        for upstream in gone:
            if not upstream.active and not upstream.waiting:
                del self._known[upstream.name]

    def __getitem__(self, name: str) -> Upstream:
        """Raises KeyError."""
        return self._known[name]

    def __iter__(self) -> Iterator[Upstream]:
        return iter(list(self._known.values()))

    def find(self, name: str) -> Upstream | None:
        """One backend, or None."""
        return self._known.get(name)

    def seen(self) -> dict[str, Seen]:
        """As policies see them now."""
        now = self.clock()
        return {name: upstream.seen(now) for name, upstream in self._known.items()}

    def figures(self) -> dict[str, int]:
        """The breakers, for metrics."""
        return {name: upstream.breaker.state.figure for name, upstream in self._known.items()}

    def reset(self, name: str) -> bool:
        """Close a breaker by hand. False: no such backend."""
        upstream = self._known.get(name)
        if upstream is not None:
            upstream.breaker.reset(self.clock())
            upstream.spared = 0.0
        return upstream is not None

    async def place(self, names: Iterable[str], priority: int) -> str:
        """Wait for a place with one of these full backends: its name, the place taken. Raises BackendError SHED."""
        waiter = Waiter(asyncio.get_running_loop().create_future())
        queues = [self._known[name] for name in names]
        entered = [upstream for upstream in queues if upstream.enqueue(waiter, priority)]
        if not entered:
            raise _no_place(queues[0], "and its queue is full")
        longest = max(float(upstream.backend.queue.timeout) for upstream in entered)
        taken = ""
        try:
            async with asyncio.timeout(longest):
                taken = await waiter.place
        except TimeoutError:
            raise _no_place(entered[0], f"and none ended within {longest:g} s") from None
        finally:
            if not taken:
                _declined(waiter, entered)
        return taken


def _declined(waiter: Waiter, entered: Iterable[Upstream]) -> None:
    """Nobody waits any more. A place that was given at the very moment goes to the next one."""
    place = waiter.place
    if place.done() and not place.cancelled():
        next(upstream for upstream in entered if upstream.name == place.result()).give()
    else:
        place.cancel()


def _no_place(upstream: Upstream, why: str) -> BackendError:
    limit = upstream.backend.max_streams
    text = f"backend {upstream.name!r} carries {upstream.active} of {limit} streams"
    text += f" (backends.{upstream.name}.max_streams) {why}; try again"
    return BackendError(ErrorCode.SHED, text, retry_after=1)
