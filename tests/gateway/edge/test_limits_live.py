"""Limits as clients meet them: which request is refused, with what status, wait and name."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import openai
import pytest
from msgspec.structs import replace
from support.inprocess import client, config_for, running
from support.upstream import HOLD, Upstream, chunk, head

from config.schema import Access, Key, Route, Streams, Target
from config.values import Duration, Size
from gateway.access.keys import create
from gateway.app import Gateway

CHAT = "/api/streaming/chat"
LONG = {"model": "demo", "messages": [{"role": "user", "content": "hi [tokens=5000] [rate=100]"}]}
SHORT = {"model": "demo", "messages": [{"role": "user", "content": "hi [tokens=5]"}]}


def keyed(**limits: Any) -> tuple[dict[str, str], tuple[Key, ...]]:
    """The header of a key with these limits, and the keys."""
    secret, key = create("web", "acme")
    return {"Authorization": f"Bearer {secret}"}, (Key(key.id, key.owner, key.hash, **limits),)


async def ask(session: aiohttp.ClientSession, body: Any = SHORT, **headers: str) -> tuple[int, str, int]:
    """Status, the limit that refused, and how long to wait."""
    async with session.post(CHAT, json=body, headers=headers) as answer:
        await answer.read()
        return answer.status, answer.headers.get("X-Headgate-Limit", ""), int(answer.headers.get("Retry-After", 0))


async def begin(session: aiohttp.ClientSession, **headers: str) -> aiohttp.ClientResponse:
    """A running stream."""
    answer = await session.post(CHAT, json=LONG, headers=headers)
    assert answer.status == 200, await answer.text()
    return answer


async def empty(gateway: Gateway) -> None:
    for _ in range(200):
        if not len(gateway.hub):
            return
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("access", "key", "name"),
    [
        ({}, {"max_streams": 2}, "max_streams"),
        ({"max_streams": 2}, {}, "max_streams"),
        ({"user_streams": 2}, {}, "user_streams"),
        ({}, {"user_streams": 2}, "user_streams"),
        ({"workspace_streams": 2}, {}, "workspace_streams"),
        ({"gateway_streams": 2}, {}, "access.gateway_streams"),
    ],
)
async def test_concurrent_streams(access: dict[str, int], key: dict[str, int], name: str) -> None:
    """A limit that is not counted, or not given back at the stream's end, is an outage or no limit."""
    header, keys = keyed(**key)
    who = {"X-User-Id": "u1", "X-Workspace-Id": "w1"}
    config = config_for(keys=keys, access=Access(**access))  # type: ignore[arg-type]
    async with running(config) as gateway, client(gateway, **header) as session:
        held = [await begin(session, **who) for _ in range(2)]
        assert await ask(session, **who) == (429, name, 1)
        other = {"X-User-Id": "u2", "X-Workspace-Id": "w2"}
        apart = name.startswith(("user", "workspace"))
        assert (await ask(session, **other))[0] == (200 if apart else 429)
        stream = held.pop()
        await session.delete("/api/streaming/" + stream.headers["X-Stream-Id"])
        assert (await ask(session, **who))[0] == 200
        for answer in held:
            await session.delete("/api/streaming/" + answer.headers["X-Stream-Id"])
        assert gateway.services.limiter.tickets == {}
        assert gateway.registry.leases == {}  # type: ignore[attr-defined]


async def test_of_a_route() -> None:
    """An expensive model's own limit must not hold for the others, nor theirs for it."""
    routes = (Route(model="dear", to=(Target("up"),), max_streams=1), Route(model="*", to=(Target("up"),)))
    base = config_for()
    config = type(base)(server=base.server, admin=base.admin, backends=base.backends, routes=routes)
    async with running(config) as gateway, client(gateway) as session:
        held = await session.post(CHAT, json={**LONG, "model": "dear"})
        assert await ask(session, {**SHORT, "model": "dear"}) == (429, "routes[dear].max_streams", 1)
        assert (await ask(session))[0] == 200
        held.close()


