"""Between the gateway and a server: passes all bytes on, and kills the server when its streams have come so far."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

_TEXT = (b'"content":"', b'"content": "', b'"text":"', b'"text": "')  # chat; completions and messages


class Fuse:
    """Each stream is held after so many frames of text (reasoning aside); when `streams` of them are held, `kill` is
    called, and what the server said beyond is lost, as it would be with the server."""

    def __init__(self, url: str, kill: Callable[[], None], frames: int, streams: int = 1) -> None:
        self._port = int(url.rpartition(":")[2])
        self._kill, self._frames, self._streams = kill, frames, streams
        self._blown = asyncio.Event()
        self._held = 0

    @asynccontextmanager
    async def lit(self) -> AsyncIterator[str]:
        """The URL to ask instead of the server's own."""
        listener = await asyncio.start_server(self._join, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        finally:
            listener.close()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            inward, outward = await asyncio.open_connection("127.0.0.1", self._port)
            sending = asyncio.create_task(self._pass(reader, outward))
            await self._count(inward, writer)
            sending.cancel()
            outward.transport.abort()
        writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)

    async def _count(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = self._frames
        while line := await reader.readline():
            writer.write(line)
            left -= line.startswith(b"data: {") and any(field in line for field in _TEXT)
            if left == 0:
                await writer.drain()
                await self._hold()
                return

    async def _hold(self) -> None:
        self._held += 1
        if self._held == self._streams:
            self._kill()
            self._blown.set()
        await self._blown.wait()
