"""Ollama's clients at the gateway: the real SDK, in front of the demo, of another provider and of an Ollama server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import ollama
import pytest
from support.inprocess import client, config_for, running
from support.upstream import CLOSE, Step, Upstream, chunk, head

from config.schema import Config, Key, Server, Streams
from config.values import Duration
from gateway.access.keys import create
from gateway.app import Gateway
from gateway.streams.watchdog import SWEEP

ASK = [{"role": "user", "content": "hi [tokens=5]"}]
LINES = [
    b'{"model":"m","created_at":"2026-01-01T00:00:00Z","new":{"a":1},"message":{"role":"assistant","content":"H\xc3\xa9"},"done":false}\n',
    b'{"model":"m","message":{"role":"assistant","content":" \\u2028x","thinking":"t"},"done":false}\n',
    b'{"model":"m","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","total_duration":9,"eval_count":2,"y":[1]}\n',
]


def sse(*deltas: dict[str, Any], finish: str = "stop") -> list[bytes]:
    """An OpenAI stream of these deltas, without its end."""
    last = {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}
    chunks = [{"id": "c", "choices": [{"index": 0, "delta": d, "finish_reason": None}]} for d in deltas] + [last]
    return [chunk(b"data: " + json.dumps(c).encode() + b"\n\n") for c in chunks]


END = chunk(b"data: [DONE]\n\n") + chunk(b"")


def reply(body: bytes, status: bytes = b"200 OK") -> list[Step]:
    """A whole JSON answer."""
    return [head(b"Content-Length: %d\r\n" % len(body), status) + body]


@asynccontextmanager
async def sdk_for(config: Config, **headers: str) -> AsyncIterator[tuple[ollama.AsyncClient, Gateway]]:
    async with (
        running(config) as gateway,
        ollama.AsyncClient(host=f"http://127.0.0.1:{gateway.public_port}", headers=headers) as sdk,
    ):
        yield sdk, gateway


async def test_the_sdk_chats_and_generates() -> None:
    """A frontend for Ollama could not be pointed at the gateway."""
    async with sdk_for(config_for()) as (sdk, _):
        whole = await sdk.chat("demo", ASK)
        assert (whole.message.content, whole.done, whole.done_reason, whole.eval_count) == (
            "You said: “hi”. What a ", True, "stop", 5,
        )  # fmt: skip
        parts = [part async for part in await sdk.chat("demo", ASK, stream=True, tools=[])]
        assert "".join(p.message.content or "" for p in parts) == whole.message.content
        assert [p.done for p in parts] == [False] * (len(parts) - 1) + [True]
        generated = [p async for p in await sdk.generate("demo", "hi [tokens=5]", system="be kind", stream=True)]
        assert "".join(p.response or "" for p in generated) == whole.message.content
        last = generated[-1]
        assert last.prompt_eval_count
        for duration in (last.total_duration, last.load_duration, last.prompt_eval_duration, last.eval_duration):
            assert isinstance(duration, int)
        called = await sdk.chat("demo", [{"role": "user", "content": "[tool=search]"}])
        assert called.message.tool_calls
        assert called.message.tool_calls[0].function.arguments == {"query": "demo"}


async def test_the_sdk_reads_thoughts_past_keepalives_and_line_ends_within_text() -> None:
    """A blank line, or a line end of Unicode's within a text, breaks the SDK in the middle of an answer."""
    first, second, *rest = sse({"reasoning_content": "why"}, {"content": "a\u2028b\x85c"}, {"content": "!"})
    async with Upstream([head(), first, 2.5 * SWEEP, second, *rest, END]) as up:
        config = config_for(up.url, streams=Streams(keepalive=Duration(0.05)))
        async with sdk_for(config) as (sdk, gateway), client(gateway) as http:
            raw = asyncio.ensure_future(_raw(http))
            parts = [p async for p in await sdk.chat("gpt", ASK, stream=True, think=True, options={"num_predict": 9})]
            assert "".join(p.message.thinking or "" for p in parts) == "why"
            assert "".join(p.message.content or "" for p in parts) == "a\u2028b\x85c!"
            assert b"\n {" in await raw or b"\n  " in await raw
    asked = [json.loads(body) for _, body in up.requests]
    assert any(a.get("max_tokens") == 9 and a["messages"] == ASK for a in asked)


async def _raw(http: aiohttp.ClientSession) -> bytes:
    async with http.post("/api/chat", json={"model": "x", "messages": ASK}) as response:
        assert response.content_type == "application/x-ndjson"
        return await response.read()


