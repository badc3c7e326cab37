"""The circuit breaker of one backend: a state machine over what its streams came to. Pure: `now` is monotonic seconds.

Law: only failures in a row open it; each time it fails a trial it stays open twice as long; one trial at a time.
What a failure is, for a stream, is said by the table of `ErrorCode`: refused, 5xx, no first token in time, a stall, a
truncated answer, an error within the stream count; the client's cancel and 4xx do not. 429 is overload, not illness.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import Literal

from msgspec import Struct

from backends.contract.errors import BackendError, ErrorCode
from config.schema import Breaker as Rules

HISTORY = 50  # changes that are remembered
OVERLOADED = 1.0  # seconds a backend that said 429 without Retry-After is spared

Verdict = Literal["failure", "overload", "nothing"]


class BreakerState(Enum):
    """(name, as a figure in metrics)"""

    CLOSED = ("closed", 0)
    HALF_OPEN = ("half_open", 1)
    OPEN = ("open", 2)

    def __init__(self, wire: str, figure: int) -> None:
        self.wire = wire
        self.figure = figure


class Change(Struct, frozen=True, rename="camel"):
    """One entry of the history; `at` in the clock's seconds."""

    at: float
    state: str
    reason: str


def verdict(error: BackendError) -> Verdict:
    """What an attempt's failure says of its backend."""
    if error.code is ErrorCode.RATE_LIMITED:
        return "overload"
    return "failure" if error.code.counts else "nothing"


class Breaker:
    """CLOSED lets everything through, OPEN nothing, HALF_OPEN one trial at a time while its permit lasts."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.state = BreakerState.CLOSED
        self.failures = 0  # in a row
        self.successes = 0  # since it was half open
        self.opened = 0  # times
        self.until = 0.0  # OPEN: when a trial is due
        self.reason = ""
        self.history: deque[Change] = deque(maxlen=HISTORY)
        self._pause = float(rules.pause)
        self._permit = -1.0  # HALF_OPEN: until when a trial may begin; negative: none
        self._trial = False  # one is under way
        self._relapse = False  # it has failed, and given no whole answer since

    def allows(self, now: float) -> bool:
        """Whether a stream may be sent there now."""
        if self.state is BreakerState.HALF_OPEN:
            return not self._trial and now < self._permit
        return self.state is BreakerState.CLOSED

    def due(self, now: float) -> bool:
        """Whether somebody should get the permit for a trial (see `permit`)."""
        if self.state is BreakerState.OPEN:
            return now >= self.until
        return self.state is BreakerState.HALF_OPEN and not self._trial and now >= self._permit

    def wait(self, now: float) -> float:
        """Seconds until a trial is due; 0 when it is, or when none is needed."""
        return max(0.0, self.until - now) if self.state is BreakerState.OPEN else 0.0

    def permit(self, now: float, seconds: float) -> None:
        """One trial may begin within so many seconds: this worker holds the fleet's permit."""
        if self.due(now):
            if self.state is BreakerState.OPEN:
                self.successes = 0
                self._turn(BreakerState.HALF_OPEN, now, "a trial is due")
            self._permit = now + seconds

    def lapsed(self, now: float) -> bool:
        """Whether a permit was not used in time: it must be given back. True once."""
        unused = 0 <= self._permit <= now
        if unused:
            self._permit = -1.0
        return unused

    def begin(self) -> bool:
        """A stream is sent there; True: it is the trial, and its ending must say so."""
        if self.state is not BreakerState.HALF_OPEN:
            return False
        self._trial, self._permit = True, -1.0
        return True

    def success(self, now: float, *, trial: bool = False, whole: bool = True) -> None:
        """A stream gave its first token (`whole` False), or completed. The first ends a trial; only a whole answer ends
        a row of failures, so that a backend which breaks every answer off is found out."""
        if trial and self.state is BreakerState.HALF_OPEN:
            self._trial = False
            self.successes += 1
            if self.successes >= self.rules.successes:
                self.failures, self._relapse = 0, True
                self._turn(BreakerState.CLOSED, now, f"{self.successes} successes")
        elif whole and self.state is BreakerState.CLOSED:
            self.failures, self._relapse = 0, False
            self._pause = float(self.rules.pause)

    def failure(self, now: float, reason: str, *, trial: bool = False) -> None:
        """A stream failed there in a way that counts. While a trial is under way only the trial's failure does."""
        self.reason = reason[:200]
        if self.state is BreakerState.CLOSED:
            self.failures += 1
            if 0 < self.rules.failures <= self.failures:
                self._open(now, again=self._relapse)
        elif trial and self.state is BreakerState.HALF_OPEN:
            self.failures += 1
            self._open(now, again=True)

    def neither(self) -> None:
        """The trial ended without saying anything: another may follow."""
        self._trial = False

    def reset(self, now: float, reason: str = "reset by an operator") -> None:
        """Trust it again, as if nothing had been."""
        self.failures = self.successes = 0
        self._pause, self._permit = float(self.rules.pause), -1.0
        self._trial = self._relapse = False
        if self.state is not BreakerState.CLOSED:
            self._turn(BreakerState.CLOSED, now, reason)

    def _open(self, now: float, *, again: bool) -> None:
        if again:
            self._pause = min(self._pause * 2, float(self.rules.longest))
        self._trial, self._relapse = False, True
        self.opened += 1
        self.until = now + self._pause
        self._turn(BreakerState.OPEN, now, f"{self.failures} failures in a row, last: {self.reason}")

    def _turn(self, state: BreakerState, now: float, reason: str) -> None:
        self.state = state
        self.history.append(Change(now, state.wire, reason))
