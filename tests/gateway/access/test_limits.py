"""Which limits hold for whom, and the counting of leases and rates: in memory and in Redis, by the same tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.redis_server import RedisServer
from support.registry_nodes import Node, entry, receipt

from backends.contract.errors import ErrorCode
from config.schema import Access, Config, Key, Route
from config.values import Duration
from gateway.access.keys import Caller
from gateway.access.limiter import Limiter
from gateway.access.limits import Demand, Demands, LimitReached, Who, demand, priced, refusal
from gateway.registry.base import Quota, Rate, Registry, Taken
from gateway.registry.memory import MemoryRegistry
from gateway.registry.quotas import Quotas
from gateway.streams.names import stream_key

ROUTE = Route(model="*", to=())


def wanted(caller: Caller, who: Who | None = None, route: Route = ROUTE, **access: object) -> Demand:
    return demand(Config(access=Access(**access)), caller, who or Who(), route, 100)  # type: ignore[arg-type]


def test_what_a_key_says_goes_before_access() -> None:
    """A limit for everybody would else undo the larger one somebody pays for."""
    own = Caller("acme", "web", max_streams=3, rpm=7, tpm=1000, user_streams=2, workspace_streams=4)
    found = wanted(own, Who("u", "w"), max_streams=1, rpm=1, tpm=1, user_streams=1, workspace_streams=1)
    assert [(found.names[q.scope], q.limit) for q in found.quotas] == [
        ("max_streams", 3),
        ("user_streams", 2),
        ("workspace_streams", 4),
    ]
    assert found.rates == (Rate("rpm:key:web", 7, 1), Rate("tpm:key:web", 1000, 100))
    rest = wanted(Caller("acme", "web"), max_streams=1, rpm=1, gateway_streams=9)
    assert [(q.scope, q.limit) for q in rest.quotas] == [("owner:acme", 1), ("gateway", 9)]
    assert wanted(Caller("acme")) == Demand()


def test_users_of_two_owners_are_two() -> None:
    """One owner's user 1 would else use up the other's."""
    one = wanted(Caller("a"), Who("1"), user_streams=1).quotas[0].scope
    other = wanted(Caller("b"), Who("1"), user_streams=1).quotas[0].scope
    assert one != other
    assert wanted(Caller("a"), Who(""), user_streams=1) == Demand()


def test_a_refusal_names_the_limit() -> None:
    """Whoever is refused must know which setting did it, and when to come back."""
    found = wanted(Caller("acme", "web", rpm=5, max_streams=2), route=Route(model="m*", to=(), max_streams=1))
    assert {found.names[q.scope] for q in found.quotas} == {"max_streams", "routes[m*].max_streams"}
    rate = refusal(found, Taken("rpm:key:web", 0, 5, 12.5))
    assert isinstance(rate, LimitReached)
    assert (rate.limit, rate.retry_after, rate.code) == ("rpm", 12.5, ErrorCode.RATE_LIMITED)
    assert "rpm of key:web" in rate.message


# -- the counting, by the same tests on both ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as redis:
        yield redis


@asynccontextmanager
async def made(kind: str, server: RedisServer) -> AsyncIterator[Registry]:
    if kind == "memory":
        yield MemoryRegistry("a")
        return
    server.command("FLUSHALL")
    async with Node("a", server.url, lease=5) as node:
        yield node.registry


BOTH = pytest.mark.parametrize("kind", ["memory", "redis"])


@BOTH
async def test_all_or_nothing(kind: str, server: RedisServer) -> None:
    """A refused stream that keeps half of what it asked for blocks others for ever."""
    async with made(kind, server) as registry:
        wide, narrow = Quota("wide", 5), Quota("narrow", 1)
        rate = Rate("rpm:x", 3, 1)
        assert (await registry.take("s1", (wide, narrow), (rate,))).refused == ""
        assert (await registry.take("s2", (wide, narrow), (rate,))).refused == "narrow"
        assert (await registry.take("s3", (wide,), (rate,))).refused == ""
        await asyncio.sleep(0.15)  # what was given back is on its way
        assert (await registry.take("s4", (wide,), (rate,))).active == 3
        refused = await registry.take("s5", (wide,), (rate,))
        assert refused.refused == "rpm:x"
        assert 10 < refused.retry_after <= 20
        await asyncio.sleep(0.15)
        for name in ("s6", "s7"):
            assert (await registry.take(name, (wide,))).refused == ""
        assert (await registry.take("s8", (wide,))).refused == "wide"
        assert (await registry.take("s1", (wide, narrow))).refused == ""  # it has them already


@BOTH
async def test_settlement(kind: str, server: RedisServer) -> None:
    """An estimate that is never corrected refuses the modest and lets the greedy through."""
    async with made(kind, server) as registry:
        rate = Rate("tpm:x", 600, 500)
        assert not (await registry.take("s1", (), (rate,))).refused
        assert (await registry.take("s2", (), (rate,))).refused
        registry.charge([Rate("tpm:x", 600, -400)])
        await asyncio.sleep(0.1)
        assert not (await registry.take("s2", (), (rate,))).refused
        registry.charge([Rate("tpm:x", 600, 1000)])  # it used more than it should have
        await asyncio.sleep(0.1)
        found = await registry.take("s3", (), (Rate("tpm:x", 600, 1),))
        assert 95 < found.retry_after < 101


@BOTH
async def test_a_cost_beyond_the_allowance_fits_an_idle_scope(kind: str, server: RedisServer) -> None:
    """A prompt longer than a minute's tokens could else never be asked at all."""
    async with made(kind, server) as registry:
        assert not (await registry.take("s1", (), (Rate("tpm:x", 10, 50),))).refused
        assert (await registry.take("s2", (), (Rate("tpm:x", 10, 1),))).retry_after > 200


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(0, 5), st.integers(0, 7), st.integers(1, 3)),
        st.tuples(st.just("release"), st.integers(0, 5), st.integers(0, 1), st.just(0)),
        st.tuples(st.just("charge"), st.just(0), st.integers(0, 1), st.integers(-2, 2)),
    ),
    max_size=15,
)
QUOTAS = (Quota("a", 2), Quota("b", 3))
RATE = Rate("rpm:r", 8, 1)


