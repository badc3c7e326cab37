"""A client's socket as a reader's output: whole frames straight into the transport, never a task per write.

The head goes out through aiohttp; the body is written here, in chunks of our own (RFC 9112, section 7.1). A peer that
does not read makes the transport pause; from then on a deadline runs, and when it passes the peer is given up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web

from config.schema import Streams

_HIGH_WATER = 64 * 1024  # bytes in the transport's buffer before a client counts as slow


class StreamHead(web.StreamResponse):
    """A response whose body somebody else writes."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to send when aiohttp comes to finish the response."""
        self._eof_sent = True
        self._payload_writer = None


async def begun(head: StreamHead, request: web.Request) -> bool:
    """Send the head; False: the client left while its answer was held, and nobody is to be told."""
    try:
        await head.prepare(request)
    except ConnectionError:
        return False
    return True


class ClientOutput:
    """One reader's output. `open` once the head is out; `on_drain` is called when the peer has caught up."""

    __slots__ = (
        "_chunked",
        "_drainer",
        "_idle_since",
        "_keepalive",
        "_limits",
        "_protocol",
        "_stuck_since",
        "_transport",
        "blocked",
        "on_drain",
        "stuck",
        "wire",
    )

    def __init__(self, keepalive: bytes, limits: Streams) -> None:
        self.blocked = True
        self.on_drain: Callable[[], None] = _nothing
        self.stuck = False  # given up: the peer did not read within the write deadline
        self._keepalive = keepalive
        self._limits = limits
        self._protocol: web.RequestHandler | None = None
        self._transport: asyncio.Transport | None = None
        self._stuck_since: float | None = None
        self._drainer: asyncio.Task[None] | None = None  # held: the loop itself holds tasks only weakly
        self._idle_since = 0.0
        self._chunked = True
        self.wire: asyncio.Transport | None = None

    def open(self, request: web.Request) -> None:
        """The head is out: bytes may follow."""
        transport = request.transport
        if transport is None:
            return
        transport.set_write_buffer_limits(high=_HIGH_WATER)
        self._protocol = request.protocol
        self._transport = transport
        self._chunked = request.version >= (1, 1)
        self.wire = transport if self._chunked else None
        self._idle_since = asyncio.get_running_loop().time()
        self.blocked = self._protocol.writing_paused
        if self.blocked:
            self._wait()

    def write(self, data: bytes) -> None:
        """Send whole frames as one chunk."""
        transport, protocol = self._transport, self._protocol
        if transport is None or protocol is None or transport.is_closing():
            return
        transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
        self.wrote()

    def wrote(self) -> None:
        """Chunks went out by the wire."""
        self._idle_since = 0.0
        if self._protocol is not None and self._protocol.writing_paused and not self.blocked:
            self.blocked = True
            self._wait()

    def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        self._stuck_since = loop.time()
        self._drainer = loop.create_task(self._drain())

    async def _drain(self) -> None:
        assert self._protocol is not None
        try:
            await self._protocol._drain_helper()
        except ConnectionError:
            return  # the handler is cancelled with the connection
        self._stuck_since = None
        self.blocked = False
        self.on_drain()

    def close(self, clean: bool) -> None:
        """End the body: its last chunk, or a visible break."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if clean and self._chunked:
            transport.write(b"0\r\n\r\n")
        else:
            transport.close()  # sends what is buffered first, which a peer that does not read would hold up for ever
            asyncio.get_running_loop().call_later(self._limits.write_timeout, transport.abort)

    def sweep(self, now: float) -> None:
        """The watchdog comes by: a keepalive for an idle client, the end for a stuck one."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self._stuck_since is not None:
            if now - self._stuck_since > self._limits.write_timeout:
                self.stuck = True
                transport.abort()
        elif self._idle_since == 0.0:
            self._idle_since = now  # something was written since the last sweep
        elif self._keepalive and now - self._idle_since >= self._limits.keepalive:
            self.write(b"%b" % self._keepalive)


def _nothing() -> None:
    """Nobody waits."""
