"""A browser's EventSource without a browser: the same address again after every break, with the last id it has seen.

Any status but 200 ends it for good, as the standard says; so does `done` or `error`.
"""

from __future__ import annotations

import asyncio
import time
from urllib.parse import quote

import aiohttp
from support.surviving import Listener

_PAUSE = 0.25  # seconds between a break and the next try


class EventSource(Listener):
    """`fatal`: the status that ended it, 0 for none; `connections`: how often it was let in."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(name)
        self.path = f"/api/v1/chat/stream?stream_id={name}&message={quote(message)}"
        self.fatal = 0
        self.connections = 0

    async def live(self, session: aiohttp.ClientSession, base: str, seconds: float) -> None:
        """From the question to the end. Raises AssertionError when there is none within so many seconds."""
        deadline = time.monotonic() + seconds
        while not (self.over or self.fatal):
            assert time.monotonic() < deadline, (self.name, self.frames[-2:])
            await self._once(session, base)
            await asyncio.sleep(_PAUSE)

    async def _once(self, session: aiohttp.ClientSession, base: str) -> None:
        self.rest = b""
        said = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if self.frames:
            said["Last-Event-ID"] = self.frames[-1][0]
        try:
            async with session.get(base + self.path, headers=said) as answer:
                if answer.status != 200:
                    self.fatal = answer.status
                    return
                self.connections += 1
                await self._read(answer)
        except aiohttp.ClientError:
            self.broken += 1
