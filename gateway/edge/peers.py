"""All clients' connections of the public listener: how many there may be, and who owes something since when.

Law: one timer for all of them; only connections that owe something are looked at, and streams do not.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from functools import partial
from typing import Any

from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.web_protocol import ERROR

from config.schema import Server
from gateway.edge.connection import Connection, Refuse
from gateway.observe.logging import get_logger

_SPOKEN = (HttpVersion10, HttpVersion11)
_SWEEPS = 20  # in one deadline: by what part of itself it may be overrun


class PublicRequest(web.Request):
    """A request whose answers name the gateway, and not the library and language it is built with."""

    async def read(self) -> bytes:
        """As aiohttp does; a body that has come whole already is taken without waiting."""
        if self._read_bytes is None and self._payload.is_eof() and self._payload.exception() is None:
            self._read_bytes = self._payload.read_nowait()
            if 0 < self._client_max_size < len(self._read_bytes):
                raise web.HTTPRequestEntityTooLarge(self._client_max_size)
        return await super().read()

    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        response.headers["Server"] = "headgate"
        if self._version not in _SPOKEN or self._message.method == ERROR.method:
            self._cache["version"] = HttpVersion11  # of the status line: what this server speaks (RFC 9110, 6.2)
            response.headers["Connection"] = "close"
            response.force_close()
        await super()._prepare_hook(response)


class PublicServer(web.Server):
    """Makes a `Connection` for each client and ends those that are overdue; otherwise the server it is made from."""

    def __init__(self, like: web.Server, handler: Callable[[Any], Any], refuse: Refuse, limits: Server) -> None:
        super().__init__(
            handler,
            request_factory=partial(like.request_factory, _cls=PublicRequest),  # type: ignore[call-arg]  # the application's
            handler_cancellation=like.handler_cancellation,
            loop=like._loop,
            **like._kwargs,
        )
        self.limits = limits
        self.closing = False  # the worker drains: each answer is its connection's last
        self._log = get_logger()
        self._refuse = refuse
        self._owing: dict[Connection, float] = {}  # until when, by the loop's clock
        self._turned_away = 0  # since the log was told
        self._most = _most_connections(limits.max_connections)
        self._every = max(0.01, min(limits.header_timeout, limits.body_timeout) / _SWEEPS)
        self._timer = self._loop.call_later(self._every, self._sweep)

    def __call__(self) -> Connection:
        return Connection(self, self._refuse, loop=self._loop, **self._kwargs)

    def full(self) -> bool:
        """Whether one more connection is one too many; it is then counted as turned away."""
        full = len(self._connections) >= self._most
        self._turned_away += full
        return full

    def expect(self, connection: Connection, seconds: float) -> None:
        """From now on something is owed, for so long."""
        self._owing[connection] = self._loop.time() + seconds

    def expect_first(self, connection: Connection, seconds: float) -> None:
        """The same, unless it is owed already: more bytes are no more time."""
        if connection not in self._owing:
            self.expect(connection, seconds)

    def settled(self, connection: Connection) -> None:
        """What was owed has come."""
        self._owing.pop(connection, None)

    async def shutdown(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - aiohttp's signature
        """End every connection, and the watch over them."""
        self._timer.cancel()
        await super().shutdown(timeout)

    def _sweep(self) -> None:
        self._timer = self._loop.call_later(self._every, self._sweep)
        if self._turned_away:
            self._log.warning("connections turned away", count=self._turned_away, max_connections=self._most)
            self._turned_away = 0
        now = self._loop.time()
        for connection in [c for c, until in self._owing.items() if until <= now]:
            self.settled(connection)
            connection.overdue()


def _most_connections(configured: int) -> int:
    """At most half of the open files the system allows: the other half is for backends, Redis and logs."""
    files, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return configured if files == resource.RLIM_INFINITY else max(1, min(configured, files // 2))
