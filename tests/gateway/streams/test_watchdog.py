"""When a stream is overdue, and how long nobody need look at it."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from config.schema import Streams
from gateway.streams.stream import Identity, Stream
from gateway.streams.watchdog import look_again, overdue, verdict

LIMITS = Streams(total_timeout=300, first_token_timeout=120, no_progress=30, keepalive=15)
SECONDS = st.floats(0, 400)


def stream(progress: float | None) -> Stream:
    found = Stream(Identity("st_a", "o", "native", "m", "up", "m", "n", 0), 0.0)
    if progress is not None:
        found.first_token = found.last_progress = progress
    return found


@given(st.none() | SECONDS, SECONDS, SECONDS, st.floats(0, 10))
def test_nothing_becomes_due_while_nobody_looks(progress: float | None, since: float, now: float, later: float) -> None:
    """A stream would hang past its limit, or a dead backend be waited for, because its sweep was left out."""
    one = stream(progress)
    if overdue(one, LIMITS, now) or verdict(one, LIMITS, now, paused=False, since=since):
        return
    until = look_again(one, LIMITS, now, paused=False, since=since)
    then = min(now + later, math.nextafter(until, 0))
    assert until <= now + LIMITS.keepalive / 4
    assert overdue(one, LIMITS, then) is None
    assert verdict(one, LIMITS, then, paused=False, since=since) is None
    spoke = stream(now)  # a first token comes at once, and nothing after it
    assert verdict(spoke, LIMITS, then, paused=False, since=since) is None


def test_one_that_is_held_back_is_looked_at_every_time() -> None:
    """A backend that its readers had paused would be read on late."""
    assert look_again(stream(1.0), LIMITS, 2.0, paused=True, since=0.0) == 2.0


def test_each_limit_has_its_own_words() -> None:
    """An operator could not tell a slow model from a dead one."""
    assert "total" in str(overdue(stream(299.0), LIMITS, 300.0))
    assert "no token" in str(verdict(stream(None), LIMITS, 120.0, paused=False, since=0.0))
    assert "no progress" in str(verdict(stream(10.0), LIMITS, 40.0, paused=False, since=0.0))
    assert verdict(stream(10.0), LIMITS, 40.0, paused=True, since=0.0) is None
