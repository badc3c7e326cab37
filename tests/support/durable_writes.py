"""A Durable Streams server whose reads are the gateway's own; its writes exist for tests only: PUT, POST and DELETE
fill logs in memory, so that the published conformance suite (which seeds every test by writing) can try the reads.

`PYTHONPATH=tests python -m support.durable_writes PORT` serves until it is stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from aiohttp import web

from backends.contract.errors import BackendError, ErrorCode
from config.schema import Cors
from gateway.edge.durable_streams import DurableReads, Log
from gateway.edge.guards import preflight
from gateway.streams.durable import NOW, Piece, offset_text

MOST = 16 * 1024  # bytes of one piece: small, so that large streams come in several
WAIT = 2.0  # seconds of a long poll: the suite's tests have five
_LIFE = ("Stream-TTL", "Stream-Expires-At")
_SAFE = {"X-Content-Type-Options": "nosniff"}


class Written:
    """One log; `data` of a JSON one are lines."""

    def __init__(self, name: str, content_type: str) -> None:
        self.name, self.content_type = name, content_type
        self.headers: Mapping[str, str] = {}
        self.chunks: list[bytes] = []
        self.ends: list[int] = []
        self.closed = False
        self.waiting: set[asyncio.Event] = set()

    @property
    def size(self) -> int:
        return self.ends[-1] if self.ends else 0

    def append(self, data: bytes) -> None:
        for at in range(0, len(data), MOST):
            self.chunks.append(data[at : at + MOST])
            self.ends.append(self.size + len(self.chunks[-1]))

    def tell(self) -> None:
        for event in self.waiting:
            event.set()

    @asynccontextmanager
    async def tail(self, start: int) -> AsyncIterator[WrittenTail]:
        event = asyncio.Event()
        self.waiting.add(event)
        try:
            yield WrittenTail(self, self.size if start == NOW else start, event)
        finally:
            self.waiting.discard(event)


class WrittenTail:
    """A cursor into a log."""

    def __init__(self, log: Written, at: int, event: asyncio.Event) -> None:
        self._log, self._at, self._event = log, at, event

    async def piece(self) -> Piece:
        log = self._log
        if self._at > log.size:
            raise BackendError(ErrorCode.CURSOR_AHEAD, "beyond the end")
        self._event.clear()
        data, size = b"", 0
        begin = 0
        for chunk, end in zip(log.chunks, log.ends, strict=True):
            if end > self._at and size < MOST:
                data += chunk[max(self._at - begin, 0) :]
                size = len(data)
            begin = end
        self._at += size
        done = self._at == log.size
        return Piece(data, self._at, done, done and log.closed)

    async def grown(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._event.wait(), seconds)
            return True
        return False


class Writes:
    """The handlers of the writing side, as far as the read-side tests need it."""

    def __init__(self) -> None:
        self.logs: dict[str, Written] = {}

    async def find(self, request: web.Request) -> Log | web.StreamResponse:
        log = self.logs.get(request.path)
        if log is None:
            raise BackendError(ErrorCode.NOT_FOUND, "no such stream")
        return log

    async def put(self, request: web.Request) -> web.Response:
        content_type = request.headers.get("Content-Type", "application/octet-stream")
        new = request.path not in self.logs
        log = self.logs.setdefault(request.path, Written(request.path, content_type))
        if new:
            log.append(_bytes(content_type, await request.read(), empty=True))
            log.headers = {name: request.headers[name] for name in _LIFE if name in request.headers}
        if request.headers.get("Stream-Closed") == "true":
            log.closed = True
        return _told(log, 201 if new else 200, Location=str(request.url), **{"Content-Type": content_type})

    async def post(self, request: web.Request) -> web.Response:
        log = self.logs.get(request.path)
        if log is None:
            return web.Response(status=404, headers=_SAFE)
        data, closing = await request.read(), request.headers.get("Stream-Closed") == "true"
        if log.closed and data:
            return _told(log, 409)
        if not data and not closing:
            return web.Response(status=400, headers=_SAFE)
        log.append(_bytes(log.content_type, data, empty=False))
        log.closed = log.closed or closing
        log.tell()
        return _told(log, 204)

    async def delete(self, request: web.Request) -> web.Response:
        return web.Response(status=404 if self.logs.pop(request.path, None) is None else 204, headers=_SAFE)


def _bytes(content_type: str, data: bytes, *, empty: bool) -> bytes:
    if not content_type.startswith("application/json") or not data:
        return data
    value = json.loads(data)
    messages = value if isinstance(value, list) else [value]
    if not messages and not empty:
        raise BackendError(ErrorCode.INVALID_REQUEST, "an empty array")
    return b"".join(json.dumps(message, separators=(",", ":")).encode() + b"\n" for message in messages)


def _told(log: Written, status: int, **more: str) -> web.Response:
    closed = {"Stream-Closed": "true"} if log.closed else {}
    return web.Response(status=status, headers={**_SAFE, "Stream-Next-Offset": offset_text(log.size), **closed, **more})


def durable_app() -> web.Application:
    """Reads of the gateway, writes of this file."""
    writes, cors = Writes(), Cors(origins=("https://example.com",))
    reads = DurableReads(writes.find, wait=WAIT)

    @web.middleware
    async def told(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if request.method == "OPTIONS":
            return preflight(cors, request.headers)
        try:
            return await handler(request)
        except BackendError as error:
            return web.Response(status=error.code.status, text=error.message, headers=_SAFE)
        except ValueError:
            return web.Response(status=400, headers=_SAFE)

    app = web.Application(middlewares=[told], client_max_size=64 * 1024 * 1024)
    path = "/v1/stream/{id:.+}"
    app.add_routes([web.get(path, reads.get, allow_head=False), web.head(path, reads.head)])
    app.add_routes([web.put(path, writes.put), web.post(path, writes.post), web.delete(path, writes.delete)])
    return app


if __name__ == "__main__":
    web.run_app(durable_app(), host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None)