async def test_requests_per_minute_in_every_dialect() -> None:
    """SDKs wait as long as Retry-After says; without it they come back at once."""
    header, keys = keyed(rpm=2)
    async with running(config_for(keys=keys)) as gateway, client(gateway, **header) as session:
        assert [(await ask(session))[0] for _ in range(2)] == [200, 200]
        status, name, wait = await ask(session)
        assert (status, name) == (429, "rpm")
        assert 25 <= wait <= 30
        for path, body in (
            ("/v1/chat/completions", SHORT),
            ("/v1/messages", {**SHORT, "max_tokens": 5}),
            ("/api/chat", SHORT),
        ):
            async with session.post(path, json=body) as answer:
                assert (answer.status, answer.headers["X-Headgate-Limit"]) == (429, "rpm"), path
                assert int(answer.headers["Retry-After"]) >= 25
        secret = header["Authorization"].removeprefix("Bearer ")
        async with openai.AsyncOpenAI(
            base_url=f"http://127.0.0.1:{gateway.public_port}/v1", api_key=secret, max_retries=0
        ) as sdk:
            with pytest.raises(openai.RateLimitError) as refused:
                await sdk.chat.completions.create(model="demo", messages=[{"role": "user", "content": "hi"}])
        assert refused.value.response.headers["X-Headgate-Limit"] == "rpm"


@pytest.mark.parametrize(
    ("access", "key", "name"),
    [
        ({"rpm": 2}, {}, "rpm"),
        ({"user_rpm": 2}, {}, "user_rpm"),
        ({}, {"user_rpm": 2}, "user_rpm"),
        ({"user_tpm": 1000}, {}, "user_tpm"),
        ({}, {"user_tpm": 1000}, "user_tpm"),
        ({"workspace_rpm": 2}, {}, "workspace_rpm"),
        ({}, {"workspace_rpm": 2}, "workspace_rpm"),
        ({"workspace_tpm": 1000}, {}, "workspace_tpm"),
        ({}, {"workspace_tpm": 1000}, "workspace_tpm"),
        ({"gateway_rpm": 2}, {}, "access.gateway_rpm"),
        ({"gateway_tpm": 1000}, {}, "access.gateway_tpm"),
    ],
)
async def test_rates_of_everybody(access: dict[str, int], key: dict[str, int], name: str) -> None:
    """One user or workspace would use up what all others of its owner, or of the gateway, need."""
    header, keys = keyed(**key)
    who, other = {"X-User-Id": "u1", "X-Workspace-Id": "w1"}, {"X-User-Id": "u2", "X-Workspace-Id": "w2"}
    config = config_for(keys=keys, access=Access(**access))  # type: ignore[arg-type]
    body = {**LONG, "max_tokens": 490}
    async with running(config) as gateway, client(gateway, **header) as session:
        held = [await session.post(CHAT, json=body, headers=who) for _ in range(2)]
        assert [answer.status for answer in held] == [200, 200]
        status, said, wait = await ask(session, body, **who)
        assert (status, said) == (429, name)
        assert 20 <= wait <= 40
        apart = name.startswith(("user", "workspace"))
        assert (await ask(session, **other))[0] == (200 if apart else 429)
        if apart:
            assert (await ask(session))[0] == 200  # names nobody: held by no such limit
        for answer in held:
            await session.delete("/api/streaming/" + answer.headers["X-Stream-Id"])


