"""How many second attempts a worker makes at once, how long one waits, and when none is of use. Pure; `now` is
monotonic seconds.

Law: retries never multiply an outage: at any time at most a fifth of the streams under way are on a second attempt that
has not begun to answer, though always up to three. No stream asks again where its backend said for how long not to, or
where others have heard nothing but 429 for some time.
"""

from __future__ import annotations

from backends.contract.errors import BackendError, ErrorCode

SHARE = 0.2  # of the streams under way
FLOOR = 3
PATIENCE = 2.0  # seconds of Retry-After that are waited for; longer ones are the client's to wait
_FIRST_PAUSE = 0.1  # seconds before the same backend is asked again, doubled each time
_LONGEST_PAUSE = 2.0
_SCATTER = 0.2  # of a Retry-After, by which those who were all told the same come back apart
_SURE = 3  # times other streams were told 429, and nobody anything else ...
_LASTING = 1.0  # ... for so many seconds, longer than a burst and the pauses of a stream ...
_STALE = 10.0  # ... and the last time so many seconds ago at most


class Budget:
    """One per worker."""

    def __init__(self) -> None:
        self.streams = 0  # under way
        self.retries = 0  # of them on a second attempt, not yet answering
        self.refused = 0  # times there was nothing left, ever

    def take(self) -> bool:
        """One more retry; False when the budget is spent."""
        if self.retries < max(FLOOR, int(self.streams * SHARE)):
            self.retries += 1
            return True
        self.refused += 1
        return False

    def give(self) -> None:
        """A retry began to answer, or is over."""
        self.retries -= 1


def pause(round_: int, retry_after: float | None, die: float) -> float | None:
    """Seconds before the same backend is asked for the `round_`th time again (from 1); None: it asks for more than a
    stream should wait. `die`: 0 to 1, so that those who failed together do not come back together."""
    if retry_after is not None and retry_after > PATIENCE:
        return None
    own = min(_FIRST_PAUSE * 2.0 ** (round_ - 1), _LONGEST_PAUSE) * (0.5 + die / 2)
    if retry_after is None:
        return own
    return max(own, retry_after * (1 + _SCATTER * die))


class Refusals:
    """What one backend said instead of answers: its 429s in a row, and for how long it asked to be left alone."""

    __slots__ = ("_count", "_last", "_since", "_until")

    def __init__(self) -> None:
        self._count = 0
        self._since = self._last = self._until = 0.0

    def heard(self, now: float, error: BackendError) -> None:
        """An attempt failed there."""
        if error.retry_after is not None:
            self._until = now + error.retry_after
        if error.code is not ErrorCode.RATE_LIMITED:
            return
        if not self._count or now - self._last > _STALE:
            self._count, self._since = 0, now
        self._count, self._last = self._count + 1, now

    def answered(self) -> None:
        """It gave somebody a token."""
        self._count, self._until = 0, 0.0

    def wait(self, now: float, round_: int, own: int, die: float) -> float | None:
        """Seconds before a stream that asked it `own` times asks again, see `pause`; None: it is of no use."""
        if self._count - own >= _SURE and now - self._since >= _LASTING and now - self._last <= _STALE:
            return None
        return pause(round_, self._until - now if self._until > now else None, die)
