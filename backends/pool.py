"""Kept connections of one backend: last in, first out; idle ones go after 15 s; a limit counts all of them.

A slot is taken before dialling and given back when the connection is gone; who waits longest is woken first.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from backends.connection import Connection
from backends.contract.errors import BackendError, ErrorCode

IDLE_SECONDS = 15.0
_MAX_IDLE = 256


class Pool:
    """`limit` 0: none. `wait` is how long a request waits for a free slot, in seconds."""

    def __init__(self, name: str, dial: Callable[[], Awaitable[Connection]], *, limit: int, wait: float) -> None:
        self._name = name
        self._dial = dial
        self._limit = limit
        self._wait = wait
        self._idle: deque[tuple[float, Connection]] = deque()
        self._all: set[Connection] = set()
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False
        self.count = 0  # connections, those being dialled included

    def kept(self) -> Connection | None:
        """A kept connection, where there is one."""
        while self._idle and not self._closed:
            connection = self._idle.pop()[1]
            if connection.usable:
                return connection
        return None

    async def take(self, *, fresh: bool) -> Connection:
        """A kept connection, or a new one (always new when `fresh`). Raises BackendError, OVERLOADED when the limit
        holds."""
        deadline = asyncio.get_running_loop().time() + self._wait
        while not self._closed:
            kept = None if fresh else self.kept()
            if kept is not None:
                return kept
            if not self._limit or self.count < self._limit:
                return await self._new()
            if self._idle:
                self._idle.popleft()[1].close()  # its slot is free once the loop has seen it close
            await self._turn(deadline)
        raise BackendError(ErrorCode.UPSTREAM_FAILED, f"backend {self._name} is closed")

    def give(self, connection: Connection) -> None:
        """Keep a connection whose exchange is over."""
        if self._closed or len(self._idle) >= _MAX_IDLE:
            connection.close()
            return
        loop = asyncio.get_running_loop()
        self._idle.append((loop.time(), connection))
        if self._sweeper is None:
            self._sweeper = loop.call_later(IDLE_SECONDS, self._sweep)
        self._wake()

    def gone(self, connection: Connection) -> None:
        """A connection's socket is closed."""
        if connection not in self._all:
            return  # it failed while being dialled; `_new` counts that
        self._all.discard(connection)
        self._idle = deque(entry for entry in self._idle if entry[1] is not connection)
        self._release()

    def close(self) -> None:
        """Close every connection and refuse everybody who waits."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in list(self._all):
            connection.close()
        while self._waiters:
            self._wake()

    async def _new(self) -> Connection:
        self.count += 1
        try:
            connection = await self._dial()
        except BaseException:
            self._release()
            raise
        if self._closed or not connection.usable:
            connection.close()
            self._release()
            raise BackendError(ErrorCode.UPSTREAM_FAILED, f"backend {self._name} closed the connection at once")
        self._all.add(connection)
        return connection

    def _release(self) -> None:
        self.count -= 1
        self._wake()

    def _wake(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    async def _turn(self, deadline: float) -> None:
        """Wait until something may be free. Raises BackendError OVERLOADED after the deadline."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout_at(deadline):
                await waiter
        except TimeoutError as error:
            self._pass_on(waiter)
            text = f"all {self._limit} connections to backend {self._name} are busy"
            raise BackendError(ErrorCode.OVERLOADED, text) from error
        except asyncio.CancelledError:
            self._pass_on(waiter)
            raise

    def _pass_on(self, waiter: asyncio.Future[None]) -> None:
        """Whoever gives up after it was woken wakes the next one, or a free slot would sit there unseen."""
        if waiter.done() and not waiter.cancelled():
            self._wake()
        elif waiter in self._waiters:
            self._waiters.remove(waiter)

    def _sweep(self) -> None:
        self._sweeper = None
        loop = asyncio.get_running_loop()
        while self._idle and self._idle[0][0] <= loop.time() - IDLE_SECONDS + 0.01:
            self._idle.popleft()[1].close()
        if self._idle:
            self._sweeper = loop.call_at(self._idle[0][0] + IDLE_SECONDS, self._sweep)
