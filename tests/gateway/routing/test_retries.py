"""How long a stream waits before the same backend is asked again."""

from __future__ import annotations

import pytest

from gateway.routing.retries import PATIENCE, pause


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
