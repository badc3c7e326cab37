"""Two real gateway processes on one real Redis: what a fleet promises while nodes and Redis come and go."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack

import aiohttp
import pytest
from support.fleet import CHAT, LEASE, TOKEN, ask, client, get, node, stream, until
from support.redis_server import BINARY, RedisServer
from support.upstream import HOLD, Upstream, head

pytestmark = pytest.mark.skipif(BINARY is None, reason="redis-server is not installed")


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """A Redis of this test's own."""
    with RedisServer() as server:
        yield server


async def test_lists_numbers_and_cancels_reach_over_nodes(redis: RedisServer) -> None:
    """Behind a balancer, a list would miss streams, and DELETE would fail half of the time."""
    async with (
        Upstream([head(), TOKEN, TOKEN, HOLD]) as up,
        client() as session,
        node(redis.url, upstream=up.url) as a,
        node(redis.url, upstream=up.url) as b,
        stream(session, a, "on-a", model="up") as answer,
        stream(session, b, "on-b"),
    ):
        for gateway in (a, b):
            active = f"{gateway.url}/api/streaming/active"
            listed = await until(session, active, lambda body: body["count"] == 2, 3)
            assert [s["streamId"] for s in listed["streams"]] == ["on-a", "on-b"]
            assert len({s["node"] for s in listed["streams"]}) == 2
        began = time.monotonic()
        async with session.delete(f"{b.url}/api/streaming/on-a") as deleted:
            body = await deleted.json()
        assert "event: done" in (await answer.content.read()).decode()
        assert time.monotonic() - began < 1
        assert (deleted.status, body["state"], body["receipt"]["tokenCount"]) == (200, "cancelled", 2)
        assert len(up.closed_at) == 1
        assert up.closed_at[0] - began < 1
        assert (await get(session, f"{a.url}/api/streaming/on-a"))["receipt"] == body["receipt"]
        numbers = await until(session, f"{b.url}/api/streaming/statistics", lambda n: n["states"]["cancelled"] == 1, 3)
        assert numbers["active"] == 1


async def test_a_killed_node_leaves_receipts_not_ghosts(redis: RedisServer) -> None:
    """Streams of a crashed node would be listed as running for ever and nobody would ever account for them."""
    async with client() as session, node(redis.url) as b, AsyncExitStack() as streams, node(redis.url) as a:
        for i in range(5):
            await streams.enter_async_context(stream(session, a, f"lost-{i}"))
        await until(session, f"{b.url}/api/streaming/active", lambda body: body["count"] == 5, 3)
        a.kill()
        died = time.monotonic()
        await until(session, f"{b.url}/api/streaming/active", lambda body: body["count"] == 0, LEASE + 1.5)
        assert time.monotonic() - died < LEASE + 1
        for i in range(5):
            found = await get(session, f"{b.url}/api/streaming/lost-{i}")
            assert (found["state"], found["receipt"]["state"]) == ("node_lost", "node_lost")


async def _watch(answer: aiohttp.ClientResponse, over: asyncio.Event) -> float:
    """Read on until told; the longest silence in seconds. Raises when the stream ends before."""
    worst, last = 0.0, time.monotonic()
    while not over.is_set():
        await answer.content.readuntil(b"\n\n")
        now = time.monotonic()
        worst, last = max(worst, now - last), now
    return worst


