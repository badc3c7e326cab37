"""A node that slept past its lease and has the rest of its answers in its sockets as it wakes; its streams do not
survive it. Real processes on a real Redis."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from support.fleet import client, node
from support.gateway import Gateway
from support.redis_server import BINARY, RedisServer
from support.resuming import END, token
from support.surviving import LEASE, Listener, receipt_of, statistics
from support.upstream import HOLD, Upstream, head

pytestmark = pytest.mark.skipif(BINARY is None, reason="redis-server is not installed")

SLEEP = 2 * LEASE + 0.5
BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """A Redis of this test's own."""
    with RedisServer() as server:
        yield server


def config(redis: str, upstream: str) -> str:
    """A node's gateway.yaml."""
    return f"""
server: {{port: {{port}}, drain_timeout: 0s}}
registry: {{url: "{redis}", lease: {LEASE:g}s}}
backends:
  up: {{driver: openai, url: "{upstream}"}}
routes:
  - {{model: "*", to: up}}
"""


def lines(gateway: Gateway) -> list[dict[str, Any]]:
    """The summaries in its log."""
    found = [json.loads(line) for line in gateway.log.splitlines() if line.startswith("{")]
    return [line for line in found if line["event"] == "stream"]


@asynccontextmanager
async def asleep(
    redis: RedisServer, *ends: Any, nodes: int = 2
) -> AsyncIterator[tuple[aiohttp.ClientSession, list[Gateway], Listener, asyncio.Task[None]]]:
    """A node that was stopped in the middle of an answer, has slept, and has the rest of it in its socket."""
    async with Upstream([head(), token("w0 "), 0.7, *ends]) as up, client() as session:
        text = config(redis.url, up.url)
        async with node("", text=text) as a, node("", text=text) as b:
            one = Listener("x")
            asked = asyncio.create_task(one.start(session, a, BODY))
            while len(one.frames) < 2:
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.3)
            if nodes == 1:
                await asyncio.to_thread(b.stop)
            a.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(SLEEP)
            yield session, [a, b], one, asked


@pytest.mark.parametrize("ends", [(token("w1 "), END, b"0\r\n\r\n"), (token("w1 "), b"0\r\n\r\n")])
async def test_whose_stream_was_lost_tells_its_client_so(redis: RedisServer, ends: tuple[bytes, ...]) -> None:
    """Its client would be told that the answer is complete (or that the backend failed), and the fleet's receipt that
    it was lost."""
    async with asleep(redis, *ends) as (session, (a, b), one, asked):
        receipt = await receipt_of(session, b, "x")
        assert receipt["state"] == "node_lost"
        a.process.send_signal(signal.SIGCONT)
        await asyncio.wait_for(asked, 5)
        assert (one.frames[-1][1], one.frames[-1][2]["code"]) == ("error", "node_lost")
        assert one.numbered
        await asyncio.sleep(0.3)
        for at in (a, b):
            assert await receipt_of(session, at, "x") == receipt
            told = (await statistics(session, at))["states"]
            assert {state: count for state, count in told.items() if count} == {"node_lost": 1}
        assert [line["state"] for at in (a, b) for line in lines(at)] == ["node_lost"]


async def test_whom_nobody_gave_up_completes(redis: RedisServer) -> None:
    """An answer that is complete would be lost by caution."""
    async with asleep(redis, token("w1 "), END, b"0\r\n\r\n", nodes=1) as (session, (a, _), one, asked):
        a.process.send_signal(signal.SIGCONT)
        await asyncio.wait_for(asked, 5)
        assert (one.frames[-1][1], one.text) == ("done", "w0 w1 ")
        assert (await receipt_of(session, a, "x"))["state"] == "completed"


async def test_without_redis_its_own_word_counts(redis: RedisServer) -> None:
    """A client would wait for a Redis that does not answer."""
    async with asleep(redis, token("w1 "), END, b"0\r\n\r\n") as (_, (a, _b), one, asked):
        redis.pause()
        a.process.send_signal(signal.SIGCONT)
        began = time.monotonic()
        await asyncio.wait_for(asked, 5)
        assert time.monotonic() - began < 3
        assert (one.frames[-1][1], one.text) == ("done", "w0 w1 ")
        redis.resume()


async def test_who_is_told_to_end_as_it_wakes(redis: RedisServer) -> None:
    """A node that is stopped in its sleep would end streams on its own word, which the fleet has ended already: two
    lines for one stream."""
    async with asleep(redis, HOLD) as (session, (a, b), one, asked):
        receipt = await receipt_of(session, b, "x")
        assert receipt["state"] == "node_lost"
        a.process.send_signal(signal.SIGTERM)
        a.process.send_signal(signal.SIGCONT)
        await asyncio.wait_for(asked, 5)
        assert (one.frames[-1][1], one.frames[-1][2]["code"]) == ("error", "node_lost")
        assert await asyncio.to_thread(a.process.wait, 10) == 0
        assert await receipt_of(session, b, "x") == receipt
        assert [line["state"] for at in (a, b) for line in lines(at)] == ["node_lost"]


async def test_who_is_told_to_end_as_it_wakes_without_redis(redis: RedisServer) -> None:
    """Its client would be left without a last word: the node would be gone before its streams may end."""
    async with asleep(redis, HOLD) as (_, (a, _b), one, asked):
        redis.pause()
        a.process.send_signal(signal.SIGTERM)
        a.process.send_signal(signal.SIGCONT)
        await asyncio.wait_for(asked, 8)
        redis.resume()
        assert (one.frames[-1][1], one.frames[-1][2]["code"], one.broken) == ("error", "shed", 0)
