"""The breaker in virtual time, and what counts."""

from __future__ import annotations

import pytest

from backends.contract.errors import BackendError, ErrorCode
from config.schema import Breaker as Rules
from config.values import Duration
from gateway.routing.breaker import HISTORY, Breaker, BreakerState, verdict

RULES = Rules()


def opened(now: float = 0.0, rules: Rules = RULES) -> Breaker:
    breaker = Breaker(rules)
    for _ in range(rules.failures):
        breaker.failure(now, "refused")
    return breaker


def trial(breaker: Breaker, now: float, *, well: bool) -> None:
    assert breaker.due(now)
    breaker.permit(now, 10)
    assert breaker.allows(now)
    assert breaker.begin()
    assert not breaker.allows(now)
    assert not breaker.due(now)
    if well:
        breaker.success(now, trial=True, whole=False)
    else:
        breaker.failure(now, "again", trial=True)


def test_five_in_a_row_open_it() -> None:
    """Four failures would cut a backend off, or six would not."""
    breaker = Breaker(RULES)
    for n in range(4):
        breaker.failure(n, "x")
    assert breaker.allows(4)
    breaker.success(4)
    for n in range(4):
        breaker.failure(n, "x")
    assert breaker.state is BreakerState.CLOSED
    breaker.failure(9, "x")
    assert breaker.state is BreakerState.OPEN
    assert not breaker.allows(9)
    assert breaker.wait(9) == 30


def test_a_first_token_does_not_end_a_row_of_failures() -> None:
    """A backend that breaks every answer off after ten tokens would never be found out."""
    breaker = Breaker(RULES)
    for n in range(5):
        breaker.success(n, whole=False)
        breaker.failure(n, "truncated")
    assert breaker.state is BreakerState.OPEN


def test_the_pause_doubles_up_to_its_limit() -> None:
    """A backend that stays away would be tried every half minute for ever, or never again."""
    breaker, now, waits = opened(), 0.0, []
    for _ in range(6):
        waits.append(breaker.wait(now))
        now += breaker.wait(now)
        assert not breaker.allows(now)  # nobody goes without a permit
        trial(breaker, now, well=False)
    assert waits == [30, 60, 120, 240, 300, 300]


def test_two_successes_close_it() -> None:
    """One lucky answer would let the whole crowd in."""
    breaker = opened()
    trial(breaker, 30, well=True)
    assert breaker.state is BreakerState.HALF_OPEN
    trial(breaker, 31, well=True)
    assert breaker.state is BreakerState.CLOSED
    assert breaker.allows(31)
    assert [c.state for c in breaker.history] == ["open", "half_open", "closed"]


def test_who_relapses_waits_longer() -> None:
    """A backend whose first token comes and whose answers all break off would be back every half minute."""
    breaker = opened()
    for now in (30, 31):
        trial(breaker, now, well=True)
    for _ in range(5):
        breaker.failure(32, "truncated")
    assert breaker.wait(32) == 60
    breaker.reset(33)
    breaker.success(33)
    for _ in range(5):
        breaker.failure(34, "x")
    assert breaker.wait(34) == 30


def test_only_the_trial_decides_while_half_open() -> None:
    """Streams that began before would close it, or open it, for what happened long ago."""
    breaker = opened()
    breaker.permit(30, 10)
    breaker.begin()
    breaker.failure(31, "an old stream")
    breaker.success(31)
    assert (breaker.state, breaker.successes) == (BreakerState.HALF_OPEN, 0)
    breaker.neither()
    assert breaker.due(31)


def test_an_unused_permit_expires() -> None:
    """A worker that got the permit and had no stream to send would block all trials."""
    breaker = opened()
    breaker.permit(30, 10)
    assert breaker.allows(39.9)
    assert not breaker.allows(40)
    assert [breaker.lapsed(40), breaker.lapsed(40)] == [True, False]
    assert breaker.due(40)


def test_reset_and_switching_off() -> None:
    """An operator who knows better could not say so."""
    breaker = opened()
    breaker.reset(1)
    assert breaker.allows(1)
    assert breaker.history[-1].reason == "reset by an operator"
    never = opened(rules=Rules(failures=0))
    for _ in range(100):
        never.failure(0, "x")
    assert never.allows(0)


def test_history_is_bounded() -> None:
    """A flapping backend would fill the memory."""
    breaker = Breaker(Rules(failures=1, pause=Duration(1), longest=Duration(1)))
    for n in range(200):
        breaker.failure(n * 10, "x")
        breaker.reset(n * 10 + 1)
    assert len(breaker.history) == HISTORY


@pytest.mark.parametrize("code", list(ErrorCode))
def test_what_counts(code: ErrorCode) -> None:
    """Clients' mistakes would take a backend away from everybody, or its illness would go unnoticed."""
    failures = {
        "upstream_refused", "upstream_error", "upstream_truncated", "event_too_large", "overloaded", "timeout",
    }  # fmt: skip
    wanted = "overload" if code is ErrorCode.RATE_LIMITED else "failure" if code.wire in failures else "nothing"
    assert verdict(BackendError(code, "x")) == wanted
