"""Breakers closed by hand and rollouts taken back, on two gateways over one real Redis: once, everywhere, audited."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from msgspec.structs import replace
from support.inprocess import client, config_for, running
from support.operators import Operator, operator
from support.redis_server import RedisServer

from config.schema import Breaker, Registry
from config.values import Duration
from gateway.app import Gateway
from gateway.control.brake import Brake
from gateway.control.flags import ControlState, Rollout
from gateway.control.store import Away, MemoryStore
from gateway.routing.breaker import BreakerState


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@asynccontextmanager
async def nodes(redis: RedisServer) -> AsyncIterator[tuple[Gateway, Gateway, Operator, Operator]]:
    """Two gateways on one Redis, and an operator of each."""
    config = config_for(registry=Registry(url=redis.url, lease=Duration(3), timeout=Duration(1.5)))
    up = replace(config.backends["up"], breaker=Breaker(failures=1, pause=Duration(60)))
    config = replace(config, backends={"up": up})
    async with running(config) as a, running(config) as b, operator(a) as at_a, operator(b) as at_b:
        yield a, b, at_a, at_b


async def holds(condition: Callable[[], Any], seconds: float = 5.0) -> None:
    """Wait until `condition()` is true. Fails when it is not in time."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "not in time"
        await asyncio.sleep(0.01)


def broken(gateway: Gateway) -> bool:
    """Whether the breaker is open there."""
    return gateway.upstreams["up"].breaker.state is BreakerState.OPEN


def strike(gateway: Gateway) -> None:
    """Open it."""
    gateway.upstreams["up"].breaker.failure(gateway.upstreams.clock(), "test")


async def test_a_breaker_closed_by_hand_is_closed_everywhere(redis: RedisServer) -> None:
    """Behind a balancer an operator would close one worker's breaker, and every other request still be refused."""
    async with nodes(redis) as (a, b, at_a, at_b), client(b) as session:
        for gateway in (a, b):
            strike(gateway)
        assert broken(a)
        assert broken(b)
        status, shown = await at_a.ask("POST", "/breakers/up/reset", **{"X-Headgate-Operator": "eve"})
        assert (status, shown["state"]) == (200, "closed")
        await holds(lambda: not broken(b))
        async with session.post("/api/streaming/chat", json={"model": "m", "prompt": "hi [tokens=2]"}) as answer:
            assert answer.status == 200
        (line,) = (await at_b.get("/control/audit"))["changes"]
        assert (line["action"], line["node"], line["after"]) == ("breaker", a.node, {"resets": {"up": 1}})
        assert line["by"].startswith("eve ")
        strike(a)  # an old reset holds once: changes of other settings do not repeat it
        await at_b.set(debug=False)
        await holds(lambda: a.services.control.state.version == 2)
        assert broken(a)
        await at_b.post("/control/reset")
        await at_b.post("/breakers/up/reset")
        await holds(lambda: not broken(a))
        assert (await at_b.ask("POST", "/breakers/none/reset"))[0] == 404


async def test_half_of_the_traffic_each_and_one_rollback(redis: RedisServer) -> None:
    """Each node of many would see too few streams to judge by, and a bad rollout go on; or all would take it back, and
    the audit say so as often."""
    async with nodes(redis) as (a, b, _, at_b):
        await at_b.set(rollout={"percent": 50, "minimum": 40, "window": 60})
        await holds(lambda: a.services.control.state.rollout.percent == 50)
        for gateway in (a, b):  # neither has enough by itself
            for i in range(20):
                gateway.services.control.brake.add("upstream_error" if i % 2 else "completed")
        await holds(lambda: a.services.control.state.rollout.percent == b.services.control.state.rollout.percent == 0)
        await asyncio.sleep(0.6)  # two more looks of each
        changes = (await at_b.get("/control/audit"))["changes"]
        assert [line["action"] for line in changes] == ["set", "rollback"]
        assert changes[-1]["by"] == "automatic rollback: error rate 50.0% above 2.0% of 40 streams"


async def test_a_new_rollout_begins_with_no_past(redis: RedisServer) -> None:
    """What went wrong before it was mended would take the mended rollout back at once."""
    async with nodes(redis) as (a, b, at_a, _):
        await at_a.set(rollout={"percent": 50, "minimum": 4})
        await holds(lambda: b.services.control.state.rollout.percent == 50)
        for _ in range(4):
            b.services.control.brake.add("upstream_error")
        await holds(lambda: a.services.control.state.rollout.percent == 0)
        await at_a.set(rollout={"percent": 50})
        await holds(lambda: b.services.control.state.rollout.percent == 50)
        await asyncio.sleep(0.6)
        assert a.services.control.state.rollout.percent == b.services.control.state.rollout.percent == 50


async def test_without_redis_each_node_judges_by_its_own(redis: RedisServer) -> None:
    """A rollout that fails while Redis is away would go on failing."""
    async with nodes(redis) as (a, _b, at_a, _):
        await at_a.set(rollout={"percent": 50, "minimum": 4})
        redis.kill()
        await holds(lambda: a.registry.health()["status"] == "degraded")
        for _ in range(4):
            a.services.control.brake.add("upstream_error")
        await holds(lambda: a.services.control.state.rollout.percent == 0)


class _Stumbling(MemoryStore):
    """A store that may lose an answer."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[list[int]] = []
        self.lost = False

    async def tally(self, rollout: int, window: float, counts: Any) -> tuple[int, ...] | None:
        self.told.append(list(counts))
        if self.lost:
            raise Away("no answer in time")
        return tuple(map(sum, zip(*self.told, strict=True)))


async def test_nothing_is_counted_twice() -> None:
    """A lost answer that is asked for again would count the same failures twice."""
    store = _Stumbling()
    brake = Brake(store)
    state = ControlState(rollout=Rollout(percent=5, minimum=2))
    brake.add("upstream_error")
    store.lost = True
    found = await brake.judge(state)
    assert found is not None
    assert found.streams == 1  # this node's own word
    store.lost = False
    brake.add("completed")
    brake.add("client_gone")
    found = await brake.judge(state)
    assert store.told == [[0, 1, 0], [1, 0, 0]]
    assert found is not None
    assert found.reason.startswith("error rate 50.0%")
    assert await brake.judge(ControlState()) is None
