"""Places with backends and their rates, on two gateways over one real Redis: as many as the fleet may have, no more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, Self

import aiohttp
import pytest
from support.inprocess import client, running
from support.redis_server import RedisServer
from support.upstream import HOLD, Upstream, chunk, head

from config.schema import Access, Admin, Backend, Config, Queue, Registry, Route, Server, Target
from config.values import Duration
from gateway.app import Gateway

CHAT = "/api/streaming/chat"
LONG = {"model": "m", "messages": [{"role": "user", "content": "hi [tokens=100000] [rate=20]"}]}
SHORT = {"model": "m", "messages": [{"role": "user", "content": "hi [tokens=3]"}]}
DEMO = {"driver": "demo", "options": {"tokens_per_second": 200}}
OPENAI_CHUNK = b'data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def config_of(redis: RedisServer | None, access: Access | None = None, **backends: dict[str, Any]) -> Config:
    """One route over all these backends, in order."""
    registry = Registry(url=redis.url, lease=Duration(2), timeout=Duration(1.5)) if redis else Registry()
    return Config(
        server=Server(port=0),
        admin=Admin(port=0),
        registry=registry,
        access=access or Access(),
        backends={name: Backend(**fields) for name, fields in backends.items()},
        routes=(Route(model="*", to=tuple(Target(name) for name in backends), policy="ordered", attempts=2),),
    )


@asynccontextmanager
async def two(config: Config) -> AsyncIterator[tuple[Gateway, aiohttp.ClientSession, Gateway, aiohttp.ClientSession]]:
    async with running(config) as a, client(a) as to_a, running(config) as b, client(b) as to_b:
        yield a, to_a, b, to_b


async def begin(session: aiohttp.ClientSession) -> aiohttp.ClientResponse:
    """A running stream, its first token read."""
    answer = await session.post(CHAT, json=LONG)
    assert answer.status == 200, await answer.text()
    while b"token" not in await answer.content.readline():
        pass
    return answer


async def stop(session: aiohttp.ClientSession, stream: aiohttp.ClientResponse) -> None:
    async with session.delete("/api/streaming/" + stream.headers["X-Stream-Id"]) as deleted:
        assert deleted.status == 200


async def ask(session: aiohttp.ClientSession) -> tuple[int, str, int]:
    """Status, the limit that refused, and how long to wait."""
    async with session.post(CHAT, json=SHORT) as answer:
        await answer.read()
        return answer.status, answer.headers.get("X-Headgate-Limit", ""), int(answer.headers.get("Retry-After", 0))


def served(gateway: Gateway) -> list[str]:
    """The backends of the streams that ended here, in order."""
    registry = getattr(gateway.registry, "local", gateway.registry)
    keys = registry._receipts.keys()  # it has no iterator
    return [registry.ended(key).backend for key in keys]


async def holds(condition: Callable[[], Any], seconds: float = 6.0) -> None:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "not in time"
        await asyncio.sleep(0.02)


async def test_places_are_the_fleets(redis: RedisServer) -> None:
    """A server that takes two streams would get two from every worker of every node."""
    async with two(config_of(redis, up={**DEMO, "max_streams": 2})) as (a, to_a, b, to_b):
        held = [await begin(to_a), await begin(to_b)]
        full = (503, "backends.up.max_streams", 1)
        assert [await ask(to_a), await ask(to_b)] == [full, full]
        await stop(to_b, held[1])
        assert (await ask(to_b))[0] == 200  # at once where it ended, and soon elsewhere
        began = time.monotonic()
        while (await ask(to_a))[0] != 200:
            assert time.monotonic() - began < 3
            await asyncio.sleep(0.05)
        await stop(to_a, held[0])
        await holds(lambda: not a.upstreams["up"].active and not b.upstreams["up"].active)
        assert a.upstreams["up"].leases == b.upstreams["up"].leases == []


async def test_the_next_backend_is_asked(redis: RedisServer) -> None:
    """A backend that others fill would refuse what its neighbour could serve."""
    config = config_of(redis, one={**DEMO, "max_streams": 1}, two=DEMO)
    async with two(config) as (a, to_a, _, to_b):
        held = await begin(to_b)
        assert (await ask(to_a))[0] == 200
        assert served(a) == ["two"]
        await stop(to_b, held)


async def test_a_request_waits_for_another_nodes_stream(redis: RedisServer) -> None:
    """Who waits would only be served by streams of its own node, or go hungry although a place is free."""
    limits = {"max_streams": 1, "queue": Queue(size=5, timeout=Duration(10))}
    async with two(config_of(redis, up={**DEMO, **limits})) as (a, to_a, b, to_b):
        held = await begin(to_b)
        waiting = [asyncio.create_task(ask(to_a)) for _ in range(3)]
        await holds(lambda: a.upstreams["up"].waiting == 3)
        await stop(to_b, held)
        assert [status for status, _, _ in await asyncio.gather(*waiting)] == [200] * 3
        assert a.upstreams["up"].active == a.upstreams["up"].waiting == b.upstreams["up"].active == 0


async def test_a_dead_nodes_places_come_back(redis: RedisServer) -> None:
    """Places of a killed worker would be taken for ever."""
    async with running(config_of(redis, up={**DEMO, "max_streams": 1})) as a, client(a) as to_a:
        redis.command("ZADD", "headgate:lease:{backend:up}", str(int(time.time() * 1000) + 1000), "dead/1")
        assert (await ask(to_a))[0] == 503
        began = time.monotonic()
        while (await ask(to_a))[0] != 200:
            assert time.monotonic() - began < 4
            await asyncio.sleep(0.05)


async def test_a_failed_over_stream_takes_a_place_too(redis: RedisServer) -> None:
    """A failure of one backend would send more to the other than it takes."""
    broken = [head(status=b"500 Oops"), b"0\r\n\r\n"]
    talks = [head(), chunk(OPENAI_CHUNK), HOLD]
    async with Upstream(broken) as bad, Upstream(talks) as good:
        one = {"driver": "openai", "url": bad.url}
        last = {"driver": "openai", "url": good.url, "max_streams": 1}
        async with two(config_of(redis, one=one, last=last)) as (a, to_a, b, to_b):
            held = await begin(to_a)
            assert len(a.upstreams["last"].leases) == 1
            status, name, wait = await ask(to_b)
            assert (status, name, wait) == (429, "backends.last.max_streams", 1)
            assert len(good.requests) == 1
            await stop(to_a, held)
            await holds(lambda: not a.upstreams["last"].leases)
            assert b.upstreams["last"].leases == []


async def test_rates_of_a_backend_are_the_fleets(redis: RedisServer) -> None:
    """An account of 3 requests a minute would get them from every node, and the provider refuse the rest."""
    async with two(config_of(redis, up={**DEMO, "rpm": 3})) as (_, to_a, _b, to_b):
        assert [(await ask(session))[0] for session in (to_a, to_b, to_a)] == [200] * 3
        status, name, wait = await ask(to_b)
        assert (status, name) == (429, "backends.up.rpm")
        assert 10 <= wait <= 20
        async with to_b.post("/v1/chat/completions", json=SHORT) as answer:
            assert answer.status == 429
            assert int(answer.headers["Retry-After"]) >= 10


async def test_whose_rate_is_spent_is_passed_over() -> None:
    """A cheap account that is used up for the moment would refuse what the dear one could serve."""
    config = config_of(None, cheap={**DEMO, "tpm": 600}, dear=DEMO)
    async with running(config) as a, client(a) as session:
        assert [(await ask(session))[0] for _ in range(4)] == [200] * 4
        assert a.upstreams["cheap"].active == 0
        # 500 tokens are taken at first; what was not used comes back when the stream has ended
        assert served(a) == ["cheap"] * 4
        body = {**SHORT, "max_tokens": 5000}
        async with session.post(CHAT, json=body) as answer:
            assert answer.status == 200
            await answer.read()
        assert served(a)[4:] == ["dear"]


async def test_redis_away(redis: RedisServer) -> None:
    """What is to be done without a shared count is the operator's choice, for places as for all limits."""
    for choice, expected in (("allow", 200), ("deny", 503)):
        access = Access(on_redis_loss=choice)  # type: ignore[arg-type]
        async with running(config_of(redis, access, up={**DEMO, "max_streams": 1})) as a, client(a) as session:
            redis.kill()
            await holds(lambda a=a: a.registry.health()["status"] == "degraded")
            status, name, _ = await ask(session)
            assert (status, name) == (expected, "" if expected == 200 else "on_redis_loss")
            assert a.upstreams["up"].active == 0
        redis.start()


