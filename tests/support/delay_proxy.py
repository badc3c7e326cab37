"""A TCP proxy in front of Redis that delays answers, or loses them after the command was carried out."""

from __future__ import annotations

import asyncio
import random
from typing import Self


class DelayProxy:
    """`async with DelayProxy(port) as proxy`: `proxy.url`. `delay`: answers wait up to so many seconds, at random.
    `losing`: so many answers (of a connection that is then cut) still get lost; `lost` counts them."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.delay = 0.0
        self.losing = 0
        self.lost = 0
        self.connections = 0
        self.url = ""
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"
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
            to_server, from_server = await asyncio.open_connection("127.0.0.1", self._port)
            there = asyncio.create_task(self._forward(reader, from_server))
            try:
                await self._answers(to_server, writer)
            finally:
                there.cancel()
                from_server.close()
        except (OSError, asyncio.CancelledError):
            pass  # either side went
        finally:
            self._tasks.discard(task)
            writer.close()

    @staticmethod
    async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        writer.close()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if self.losing:
                self.losing -= 1
                self.lost += 1
                return
            if self.delay:
                await asyncio.sleep(random.uniform(0, self.delay))
            writer.write(data)
            await writer.drain()
