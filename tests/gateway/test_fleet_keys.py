"""Idempotency-Keys on two gateways over one real Redis: a request repeated on another node is not paid twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import pytest
from support.redis_server import BINARY, RedisServer
from support.registry_nodes import Node
from support.resuming import ASK, CHAT, END, fleet_config, rest_of, token, two
from support.upstream import Step, Upstream, head

from config.values import Duration
from gateway.registry.redis_client import Op

pytestmark = pytest.mark.skipif(BINARY is None, reason="redis-server is not installed")

WORDS = [token(f"w{i} ") for i in range(10)]
KEY = {"Idempotency-Key": "k1"}


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def slow() -> list[Step]:
    """An answer of ten words in half a second."""
    return [head(), *(step for word in WORDS for step in (word, 0.05)), END]


@asynccontextmanager
async def fleet(
    redis: RedisServer, *scripts: list[Step], **more: Any
) -> AsyncIterator[tuple[Upstream, aiohttp.ClientSession, aiohttp.ClientSession]]:
    async with AsyncExitStack() as stack:
        up = await stack.enter_async_context(Upstream(*(scripts or (slow(),))))
        _, to_a, _, to_b = await stack.enter_async_context(two(fleet_config(up.url, redis.url, **more)))
        yield up, to_a, to_b


async def post(session: aiohttp.ClientSession, **more: Any) -> tuple[int, bool, bytes]:
    """Status, whether it is an answer given again, and the body."""
    async with session.post("/v1/chat/completions", json={**ASK, "stream": True, **more}, headers=KEY) as answer:
        return answer.status, "X-Stream-Replayed" in answer.headers, await rest_of(answer)


async def test_the_same_answer_on_another_node(redis: RedisServer) -> None:
    """A client whose connection broke comes back through a balancer: it would pay for a second, different answer."""
    async with fleet(redis) as (up, to_a, to_b):
        first = asyncio.create_task(post(to_a))
        await asyncio.sleep(0.2)
        second = await post(to_b)  # while it runs
        third = await post(to_b)  # when it is over
        assert second[:2] == third[:2] == (200, True)
        assert (await first)[2] == second[2] == third[2]
        assert b"[DONE]" in third[2]
        assert len(up.requests) == 1
        status, _, body = await post(to_b, temperature=1)
        assert (status, b"idempotency_key_reused" in body or b"Idempotency-Key" in body) == (422, True)


async def test_both_at_once(redis: RedisServer) -> None:
    """Two retries that race would both be first, each on its node."""
    async with fleet(redis) as (up, to_a, to_b):
        found = await asyncio.gather(*(post(session) for session in (to_a, to_b, to_a, to_b)))
        assert {status for status, _, _ in found} == {200}
        assert len({body for _, _, body in found}) == 1
        assert len(up.requests) == 1


async def test_a_refused_request_leaves_its_key_to_all(redis: RedisServer) -> None:
    """A key that was refused on one node would be answered with 409 on the others."""
    refusal: list[Step] = [b"HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\n{}"]
    async with fleet(redis, refusal, slow()) as (up, to_a, to_b):
        assert (await post(to_a))[0] == 503
        assert (await post(to_b))[:2] == (200, False)
        assert (await post(to_a))[:2] == (200, True)
        assert len(up.requests) == 2
    redis.command("FLUSHALL")
    async with fleet(redis) as (up, to_a, to_b):
        status, _, _ = await post(to_a, n="many")
        assert status == 400
        assert (await post(to_b))[0] == 200


async def test_without_redis_each_node_has_its_own(redis: RedisServer) -> None:
    """Requests with a key would fail as long as Redis is away."""
    async with fleet(redis) as (up, to_a, to_b):
        redis.kill()
        assert (await post(to_a))[:2] == (200, False)
        assert (await post(to_a))[:2] == (200, True)
        assert (await post(to_b))[0] == 200
        assert len(up.requests) == 2


async def test_a_strange_value_is_no_trap(redis: RedisServer) -> None:
    """Whatever lies under a key's name in Redis would block it for good."""
    async with fleet(redis) as (up, to_a, to_b):
        assert (await post(to_a))[0] == 200
        (name,) = [word for word in redis.command("KEYS", "*:key:*").split("\r\n") if ":key:" in word]
        redis.command("SET", name, "nonsense")
        assert (await post(to_b))[0] == 200
        assert len(up.requests) == 2


async def test_that_a_stream_was_is_known_to_all(redis: RedisServer) -> None:
    """A client that comes back late would be told 410 by one node, and by the next that there was no such stream."""
    short = {"registry": {"replay": Duration(0.5)}}
    async with fleet(redis, slow(), **short) as (_, to_a, to_b):
        async with to_a.post(CHAT, json=ASK, headers={"X-Stream-Id": "was"}) as answer:
            await answer.read()
        for _ in range(100):
            statuses = []
            for session in (to_a, to_b):
                async with session.get("/api/streaming/was") as answer:
                    statuses.append(answer.status)
            if statuses == [410, 410]:
                break
            await asyncio.sleep(0.05)
        assert statuses == [410, 410]
        async with to_b.get("/api/streaming/was", headers={"Accept": "text/event-stream"}) as answer:
            assert (answer.status, (await answer.json())["state"]) == (410, "completed")
        for session in (to_a, to_b):
            async with session.get("/api/streaming/never") as answer:
                assert answer.status == 404
        async with to_b.post(CHAT, json=ASK, headers={"X-Stream-Id": "was"}) as answer:
            assert answer.status == 200  # the name is free again
            await answer.read()


async def test_as_many_graves_as_may_be(redis: RedisServer) -> None:
    """Every stream of a busy day would stay in Redis."""
    async with Node("a", redis.url) as node:
        link = node.registry.link
        keys = ("p:{graves}:states", "p:{graves}:times")
        for n in range(20):
            await link.one(Op("grave", keys, (f"k{n}", "completed", 60_000, 8)))
        assert await link.one(Op("HLEN", keys[:1])) == await link.one(Op("ZCARD", keys[1:])) == 8
        assert await link.one(Op("HGET", keys[:1], ("k19",))) == b"completed"
        await asyncio.sleep(0.05)
        await link.one(Op("grave", keys, ("last", "completed", 20, 8)))
        assert await link.one(Op("HLEN", keys[:1])) == 1