@pytest.mark.parametrize("prompt", ["[fail=error@3]", "[fail=cut@3]"])
async def test_the_sdk_raises_when_a_stream_breaks(prompt: str) -> None:
    """It takes a mere end for success: half an answer would be shown as a whole one."""
    async with sdk_for(config_for()) as (sdk, _):
        stream = await sdk.chat("demo", [{"role": "user", "content": prompt}], stream=True)
        assert [(await anext(aiter(stream))).done for _ in range(3)] == [False] * 3
        with pytest.raises(ollama.ResponseError):
            await anext(aiter(stream))
        with pytest.raises(ollama.ResponseError) as caught:
            await sdk.generate("demo", prompt)
        assert caught.value.status_code == 502


async def test_early_errors_have_their_status() -> None:
    """A client would retry what cannot work, or not retry what can."""
    async with sdk_for(config_for()) as (sdk, _):
        for prompt, status in (("[fail=http429]", 429), ("[fail=http500]", 502)):
            with pytest.raises(ollama.ResponseError) as caught:
                await sdk.chat("demo", [{"role": "user", "content": prompt}])
            assert caught.value.status_code == status
        for call, status in (
            (sdk.generate("demo", "a", suffix="b"), 400),
            (sdk.show("nobody"), 404),
            (sdk.embed("demo", "x"), 400),
            (sdk.pull("x"), 501),
            (sdk.delete("x"), 501),
        ):
            with pytest.raises(ollama.ResponseError) as caught:
                await call  # type: ignore[misc]  # each is a coroutine of another type
            assert caught.value.status_code == status
            assert "{" not in caught.value.error


async def test_the_sdk_lists_and_shows_what_there_is() -> None:
    """Frontends for Ollama begin by asking which models there are, and show nothing without them."""
    async with sdk_for(config_for()) as (sdk, gateway):
        assert [m.model for m in (await sdk.list()).models] == ["demo"]
        shown = await sdk.show("demo")
        assert shown.capabilities == ["completion", "tools", "thinking"]  # it takes images and does not see them
        assert not (await sdk.ps()).models
        stream = await sdk.chat("demo", [{"role": "user", "content": "[tokens=400]"}], stream=True)
        await anext(aiter(stream))
        assert [m.model for m in (await sdk.ps()).models] == ["demo"]
        async with client(gateway) as http, http.get("/api/version") as response:
            version = [int(part) for part in (await response.json())["version"].split(".")]
            assert version >= [0, 12, 11]  # Copilot turns away from less than 0.6.4, others from less than they need


async def test_loading_and_unloading_is_nothing_to_other_backends() -> None:
    """Frontends that load a model before the first question would stop at an error."""
    async with sdk_for(config_for()) as (sdk, _):
        assert (await sdk.generate("demo")).done_reason == "load"
        assert (await sdk.chat("demo", [], keep_alive=0)).done_reason == "unload"
        parts = [p async for p in await sdk.generate("demo", "", stream=True)]
        assert [(p.done, p.done_reason, p.response) for p in parts] == [(True, "load", "")]


@pytest.mark.parametrize("cut", [1, 40, 10_000])
async def test_an_ollama_servers_lines_pass_unchanged(cut: int) -> None:
    """A field that only client and server know would be lost, or a byte change on the way."""
    body = b"".join(LINES)
    pieces = [chunk(body[i : i + cut]) for i in range(0, len(body), cut)]
    ask = {"model": "m", "messages": ASK, "options": {"mirostat": 2}, "brand_new": [1]}
    async with (
        Upstream([head(), *pieces, chunk(b"")]) as up,
        running(config_for(up.url, driver="ollama")) as gateway,
        client(gateway) as http,
    ):
        async with http.post("/api/chat", json=ask) as response:
            assert await response.read() == body
        async with http.post("/api/chat", json={**ask, "stream": False}) as response:
            whole = await response.json()
    assert json.loads(up.requests[0][1]) == {**ask, "stream": True}
    assert (whole["message"], whole["new"], whole["y"]) == (
        {"role": "assistant", "content": "Hé \u2028x", "thinking": "t"}, {"a": 1}, [1],
    )  # fmt: skip


async def test_an_ollama_servers_own_errors_and_ends_are_told() -> None:
    """A server that breaks off would look as if it had finished."""
    scripts: list[list[Step]] = [
        [head(), chunk(LINES[0]), chunk(b'{"error":"out of memory"}\n'), chunk(b"")],
        [head(), chunk(LINES[0]), CLOSE],
        reply(b'{"error":"model \'m\' not found"}', b"404 Not Found"),
    ]
    for script, message, status in zip(
        scripts, ("out of memory", "broke|closed", "not found"), (-1, -1, 404), strict=True
    ):
        async with Upstream(script) as up, sdk_for(config_for(up.url, driver="ollama")) as (sdk, _):
            with pytest.raises(ollama.ResponseError, match=message) as caught:
                [part async for part in await sdk.chat("m", ASK, stream=True)]
            assert caught.value.status_code == status


