"""Two real llama.cpp servers behind one route; the first is killed in mid-answer. Every client reads the whole text."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import anthropic
import ollama
import openai
import pytest

pytest.importorskip("xllamacpp")

from support import llama
from support.fuse import Fuse
from support.inprocess import client, running
from support.script_text import CHAIN, TEXT

from config.schema import Admin, Backend, Config, Route, Server, Target
from gateway.app import Gateway

pytestmark = pytest.mark.real
AT = 50  # tokens of text after which the server is killed; where there is a chat, 20 of thinking come before


@pytest.fixture(scope="module")
def survivor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[llama.Llama]:
    server = llama.start("text", tmp_path_factory.mktemp("llama") / "two.log")
    yield server
    server.stop()


@pytest.fixture
async def gateway(survivor: llama.Llama, tmp_path: Path) -> AsyncIterator[Gateway]:
    doomed = llama.start("text", tmp_path / "one.log")
    try:
        async with Fuse(doomed.url, doomed.kill, AT).lit() as url:
            urls = {"one": url, "two": survivor.url}
            backends = {name: Backend(driver="llamacpp", url=url) for name, url in urls.items()}
            route = Route(model="*", to=(Target("one"), Target("two")), policy="ordered", on_failure="continue")
            config = Config(server=Server(port=0), admin=Admin(port=0), backends=backends, routes=(route,))
            async with running(config) as started:
                yield started
                (receipt,) = [found for _, found in started.registry._receipts._items.values()]  # type: ignore[attr-defined]
                assert [(t.backend, t.kind) for t in receipt.tries] == [("one", "start")]
                assert AT - 5 < receipt.tries[0].tokens <= AT + 20
                assert receipt.completion_tokens >= 199  # of both, whichever way the first one counts
    finally:
        doomed.stop()


ASK: list[Any] = [{"role": "user", "content": "Say it."}]


async def test_openai(gateway: Gateway) -> None:
    """An application on OpenAI's SDK would lose its answer with the server."""
    url = f"http://127.0.0.1:{gateway.public_port}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as sdk:
        stream = await sdk.chat.completions.create(model="m", messages=ASK, stream=True, max_tokens=400)
        said = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
    assert "".join(said) == TEXT


async def test_anthropic(gateway: Gateway) -> None:
    """An application on Anthropic's SDK would lose its answer with the server."""
    url = f"http://127.0.0.1:{gateway.public_port}"
    async with (
        anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as sdk,
        sdk.messages.stream(model="m", messages=ASK, max_tokens=400) as stream,
    ):
        assert "".join([text async for text in stream.text_stream]) == TEXT
        assert (await stream.get_final_message()).stop_reason == "end_turn"


async def test_ollama(gateway: Gateway) -> None:
    """An application on Ollama's SDK would lose its answer with the server."""
    sdk = ollama.AsyncClient(f"http://127.0.0.1:{gateway.public_port}")
    said = [part.message.content or "" async for part in await sdk.chat("m", ASK, stream=True)]
    assert "".join(said) == TEXT


@pytest.mark.parametrize("path", ["/api/streaming/chat", "/api/v1/conversations/c/stream"])
async def test_native_and_ndjson(gateway: Gateway, path: str) -> None:
    """Our own clients would lose their answer with the server, or find a gap in its numbers."""
    said, ids = [], []
    accept = {"Accept": "application/x-ndjson" if "conversations" in path else "text/event-stream"}
    async with client(gateway) as session:
        answer = await session.post(path, json={"model": "m", "messages": ASK, "stream": True}, headers=accept)
        async for line in answer.content:
            text = line.decode().strip()
            if text.startswith("id: "):
                ids.append(int(text.rpartition(".")[2]))
            raw = text.removeprefix("data: ")
            if raw.startswith("{"):
                data = json.loads(raw)
                token = data.get("type") == "message_chunk" or ("tokenCount" in data and "fullText" not in data)
                said.append(data["content"] if token else "")
    assert "".join(said) == TEXT
    assert ids == list(range(1, len(ids) + 1))


async def test_completions(gateway: Gateway) -> None:
    """The older API goes on by its prompt alone."""
    async with client(gateway) as session:
        answer = await session.post(
            "/v1/completions", json={"model": "m", "prompt": CHAIN[0], "stream": True, "max_tokens": 400}
        )
        with suppress(aiohttp.ClientPayloadError):
            page = await answer.text()
        said = [
            json.loads(line[6:])["choices"][0]["text"]
            for line in page.splitlines()
            if line.startswith('data: {"') and '"text"' in line
        ]
    assert CHAIN[0] + "".join(said) == TEXT
