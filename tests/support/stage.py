"""A model server on a raw socket that says what the test tells it to, stream by stream, when it is told.

A stream is known by the canary in its prompt; each of its tokens carries that canary and a number, so that whatever is
read anywhere says whose it is and whether something is missing.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import time
from typing import Self

from support.resuming import END, token
from support.upstream import chunk, head

CANARY = re.compile(r"canary\d+x")
_FAILED = chunk(b'data: {"error":{"message":"the model broke","type":"server_error"}}\n\n')
LAST = {"finish": [END, b"0\r\n\r\n"], "fail": [_FAILED, b"0\r\n\r\n"], "cut": [], "reset": []}


class Act:
    """One stream at the backend: what it has said, and its connections."""

    def __init__(self, canary: str) -> None:
        self.canary = canary
        self.words: list[str] = []
        self.over = ""  # a key of LAST
        self.asked = 0
        self.open = 0
        self.closed_at = 0.0
        self.news = asyncio.Event()

    def say(self, count: int) -> None:
        """So many tokens more."""
        if not self.over:
            at = len(self.words)
            self.words += [f"{self.canary}:{i} " for i in range(at, at + count)]
            self.news.set()

    def end(self, how: str) -> None:
        """How it ends, once."""
        self.over = self.over or how
        self.news.set()

    @property
    def text(self) -> str:
        return "".join(self.words)


class Stage:
    """`async with Stage() as stage`: `stage.url`, `stage.act(canary)`."""

    def __init__(self) -> None:
        self.acts: dict[str, Act] = {}
        self.url = ""
        self._tasks: set[asyncio.Task[None]] = set()

    def act(self, canary: str) -> Act:
        """A stream's part, made where it has not been asked for yet."""
        return self.acts.setdefault(canary, Act(canary))

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
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
        try:
            await self._play(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the peer went, or the test is over
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _play(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raw = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", raw)
        found = CANARY.search((await reader.readexactly(int(length[1]) if length else 0)).decode())
        assert found is not None
        act = self.act(found[0])
        act.asked += 1
        act.open += 1
        gone = asyncio.create_task(reader.read(1))
        try:
            await self._speak(act, writer, gone)
        finally:
            act.open -= 1
            act.closed_at = time.monotonic()
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)

    async def _speak(self, act: Act, writer: asyncio.StreamWriter, gone: asyncio.Task[bytes]) -> None:
        said, begun = 0, False
        while not gone.done():
            if (said < len(act.words) or act.over) and not begun:
                writer.write(head())
                begun = True
            for word in act.words[said:]:
                writer.write(token(word))
            said = len(act.words)
            await writer.drain()
            if act.over:
                self._leave(act.over, writer)
                return
            act.news.clear()
            news = asyncio.create_task(act.news.wait())
            try:
                await asyncio.wait({news, gone}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                news.cancel()

    def _leave(self, how: str, writer: asyncio.StreamWriter) -> None:
        for part in LAST[how]:
            writer.write(part)
        if how == "reset":
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
