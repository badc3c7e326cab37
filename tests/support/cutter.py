"""A TCP proxy that breaks lines: each connection after so many bytes of its answer. In the test's own event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Self


class Cutter:
    """`async with Cutter(port, [300, 0, None]) as line`: `line.url`. The n-th connection is cut after so many bytes of
    answer; 0: before the first one, when the request is through; -1: before the request is passed on; None, and
    all later ones: not at all. `made` counts connections, `cut` those that were cut."""

    def __init__(self, port: int, limits: Sequence[int | None] = (), *, host: str = "127.0.0.1") -> None:
        self._port, self._host = port, host
        self._limits = list(limits)
        self._tasks: set[asyncio.Task[None]] = set()
        self.made = 0
        self.cut = 0
        self.url = ""

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
        limit = self._limits[self.made] if self.made < len(self._limits) else None
        self.made += 1
        try:
            if limit == -1:
                await reader.read(65536)
                self.cut += 1
                return
            to_client = writer
            from_server, to_server = await asyncio.open_connection(self._host, self._port)
            forward = asyncio.create_task(_copy(reader, to_server))
            try:
                await self._answer(from_server, to_client, limit)
            finally:
                forward.cancel()
                to_server.transport.abort()
        except (OSError, asyncio.CancelledError):
            pass  # either side went
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: int | None) -> None:
        sent = 0
        while data := await reader.read(65536):
            if limit is not None and sent + len(data) >= limit:
                self.cut += 1
                writer.write(data[: limit - sent])
                if limit > sent:
                    await asyncio.sleep(0.01)  # what is written before the reset should arrive
                return
            sent += len(data)
            writer.write(data)
            await writer.drain()
        writer.close()
        await writer.wait_closed()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        writer.close()
