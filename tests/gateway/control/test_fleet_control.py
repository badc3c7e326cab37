"""Runtime control on several nodes over a real Redis: what is set on one holds on all, whatever becomes of Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from support.inprocess import client, config_for, running
from support.operators import Operator, operator
from support.redis_server import RedisServer
from support.registry_nodes import Node

from config.schema import Access, Registry
from config.values import Duration
from gateway.app import Gateway
from gateway.control.control import Control
from gateway.control.flags import current
from gateway.control.store import RedisStore

CHAT = "/api/streaming/chat"
LONG = {"model": "demo", "messages": [{"role": "user", "content": "hi [tokens=100000] [rate=2]"}]}


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@asynccontextmanager
async def nodes(redis: RedisServer, **more: Any) -> AsyncIterator[tuple[Gateway, Gateway, Operator, Operator]]:
    """Two gateways on one Redis, and an operator of each."""
    config = config_for(registry=Registry(url=redis.url, lease=Duration(3)), **more)
    async with running(config) as a, running(config) as b, operator(a) as at_a, operator(b) as at_b:
        yield a, b, at_a, at_b


async def holds(condition: Any, seconds: float = 5.0) -> float:
    """Seconds until `condition()` was true. Fails when it was not in time."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "not in time"
        await asyncio.sleep(0.01)
    return time.monotonic() - began


async def begin(session: aiohttp.ClientSession) -> None:
    """A stream that is read until it ends."""
    async with session.post(CHAT, json=LONG) as answer:
        assert answer.status == 200, await answer.text()
        text = await answer.text()
        assert "cancelled" in text, text[-300:]


async def test_a_kill_ends_500_streams_on_two_nodes(redis: RedisServer) -> None:
    """A kill switch that leaves streams running on the other node, or takes long, is none."""
    async with nodes(redis) as (a, b, at_a, _), client(a) as to_a, client(b) as to_b:
        streams = [asyncio.create_task(begin(to_a if i % 2 else to_b)) for i in range(500)]
        await holds(lambda: len(a.hub) == len(b.hub) == 250, 30)
        made = await at_a.post("/control/kill", {"backend": "up", "reason": "drill"})
        took = await holds(lambda: not len(a.hub) and not len(b.hub), 10)
        print(f"all stopped after {took:.3f} s")
        assert took < 5, took  # a second on an idle machine
        await asyncio.gather(*streams)
        for session in (to_a, to_b):
            async with session.post(CHAT, json=LONG) as answer:
                assert answer.status == 503
        assert (await at_a.ask("DELETE", f"/control/kill/{made['rule']['id']}"))[0] == 200
        await holds(lambda: not b.services.control.state.killed)


async def test_two_operators_at_once_lose_nothing(redis: RedisServer) -> None:
    """Two changes made at the same time on two nodes must both hold, in one order on all."""
    async with nodes(redis) as (a, b, at_a, at_b):
        wishes = [at.post("/control/kill", {"model": f"m{i}"}) for i, at in enumerate((at_a, at_b) * 5)]
        await asyncio.gather(*wishes)
        await holds(lambda: a.services.control.state == b.services.control.state)
        assert sorted(rule.match for rule in a.services.control.state.killed) == sorted(f"m{i}" for i in range(10))
        changes = (await at_b.get("/control/audit"))["changes"]
        assert [change["version"] for change in changes] == list(range(1, 11))
        assert {change["node"] for change in changes} == {a.node, b.node}


async def test_redis_lost_and_back(redis: RedisServer) -> None:
    """An operator must be able to stop things while Redis is away, and a Redis that forgot must not undo it."""
    async with nodes(redis) as (a, b, at_a, at_b):
        await at_a.post("/control/kill", {"model": "first"})
        await holds(lambda: b.services.control.state.killed)
        redis.kill()
        await at_a.post("/control/kill", {"model": "second"})
        assert len(a.services.control.state.killed) == 2
        assert len(b.services.control.state.killed) == 1
        redis.start()
        await holds(lambda: len(b.services.control.state.killed) == 2, 15)
        assert (await at_b.get("/control"))["version"] == 2
        for _ in range(50):
            changes = (await at_b.get("/control/audit"))["changes"]
            if changes:
                break
            await asyncio.sleep(0.1)
        assert [change["version"] for change in changes] == [2]  # Redis forgot the first