async def test_generate_goes_to_generate_and_loading_to_the_server() -> None:
    """A raw prompt would be put into a chat template, and a model not be loaded."""
    line = b'{"model":"m","response":"x","done":true,"done_reason":"load","context":[1,2],"eval_count":1}\n'
    async with (
        Upstream([head(), chunk(line), chunk(b"")]) as up,
        sdk_for(config_for(up.url, driver="ollama")) as (sdk, _),
    ):
        assert (await sdk.generate("m", "p", raw=True, context=[1])).context == [1, 2]
        assert (await sdk.generate("m")).done_reason == "load"
    assert [request.split(b" ")[1] for request, _ in up.requests] == [b"/api/generate"] * 2
    assert json.loads(up.requests[0][1])["raw"] is True


async def test_an_ollama_server_is_asked_for_what_it_knows() -> None:
    """Sizes, digests and templates of local models would be lost behind the gateway."""
    row = {"name": "l:1", "model": "l:1", "size": 7, "digest": "d", "modified_at": "2026-01-02T00:00:00Z"}
    rows = json.dumps({"models": [row]}).encode()
    shown = b'{"template":"T","model_info":{"general.architecture":"llama"},"capabilities":["vision"]}'
    script = [reply(rows), reply(rows), reply(shown), reply(rows)]
    async with Upstream(*script) as up, sdk_for(config_for(up.url, driver="ollama")) as (sdk, _):
        (listed,) = (await sdk.list()).models
        assert (listed.model, listed.digest, int(listed.size or 0)) == ("l:1", "d", 7)
        assert (await sdk.show("l:1")).template == "T"
        assert [(m.model, int(m.size or 0)) for m in (await sdk.ps()).models] == [("l:1", 7)]
    assert json.loads(up.requests[2][1])["model"] == "l:1"


async def test_embeddings_of_both_kinds_of_backend() -> None:
    """A client for Ollama could not embed with other providers' models, or lose its options with its own."""
    openai = b'{"data":[{"index":0,"embedding":[1.0,2.0]}],"usage":{"prompt_tokens":3,"total_tokens":3}}'
    async with Upstream(reply(openai)) as up, sdk_for(config_for(up.url)) as (sdk, _):
        found = await sdk.embed("text-embedding-3-small", "hi", dimensions=2)
        assert (found.embeddings, found.prompt_eval_count) == ([[1.0, 2.0]], 3)
        assert (await sdk.embeddings("text-embedding-3-small", "hi")).embedding == [1.0, 2.0]
    assert json.loads(up.requests[0][1])["dimensions"] == 2
    own = b'{"embeddings":[[1],[2]],"prompt_eval_count":4}'
    async with Upstream(reply(own)) as up, sdk_for(config_for(up.url, driver="ollama")) as (sdk, _):
        assert (await sdk.embed("nomic", ["a", "b"], truncate=False)).embeddings == [[1.0], [2.0]]
    assert json.loads(up.requests[0][1])["truncate"] is False


async def test_keys_and_prefixes_hold_for_every_path() -> None:
    """A list of models, or a model, would be open to callers without a key."""
    secret, made = create("k", "acme")
    key = Key(id="k", owner="acme", hash=made.hash, models=("demo*",))
    server = Server(port=0, prefixes={"ollama": "/ollama"})
    async with running(config_for(keys=(key,), server=server)) as gateway:
        url = f"http://127.0.0.1:{gateway.public_port}/ollama"
        async with client(gateway) as http, http.head("/ollama/") as response:
            assert response.status == 200
        async with ollama.AsyncClient(host=url) as stranger:
            for call in (stranger.list(), stranger.ps(), stranger.show("demo"), stranger.generate("demo")):
                with pytest.raises(ollama.ResponseError) as caught:
                    await call  # type: ignore[misc]
                assert caught.value.status_code == 401
        async with ollama.AsyncClient(host=url, headers={"Authorization": f"Bearer {secret}"}) as sdk:
            assert [m.model for m in (await sdk.list()).models] == ["demo"]
            with pytest.raises(ollama.ResponseError) as caught:
                await sdk.generate("other")
            assert caught.value.status_code == 403


async def test_a_client_that_leaves_stops_the_backend() -> None:
    """A local model would go on working for nobody."""
    async with (
        Upstream([head(), chunk(LINES[0]), 30.0]) as up,
        sdk_for(config_for(up.url, driver="ollama")) as (sdk, _),
    ):
        stream = await sdk.chat("m", ASK, stream=True)
        await anext(aiter(stream))
        await stream.aclose()  # type: ignore[attr-defined]  # an async generator, typed as an iterator
        async with asyncio.timeout(5):
            while not up.closed_at:
                await asyncio.sleep(0.01)
