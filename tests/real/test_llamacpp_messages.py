"""Anthropic's SDK before a real llama.cpp: through its own Messages API, and translated to its OpenAI one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import aiohttp
import anthropic
import pytest

pytest.importorskip("xllamacpp")

from anthropic.types import MessageParam, ToolParam
from support import llama
from support.gateway import Gateway, start_gateway
from support.script_text import TEXT, THINK, TOOL_ARGUMENTS, TOOL_NAME

pytestmark = pytest.mark.real

CONFIG = """
backends:
  own: {driver: llamacpp, url: "%(text)s"}
  translated: {driver: openai, url: "%(text)s/v1"}
  own-tools: {driver: llamacpp, url: "%(tool)s"}
  translated-tools: {driver: openai, url: "%(tool)s/v1"}
  endless: {driver: llamacpp, url: "%(endless)s"}
routes:
  - {model: own, to: own}
  - {model: translated, to: translated}
  - {model: own-tools, to: own-tools}
  - {model: translated-tools, to: translated-tools}
  - {model: endless, to: endless}
"""
SAY: list[MessageParam] = [{"role": "user", "content": "Say it."}]
WEATHER: list[ToolParam] = [
    {
        "name": TOOL_NAME,
        "description": "The weather in a city",
        "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    }
]


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
def gateway(servers: dict[str, llama.Llama]) -> Iterator[Gateway]:
    running = start_gateway(CONFIG % {kind: server.url for kind, server in servers.items()})
    try:
        yield running
    finally:
        running.stop()


def sdk(gateway: Gateway) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=gateway.url, api_key="none", max_retries=0)


@pytest.mark.parametrize("model", ["own", "translated"])
async def test_text_and_thinking_are_exact(gateway: Gateway, model: str) -> None:
    """A lost or doubled token would show in the text, streamed or whole."""
    async with sdk(gateway) as asked:
        async with asked.messages.stream(model=model, max_tokens=4000, messages=SAY) as stream:
            streamed = await stream.get_final_message()
        whole = await asked.messages.create(model=model, max_tokens=4000, messages=SAY)
    for message in (streamed, whole):
        text = "".join(block.text for block in message.content if block.type == "text")
        thinking = "".join(block.thinking for block in message.content if block.type == "thinking")
        assert (text.lstrip("\n"), thinking.strip()) == (TEXT, THINK.strip())
        assert message.stop_reason == "end_turn"
        assert message.usage.output_tokens > 200


@pytest.mark.parametrize("model", ["own-tools", "translated-tools"])
async def test_a_tool_call_is_whole(gateway: Gateway, model: str) -> None:
    """An agent could not run the tool."""
    async with (
        sdk(gateway) as asked,
        asked.messages.stream(model=model, max_tokens=400, messages=SAY, tools=WEATHER) as stream,
    ):
        message = await stream.get_final_message()
    (call,) = [block for block in message.content if block.type == "tool_use"]
    assert (call.name, call.input, message.stop_reason) == (TOOL_NAME, TOOL_ARGUMENTS, "tool_use")


async def test_tokens_are_counted_by_the_server(gateway: Gateway) -> None:
    """An estimate would be given where the server could count."""
    body = {"model": "own", "messages": SAY}
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{gateway.url}/v1/messages/count_tokens", json=body) as answer,
    ):
        assert answer.status == 200, await answer.text()
        assert "X-Headgate-Estimated" not in answer.headers
        assert (await answer.json())["input_tokens"] > 0


async def test_a_client_that_leaves_stops_the_generation(gateway: Gateway, servers: dict[str, llama.Llama]) -> None:
    """Somebody would pay for tokens nobody reads."""
    server = servers["endless"]
    async with sdk(gateway) as asked:
        async with asked.messages.stream(model="endless", max_tokens=100000, messages=SAY) as stream:
            async for _ in stream.text_stream:
                break
            await asyncio.to_thread(server.wait_busy, True, 2)
        assert await asyncio.to_thread(server.wait_busy, False, 2) < 2
