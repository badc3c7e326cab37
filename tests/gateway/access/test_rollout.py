"""A rollout over 10,000 simulated users: who is let in, and when it is taken back."""

from __future__ import annotations

import random

import pytest

from gateway.access.rollout import Outcomes, chosen, judged

USERS = [f"user-{i}" for i in range(10_000)]
TRIGGER = {"error_rate": 0.02, "completion_rate": 0.95, "minimum": 50}


@pytest.mark.parametrize("percent", [0, 0.5, 5, 25, 50, 75, 99, 100])
def test_the_share_is_the_share(percent: float) -> None:
    """5 % that are really 8 % make the careful step a bold one."""
    share = sum(chosen("salt", percent, user) for user in USERS) / len(USERS) * 100
    assert abs(share - percent) < 1.5
    assert percent not in (0, 100) or share == percent


def test_each_step_only_adds_users() -> None:
    """A user who has the feature and loses it when more people get it would call that a fault."""
    before: set[str] = set()
    for percent in (0, 1, 5, 10, 25, 50, 75, 100):
        now = {user for user in USERS if chosen("salt", percent, user)}
        assert before <= now
        before = now


def test_another_salt_is_another_lot() -> None:
    """The same users would else be the ones to suffer in every trial."""
    one = {user for user in USERS if chosen("a", 10, user)}
    other = {user for user in USERS if chosen("b", 10, user)}
    assert len(one & other) < 0.3 * len(one)


def _simulated(rates: dict[str, float], percent: float, seconds: float = 600) -> tuple[str, float, int]:
    """10,000 users ask at random over so many seconds; those let in end as `rates` says. (reason, when, streams)"""
    die, outcomes, streams = random.Random(7), Outcomes(), 0
    times = sorted((die.uniform(0, seconds), user) for user in USERS)
    for now, user in times:
        if not chosen("s", percent, user):
            continue
        streams += 1
        outcomes.add(die.choices(list(rates), list(rates.values()))[0], now)
        found = outcomes.verdict(now, window=60, **TRIGGER)
        if found.reason:
            return found.reason, now, streams
    return "", seconds, streams


def test_a_good_rollout_stands() -> None:
    """A rollout that is taken back without cause is never finished; clients that leave are no cause."""
    rates = {"completed": 0.85, "upstream_error": 0.003, "cancelled": 0.1, "client_gone": 0.047}
    assert _simulated(rates, 50)[0] == ""


def test_errors_take_it_back_soon() -> None:
    """The fewer users meet the fault the better: the brake comes after the minimum and little more."""
    reason, _, streams = _simulated({"completed": 0.9, "upstream_error": 0.1}, 25)
    assert reason.startswith("error rate")
    assert streams < 150


def test_streams_that_never_complete_take_it_back() -> None:
    """Time-outs are no errors of a backend, and still no answers."""
    reason, _, streams = _simulated({"completed": 0.85, "timed_out": 0.15}, 25)
    assert reason.startswith("completion rate")
    assert streams < 200


def test_too_few_say_nothing() -> None:
    """One failure of one stream is no error rate of 100 %."""
    assert judged(0, 49, 0, **TRIGGER).reason == ""
    assert judged(0, 50, 0, **TRIGGER).reason
    assert judged(0, 0, 0, **TRIGGER) == (0, 0.0, 1.0, "")


def test_old_failures_are_forgotten() -> None:
    """A fault that was put right an hour ago must not stop the next step."""
    outcomes = Outcomes()
    for i in range(100):
        outcomes.add("upstream_error", i / 100)
    for i in range(100):
        outcomes.add("completed", 400 + i / 100)
    assert outcomes.verdict(401, window=300, **TRIGGER).reason == ""
    outcomes.clear()
    assert outcomes.verdict(401, window=300, **TRIGGER).streams == 0