async def test_a_new_node_takes_up_what_is_set(redis: RedisServer) -> None:
    """A node that starts during an emergency must not be the door through which everything comes."""
    config = config_for(registry=Registry(url=redis.url, lease=Duration(3)))
    async with running(config) as a, operator(a) as at_a:
        await at_a.post("/control/emergency", {"on": True})
        async with running(config) as b, client(b) as session, session.post(CHAT, json=LONG) as answer:
            assert answer.status == 503


async def test_clocks_that_differ(redis: RedisServer) -> None:
    """A kill for a minute, made on a node whose clock is ten minutes slow, would be over on all the others."""
    async with Node("a", redis.url) as a, Node("b", redis.url) as b:
        controls = []
        for node, skew in ((a, 0.0), (b, 600.0)):

            def clock(skew: float = skew) -> float:
                return time.time() + skew

            controls.append(Control(node.registry.node, RedisStore(node.registry.link, "p", clock), clock=clock))
            await controls[-1].start()
        one, other = controls
        assert abs(one.now - other.now) < 1
        rule = await one.kill({"all": True, "for": "60s"}, "me")
        await holds(lambda: current(other.state, other.now).killed == (rule,))
        await other.kill({"all": True, "for": "0.2s"}, "me")
        await holds(lambda: len(one.state.killed) == 2)
        await holds(lambda: current(one.state, one.now).killed == (rule,))
        assert current(other.state, other.now).killed == (rule,)
        for control in controls:
            await control.stop()


async def test_on_a_cluster() -> None:
    """A script whose keys lie in two slots works everywhere but on a cluster."""
    with RedisServer(cluster=True) as cluster:
        async with nodes(cluster, access=Access(max_streams=1, rpm=2, tpm=100_000)) as (a, b, at_a, _):
            await at_a.set(debug=True)
            await holds(lambda: b.services.control.state.debug)
            assert len((await at_a.get("/control/audit"))["changes"]) == 1
            async with client(a) as to_a, client(b) as to_b:
                held = await to_a.post(CHAT, json=LONG)
                async with to_b.post(CHAT, json=LONG) as refused:
                    assert (refused.status, refused.headers["X-Headgate-Limit"]) == (429, "max_streams")
                held.close()


async def test_a_limit_holds_over_both_nodes(redis: RedisServer) -> None:
    """Two nodes that count apart let twice as many through."""
    async with (
        nodes(redis, access=Access(gateway_streams=3, rpm=5)) as (a, b, _, __),
        client(a) as to_a,
        client(b) as to_b,
    ):
        held = [await to.post(CHAT, json=LONG) for to in (to_a, to_b, to_a)]
        assert [answer.status for answer in held] == [200] * 3
        async with to_b.post(CHAT, json=LONG) as refused:
            assert (refused.status, refused.headers["X-Headgate-Limit"]) == (429, "access.gateway_streams")
        await to_a.delete("/api/streaming/" + held[0].headers["X-Stream-Id"])
        await asyncio.sleep(0.2)
        held.append(await to_b.post(CHAT, json=LONG))
        assert held[-1].status == 200
        await to_b.delete("/api/streaming/" + held[-1].headers["X-Stream-Id"])
        await asyncio.sleep(0.2)
        held.append(await to_b.post(CHAT, json=LONG))
        assert held[-1].status == 200
        await to_b.delete("/api/streaming/" + held[-1].headers["X-Stream-Id"])
        await asyncio.sleep(0.2)
        async with to_a.post(CHAT, json=LONG) as refused:
            assert (refused.status, refused.headers["X-Headgate-Limit"]) == (429, "rpm")
        for answer in held:
            answer.close()
