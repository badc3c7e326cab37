"""How many second attempts a worker makes at once, and how long one waits. Pure.

Law: retries never multiply an outage: at any time at most a fifth of the streams under way are on a second attempt that
has not begun to answer, though always up to three.
"""

from __future__ import annotations

SHARE = 0.2  # of the streams under way
FLOOR = 3
PATIENCE = 2.0  # seconds of Retry-After that are waited for; longer ones are the client's to wait
_FIRST_PAUSE = 0.1  # seconds before the same backend is asked again, doubled each time
_LONGEST_PAUSE = 2.0
_SCATTER = 0.2  # of a Retry-After, by which those who were all told the same come back apart


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