async def _play(registry: Registry, steps: list[tuple[str, int, int, int]]) -> list[str]:
    """What each step came to: the scope that refused, or nothing."""
    told = []
    for what, stream, which, cost in steps:
        if what == "take":
            quotas = tuple(q for i, q in enumerate(QUOTAS) if which & 1 << i)
            rates = (Rate(RATE.scope, RATE.per_minute, cost),) if which & 4 else ()
            told.append((await registry.take(f"s{stream}", quotas, rates)).refused)
        elif what == "release":
            registry.release(QUOTAS[which].scope, f"s{stream}")
        else:
            registry.charge([Rate(RATE.scope, RATE.per_minute, cost)])
        if hasattr(registry, "fleet"):
            await registry.quotas.settled()
            await registry.fleet.flush()
    return told


@settings(max_examples=40, deadline=None)
@given(steps=STEPS)
def test_memory_and_redis_are_twins(server: RedisServer, steps: list[tuple[str, int, int, int]]) -> None:
    """A limit that holds differently with Redis than without would be found by users, not by us."""

    async def both() -> tuple[list[str], list[str]]:
        async with made("memory", server) as one, made("redis", server) as other:
            return await _play(one, steps), await _play(other, steps)

    memory, redis = asyncio.run(both())
    assert memory == redis


@settings(max_examples=100, deadline=None)
@given(
    costs=st.lists(st.tuples(st.floats(0, 30), st.integers(1, 20)), min_size=1, max_size=60), limit=st.integers(1, 60)
)
def test_no_more_than_the_rate(costs: list[tuple[float, int]], limit: int) -> None:
    """Over any time no more may pass than a minute's allowance and what flows back meanwhile."""
    now = [0.0]
    quotas = Quotas(lambda: now[0])
    passed = 0
    for wait, wanted_cost in costs:
        now[0] += wait
        cost = min(wanted_cost, limit)
        if not quotas.take("s", (), (Rate("r", limit, cost),)).refused:
            passed += cost
        assert passed <= limit * (1 + now[0] / 60) + 1e-6


# -- the limiter -------------------------------------------------------------------------------------------------------


def demanded(scope: str = "x", limit: int = 1, rank: int = 1, **more: object) -> Demand:
    return Demand((Quota(scope, limit),), (), {scope: "max_streams"}, (), rank)


async def test_what_was_taken_is_given_back_once() -> None:
    """A lease given back twice would free somebody else's place."""
    registry = MemoryRegistry("a")
    limiter = Limiter(registry, Access)
    done = receipt(entry("s1"))
    key = stream_key("s1", "acme")
    tokens = (Rate("tpm:x", 600, 500),)
    await limiter.admit(key, Demand((Quota("x", 1),), tokens, {"x": "max_streams"}, tokens))
    with pytest.raises(LimitReached):
        await limiter.admit("s2@acme", demanded())
    assert limiter.finished(done) is not None
    assert limiter.finished(done) is None
    await limiter.admit("s2@acme", demanded())
    assert not (await registry.take("s3", (), (Rate("tpm:x", 600, 580),))).refused  # all but the 10 it really used