async def test_waiting_without_redis_is_as_before() -> None:
    """One worker alone needs nobody's word to pass a place on."""
    limits = {"max_streams": 1, "queue": Queue(size=5, timeout=Duration(10))}
    async with running(config_of(None, up={**DEMO, **limits})) as a, client(a) as session:
        held = await begin(session)
        waiting = [asyncio.create_task(ask(session)) for _ in range(4)]
        await holds(lambda: a.upstreams["up"].waiting == 4)
        waiting.pop().cancel()
        await stop(session, held)
        assert [status for status, _, _ in await asyncio.gather(*waiting)] == [200] * 3
        await holds(lambda: not a.upstreams["up"].leases)
        assert a.registry.leases == {}  # type: ignore[attr-defined]


async def test_one_after_the_other_is_not_two_at_once(redis: RedisServer) -> None:
    """A client that may have one stream, and asks again as soon as it has read one, would often be refused."""
    async with running(config_of(redis, Access(max_streams=1), up=DEMO)) as a, client(a) as session:
        assert [await ask(session) for _ in range(8)] == [(200, "", 0)] * 8


class Counting(Upstream):
    """Knows how many requests it had at once."""

    most = 0

    async def __aenter__(self) -> Self:
        self.busy: set[asyncio.Task[Any] | None] = set()
        return await super().__aenter__()

    def script(self, raw: bytes, body: bytes) -> Any:
        self.busy.add(asyncio.current_task())
        self.most = max(self.most, len(self.busy))
        return super().script(raw, body)

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        try:
            return await super()._one(reader, writer)
        finally:
            self.busy.discard(asyncio.current_task())


async def test_a_rush_from_both_sides(redis: RedisServer) -> None:
    """Races for the last place would let more through, or lose one for ever."""
    done = b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    quick = [head(), chunk(OPENAI_CHUNK), 0.02, chunk(done), b"0\r\n\r\n"]
    async with Counting(quick) as up:
        limits = {"max_streams": 3, "queue": Queue(size=100, timeout=Duration(30))}
        config = config_of(redis, up={"driver": "openai", "url": up.url, "keepalive": False, **limits})
        async with two(config) as (a, to_a, b, to_b):
            found = await asyncio.gather(*(ask(session) for session in (to_a, to_b) * 30))
            assert [status for status, _, _ in found] == [200] * 60
            assert 2 <= up.most <= 3
            await holds(lambda: not a.upstreams["up"].leases and not b.upstreams["up"].leases)
            assert a.upstreams["up"].active == b.upstreams["up"].active == 0
