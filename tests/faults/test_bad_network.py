"""Clients and backends behind a line that delays and loses packets, and then goes dead without a word (C 26)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Self

import aiohttp
import pytest
from support.inprocess import config_for, events, running
from support.network import Line, possible
from support.upstream import HOLD, Upstream, chunk, head

from backends import dial
from config.schema import Access, Config, Server, Streams
from config.values import Duration
from gateway.app import Gateway

pytestmark = pytest.mark.skipif(not possible(), reason="no network namespaces, or no TUN devices, here")

CHAT = "/api/streaming/chat"
TOKEN = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":null}]}\n\n'


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    """200 ms there and back, one packet in fifty lost."""
    async with Line(delay=0.1, loss=0.02) as found:
        yield found


class Far(Upstream):
    """A backend that listens at the far end."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "10.66.0.2", 0)
        self.url = f"http://10.66.0.2:{self._server.sockets[0].getsockname()[1]}"
        return self


def served(url: str = "", **limits: Duration) -> Config:
    """Reached from outside; the demo, or a backend at the far end."""
    here = Server(host="10.66.0.1", port=0, drain_timeout=Duration(0.1))
    return config_for(url, server=here, access=Access(allow_anonymous=True), streams=Streams(**limits))


def asking(text: str) -> dict[str, object]:
    return {"model": "m", "messages": [{"role": "user", "content": text}]}


async def heard(gateway: Gateway, asked: str) -> str:
    """A whole answer, as a client at the far end reads it."""
    url = f"http://10.66.0.1:{gateway.public_port}{CHAT}"
    async with aiohttp.ClientSession() as session, session.post(url, json=asking(asked)) as answer:
        return await answer.text()


class Listener:
    """A client at the far end that reads on, with a second connection that is kept and idle."""

    def __init__(self, gateway: Gateway) -> None:
        self.base = f"http://10.66.0.1:{gateway.public_port}"
        self.stack = AsyncExitStack()

    async def begin(self, policy: str) -> None:
        """Its stream runs, and nobody will hear of its end."""
        session = await self.stack.enter_async_context(aiohttp.ClientSession())
        async with session.get(f"{self.base}/health") as health:
            await health.read()
        other = await self.stack.enter_async_context(aiohttp.ClientSession())
        headers = {"X-Stream-Id": "cut", "X-Stream-On-Disconnect": policy}
        asked = asking("hi [tokens=100000] [rate=20]")
        answer = await self.stack.enter_async_context(other.post(self.base + CHAT, json=asked, headers=headers))
        await answer.content.readuntil(b"event: token")


async def gone(gateway: Gateway, seconds: float) -> float:
    """Wait until no stream runs and no client is connected; how long that took."""
    began = time.monotonic()
    async with asyncio.timeout(seconds):
        while len(gateway.hub) or gateway._runners[0].server.connections:  # type: ignore[union-attr]
            await asyncio.sleep(0.05)
    return time.monotonic() - began


async def test_an_answer_comes_whole(line: Line) -> None:
    """A phone on a bad line would get an answer with holes, or twice the same words."""
    async with line.near.within(running(served())) as gateway:
        async with asyncio.timeout(30):
            texts = await asyncio.gather(*(line.far.run(heard(gateway, "hi [tokens=60] [rate=60]")) for _ in range(4)))
    for text in texts:
        told = events(text)
        assert [kind for _, kind, _ in told if kind != "usage"] == ["start", *["token"] * 60, "done"]
        assert [int(name.rpartition(".")[2]) for name, _, _ in told] == list(range(1, len(told) + 1))
    assert line.lost


async def cut_off(line: Line, seconds: float) -> float:
    """The line goes dead under a client; when the gateway has noticed, and what it made of it."""
    async with line.near.within(running(served())) as gateway:
        listener = Listener(gateway)
        async with asyncio.timeout(20):
            await line.far.run(listener.begin("cancel"))
        line.down = True
        took = await line.near.run(gone(gateway, seconds))
        entry = await line.near.run(gateway.registry.find("cut", None))
        assert entry is not None
        assert entry.state == "client_gone"
        await line.far.run(listener.stack.aclose())
    return took


async def test_a_client_behind_a_dead_line_is_given_up(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """No packet says that it is gone: its stream would run, and be paid for, until the total timeout."""
    monkeypatch.setattr(dial, "_USER_TIMEOUT_MS", 1500)
    monkeypatch.setattr(dial, "_KEEPALIVE", (("TCP_KEEPIDLE", 1), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", 3)))
    assert await cut_off(line, 12) > 0.5


@pytest.mark.soak
@pytest.mark.timeout(120)
async def test_a_client_behind_a_dead_line_is_given_up_within_a_minute(line: Line) -> None:
    """The same, with the limits that are set."""
    took = await cut_off(line, 61)
    print(f"\nnoticed {took:.1f} s after the line went dead")


async def test_a_backend_behind_a_dead_line_is_given_up(line: Line) -> None:
    """Its client would wait for the rest of the answer as long as the gateway lets a stream run."""
    words = [chunk(TOKEN % word) for word in (b"one", b"two")]
    async with line.far.within(Far([head(), *words, HOLD])) as up:
        config = served(up.url, no_progress=Duration(1.0))
        async with line.near.within(running(config)) as gateway, asyncio.timeout(20):
            url = f"http://10.66.0.1:{gateway.public_port}{CHAT}"
            said = await line.near.run(said_until(line, url))
    told = [(kind, json.loads(data)) for _, kind, data in events(said)]
    assert [data["content"] for kind, data in told if kind == "token"] == ["one", "two"]
    assert (told[-1][0], told[-1][1]["code"]) == ("error", "timeout")


async def said_until(line: Line, url: str) -> str:
    """All that a client beside the gateway hears, when the line behind it goes dead after the second token."""
    async with aiohttp.ClientSession() as session, session.post(url, json=asking("hi")) as answer:
        said = b""
        async for piece in answer.content.iter_any():
            said += piece
            line.down = line.down or b"two" in said
        return said.decode()