async def test_waiting_is_by_priority_and_bounded() -> None:
    """The important must not stand behind the many, and nobody may wait for ever."""
    access = Access(queue=Duration(2), queue_size=2)
    limiter = Limiter(MemoryRegistry("a"), lambda: access)
    await limiter.admit("s0", demanded())
    order: list[str] = []

    async def come(name: str, rank: int) -> None:
        await limiter.admit(name, demanded(rank=rank))
        order.append(name)
        await asyncio.sleep(0.02)
        limiter.release(name, 0)

    low = asyncio.create_task(come("low", 2))
    await asyncio.sleep(0.02)
    high = asyncio.create_task(come("high", 0))
    await asyncio.sleep(0.02)
    with pytest.raises(LimitReached):
        await limiter.admit("one too many", demanded())
    limiter.release("s0", 0)
    await asyncio.gather(low, high)
    assert order == ["high", "low"]
    await limiter.admit("s1", demanded())
    access = Access(queue=Duration(0.1))
    with pytest.raises(LimitReached) as refused:
        await limiter.admit("s2", demanded())
    assert "1 of 1 concurrent streams" in refused.value.message
    assert limiter.waiting == 0


async def test_who_leaves_while_waiting_keeps_nothing() -> None:
    """A client that hangs up in the queue must not hold a place."""
    limiter = Limiter(MemoryRegistry("a"), lambda: Access(queue=Duration(5)))
    await limiter.admit("s0", demanded())
    task = asyncio.create_task(limiter.admit("s1", demanded()))
    await asyncio.sleep(0.02)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert limiter.waiting == 0
    limiter.release("s0", 0)
    await limiter.admit("s2", demanded())


@pytest.mark.parametrize("choice", ["allow", "deny"])
async def test_redis_away(choice: str, server: RedisServer) -> None:
    """Without Redis either each node counts for itself, or nobody who is limited gets in: as the operator chose."""
    async with Node("a", f"redis://127.0.0.1:{server.port + 1 if server.port < 65000 else 1}/0") as node:
        limiter = Limiter(node.registry, lambda: Access(on_redis_loss=choice))  # type: ignore[arg-type]
        if choice == "deny":
            with pytest.raises(LimitReached) as refused:
                await limiter.admit("s1", demanded())
            assert refused.value.code.status == 503
        else:
            await limiter.admit("s1", demanded())
            with pytest.raises(LimitReached):
                await limiter.admit("s2", demanded())
        await limiter.admit("free", Demand())


def test_a_key_tells_its_caller_everything() -> None:
    """A limit of a key that never reaches the caller would hold for nobody."""
    from gateway.access.keys import Keyring, create

    secret, key = create("k", "acme")
    import msgspec

    full = msgspec.structs.replace(key, rpm=1, tpm=2, user_streams=3, workspace_streams=4, priority="high")
    assert isinstance(full, Key)
    found = Keyring([full]).identify({"Authorization": f"Bearer {secret}"})
    assert (found.rpm, found.tpm, found.user_streams, found.workspace_streams) == (1, 2, 3, 4)
    assert found.priority == "high"


def test_what_is_worked_out_once_is_worked_out_again_for_another_configuration() -> None:
    """After a reload the old limits would hold on, or one caller or route would be held by those of another."""
    demands, caller = Demands(), Caller("acme", "web")
    before, after = Config(access=Access(rpm=5, tpm=9)), Config(access=Access(max_streams=2))
    first = demands.usual(before, caller, ROUTE)
    assert first is demands.usual(before, caller, ROUTE)
    assert first == demand(before, caller, Who(), ROUTE, 0)
    assert demands.usual(after, caller, ROUTE) == demand(after, caller, Who(), ROUTE, 0)
    other, own = Caller("acme", "own", max_streams=7), Route(model="*", to=(), max_streams=1)
    assert demands.usual(after, other, ROUTE) == demand(after, other, Who(), ROUTE, 0)
    assert demands.usual(after, caller, own) == demand(after, caller, Who(), own, 0)
    assert demands.usual(before, caller, ROUTE) == first


def test_a_price_is_put_in_as_if_it_had_been_known() -> None:
    """A stream would be let in for free, or charged twice."""
    config = Config(access=Access(rpm=5, tpm=9, gateway_tpm=100, max_streams=3))
    usual = Demands().usual(config, Caller("acme"), ROUTE)
    assert priced(usual, 123) == demand(config, Caller("acme"), Who(), ROUTE, 123)


def test_what_is_worked_out_is_bounded() -> None:
    """Requests whose backend a client names make a route each: memory would grow with them."""
    demands, config = Demands(), Config()
    for number in range(3000):
        demands.usual(config, Caller("acme"), Route(model=f"m{number}", to=()))
    assert len(demands._known) <= 1000
