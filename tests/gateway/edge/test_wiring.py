"""Which path is whose, how errors outside handlers are said, which models are listed, which headers come through."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import anthropic
import openai
import pytest
from msgspec.structs import replace
from support.inprocess import client, config_for, running
from support.upstream import CLOSE, HOLD, Upstream, chunk, head
from yarl import URL

from config.schema import Backend, Config, Key, Route, Server, Streams, Target
from config.values import Duration
from gateway.access.keys import hash_of
from gateway.app import Gateway

ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
TOKEN = b'data: {"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":"a"},"finish_reason":null}]}\n\n'
DONE = b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


def serving(*protocols: str, **prefixes: str) -> Config:
    families = protocols or ("native", "openai", "anthropic", "ollama", "google")
    return config_for(server=Server(port=0, protocols=families, prefixes=prefixes))  # type: ignore[arg-type]


def shape(body: Any) -> str:
    """Whose error this is."""
    error = body["error"]
    if isinstance(error, str):
        return "ollama"
    if body.get("type") == "error":
        return "anthropic"
    if "requestId" in error:
        return "native"
    return "google" if "status" in error else "openai"


async def told(session: aiohttp.ClientSession, method: str, path: str, **headers: str) -> tuple[int, str]:
    async with session.request(method, path, headers=headers) as answer:
        return answer.status, shape(await answer.json())


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "whose"),
    [
        ("GET", "/v1/nothing", {}, 404, "openai"),
        ("GET", "/v1/chat/completions", {}, 405, "openai"),
        ("GET", "/v1/messages", {}, 405, "anthropic"),
        ("GET", "/v1/messages/batches", {}, 404, "anthropic"),
        ("GET", "/v1/nothing", {"anthropic-version": "2023-06-01"}, 404, "anthropic"),
        ("GET", "/v1beta/nothing", {}, 404, "google"),
        ("GET", "/api/chat", {}, 405, "ollama"),
        ("DELETE", "/api/streaming/active", {}, 405, "native"),
        ("GET", "/v1/streams/none", {}, 404, "native"),
        ("GET", "/nothing", {}, 404, "native"),
        ("POST", "/health", {}, 405, "native"),
    ],
)
async def test_an_error_outside_handlers_is_in_the_callers_words(
    method: str, path: str, headers: dict[str, str], status: int, whose: str
) -> None:
    """Each SDK can only show an error it can read."""
    async with running(serving()) as gateway, client(gateway) as session:
        assert await told(session, method, path, **headers) == (status, whose)


async def test_a_405_says_what_is_allowed() -> None:
    """RFC 9110 demands it; tools that probe a path rely on it."""
    async with (
        running(serving()) as gateway,
        client(gateway) as session,
        session.get("/v1/chat/completions") as answer,
    ):
        assert (answer.status, answer.headers["Allow"]) == (405, "POST")


async def test_a_refused_key_is_said_in_the_callers_words() -> None:
    """An SDK raises its authentication error only for the shape it knows."""
    async with running(two_backends("http://127.0.0.1:9", "http://127.0.0.1:9")) as gateway, client(gateway) as session:
        assert await told(session, "GET", "/v1/models") == (401, "openai")
        assert await told(session, "GET", "/v1/models", **{"anthropic-version": "x"}) == (401, "anthropic")
        assert await told(session, "GET", "/v1/models", **{"x-goog-api-key": "x"}) == (401, "google")
        assert await told(session, "GET", "/api/tags") == (401, "ollama")
        assert await told(session, "GET", "/api/streaming/active") == (401, "native")


async def test_a_family_that_is_off_is_a_native_404() -> None:
    """Its paths may belong to a fronted app; its error shapes are nobody's."""
    async with running(serving("native", "openai")) as gateway, client(gateway) as session:
        for path in ("/v1/messages", "/api/chat", "/v1beta/models/m:generateContent"):
            assert await told(session, "POST", path) == (404, "native")
    async with running(serving("openai")) as gateway, client(gateway) as session:
        assert await told(session, "POST", "/api/streaming/generate/more") == (404, "native")


