"""Embeddings, counts and lists of models over breakers and routes: what fails counts, what is open is left alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import anthropic
import openai
import pytest
from support.inprocess import client, running
from support.operators import operator
from support.upstream import CLOSE, HOLD, Upstream

from config.schema import Admin, Backend, Breaker, Config, Match, Route, Server, Target
from config.values import Duration, Secret
from gateway.access.keys import create
from gateway.app import Gateway
from gateway.routing.breaker import BreakerState

VECTORS = {"data": [{"index": 0, "embedding": [1.0]}], "usage": {"prompt_tokens": 1}, "model": "m"}
EMBED = {"model": "m", "input": "x"}
COUNT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def says(body: Any, status: str = "200 OK") -> list[Any]:
    raw = json.dumps(body).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n"
    return [head.encode() + raw]


FAILS = says({"error": {"message": "oops"}}, "500 Oops")


@asynccontextmanager
async def two(
    a: Upstream, b: Upstream, driver: str = "openai", **more: Any
) -> AsyncIterator[tuple[Gateway, aiohttp.ClientSession]]:
    """A gateway with an ordered route over two backends, whose breakers open after two failures."""
    rules = Breaker(failures=2, pause=Duration(60))
    config = Config(
        server=Server(port=0),
        admin=Admin(port=0),
        backends={
            n: Backend(driver=driver, url=up.url, api_key=Secret("k"), breaker=rules) for n, up in (("a", a), ("b", b))
        },
        routes=(Route(model="*", to=(Target("a"), Target("b")), policy="ordered"),),
        **more,
    )
    async with running(config) as gateway, client(gateway) as session:
        yield gateway, session


def state(gateway: Gateway, name: str) -> BreakerState:
    return gateway.upstreams[name].breaker.state


async def embedded(session: aiohttp.ClientSession) -> int:
    async with session.post("/v1/embeddings", json=EMBED) as answer:
        await answer.read()
        return answer.status


async def test_embeddings_fall_over_and_open_the_breaker() -> None:
    """A dead backend would refuse every embedding although another could make them, and never be found out."""
    async with Upstream(FAILS) as a, Upstream(says(VECTORS)) as b, two(a, b) as (gateway, session):
        assert [await embedded(session) for _ in range(4)] == [200] * 4
        assert (len(a.requests), len(b.requests)) == (2, 4)  # two failures opened it: it is left alone from then on
        assert state(gateway, "a") is BreakerState.OPEN
        assert gateway.upstreams["b"].breaker.failures == 0
        assert gateway.upstreams.budget.retries == gateway.upstreams.budget.streams == 0


async def test_all_open_is_no_upstream_in_the_callers_words() -> None:
    """Clients would wait for a dead backend's time-out, or not know that they should come back."""
    async with Upstream(FAILS) as a, Upstream(FAILS) as b, two(a, b) as (gateway, session):
        for _ in range(4):
            await embedded(session)
        asked = len(a.requests) + len(b.requests)
        base = f"http://127.0.0.1:{gateway.public_port}"
        async with openai.AsyncOpenAI(base_url=f"{base}/v1", api_key="x", max_retries=0) as sdk:
            with pytest.raises(openai.InternalServerError) as refused:
                await sdk.embeddings.create(model="m", input="x")
        assert refused.value.status_code == 503
        assert refused.value.code == "no_upstream"
        assert 1 <= int(refused.value.response.headers["Retry-After"]) <= 60
        for path, body in (("/api/embed", EMBED), ("/v1beta/models/m:embedContent", {"content": {"parts": []}})):
            async with session.post(path, json=body) as answer:
                assert answer.status == 503, path
                assert int(answer.headers["Retry-After"]) >= 1
        assert len(a.requests) + len(b.requests) == asked
        async with session.post("/v1/chat/completions", json=COUNT) as answer:  # streams know of it, too
            assert answer.status == 503


async def test_a_request_that_is_wrong_is_nobodys_failure() -> None:
    """A client's own mistakes would open the breaker for everybody, or be asked of every backend."""
    wrong = says({"error": {"message": "no"}}, "400 Bad Request")
    async with Upstream(wrong) as a, Upstream(wrong) as b, two(a, b) as (gateway, session):
        assert [await embedded(session) for _ in range(3)] == [400] * 3
        assert (len(a.requests), len(b.requests), gateway.upstreams["a"].breaker.failures) == (3, 0, 0)


async def test_who_cannot_embed_is_passed_over() -> None:
    """A route with one backend that has no embeddings would have none."""
    async with Upstream(FAILS) as a, Upstream(says(VECTORS)) as b, two(a, b) as (gateway, session):
        gateway.services.drivers["a"] = _Mute(gateway.services.drivers["a"])  # type: ignore[assignment]
        assert await embedded(session) == 200
        assert a.requests == []


