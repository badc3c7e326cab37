"""Streams read as Durable Streams (a draft; see `streams.durable`): catch-up, long-poll and SSE.

Law: read only. The bytes are those of a view (the protocol the stream was started in, or `?protocol=`), the same for
everybody and for ever; how the stream ended is in them, then it is closed. Where a log comes from is not known here.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from aiohttp import web

from gateway.streams.durable import (
    NOW,
    Ask,
    Kind,
    Piece,
    body_of,
    control_event,
    cursor_text,
    data_event,
    etag,
    headers_of,
    kind_of,
    read_ask,
)

WAIT = 20.0  # seconds a long poll waits
TURN = 60.0  # seconds after which an SSE reader is asked to come again
_KEEPALIVE = 15.0
_SAFE = {"X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "same-origin"}


class Tail(Protocol):
    """A cursor into a log."""

    async def piece(self) -> Piece:
        """What there is from the cursor on, up to some size; the cursor moves behind it. Does not wait for more."""

    async def grown(self, seconds: float) -> bool:
        """Wait until there is more, or the end. False: not in that time."""


class Log(Protocol):
    """A stream of bytes one can read. `name` goes into tags; `headers` into every answer."""

    @property
    def name(self) -> str:
        """Unique to these bytes."""

    @property
    def content_type(self) -> str:
        """Of the bytes; those of `application/json` are lines."""

    @property
    def headers(self) -> Mapping[str, str]:
        """What else is to be said of it."""

    def tail(self, start: int) -> AbstractAsyncContextManager[Tail]:
        """A cursor at a byte position, or at NOW. Raises BackendError."""


class DurableReads:
    """GET and HEAD of one stream. `find` finds a request's log, or answers for what is left of it (410); it raises
    BackendError. `wait`: seconds of a long poll; `write_timeout`: of a client that does not read; `extra`: headers of
    an SSE answer, which no middleware can add."""

    def __init__(
        self,
        find: Callable[[web.Request], Awaitable[Log | web.StreamResponse]],
        *,
        wait: float = WAIT,
        write_timeout: float = 30.0,
        extra: Callable[[web.Request], Mapping[str, str]] = lambda _: {},
    ) -> None:
        self._find = find
        self._wait = wait
        self._write_timeout = write_timeout
        self._extra = extra

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Read. Raises BackendError."""
        query = request.query
        ask = read_ask(query.getall("offset", []), query.getall("live", []), query.getall("cursor", []))
        log = await self._find(request)
        if isinstance(log, web.StreamResponse):
            return log
        async with log.tail(ask.start) as tail:
            if ask.mode == "sse":
                return await self._sse(request, log, ask, tail)
            return await self._once(request, log, ask, tail)

    async def head(self, request: web.Request) -> web.StreamResponse:
        """Where it ends so far, and whether for good."""
        log = await self._find(request)
        if isinstance(log, web.StreamResponse):
            return log
        async with log.tail(NOW) as tail:
            piece = await tail.piece()
        headers = {**_SAFE, **log.headers, **headers_of(piece), "Content-Type": log.content_type}
        return web.Response(headers={**headers, "Cache-Control": "no-store"})

    async def _once(self, request: web.Request, log: Log, ask: Ask, tail: Tail) -> web.StreamResponse:
        piece = await tail.piece()
        begin = piece.next - len(piece.data)
        if ask.mode == "long-poll" and not piece.data and not piece.closed and await tail.grown(self._wait):
            piece = await tail.piece()
        live, now = ask.mode == "long-poll", ask.start == NOW
        headers = {**_SAFE, **log.headers, **headers_of(piece)}
        headers["Cache-Control"] = "no-store" if live or now else "private, no-cache"
        if live:
            headers["Stream-Cursor"] = _cursor(ask.cursor)
            if not piece.data:
                return web.Response(status=204, headers=headers)
        if not now:
            headers["ETag"] = etag(log.name, begin, piece)
            if not live and headers["ETag"] in request.headers.get("If-None-Match", ""):
                return web.Response(status=304, headers=headers)
        body = body_of(kind_of(log.content_type), piece.data)
        return web.Response(body=body, headers={**headers, "Content-Type": log.content_type})

    async def _sse(self, request: web.Request, log: Log, ask: Ask, tail: Tail) -> web.StreamResponse:
        kind = kind_of(log.content_type)
        headers = {**_SAFE, "Content-Type": "text/event-stream", "Cache-Control": "no-cache, no-store"}
        headers["X-Accel-Buffering"] = "no"
        if kind == "binary":
            headers["Stream-SSE-Data-Encoding"] = "base64"
        answer = web.StreamResponse(headers={**headers, **log.headers, **self._extra(request)})
        await answer.prepare(request)
        try:
            await self._follow(answer, kind, ask.cursor, tail)
        except (ConnectionError, TimeoutError):
            if request.transport is not None:
                request.transport.abort()  # the client went, or does not read: nobody is left to be told
        return answer

    async def _follow(self, answer: web.StreamResponse, kind: Kind, said: str, tail: Tail) -> None:
        """Events until the end, or until it is somebody else's turn."""
        deadline = time.monotonic() + TURN
        while True:
            piece = await tail.piece()
            said = _cursor(said)
            await self._write(answer, _events(kind, piece, said))
            while piece.up_to_date and not piece.closed:
                left = deadline - time.monotonic()
                if left <= 0 or await tail.grown(min(_KEEPALIVE, left)):
                    break
                await self._write(answer, b": keepalive\n\n")
            if piece.closed or time.monotonic() >= deadline:
                return

    async def _write(self, answer: web.StreamResponse, data: bytes) -> None:
        async with asyncio.timeout(self._write_timeout):
            await answer.write(data)


def _events(kind: Kind, piece: Piece, cursor: str) -> bytes:
    return (data_event(kind, piece.data) if piece.data else b"") + control_event(piece, cursor)


def _cursor(said: str) -> str:
    return cursor_text(time.time(), said, random.randint(1, 180))