async def test_prefixes_move_whole_families() -> None:
    """Paths left behind would shadow the fronted app's."""
    config = serving(openai="/llm", anthropic="/claude", ollama="/ollama", google="/google")
    async with running(config) as gateway, client(gateway) as session:
        base = f"http://127.0.0.1:{gateway.public_port}"
        async with openai.AsyncOpenAI(api_key="k", base_url=f"{base}/llm/v1", max_retries=0) as api:
            assert (await api.chat.completions.create(**ASK)).choices[0].message.content
            assert [m.id async for m in api.models.list()]
        async with anthropic.AsyncAnthropic(api_key="k", base_url=f"{base}/claude", max_retries=0) as api2:
            assert (await api2.messages.create(**ASK, max_tokens=9)).content
            assert [m.type async for m in api2.models.list()]
        for path in ("/v1/chat/completions", "/v1/messages", "/api/chat", "/v1/models", "/v1/embeddings", "/api/embed"):
            assert await told(session, "POST", path) == (404, "native")
        assert await told(session, "GET", "/ollama/api/nothing") == (404, "ollama")


async def test_native_chat_moves_and_its_streams_stay() -> None:
    """A stream's Location must lead to it, wherever its chat was asked for."""
    async with running(serving(native="/gw")) as gateway, client(gateway) as session:
        async with session.post("/gw/api/streaming/chat", json=ASK) as answer:
            assert answer.status == 200
            location, name = answer.headers["Location"], answer.headers["X-Stream-Id"]
            async with session.get(location) as state:
                assert (await state.json())["streamId"] == name
        async with session.get("/gw/api/v1/chat/stream?message=hi") as answer:
            assert answer.status == 200
        for path in ("/api/v1/chat/stream?message=hi", "/api/v1/chat/onboarding-stream"):
            assert await told(session, "GET", path) == (404, "native")


# -- models ------------------------------------------------------------------------------------------------------------


def listed(*names: str) -> tuple[Any, ...]:
    body = json.dumps({"object": "list", "data": [{"id": name} for name in names]}).encode()
    return (head(b"Content-Length: %d\r\n" % len(body)), body)


def two_backends(alive: str, dead: str) -> Config:
    config = config_for(keys=(Key(id="k", owner="o", hash=hash_of("secret"), models=("small-*", "org/*")),))
    return replace(
        config,
        backends={
            "alive": Backend(driver="openai", url=alive),
            "dead": Backend(driver="openai", url=dead, models=("small-configured",)),
        },
        routes=(
            Route(model="small-fixed", to=(Target("alive", "x"),)),
            Route(model="*", to=(Target("alive"), Target("dead"))),
        ),
    )


async def test_models_are_listed_in_both_shapes_but_only_the_callers() -> None:
    """A dead backend must not hide the others' models, nor a key see what it may not use."""
    async with Upstream(listed("small-1", "large-1", "org/small")) as up:
        async with running(two_backends(up.url, "http://127.0.0.1:9")) as gateway:
            base = f"http://127.0.0.1:{gateway.public_port}"
            expected = ["small-fixed", "small-1", "org/small", "small-configured"]
            async with openai.AsyncOpenAI(api_key="secret", base_url=f"{base}/v1", max_retries=0) as api:
                assert [m.id async for m in api.models.list()] == expected
                assert (await api.models.retrieve("small-1")).owned_by == "alive"
                for name in ("large-1", "none"):
                    with pytest.raises(openai.NotFoundError):
                        await api.models.retrieve(name)
            async with anthropic.AsyncAnthropic(api_key="secret", base_url=base, max_retries=0) as claude:
                assert [m.id async for m in claude.models.list(limit=2)] == expected
                assert (await claude.models.retrieve("small-1")).display_name == "small-1"
                with pytest.raises(anthropic.NotFoundError):
                    await claude.models.retrieve("large-1")
                with pytest.raises(anthropic.BadRequestError):
                    await claude.models.list(limit=5000)
        assert len(up.requests) <= 2  # health's own probe, and one listing for all of these


async def test_a_backend_that_goes_away_keeps_its_models() -> None:
    """A list that shrinks with every hiccup makes clients forget the model they use."""
    async with Upstream(listed("small-1")) as up:
        config = two_backends(up.url, "http://127.0.0.1:9")
        async with running(replace(config, keys=())) as gateway, client(gateway) as session:
            from gateway.routing.models import ModelList

            now = [0.0]
            shared = gateway.services
            models = ModelList(shared.router, shared.drivers, shared.transports, lambda: now[0])
            first = await models.get()
            up.scripts[:] = [(CLOSE,)]
            now[0] += 61.0
            assert await models.get() == first
            async with session.head("/v1/models") as answer:
                assert answer.status == 200