class _Mute:
    """A driver without embeddings."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    def embed(self, body: Any, model: str) -> None:
        return None


async def test_counts_respect_breakers_and_fall_over() -> None:
    """Agents that count before every request would hang on a dead backend."""
    async with (
        Upstream(FAILS) as a,
        Upstream(says({"input_tokens": 7}), says({"input_tokens": 7}), FAILS) as b,
        two(a, b, "anthropic") as (gateway, session),
    ):
        for _ in range(2):
            async with session.post("/v1/messages/count_tokens", json=COUNT) as answer:
                assert (answer.status, await answer.json()) == (200, {"input_tokens": 7})
        assert state(gateway, "a") is BreakerState.OPEN
        base = f"http://127.0.0.1:{gateway.public_port}"
        for _ in range(2):
            async with session.post("/v1beta/models/m:countTokens", json={"contents": [{"parts": [{"text": "x"}]}]}):
                pass
        assert state(gateway, "b") is BreakerState.OPEN
        asked = len(a.requests) + len(b.requests)
        async with anthropic.AsyncAnthropic(base_url=base, api_key="x", max_retries=0) as sdk:
            with pytest.raises(anthropic.APIStatusError) as refused:
                await sdk.messages.count_tokens(model="m", messages=[{"role": "user", "content": "hi"}])
        assert refused.value.status_code in (503, 529)
        assert int(refused.value.response.headers["Retry-After"]) >= 1
        assert len(a.requests) + len(b.requests) == asked


async def test_a_count_that_succeeds_says_little() -> None:
    """A backend that counts well and breaks every answer off would never be found out."""
    async with Upstream(says({"input_tokens": 7})) as a, two(a, a, "anthropic") as (gateway, session):
        gateway.upstreams["a"].breaker.failure(gateway.upstreams.clock(), "test")
        async with session.post("/v1/messages/count_tokens", json=COUNT) as answer:
            assert answer.status == 200
        assert gateway.upstreams["a"].breaker.failures == 1


async def test_one_trial_at_a_time_and_given_back() -> None:
    """A trial that an embedding took and lost would keep the backend away for good."""
    async with Upstream(says(VECTORS)) as a, Upstream([CLOSE]) as b, two(a, b) as (gateway, session):
        upstream = gateway.upstreams["a"]
        for _ in range(2):
            upstream.breaker.failure(gateway.upstreams.clock(), "test")
        upstream.breaker.until = gateway.upstreams.clock()
        for expected in (BreakerState.HALF_OPEN, BreakerState.CLOSED):
            assert await embedded(session) == 200
            assert state(gateway, "a") is expected
            assert await gateway.registry.claim_probe("a", 1)
            gateway.registry.unclaim_probe("a")


async def test_a_client_that_leaves_gives_the_trial_back() -> None:
    """One impatient client would keep a backend that is well again closed for everybody."""
    async with Upstream([HOLD]) as a, Upstream(says(VECTORS)) as b, two(a, b) as (gateway, session):
        upstream = gateway.upstreams["a"]
        for _ in range(2):
            upstream.breaker.failure(gateway.upstreams.clock(), "test")
        upstream.breaker.until = gateway.upstreams.clock()
        with pytest.raises(TimeoutError):
            await session.post("/v1/embeddings", json=EMBED, timeout=aiohttp.ClientTimeout(0.3))
        for _ in range(100):
            if await gateway.registry.claim_probe("a", 1):
                break
            await asyncio.sleep(0.01)
        assert upstream.breaker.due(gateway.upstreams.clock() + 11)


async def test_lists_of_models_leave_open_breakers_alone() -> None:
    """Every list of models would wait for a dead server, and a server that only refuses lists be taken for dead."""
    listed = says({"object": "list", "data": [{"id": "m1", "object": "model"}]})
    async with Upstream(listed) as a, Upstream(listed) as b, two(a, b) as (gateway, session):
        upstream = gateway.upstreams["a"]
        for _ in range(2):
            upstream.breaker.failure(gateway.upstreams.clock(), "test")
        async with session.get("/v1/models") as answer:
            assert [m["id"] for m in (await answer.json())["data"]] == ["m1"]
        assert (len(a.requests), len(b.requests)) == (0, 1)
    forbidden = says({"error": {"message": "no lists"}}, "403 Forbidden")
    async with Upstream(forbidden) as a, Upstream(FAILS) as b, two(a, b) as (gateway, session):
        async with session.get("/v1/models") as answer:
            assert answer.status == 200
        assert gateway.upstreams["a"].breaker.failures == 0
        assert gateway.upstreams["b"].breaker.failures == 1


async def test_ollamas_lists_leave_open_breakers_alone() -> None:
    """Its command line lists before every chat: each would wait for a dead server."""
    async with (
        Upstream(says({"models": [{"name": "m1"}]})) as a,
        Upstream(says({"models": [{"name": "m2"}]})) as b,
        two(a, b, "ollama") as (gateway, session),
    ):
        for _ in range(2):
            gateway.upstreams["a"].breaker.failure(gateway.upstreams.clock(), "test")
        async with session.get("/api/tags") as answer:
            assert [m["name"] for m in (await answer.json())["models"]] == ["m2"]
        assert a.requests == []


async def test_operators_and_routes_reach_counts_too() -> None:
    """A paused backend would still be asked, and a key's own route be passed by."""
    async with Upstream(says({"input_tokens": 1})) as a, Upstream(says({"input_tokens": 2})) as b:
        secret, key = create("web", "acme")
        routes = (
            Route(model="*", to=(Target("b"),), match=Match(key=("web",))),
            Route(model="*", to=(Target("a"), Target("b")), policy="ordered"),
        )
        other, plain = create("other", "acme")
        backends = {n: Backend(driver="anthropic", url=up.url, api_key=Secret("k")) for n, up in (("a", a), ("b", b))}
        config = Config(server=Server(port=0), admin=Admin(port=0), backends=backends, routes=routes, keys=(key, plain))
        async with running(config) as gateway, operator(gateway) as at:

            async def count(secret: str) -> tuple[int, Any]:
                headers = {"x-api-key": secret}
                async with (
                    client(gateway, **headers) as session,
                    session.post("/v1/messages/count_tokens", json=COUNT) as answer,
                ):
                    return answer.status, (await answer.json()).get("input_tokens")

            assert await count(secret) == (200, 2)
            assert await count(other) == (200, 1)
            await at.post("/control/pause", {"backend": "a"})
            assert await count(other) == (200, 2)
            await at.post("/control/kill", {"key": "web"})
            assert (await count(secret))[0] == 403
