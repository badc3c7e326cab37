"""A scripted model server on a raw socket: it sends exactly the bytes it is told, when told, and remembers what it saw.

One script per request, in order; the last one is repeated. A script is: bytes (sent), numbers (seconds of silence)
and the words CLOSE (FIN), RESET (RST) and HOLD (silence until the peer goes).
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import struct
import time
from collections.abc import Sequence
from typing import Final, Self

CLOSE: Final = "close"
RESET: Final = "reset"
HOLD: Final = "hold"
Step = bytes | float | str


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def head(extra: bytes = b"Transfer-Encoding: chunked\r\n", status: bytes = b"200 OK") -> bytes:
    """A response head."""
    return b"HTTP/1.1 " + status + b"\r\nContent-Type: text/event-stream\r\n" + extra + b"\r\n"


class Upstream:
    """`async with Upstream([...]) as up`: `up.url`, `up.requests` (head and body), `up.connections`, `up.closed_at`."""

    def __init__(self, *scripts: Sequence[Step], tls: ssl.SSLContext | None = None) -> None:
        self.scripts = list(scripts)
        self.requests: list[tuple[bytes, bytes]] = []
        self.connections = 0
        self.sent = 0
        self.closed_at: list[float] = []  # time.monotonic() when each peer went
        self.url = ""
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"{'https' if self._tls else 'http'}://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, asyncio.CancelledError):
            pass  # the peer went: what `closed_at` is for
        finally:
            self.closed_at.append(time.monotonic())
            self._tasks.discard(task)
            writer.close()

    def script(self, raw: bytes, body: bytes) -> Sequence[Step]:
        """What this request is answered with."""
        return self.scripts[min(len(self.requests), len(self.scripts) - 1)]

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        raw = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", raw)
        body = await reader.readexactly(int(length[1])) if length else b""
        script = self.script(raw, body)
        self.requests.append((raw, body))
        for step in script:
            if isinstance(step, bytes):
                writer.write(step)
                await writer.drain()
                self.sent += len(step)
            elif isinstance(step, str):
                return await self._end(step, reader, writer)
            elif await self._gone(reader, step):
                return False
        return True

    async def _gone(self, reader: asyncio.StreamReader, seconds: float) -> bool:
        """Be silent; True as soon as the peer closes."""
        try:
            async with asyncio.timeout(seconds):
                return not await reader.read(1)
        except TimeoutError:
            return False

    async def _end(self, how: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        if how == HOLD:
            await reader.read(1)
        elif how == RESET:
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        return False
