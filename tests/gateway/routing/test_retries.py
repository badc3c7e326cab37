"""How long a stream waits before the same backend is asked again, and when it is not."""

from __future__ import annotations

import pytest

from backends.contract.errors import BackendError, ErrorCode
from gateway.routing.retries import PATIENCE, Refusals, pause


@pytest.mark.parametrize("wait", [0.0, 0.01])
def test_a_backend_that_says_at_once_is_still_given_a_moment(wait: float) -> None:
    """`Retry-After: 0` would bring all attempts of a stream within a millisecond."""
    assert (pause(1, wait, 0.0) or 0.0) >= 0.05
    assert (pause(2, wait, 0.0) or 0.0) > (pause(1, wait, 0.0) or 0.0)


def test_those_who_were_told_the_same_come_back_apart() -> None:
    """A backend that sends everybody away for a second would have them all again at the same moment."""
    soon, late = pause(1, 1.0, 0.0), pause(1, 1.0, 1.0)
    assert soon == 1.0
    assert (late or 0.0) > 1.1


def test_a_long_wait_is_the_clients() -> None:
    """A stream would sit out a wait its client knows nothing of."""
    assert pause(1, PATIENCE + 0.1, 0.5) is None


def said(retry_after: float | None = None, code: ErrorCode = ErrorCode.RATE_LIMITED) -> BackendError:
    return BackendError(code, "no", retry_after=retry_after)


def refusing(since: float, until: float, *, every: float = 0.1) -> Refusals:
    """Of a backend that says 429 to everybody for some time."""
    refusals, steps = Refusals(), round((until - since) / every)
    for step in range(steps + 1):
        refusals.heard(since + step * every, said())
    return refusals


def test_a_retry_after_holds_for_all_streams_until_it_is_over() -> None:
    """A stream whose own failure was another one would go to a backend that has just asked for a minute."""
    refusals = Refusals()
    refusals.heard(10.0, said(60.0))
    refusals.heard(11.0, said(code=ErrorCode.UPSTREAM_FAILED))
    assert refusals.wait(12.0, 1, 1, 0.5) is None
    assert (refusals.wait(69.0, 1, 1, 0.0) or 0.0) == pytest.approx(1.0)
    assert (refusals.wait(71.0, 1, 1, 1.0) or 9.0) < 0.2
    refusals.heard(80.0, said(60.0))
    refusals.answered()
    assert refusals.wait(81.0, 1, 1, 0.5) is not None


def test_nothing_but_429_for_some_time_is_not_asked_again() -> None:
    """A backend that only says 429 would be asked three times by every stream."""
    lasting = refusing(10.0, 12.0)
    assert lasting.wait(12.0, 1, 1, 0.5) is None
    assert lasting.wait(30.0, 1, 1, 0.5) is not None  # nobody knows what it would say by now
    lasting.heard(12.1, said(code=ErrorCode.UPSTREAM_FAILED))
    assert lasting.wait(12.1, 1, 1, 0.5) is None
    lasting.answered()
    lasting.heard(12.2, said())
    assert lasting.wait(12.2, 1, 1, 0.5) is not None


def test_a_burst_and_a_stream_alone_try_again() -> None:
    """Many refused in one moment, or one that may try often, would be given up although the next moment has room."""
    assert refusing(10.0, 10.9).wait(10.9, 1, 1, 0.5) is not None
    assert refusing(10.0, 14.0, every=1.0).wait(14.0, 4, 4, 0.5) is not None
