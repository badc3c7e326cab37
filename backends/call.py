"""The handle of one request on the network: owns its connection while there is one, and asks again once where that is
free.

A kept connection may have been closed by the backend while the request was on its way; if not a byte of answer came,
the request goes
out again on a fresh connection, once, and the sink never knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from backends.connection import Connection
from backends.contract.errors import BackendError, ErrorCode
from backends.exchange import Exchange, Express, Sink

DRAIN_SECONDS = 1.0
DRAIN_BYTES = 64 * 1024


class _Deaf:
    """The sink of an exchange that has ended: nobody listens, and nobody is held by it."""

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        """Nobody listens."""

    def data(self, data: bytes) -> None:
        """Nobody listens."""

    def eof(self) -> None:
        """Nobody listens."""

    def lost(self, error: BackendError) -> None:
        """Nobody listens."""


class _Drain(_Deaf):
    """The sink of a finished exchange: forgets what comes, and closes when too much does."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._left = DRAIN_BYTES

    def data(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            self._call.abort()


_DEAF = _Deaf()


class Call(Exchange):
    """`sink` is called by the connection directly; `take` gets a fresh connection, `over` hears the end once."""

    __slots__ = (
        "_connection",
        "_drain",
        "_ended",
        "_name",
        "_over",
        "_paused",
        "_raw",
        "_retry",
        "_take",
        "method",
        "reusable",
        "sink",
    )

    def __init__(
        self,
        name: str,
        method: str,
        raw: bytes,
        sink: Sink,
        *,
        reusable: bool,
        take: Callable[[], Awaitable[Connection]],
        over: Callable[[Call, Connection | None], None],
    ) -> None:
        self._name = name
        self.method = method
        self.reusable = reusable
        self.sink: Sink = sink
        self._raw = raw
        self._take = take
        self._over = over
        self._connection: Connection | None = None
        self._retry: asyncio.Task[None] | None = None
        self._drain: asyncio.TimerHandle | None = None
        self._paused = False
        self._ended = False

    def start(self, connection: Connection) -> None:
        """Send the request on this connection."""
        self._connection = connection
        connection.start(self, self._raw)
        if not connection.reused:
            self._raw = b""  # no second try: do not hold a large request for the whole stream
        if self._paused:
            connection.pause()

    # Exchange

    def pause(self) -> None:
        self._paused = True
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        self._paused = False
        if self._connection is not None:
            self._connection.resume()

    def express(self, road: Express) -> bool:
        return self._connection is not None and self._connection.express(road)

    def abort(self) -> None:
        connection = self._connection
        if self._ended:
            return
        self._end(None)
        if self._retry is not None:
            self._retry.cancel()
        if connection is not None:
            connection.close()

    def finish(self) -> None:
        if self._ended or self._drain is not None:
            return
        if self._connection is None:
            self.abort()  # between two tries: there is nothing to keep
            return
        self.sink = _Drain(self)
        body = self._connection._body
        if body is not None and body.done:
            return  # all of it is read: the connection is about to say so
        self._drain = asyncio.get_running_loop().call_later(DRAIN_SECONDS, self.abort)
        self.resume()

    # called by the connection

    def completed(self, connection: Connection | None) -> None:
        """The body is complete; `connection` may be kept."""
        sink = self.sink
        self._end(connection)
        sink.eof()

    def dropped(self, *, seen: bool, silent: bool, reused: bool) -> None:
        """The socket closed. `seen`: after the head; `silent`: before any byte of answer."""
        self._connection = None
        if silent and reused and self._raw and self._drain is None:
            self._retry = asyncio.get_running_loop().create_task(self._again())
            return
        self.failed(
            "closed the connection before the end" if seen else "closed the connection without an answer", seen=seen
        )

    def failed(self, why: str, *, seen: bool) -> None:
        """The answer is no use; the socket is closed."""
        code = ErrorCode.UPSTREAM_TRUNCATED if seen else ErrorCode.UPSTREAM_FAILED
        self._lose(BackendError(code, f"backend {self._name} {why}"))

    async def _again(self) -> None:
        try:
            connection = await self._take()
        except BackendError as error:
            self._lose(error)
            return
        self._retry = None
        self.start(connection)

    def _lose(self, error: BackendError) -> None:
        sink = self.sink
        self._end(None)
        sink.lost(error)

    def _end(self, kept: Connection | None) -> None:
        self._ended, self._connection, self._raw, self.sink = True, None, b"", _DEAF
        if self._drain is not None:
            self._drain.cancel()
        self._over(self, kept)
