"""Time as this process lived it: while it was stopped (SIGSTOP, a suspended machine, a host that gave it no CPU), no
deadline comes nearer. A loop that is merely busy is no excuse: the watch is a thread of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, Self, TypeVar

_TICK = 0.05  # seconds between two looks at the clock
_GAP = 0.25  # seconds without a look after which the process was not there

T = TypeVar("T")


class Awake:
    """`with Awake() as awake`: `awake.now()` in seconds, `awake.gaps`: how often the process was away."""

    def __init__(self) -> None:
        self._lost = 0.0
        self._seen = time.monotonic()
        self._gaps = 0
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="awake", daemon=True)

    def __enter__(self) -> Self:
        self._seen = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def now(self) -> float:
        """Seconds, without those in which nothing here ran."""
        return self._look()[0]

    @property
    def gaps(self) -> int:
        """How often the process was away."""
        return self._look()[1]

    def _look(self) -> tuple[float, int]:
        """Whoever looks first after a gap notes it: the loop may be sooner than the watch."""
        with self._lock:
            now = time.monotonic()
            if now - self._seen > _GAP:
                self._lost += now - self._seen
                self._gaps += 1
                self._seen = now
            return now - self._lost, self._gaps

    def _watch(self) -> None:
        while not self._over.wait(_TICK):
            self._look()
            with self._lock:
                self._seen = time.monotonic()

    async def within(self, seconds: float, work: Awaitable[T]) -> T:
        """What `work` gives, if it does in time. Raises TimeoutError, and cancels it."""
        task = asyncio.ensure_future(work)
        end = self.now() + seconds
        try:
            while not task.done():
                left = end - self.now()
                if left <= 0:
                    raise TimeoutError(f"not within {seconds:g} s")
                await asyncio.wait({task}, timeout=left)
        finally:
            task.cancel()
        return task.result()

    async def until(self, holds: Callable[[], Any], seconds: float) -> None:
        """Wait for something that must come: often at first, seldomer then. Raises TimeoutError."""
        end, pause = self.now() + seconds, 0.0005
        while not holds():
            if self.now() > end:
                raise TimeoutError(f"not within {seconds:g} s")
            await asyncio.sleep(pause)
            pause = min(0.01, pause * 1.5)
