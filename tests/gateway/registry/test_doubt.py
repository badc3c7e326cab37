"""When a node may not trust its own word, by a clock of the test's."""

from __future__ import annotations

import asyncio
import time

import pytest

from gateway.registry import redis_doubt
from gateway.registry.redis_doubt import Doubt

BEAT, WHOLE = 5.0, 14.0


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


async def world() -> tuple[Clock, Doubt, list[str]]:
    clock = Clock()
    doubt = Doubt(WHOLE, BEAT, clock)
    doubt.heard(clock.now)
    return clock, doubt, []


async def test_awake_it_never_doubts() -> None:
    """A Redis that is away or slow would delay the endings of a node that was there all the time."""
    clock, doubt, _ = await world()
    for _ in range(100):
        clock.now += 2.0
        doubt._look()
        doubt.stop()
        doubt.heard(clock.now - 90)
        assert not doubt.holds(lambda: None)


async def test_a_short_sleep_is_none() -> None:
    """A node that was busy for a moment, its lease alive, would let its clients wait."""
    clock, doubt, _ = await world()
    clock.now += WHOLE - 0.1
    assert not doubt.holds(lambda: None)


async def test_what_ends_waits_and_keeps_its_order() -> None:
    """The second reason for an end would be told, or both; what the fleet has said must not wait for itself."""
    clock, doubt, told = await world()
    clock.now += WHOLE + 0.1
    assert doubt.holds(lambda: told.append("a"))
    assert doubt.holds(lambda: told.append("b"))
    doubt.decide(lambda: told.append("lost" if not doubt.holds(lambda: None) else "?"))
    assert told == ["lost"]
    doubt.heard(clock.now)
    assert told == ["lost", "a", "b"]
    assert not doubt.holds(lambda: None)


async def test_it_waits_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """While Redis is away a node's own word is all there is."""
    monkeypatch.setattr(redis_doubt, "PATIENCE", 0.05)
    clock, doubt, told = await world()
    clock.now += WHOLE + 0.1
    assert doubt.holds(lambda: told.append("a"))
    await asyncio.sleep(0.2)
    assert told == ["a"]
    assert not doubt.holds(lambda: None)


async def test_nobody_knows_of_it_yet() -> None:
    """A node that has never reached Redis was given up by nobody."""
    clock = Clock()
    doubt = Doubt(WHOLE, BEAT, clock)
    clock.now += 1000
    assert not doubt.holds(lambda: None)


async def test_an_answer_from_before_the_sleep_says_nothing() -> None:
    """A node that fell asleep with the answer to a heartbeat in its socket would take it for one to be sure by."""
    clock, doubt, told = await world()
    sent = clock.now
    clock.now += WHOLE + 0.1
    assert not doubt.heard(sent)
    assert doubt.holds(lambda: told.append("a"))
    assert not doubt.heard(sent)
    assert told == []
    assert doubt.heard(clock.now)
    assert told == ["a"]


async def test_a_second_sleep_is_not_time_to_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that was stopped again as soon as it woke would end its streams before it reads what Redis said."""
    monkeypatch.setattr(redis_doubt, "PATIENCE", 0.2)
    clock, doubt, told = await world()
    clock.now += WHOLE + 0.1
    assert doubt.holds(lambda: told.append("a"))
    time.sleep(0.5)
    clock.now += 50
    await asyncio.sleep(0.1)
    assert told == []
    clock.now += 0.2
    await asyncio.sleep(0.3)
    assert told == ["a"]


async def test_a_fault_of_one_is_not_of_all() -> None:
    """One stream whose ending fails would leave all others that waited without theirs, for ever."""
    clock, doubt, told = await world()
    clock.now += WHOLE + 0.1

    def fails() -> None:
        raise RuntimeError("of this stream")

    assert doubt.holds(fails)
    assert doubt.holds(lambda: told.append("b"))
    doubt.heard(clock.now)
    assert told == ["b"]