@pytest.mark.parametrize(("kind", "limit"), [("rpm", 2), ("tpm", 1000)])
async def test_rates_of_a_route_and_a_backend(kind: str, limit: int) -> None:
    """An expensive model's allowance must not hold for the others, nor be escaped by another name of it."""
    routes = (
        Route(model="dear", aliases=("other",), to=(Target("up"),), **{kind: limit}),
        Route(model="*", to=(Target("up"),)),
    )
    config = replace(config_for(), routes=routes)
    body = {**LONG, "max_tokens": 490}
    async with running(config) as gateway, client(gateway) as session:
        held = [await session.post(CHAT, json={**body, "model": model}) for model in ("dear", "other")]
        status, name, wait = await ask(session, {**body, "model": "dear"})
        assert (status, name) == (429, f"routes[dear].{kind}")
        assert wait >= 20
        assert (await ask(session))[0] == 200
        for answer in held:
            answer.close()
    config = config_for()
    config = replace(config, backends={"up": replace(config.backends["up"], **{kind: limit})})
    async with running(config) as gateway, client(gateway) as session:
        held = [await session.post(CHAT, json=body) for _ in range(2)]
        status, name, wait = await ask(session, body)
        assert (status, name) == (429, f"backends.up.{kind}")
        assert wait >= 20
        for answer in held:
            answer.close()


async def test_embeddings_are_held_by_their_users_and_backends_rates() -> None:
    """A user, or a provider's account, that is out of requests would go on by embeddings."""
    body = b'{"object":"list","data":[{"object":"embedding","index":0,"embedding":[1.0]}],"model":"m"}'
    async with Upstream([head(b"Content-Length: %d\r\n" % len(body)), body]) as up:
        for access, backend, name in (
            (Access(user_rpm=1), {}, "user_rpm"),
            (Access(), {"rpm": 1}, "backends.up.rpm"),
        ):
            config = config_for(up.url, access=access)
            config = replace(config, backends={"up": replace(config.backends["up"], **backend)})
            found = []
            async with running(config) as gateway, client(gateway) as session:
                for _ in range(2):
                    async with session.post("/v1/embeddings", json={"model": "m", "input": "x", "user": "u"}) as answer:
                        said = answer.headers.get("X-Headgate-Limit", "")
                        found.append((answer.status, said, int(answer.headers.get("Retry-After", 0)) > 30))
            assert found == [(200, "", False), (429, name, True)]


async def test_embeddings_count_too() -> None:
    """Whoever is out of requests could else go on by embeddings."""
    header, keys = keyed(rpm=1)
    body = b'{"object":"list","data":[{"object":"embedding","index":0,"embedding":[1.0]}],"model":"m"}'
    found = []
    async with (
        Upstream([head(b"Content-Length: %d\r\n" % len(body)), body]) as up,
        running(config_for(up.url, keys=keys)) as gateway,
        client(gateway, **header) as session,
    ):
        for _ in range(2):
            async with session.post("/v1/embeddings", json={"model": "m", "input": "x"}) as answer:
                found.append((answer.status, answer.headers.get("X-Headgate-Limit", "")))
    assert found == [(200, ""), (429, "rpm")]


async def test_tokens_per_minute_are_settled() -> None:
    """The estimate is taken first; what was not used must come back, or a few short answers use up the minute."""
    header, keys = keyed(tpm=1000)
    async with running(config_for(keys=keys)) as gateway, client(gateway, **header) as session:
        for _ in range(10):  # ten estimates of 500 would be 5000
            assert (await ask(session))[0] == 200
            await empty(gateway)
        big = {**SHORT, "max_tokens": 990}
        held = await session.post(CHAT, json={**LONG, "max_tokens": 700})
        assert held.status == 200
        status, name, wait = await ask(session, big)
        assert (status, name) == (429, "tpm")
        assert wait > 20
        held.close()


async def test_priority_low_goes_first_when_it_gets_full() -> None:
    """Low priority exists so that the last places are left for the others."""
    header, keys = keyed(priority="low")
    normal, more = create("n", "acme")
    config = config_for(streams=Streams(max_active=5), keys=(*keys, more))
    async with running(config) as gateway, client(gateway) as session:
        held = [await begin(session, **header) for _ in range(4)]
        assert await ask(session, **header) == (503, "streams.max_active", 1)
        held.append(await begin(session, Authorization=f"Bearer {normal}"))
        assert (await ask(session, Authorization=f"Bearer {normal}"))[0] == 503
        for answer in held:
            answer.close()


