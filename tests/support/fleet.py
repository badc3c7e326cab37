"""Real gateway processes on a real Redis, their streams and their clients, for tests of the whole fleet."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from support.gateway import Gateway, start_gateway
from support.process import stop
from support.upstream import chunk

LEASE = 2.0
CHAT = "/api/streaming/chat"
TOKEN = chunk(b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n')


def config(redis: str, upstream: str = "", drain: str = "2s", lease: float = LEASE) -> str:
    """A node's gateway.yaml: the demo for every model, the scripted upstream for `up`."""
    scripted = f'  scripted: {{driver: openai, url: "{upstream}"}}' if upstream else ""
    route = "  - {model: up, to: scripted}" if upstream else ""
    return f"""
server: {{port: {{port}}, drain_timeout: {drain}}}
registry: {{url: "{redis}", lease: {lease:g}s}}
backends:
  demo: {{driver: demo}}
{scripted}
routes:
{route}
  - {{model: "*", to: demo}}
"""


def ask(directives: str = "[tokens=2000] [rate=50]", model: str = "demo") -> dict[str, Any]:
    """A request for a long answer."""
    return {"model": model, "messages": [{"role": "user", "content": f"hi {directives}"}]}


@asynccontextmanager
async def node(
    redis_url: str, *, text: str = "", env: dict[str, str] | None = None, **more: Any
) -> AsyncIterator[Gateway]:
    """A gateway process; `text`: its configuration, unless it is the usual one."""
    gateway = await asyncio.to_thread(start_gateway, text or config(redis_url, **more), env=env)
    try:
        yield gateway
    finally:
        if gateway.process.poll() is None:
            gateway.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(stop, gateway.process, 5)


@asynccontextmanager
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    """One connection per request, as many users would have."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True, limit=0)) as session:
        yield session


@asynccontextmanager
async def stream(
    session: aiohttp.ClientSession, gateway: Gateway, name: str = "", **more: str
) -> AsyncIterator[aiohttp.ClientResponse]:
    """A running stream, at its first frames."""
    headers = {"X-Stream-Id": name} if name else {}
    async with session.post(gateway.url + CHAT, json=ask(**more), headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        await answer.content.readuntil(b"\n\n")
        yield answer


async def get(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    """A JSON answer, whatever its status."""
    async with session.get(url) as answer:
        body: dict[str, Any] = await answer.json()
        return body


async def until(session: aiohttp.ClientSession, url: str, holds: Any, seconds: float) -> dict[str, Any]:
    """Ask until the answer is as it should be; the answer."""
    deadline = time.monotonic() + seconds
    while not holds(body := await get(session, url)):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {body}"
        await asyncio.sleep(0.03)
    return body
