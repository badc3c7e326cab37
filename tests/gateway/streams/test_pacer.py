"""The pacer: at once when idle, once per window when busy, nothing forgotten."""

from __future__ import annotations

import asyncio

from gateway.streams.pacer import Pacer


class Counting:
    """A reader that counts its flushes."""

    def __init__(self) -> None:
        self.dirty = False
        self.flushes = 0

    def flush(self) -> None:
        self.flushes += 1


async def test_an_idle_worker_writes_at_once() -> None:
    """A single user would wait a window for every token."""
    pacer, reader = Pacer(asyncio.get_running_loop(), "balanced"), Counting()
    pacer.submit(reader)
    assert reader.flushes == 1


async def test_a_busy_worker_writes_once_per_window_and_forgets_nobody() -> None:
    """Either every token costs a system call under load, or a reader's last tokens are never written."""
    pacer = Pacer(asyncio.get_running_loop(), "battery_saver")
    readers = [Counting() for _ in range(200)]
    for _ in range(5):
        for reader in readers:
            pacer.submit(reader)
    busy = [reader for reader in readers if reader.dirty]
    assert len(busy) >= 100
    await asyncio.sleep(0.1)
    assert all(not reader.dirty for reader in readers)
    assert all(1 <= reader.flushes <= 2 for reader in readers)
    assert readers[-1].flushes == 1


async def test_immediate_never_waits() -> None:
    """Operators who switched pacing off would still get windows."""
    pacer, reader = Pacer(asyncio.get_running_loop(), "immediate"), Counting()
    for _ in range(1000):
        pacer.submit(reader)
    assert reader.flushes == 1000
