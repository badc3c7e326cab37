"""The pacer: at once when idle, seldom when busy, nothing forgotten."""

from __future__ import annotations

import asyncio

import pytest

from gateway.streams.pacer import Pacer, doze


class Writing:
    """A reader that keeps to the pacer's rule and counts its writes."""

    def __init__(self, pacer: Pacer) -> None:
        self.pacer = pacer
        self.dirty = False
        self.stamp = -1
        self.writes = 0
        self.waiting = 0

    def token(self) -> None:
        self.waiting += 1
        if self.pacer.free(self.stamp):
            self.stamp = self.pacer.turn
            self.pacer.wrote()
            self.flush()
        else:
            self.pacer.hold(self)

    def flush(self) -> None:
        self.writes += 1
        self.waiting = 0


async def test_an_idle_worker_writes_at_once() -> None:
    """A single user would wait a window for every token."""
    reader = Writing(Pacer(asyncio.get_running_loop(), "balanced"))
    for count in range(1, 6):
        reader.token()
        assert (reader.writes, reader.waiting) == (count, 0)


async def test_a_busy_worker_writes_twice_per_window_at_most_and_forgets_nobody() -> None:
    """Either every token costs a system call under load, or a reader's last tokens are never written."""
    pacer = Pacer(asyncio.get_running_loop(), "battery_saver")
    readers = [Writing(pacer) for _ in range(200)]
    for _ in range(5):
        for reader in readers:
            reader.token()
    assert sum(reader.dirty for reader in readers) >= 100
    await asyncio.sleep(0.1)
    assert all(not reader.dirty and reader.waiting == 0 for reader in readers)
    assert readers[-1].writes == 2


@pytest.mark.parametrize("switched", [False, True])
async def test_immediate_never_waits(switched: bool) -> None:
    """Operators who switched pacing off, in gateway.yaml or while it runs, would still get windows."""
    pacer = Pacer(asyncio.get_running_loop(), "battery_saver" if switched else "immediate")
    pacer.set_mode("immediate")
    reader = Writing(pacer)
    for _ in range(1000):
        reader.token()
    assert reader.writes == 1000


def test_a_worker_never_dozes_in_time_it_needs() -> None:
    """A worker at its limit would lose the capacity it has left, and a long window would keep requests waiting."""
    assert doze(0.008, 0.006) == doze(0.008, 0.5) == 0.0
    assert doze(0.008, 0.004) == pytest.approx(0.002)
    assert doze(0.008, 0.0) == doze(0.033, 0.0) == 0.004


async def test_one_failing_reader_does_not_keep_the_others_waiting() -> None:
    """A fault in one stream's view would silence every stream of the worker."""
    loop = asyncio.get_running_loop()
    told: list[str] = []
    loop.set_exception_handler(lambda _, context: told.append(context["message"]))
    pacer = Pacer(loop, "high_performance")
    readers = [Writing(pacer) for _ in range(20)]
    for _ in range(3):
        for reader in readers:
            reader.token()
    bad = next(reader for reader in readers if reader.dirty)
    bad.flush = lambda: 1 / 0  # type: ignore[method-assign, return-value, assignment]
    await asyncio.sleep(0.05)
    assert told == ["a reader failed"]
    assert all(reader.waiting == 0 for reader in readers if reader is not bad)
    readers[-1].token()
    assert readers[-1].waiting == 0


@pytest.mark.parametrize("before", ["immediate", "balanced"])
async def test_another_mode_leaves_nobody_waiting(before: str) -> None:
    """Operators who change the mode would stop every stream: what waits would wait for a window that has no end."""
    pacer = Pacer(asyncio.get_running_loop(), before)
    reader = Writing(pacer)
    for _ in range(100):
        reader.token()
    pacer.set_mode("high_performance")
    assert (reader.dirty, reader.waiting) == (False, 0)
    for _ in range(100):
        reader.token()
    await asyncio.sleep(0.05)
    assert (reader.dirty, reader.waiting) == (False, 0)


async def test_what_was_read_together_begins_a_window() -> None:
    """Backends that speak in step would stop: a window ended between the reading and the writing, and no other came."""
    pacer = Pacer(asyncio.get_running_loop(), "high_performance")
    pacer._took(100)
    reader = Writing(pacer)
    reader.stamp = pacer.turn
    reader.token()
    assert reader.waiting == 1
    await asyncio.sleep(0.05)
    assert reader.waiting == 0