async def test_model_names_with_slashes_can_be_retrieved() -> None:
    """Half of the world's open models are named org/name."""
    async with Upstream(listed("org/small")) as up, running(config_for(up.url)) as gateway:
        url = f"http://127.0.0.1:{gateway.public_port}/v1"
        async with openai.AsyncOpenAI(api_key="k", base_url=url, max_retries=0) as api:
            assert (await api.models.retrieve("org/small")).id == "org/small"
        async with client(gateway) as session:
            for path in ("/v1/models/..%2f..%2fhealth", "/v1/models/a%2f..%2fb", "/v1/modelsx/a%2fb"):
                async with session.get(URL(path, encoded=True)) as answer:
                    assert answer.status == 400


# -- headers -----------------------------------------------------------------------------------------------------------

LIMITS = (
    b"x-ratelimit-remaining-tokens: 7\r\nX-Request-Id: up_1\r\nSet-Cookie: a=b\r\nAlt-Svc: h3\r\n"
    b"openai-processing-ms: 5\r\n"
)


async def post(gateway: Gateway, **more: Any) -> tuple[int, Any, str]:
    async with client(gateway) as session, session.post("/v1/chat/completions", json={**ASK, **more}) as answer:
        return answer.status, answer.headers.copy(), await answer.text()


@pytest.mark.parametrize("stream", [True, False])
async def test_rate_limits_come_through_and_cookies_do_not(stream: bool) -> None:
    """Clients pace themselves by these headers; the backend's cookies are the gateway's own business."""
    script = (head(b"Transfer-Encoding: chunked\r\n" + LIMITS), chunk(TOKEN + DONE), b"0\r\n\r\n", CLOSE)
    async with Upstream(script) as up, running(config_for(up.url)) as gateway:
        status, headers, _ = await post(gateway, stream=stream)
    assert status == 200
    assert (headers["x-ratelimit-remaining-tokens"], headers["openai-processing-ms"]) == ("7", "5")
    assert headers["X-Upstream-Request-Id"] == "up_1"
    assert "Set-Cookie" not in headers
    assert "Alt-Svc" not in headers


@pytest.mark.parametrize(("said", "told_to_wait"), [(b"7", "7"), (b"600", "600"), (b"99999", "3600"), (b"soon", "1")])
async def test_a_rate_limit_says_how_long_to_wait(said: bytes, told_to_wait: str) -> None:
    """SDKs sleep for exactly that long; none, and they hammer the backend."""
    body = b'{"error":{"message":"slow down","type":"rate_limit_error"}}'
    extra = b"Content-Length: %d\r\nRetry-After: %b\r\n" % (len(body), said) + LIMITS
    async with Upstream((head(extra, b"429 Too Many Requests"), body)) as up, running(config_for(up.url)) as gateway:
        status, headers, text = await post(gateway, stream=True)
    assert (status, headers["Retry-After"], headers["x-ratelimit-remaining-tokens"]) == (429, told_to_wait, "7")
    assert "slow down" in text
    assert headers["X-Upstream-Request-Id"] == "up_1"
    assert headers["X-Request-Id"] != "up_1"


async def test_what_cannot_succeed_is_not_to_be_retried() -> None:
    """A backend that refuses our key answers 502 here, which SDKs would retry for nothing, whatever it says itself."""
    body = b'{"error":{"message":"bad key"}}'
    extra = b"Content-Length: %d\r\nx-should-retry: true\r\n" % len(body)
    async with Upstream((head(extra, b"401 Unauthorized"), body)) as up, running(config_for(up.url)) as gateway:
        status, headers, _ = await post(gateway)
    assert (status, headers.getall("x-should-retry")) == (502, ["false"])


# -- keepalives --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "ping"), [("/v1/chat/completions", b": ping\n"), ("/api/chat", b""), ("/v1/messages", b": ping\n")]
)
async def test_keepalives_stand_between_frames_and_only_where_they_are_safe(path: str, ping: bytes) -> None:
    """Inside a frame one breaks its JSON, in NDJSON it breaks ollama-python."""
    half = TOKEN[:40]
    script = (head(), chunk(TOKEN), chunk(half), 1.2, chunk(TOKEN[40:] + DONE), b"0\r\n\r\n", HOLD)
    streams = Streams(keepalive=Duration(0.1))
    ask = {**ASK, "max_tokens": 9, "stream": True}
    async with (
        Upstream(script) as up,
        running(config_for(up.url, streams=streams)) as gateway,
        client(gateway) as session,
        asyncio.timeout(20),
        session.post(path, json=ask) as answer,
    ):
        body = await answer.read()
    without = body.replace(ping, b"") if ping else body
    assert (ping in body) if ping else (b": ping" not in body and b"\n\n" not in body)
    assert all(
        json.loads(line.removeprefix(b"data: ")) for line in without.split(b"\n") if line.startswith((b"data: {", b"{"))
    )