async def test_a_hanging_redis_is_not_felt_by_streams(redis: RedisServer) -> None:
    """A Redis that neither answers nor closes would freeze every stream of the fleet."""
    async with client() as session, node(redis.url) as a, AsyncExitStack() as streams:
        answers = [await streams.enter_async_context(stream(session, a)) for _ in range(50)]
        own = await streams.enter_async_context(stream(session, a, "own"))
        over = asyncio.Event()
        watches = [asyncio.create_task(_watch(answer, over)) for answer in answers]
        redis.pause()
        try:
            paused = time.monotonic()
            await asyncio.sleep(0.5)
            began = time.monotonic()
            async with session.delete(f"{a.url}/api/streaming/own") as deleted:
                assert (deleted.status, (await deleted.json())["state"]) == (200, "cancelled")
            assert "event: done" in (await own.content.read()).decode()
            assert time.monotonic() - began < 0.5
            began = time.monotonic()
            async with stream(session, a, "new", directives="[tokens=3]") as new:
                assert "event: done" in (await new.content.read()).decode()
            assert time.monotonic() - began < 1.5
            detailed = f"{a.url}/health/detailed"
            await until(session, detailed, lambda body: body["status"] == "degraded", 2)
            await asyncio.sleep(max(0.0, paused + 3 - time.monotonic()))
        finally:
            redis.resume()
        await asyncio.sleep(0.3)
        over.set()
        assert max(await asyncio.gather(*watches)) < 0.5
        await until(session, detailed, lambda body: body["status"] == "healthy", 8)
        body = await get(session, f"{a.url}/api/streaming/active")
        assert body["count"] == 50


async def test_a_node_starts_and_serves_without_redis() -> None:
    """A Redis outage would turn every restart into a gateway outage."""
    with RedisServer(started=False) as absent:
        async with client() as session, node(absent.url) as a:
            async with stream(session, a, "alone", directives="[tokens=3]") as answer:
                assert "event: done" in (await answer.content.read()).decode()
            assert (await get(session, f"{a.url}/health/detailed"))["status"] == "degraded"
            assert (await get(session, f"{a.url}/api/streaming/alone"))["state"] == "completed"
            assert (await get(session, f"{a.url}/health/ready"))["degraded"] == ["registry"]
            figures = [f"{a.url}/api/streaming/{name}" for name in ("active", "statistics")]
            assert all([(await get(session, url))["partial"] is True for url in figures])
            absent.start()
            await until(session, f"{a.url}/health/detailed", lambda body: body["status"] == "healthy", 8)
            assert not any(["partial" in await get(session, url) for url in figures])


async def test_sigterm_lets_the_running_finish_and_refuses_the_rest(redis: RedisServer) -> None:
    """A rolling restart would cut answers short, or swallow new requests."""
    async with client() as session, node(redis.url, drain="20s") as a:
        async with stream(session, a, directives="[tokens=100] [rate=50]") as answer:
            a.process.send_signal(signal.SIGTERM)
            await until(session, f"{a.url}/health/ready", lambda body: body["ready"] is False, 1)
            for path in (CHAT, "/v1/chat/completions"):
                async with session.post(a.url + path, json=ask()) as refused:
                    assert refused.status == 503
                    assert int(refused.headers["Retry-After"]) >= 1
                    assert (await refused.json())["error"]["code"] == "shed"
            text = (await answer.content.read()).decode()
            assert '"finishReason":"stop"' in text
            assert '"tokenCount":100' in text
        assert await asyncio.to_thread(a.process.wait, 5) == 0


async def _rest(answer: aiohttp.ClientResponse) -> str:
    """The rest of a native body, which ends properly behind its `error` event."""
    return (await answer.content.read()).decode()


@pytest.mark.parametrize("hurried", [False, True])
async def test_what_does_not_finish_in_time_is_told_so(redis: RedisServer, hurried: bool) -> None:
    """A node that ends would just go silent, or one stream could keep it from ending."""
    async with client() as session, node(redis.url, drain="60s" if hurried else "1s") as a, node(redis.url) as b:
        async with stream(session, a, "cut") as answer:
            began = time.monotonic()
            a.process.send_signal(signal.SIGTERM)
            if hurried:
                await asyncio.sleep(0.3)
                a.process.send_signal(signal.SIGTERM)
            text = await _rest(answer)
            took = time.monotonic() - began
            assert took < 2.5
            assert hurried or took > 0.9
            last = text.strip().rsplit("\n\n", 1)[-1]
            assert "event: error" in last
            assert '"code":"shed"' in last
        assert await asyncio.to_thread(a.process.wait, 5) == 0
        found = await until(session, f"{b.url}/api/streaming/cut", lambda body: body["receipt"]["endedAt"], 2)
        assert found["state"] == "shed"
