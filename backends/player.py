"""Plays a driver's script as if a server had answered. Pulls lazily, keeps to the script's own clock, never blocks
the loop.

Steps without a delay are joined into one callback, up to a bound, so that an endless script cannot starve other
streams.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from backends.base import Play, Script
from backends.contract.errors import BackendError, ErrorCode
from backends.exchange import Exchange, Sink

_MAX_STEPS = 256  # joined into one callback
_MAX_BYTES = 64 * 1024


class Player(Exchange):
    """Begins on the loop's next turn. `over` hears the end once. A script that runs out of steps ends cleanly."""

    def __init__(self, name: str, script: Script, sink: Sink, over: Callable[[Player], None]) -> None:
        self._name = name
        self._script = script
        self._sink = sink
        self._over = over
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time()
        self._step: Play | None = None  # pulled, not played yet
        self._paused = False
        self._begun = False
        self._ended = False
        self._timer: asyncio.Handle | None = self._loop.call_soon(self._begin)

    def pause(self) -> None:
        self._paused = True
        if self._begun:
            self._stop_timer()

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            if self._begun and not self._ended and self._timer is None:
                self._schedule()

    def abort(self) -> None:
        if not self._ended:
            self._end()

    def finish(self) -> None:
        self.abort()

    def _begin(self) -> None:
        self._timer, self._begun = None, True
        self._sink.head(self._script.status, {name.lower(): value for name, value in self._script.headers})
        self._schedule()

    def _pull(self) -> Play:
        """The next step; its due time counts from the one before, so that delays do not drift."""
        if self._step is None:
            self._step = next(self._script.steps, None) or Play(0.0, end="eof")
            self._due += self._step.delay
        return self._step

    def _schedule(self) -> None:
        if self._ended or self._paused:
            return
        self._pull()
        if self._due > self._loop.time():
            self._timer = self._loop.call_at(self._due, self._run)
        else:
            self._timer = self._loop.call_soon(self._run)

    def _run(self) -> None:
        self._timer = None
        parts: list[bytes] = []
        size = 0
        end = None
        for _ in range(_MAX_STEPS):
            step, self._step = self._pull(), None
            parts.append(step.data)
            size += len(step.data)
            end = step.end
            if end is not None or size > _MAX_BYTES or self._pull().delay > 0:
                break
        # a pause must not be made up for by a burst: the clock goes on from here
        self._due = max(self._due, self._loop.time() + (self._step.delay if self._step else 0.0))
        self._deliver(b"".join(parts), end)

    def _deliver(self, data: bytes, end: str | None) -> None:
        if data:
            self._sink.data(data)
        if self._ended:
            return
        if end is None:
            self._schedule()
            return
        self._end()
        if end == "eof":
            self._sink.eof()
        else:
            text = f"backend {self._name} closed the connection before the end"
            self._sink.lost(BackendError(ErrorCode.UPSTREAM_TRUNCATED, text))

    def _end(self) -> None:
        self._ended = True
        self._stop_timer()
        self._over(self)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
