"""A client's socket as a reader's output: whole frames straight into the transport, never a task per write.

The body is written here, in chunks of our own (RFC 9112, section 7.1), and so is the usual head. What is known at the
same moment goes out in one write: each costs a system call and wakes the client. A peer that does not read makes the
transport pause; from then on a deadline runs, and when it passes the peer is given up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time

from backends.http1 import chunk
from config.schema import Streams

_HEAD = "HTTP/1.1 200 OK\r\n%sTransfer-Encoding: chunked\r\nDate: %s\r\nServer: headgate\r\n\r\n"
_LAST = b"0\r\n\r\n"
HIGH_WATER = 64 * 1024  # bytes in the transport's buffer before a client counts as slow; so many are written as one
_LOOK = 1.0  # seconds between two looks at a client, at most: a keepalive may come so much early


class StreamHead(web.StreamResponse):
    """A response whose body somebody else writes. The usual head of one, that of chunks on a connection which is kept,
    is written here too: aiohttp takes four times as long to come to the same bytes."""

    together = False  # it is not sent alone: what writes the body (`ClientOutput.open`) is given `unsent`
    unsent = b""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send the head, once."""
        transport, headers = request.transport, self.headers
        usual = request.version == HttpVersion11 and request.keep_alive and self._keep_alive is None
        if self.prepared or not usual or transport is None or transport.is_closing() or self.status != 200:
            return await super().prepare(request)
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        if not lines.count("\r") == lines.count("\n") == len(headers) or "\0" in lines or request.method == "HEAD":
            return await super().prepare(request)  # which refuses what a header may not hold
        self._keep_alive, self._payload_writer = True, request.writer
        head = (_HEAD % (lines, rfc822_formatted_time())).encode()
        if self.together:
            self.unsent = head
        else:
            transport.write(head)
        request.writer.output_size += len(head)  # an answer has begun: there cannot be another
        return request.writer

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
        "_gathered",
        "_idle_since",
        "_keepalive",
        "_limits",
        "_protocol",
        "_stuck_since",
        "_transport",
        "blocked",
        "look_at",
        "on_drain",
        "stuck",
        "wire",
    )

    def __init__(self, keepalive: bytes, limits: Streams) -> None:
        self.blocked = True
        self.look_at = 0.0
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
        self._gathered: list[bytes] | None = None  # to be written as one; None: at once
        self.wire: asyncio.Transport | None = None

    def open(self, request: web.Request, head: bytes = b"") -> None:
        """The head is out: bytes may follow. Or here it is, and goes out with what follows, at `release`."""
        transport = request.transport
        if transport is None:
            return
        if head:
            self._gathered = [head]
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
        data = chunk(data) if self._chunked else data
        if self._gathered is None:
            transport.write(data)
            self.wrote()
            return
        self._gathered.append(data)
        if sum(map(len, self._gathered)) > HIGH_WATER:  # whether the client reads is to be seen
            self.release()
            self.gather()

    def gather(self) -> None:
        """What is written from now on goes out as one, at `release`; both within the same turn of the loop."""
        if self._gathered is None:
            self._gathered = []

    def release(self) -> None:
        """Write what was gathered. Idempotent."""
        gathered, self._gathered = self._gathered, None
        if gathered and self._transport is not None and not self._transport.is_closing():
            self._transport.write(gathered[0] if len(gathered) == 1 else b"".join(gathered))
            self.wrote()

    def wrote(self, at: float = 0.0) -> None:
        """Chunks went out by the wire, the last one at this time, where that is known."""
        self._idle_since = at
        if self._protocol is not None and self._protocol.writing_paused and not self.blocked:
            self.blocked = True
            self._wait()

    def leave(self) -> None:
        """The reader is gone: nobody is told any more."""
        self.on_drain = _nothing

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
            if self._gathered is None:
                transport.write(_LAST)
            else:
                self._gathered.append(_LAST)
        else:
            self.release()
            transport.close()  # sends what is buffered first, which a peer that does not read would hold up for ever
            asyncio.get_running_loop().call_later(self._limits.write_timeout, transport.abort)

    def sweep(self, now: float) -> None:
        """The watchdog comes by: a keepalive for an idle client, the end for a stuck one."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        rest = min(_LOOK, self._limits.keepalive / 8, self._limits.write_timeout / 8)
        self.look_at = now + rest
        if self._stuck_since is not None:
            due = self._stuck_since + self._limits.write_timeout
            self.look_at = min(self.look_at, due)
            if now > due:
                self.stuck = True
                transport.abort()
        elif self._protocol is not None and self._protocol.writing_paused:
            self.wrote(self._idle_since)  # what wrote by the wire tells of it late
        elif self._idle_since == 0.0:
            self._idle_since = now - rest  # something was written since the last look
        elif self._keepalive:
            self._keep_alive(now)

    def _keep_alive(self, now: float) -> None:
        if now - self._idle_since >= self._limits.keepalive:
            self.write(self._keepalive)
            self._idle_since = now
        self.look_at = min(self.look_at, self._idle_since + self._limits.keepalive)


def _nothing() -> None:
    """Nobody waits."""