async def test_a_request_may_wait_for_a_place() -> None:
    """A short wait spares the client a refusal and a retry; what it waited for must then be its own."""
    access = Access(max_streams=1, queue=Duration(5))
    async with running(config_for(access=access)) as gateway, client(gateway) as session:
        held = await begin(session)
        waiting = asyncio.create_task(ask(session))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        assert gateway.services.limiter.waiting == 1
        await session.delete("/api/streaming/" + held.headers["X-Stream-Id"])
        assert (await asyncio.wait_for(waiting, 3))[0] == 200


async def test_long_prompts() -> None:
    """A prompt that costs a fortune to read must not reach the backend."""
    async with running(config_for(access=Access(max_prompt=20))) as gateway, client(gateway) as session:
        assert (await ask(session))[0] == 200
        long = {"model": "demo", "messages": [{"role": "user", "content": "x" * 21}]}
        async with session.post(CHAT, json=long) as answer:
            assert answer.status == 400
            assert "access.max_prompt" in (await answer.json())["error"]["message"]


async def test_a_refused_stream_gives_its_id_back() -> None:
    """Clients retry with the same X-Stream-Id: a refusal must not use it up."""
    async with running(config_for(access=Access(max_streams=1))) as gateway, client(gateway) as session:
        held = await begin(session)
        assert (await ask(session, **{"X-Stream-Id": "mine"}))[0] == 429
        await session.delete("/api/streaming/" + held.headers["X-Stream-Id"])
        assert (await ask(session, **{"X-Stream-Id": "mine"}))[0] == 200


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", CHAT, "/api/chat"])
async def test_tool_arguments_that_never_end(path: str) -> None:
    """A model that writes arguments without end must not fill a client's memory, in any dialect, nor look complete."""
    call = b'{"index":0,%s"function":{%s"arguments":"%s"}}'
    delta = b'data: {"id":"c","choices":[{"index":0,"delta":{"tool_calls":[' + call + b"]}}]}\n\n"
    first = delta % (b'"id":"call_1","type":"function",', b'"name":"f",', b"")
    more = [chunk(delta % (b"", b"", b"x" * 100)) for _ in range(50)]
    body = {**SHORT, "max_tokens": 5, "stream": True}
    streams = Streams(max_tool_arguments=Size(1000))
    async with (
        Upstream([head(), chunk(first), *more, HOLD]) as up,
        running(config_for(up.url, streams=streams)) as gateway,
        client(gateway) as session,
        session.post(path, json=body) as answer,
    ):
        try:
            text = await answer.text()
        except aiohttp.ClientPayloadError:
            text = ""
        assert text.count("x" * 100) <= 50
        await empty(gateway)
        found = await gateway.registry.find(answer.headers["X-Stream-Id"], None)
        assert found.error_code == "event_too_large"  # type: ignore[union-attr]
        assert "max_tool_arguments" in found.error_message  # type: ignore[union-attr]


async def test_tool_arguments_within_the_cap() -> None:
    """A cap that counts anything but the arguments would cut off good calls."""
    streams = Streams(max_tool_arguments=Size(1000))
    ask_tool = {"model": "demo", "messages": [{"role": "user", "content": "hi [tool=search]"}], "stream": True}
    async with running(config_for(streams=streams)) as gateway, client(gateway) as session:
        async with session.post("/v1/chat/completions", json=ask_tool) as answer:
            assert "[DONE]" in await answer.text()
        async with session.post(
            CHAT, json={**SHORT, "messages": [{"role": "user", "content": "hi [tokens=300] [rate=1000]"}]}
        ) as answer:
            assert (await answer.text()).count("event: token") == 300


async def test_the_best_of_many_answers_counts_as_many() -> None:
    """A completion could have a thousand answers made, where `n` allows eight."""
    config = replace(config_for(), access=Access(max_n=3))
    async with running(config) as gateway, client(gateway) as session:
        body = {"model": "demo", "prompt": "hi", "best_of": 4}
        async with session.post("/v1/completions", json=body) as answer:
            assert answer.status == 400
            assert (await answer.json())["error"]["param"] == "best_of"
