"""The gateway in front of a real llama.cpp: what the model says is what every client reads, and a cancel reaches it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

pytest.importorskip("xllamacpp")

from support import llama
from support.gateway import Gateway, start_gateway
from support.script_text import TEXT, THINK, TOOL_ARGUMENTS, TOOL_NAME

pytestmark = pytest.mark.real

CONFIG = """
streams: {on_disconnect: cancel}
backends:
  talks: {driver: llamacpp, url: "%s"}
  tools: {driver: llamacpp, url: "%s"}
  endless: {driver: llamacpp, url: "%s"}
routes:
  - {model: tools, to: tools}
  - {model: endless, to: endless}
  - {model: "*", to: talks}
"""
ASK = {"messages": [{"role": "user", "content": "Say it."}]}
WEATHER = {
    "type": "function",
    "function": {
        "name": TOOL_NAME,
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, llama.Llama]]:
    folder = tmp_path_factory.mktemp("llama")
    running: dict[str, llama.Llama] = {}
    try:
        for kind in ("text", "tool", "endless"):
            running[kind] = llama.start(kind, folder / f"{kind}.log")
        yield running
    finally:
        for server in running.values():
            server.stop()


@pytest.fixture(scope="module")
def gateway(servers: dict[str, llama.Llama], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    running = start_gateway(CONFIG % tuple(servers[kind].url for kind in ("text", "tool", "endless")))
    try:
        yield running
    finally:
        running.stop()
        (tmp_path_factory.mktemp("gateway") / Path("gateway.log")).write_text(running.log, encoding="utf-8")


@pytest.fixture
async def client() -> Any:
    async with aiohttp.ClientSession() as session:
        yield session


async def sse(answer: aiohttp.ClientResponse) -> list[tuple[str, dict[str, Any]]]:
    """All named events of an SSE answer, comments left out."""
    assert answer.status == 200, await answer.text()
    found = []
    for block in (await answer.text()).split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and not line.startswith(":"))
        if "data" in fields:
            found.append((fields.get("event", ""), json.loads(fields["data"])))
    return found


async def busy(server: llama.Llama, wanted: bool) -> float:
    """`wait_busy` for 2 s, in a thread: polling on the event loop would hold up the client's own close."""
    return await asyncio.to_thread(server.wait_busy, wanted, 2)


async def test_native_sse_is_exact(gateway: Gateway, client: aiohttp.ClientSession) -> None:
    """A lost, doubled or reordered token, or a code point broken between two, would show in the text."""
    async with client.post(f"{gateway.url}/api/streaming/chat", json={**ASK, "model": "scripted"}) as answer:
        events = await sse(answer)
    assert events[0][0] == "start"
    assert events[0][1]["streamId"] == answer.headers["X-Stream-Id"]
    assert "".join(data["content"] for name, data in events if name == "token").lstrip("\n") == TEXT
    assert "".join(data["content"] for name, data in events if name == "reasoning").strip() == THINK.strip()
    name, done = events[-1]
    assert (name, done["finishReason"], done["fullText"].lstrip("\n")) == ("done", "stop", TEXT)
    assert done["usage"]["completionTokens"] > 200


async def test_native_tool_call(gateway: Gateway, client: aiohttp.ClientSession) -> None:
    """A tool call split over many deltas must arrive whole, with its arguments parsed."""
    body = {**ASK, "model": "tools", "tools": [WEATHER]}
    async with client.post(f"{gateway.url}/api/streaming/chat", json=body) as answer:
        events = await sse(answer)
    calls = [data for name, data in events if name == "tool_call"]
    assert [(call["name"], call["arguments"]) for call in calls] == [(TOOL_NAME, TOOL_ARGUMENTS)]
    assert events[-1][1]["finishReason"] == "tool_calls"


async def test_conversation_ndjson_is_exact(gateway: Gateway, client: aiohttp.ClientSession) -> None:
    """NDJSON clients read one JSON object a line; the last one repeats the whole message."""
    url = f"{gateway.url}/api/v1/conversations/c1/stream"
    async with client.post(url, json={**ASK, "model": "scripted"}) as answer:
        assert answer.status == 200
        lines = [json.loads(line) for line in (await answer.text()).splitlines() if line]
    assert lines[0]["type"] == "start"
    assert "".join(line["content"] for line in lines if line["type"] == "message_chunk").lstrip("\n") == TEXT
    last = lines[-1]
    assert (last["type"], last["message"].lstrip("\n"), last["finish_reason"]) == ("complete_state", TEXT, "stop")


async def test_openai_sdk_reads_text_and_usage(gateway: Gateway) -> None:
    """The official SDK, pointed at the gateway and changed in nothing else, must read the stream to its end."""
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as sdk:
        stream = await sdk.chat.completions.create(
            model="scripted",
            messages=[{"role": "user", "content": "Say it."}],
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text.lstrip("\n") == TEXT
    assert [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason] == ["stop"]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 200


async def test_openai_sdk_reads_a_tool_call(gateway: Gateway) -> None:
    """A client that asked for a whole answer gets the fold of a stream, tool call included."""
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as sdk:
        answer = await sdk.chat.completions.create(
            model="tools",
            messages=[{"role": "user", "content": "Weather?"}],
            tools=[WEATHER],  # type: ignore[list-item]
        )
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == (TOOL_NAME, TOOL_ARGUMENTS)
    assert answer.choices[0].finish_reason == "tool_calls"


async def test_delete_stops_the_generation(
    gateway: Gateway, servers: dict[str, llama.Llama], client: aiohttp.ClientSession
) -> None:
    """A cancel that only cut the client off would leave the model generating, and its slot taken."""
    server = servers["endless"]
    async with client.post(f"{gateway.url}/api/streaming/chat", json={**ASK, "model": "endless"}) as answer:
        stream_id = answer.headers["X-Stream-Id"]
        await answer.content.readuntil(b"event: token")
        await busy(server, True)
        async with client.delete(f"{gateway.url}/api/streaming/{stream_id}") as deleted:
            told = await deleted.json()
        assert (deleted.status, told["state"]) == (200, "cancelled")
        assert await busy(server, False) < 2
        rest = await answer.text()
    assert '"finishReason":"cancelled"' in rest or '"code":"cancelled"' in rest


async def test_a_client_that_leaves_stops_the_generation(
    gateway: Gateway, servers: dict[str, llama.Llama], client: aiohttp.ClientSession
) -> None:
    """If a client's leaving did not reach the model, somebody would pay for tokens nobody reads."""
    server = servers["endless"]
    answer = await client.post(f"{gateway.url}/v1/chat/completions", json={**ASK, "model": "endless", "stream": True})
    await answer.content.readuntil(b"content")
    await busy(server, True)
    answer.close()
    assert await busy(server, False) < 2
