"""The one upstream HTTP client: opens exchanges with one backend. Foreign errors become BackendErrors below here, once.

No redirects (a 3xx is a status like any other), no cookies, no decompression, no proxy variables, no retries but the
free one
on a connection that had gone stale.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from backends.base import Driver, HttpRequest
from backends.call import Call
from backends.connection import Connection
from backends.contract.errors import BackendError, ErrorCode
from backends.dial import Dialer, Origin
from backends.exchange import Exchange, Sink
from backends.player import Player
from backends.pool import Pool
from backends.render import Renderer

__all__ = ["Exchange", "Sink", "Transport"]


class Transport:
    """All connections of one worker to one backend. Raises ValueError when the backend's settings cannot work.

    `connect_timeout` in seconds covers DNS, TCP and TLS (the backend's own setting wins); `max_body` in bytes caps an
    answer's body, 0 does not. `active` counts exchanges that have not ended.
    """

    def __init__(self, driver: Driver, *, connect_timeout: float, max_body: int = 0) -> None:
        backend = driver.backend
        own = backend.connect_timeout
        wait = float(own) if own is not None else connect_timeout
        self._driver = driver
        self._keepalive = driver.keepalive if backend.keepalive is None else backend.keepalive
        self._live: set[Exchange] = set()
        self._closed = False
        self._renderer: Renderer | None = None
        self._pool: Pool | None = None
        if driver.url:
            origin = Origin(driver.url)
            extra = [(name, secret.reveal()) for name, secret in backend.headers.items()]
            self._renderer = Renderer(origin.authority, origin.prefix, extra, keepalive=self._keepalive)
            dialer = Dialer(driver.name, origin, backend, wait)
            pool = Pool(
                driver.name,
                lambda: dialer.dial(lambda: Connection(pool.gone, max_body)),
                limit=backend.max_connections,
                wait=wait,
            )
            self._pool = pool

    @property
    def connections(self) -> int:
        """Connections now open, or being opened."""
        return self._pool.count if self._pool else 0

    @property
    def active(self) -> int:
        """Exchanges under way."""
        return len(self._live)

    async def open(self, request: HttpRequest, sink: Sink) -> Exchange:
        """Send a request; returns once it was handed to the socket, before any callback. Raises BackendError
        UPSTREAM_FAILED, TIMED_OUT or OVERLOADED (no connection), INVALID_REQUEST (cannot be sent)."""
        script = None if self._closed else self._driver.script(request)
        if script is not None:
            player = Player(self._driver.name, script, sink, self._live.discard)
            self._live.add(player)
            return player
        if self._pool is None or self._renderer is None or self._closed:
            state = "is closed" if self._closed else "has no url"
            raise BackendError(ErrorCode.UPSTREAM_FAILED, f"backend {self._driver.name} {state}")
        call = self._call(request, sink, self._renderer)
        call.start(await self._pool.take(fresh=False))
        self._live.add(call)
        return call

    def at_once(self, request: HttpRequest, sink: Sink) -> Exchange | None:
        """As `open`, where a connection is kept and nothing has to be waited for; None: ask `open`."""
        if self._pool is None or self._renderer is None or self._closed or self._driver.script(request) is not None:
            return None
        connection = self._pool.kept()
        if connection is None:
            return None
        try:
            call = self._call(request, sink, self._renderer)
        except BackendError:
            self._pool.give(connection)
            raise
        call.start(connection)
        self._live.add(call)
        return call

    def _call(self, request: HttpRequest, sink: Sink, renderer: Renderer) -> Call:
        return Call(
            self._driver.name,
            request.method,
            renderer.render(request),
            sink,
            reusable=self._keepalive,
            take=self._fresh,
            over=self._over,
        )

    async def _fresh(self) -> Connection:
        """For a second try."""
        assert self._pool is not None
        return await self._pool.take(fresh=True)

    async def fetch(
        self,
        request: HttpRequest,
        timeout: float,  # noqa: ASYNC109 - part of the call, and covers connecting
        limit: int = 4 << 20,
    ) -> tuple[int, dict[str, str], bytes]:
        """A small call, whole: status, headers, body of at most `limit` bytes. Raises BackendError, TIMED_OUT after
        `timeout` s."""
        collector = _Collector(limit)
        exchange: Exchange | None = None
        try:
            async with asyncio.timeout(timeout):
                exchange = await self.open(request, collector)
                return await collector.result
        except TimeoutError as error:
            text = f"backend {self._driver.name} did not answer within {timeout:g} s"
            raise BackendError(ErrorCode.TIMED_OUT, text) from error
        finally:
            if exchange is not None:
                exchange.abort()

    async def close(self) -> None:
        """Abort what is under way and close every connection."""
        self._closed = True
        for exchange in list(self._live):
            exchange.abort()
        if self._pool is not None:
            self._pool.close()
        await asyncio.sleep(0)  # lets the loop close the sockets

    def _over(self, call: Call, kept: Connection | None) -> None:
        self._live.discard(call)
        if kept is not None and self._pool is not None:
            self._pool.give(kept)


class _Collector:
    """The sink of `fetch`."""

    def __init__(self, limit: int) -> None:
        self.result: asyncio.Future[tuple[int, dict[str, str], bytes]] = asyncio.get_running_loop().create_future()
        self._limit = limit
        self._status = 0
        self._headers: dict[str, str] = {}
        self._body = bytearray()

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        self._status, self._headers = status, dict(headers)

    def data(self, data: bytes) -> None:
        self._body += data
        if len(self._body) > self._limit:
            self.lost(
                BackendError(ErrorCode.UPSTREAM_FAILED, f"the backend's answer is larger than {self._limit} bytes")
            )
            self._body.clear()

    def eof(self) -> None:
        if not self.result.done():
            self.result.set_result((self._status, self._headers, bytes(self._body)))

    def lost(self, error: BackendError) -> None:
        if not self.result.done():
            self.result.set_exception(error)
