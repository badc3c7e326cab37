"""Clients that come back to another node, and nodes whose streams survive them."""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Any

import aiohttp
from support.gateway import Gateway
from support.redis_server import RedisServer

CHAT = "/api/streaming/chat"
LEASE = 1.2


def node_config(redis: str, *, route: str = "", lease: float = LEASE, drain: str = "0s") -> str:
    """A node's gateway.yaml: the demo, whose streams survive; `route`: more of the route."""
    return f"""
server: {{port: {{port}}, drain_timeout: {drain}}}
registry: {{url: "{redis}", lease: {lease:g}s}}
backends:
  demo: {{driver: demo}}
  other: {{driver: demo}}
routes:
  - {{model: "*", to: [demo, other], policy: ordered, survive: node{", " + route if route else ""}}}
"""


def prompt(tokens: int, rate: float, more: str = "") -> dict[str, Any]:
    """A request for so many tokens at such a pace."""
    said = f"tell me of survival [tokens={tokens}] [rate={rate:g}]{more}"
    return {"model": "demo", "messages": [{"role": "user", "content": said}], "stream": True}


class Listener:
    """A client with a cursor: `frames` are (id, event, data), each once, in order; `broken`: how often its connection
    broke."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.frames: list[tuple[str, str, Any]] = []
        self.broken = 0
        self.rest = b""
        self.raw: list[bytes] = []

    @property
    def over(self) -> bool:
        return bool(self.frames) and self.frames[-1][1] in ("done", "error", "cancelled", "timeout")

    @property
    def numbered(self) -> bool:
        """Whether its frames are an unbroken sequence from the first one on."""
        return [frame[0] for frame in self.frames] == [f"{self.name}.{i + 1}" for i in range(len(self.frames))]

    @property
    def text(self) -> str:
        return "".join(data.get("content", "") for _, kind, data in self.frames if kind == "token")

    def take(self, data: bytes) -> None:
        """Bytes of the native protocol."""
        self.rest += data
        while b"\n\n" in self.rest:
            frame, _, self.rest = self.rest.partition(b"\n\n")
            fields = dict(line.split(": ", 1) for line in frame.decode().splitlines() if ": " in line)
            if "data" in fields:
                self.raw.append(frame)
                self.frames.append((fields.get("id", ""), fields.get("event", ""), json.loads(fields["data"])))

    async def start(self, session: aiohttp.ClientSession, at: Gateway, body: dict[str, Any], **headers: str) -> None:
        """Ask, and read to the end or the break."""
        said = {"X-Stream-Id": self.name, **headers}
        try:
            async with session.post(at.url + CHAT, json=body, headers=said) as answer:
                assert answer.status == 200, await answer.text()
                await self._read(answer)
        except aiohttp.ClientError:
            self.broken += 1

    async def go_on(self, session: aiohttp.ClientSession, at: Gateway, seconds: float = 15.0) -> None:
        """As an EventSource: again and again, with the last id, until the end."""
        deadline = time.monotonic() + seconds
        while not self.over:
            assert time.monotonic() < deadline, (self.name, self.frames[-3:])
            self.rest = b""
            said = {"Accept": "text/event-stream", "Last-Event-ID": self.frames[-1][0] if self.frames else ""}
            try:
                async with session.get(f"{at.url}/api/streaming/{self.name}", headers=said) as answer:
                    if answer.status == 200:
                        await self._read(answer)
                    assert answer.status in (200, 404, 503), (answer.status, await answer.text())
            except aiohttp.ClientError:
                self.broken += 1
            await asyncio.sleep(0.05)

    async def _read(self, answer: aiohttp.ClientResponse) -> None:
        async for data in answer.content.iter_any():
            self.take(data)


async def receipt_of(session: aiohttp.ClientSession, at: Gateway, name: str) -> dict[str, Any]:
    """The receipt of an ended stream, as a node tells it."""
    async with session.get(f"{at.url}/api/streaming/{name}", headers={"Accept": "application/json"}) as answer:
        body: dict[str, Any] = await answer.json()
        return body["receipt"] if answer.status == 200 else body


async def whole_of(session: aiohttp.ClientSession, at: Gateway, body: dict[str, Any]) -> Listener:
    """An answer nothing happened to."""
    found = Listener("whole")
    await found.start(session, at, body)
    assert found.over
    return found


async def listed(session: aiohttp.ClientSession, at: Gateway) -> list[dict[str, Any]]:
    """The running streams, as a node lists them."""
    async with session.get(f"{at.url}/api/streaming/active") as answer:
        body: dict[str, Any] = await answer.json()
        return list(body["streams"])


async def statistics(session: aiohttp.ClientSession, at: Gateway) -> dict[str, Any]:
    """What the fleet counted."""
    async with session.get(f"{at.url}/api/streaming/statistics") as answer:
        body: dict[str, Any] = await answer.json()
        return body


def claims(redis: RedisServer, name: str) -> int:
    """How often a stream was claimed."""
    said = redis.command("LRANGE", f"headgate:log:{{{name}@anonymous}}", "0", "-1").splitlines()
    return sum(1 for line in said if re.fullmatch(r"\d+-\d+ c", line))
