"""OpenAI's SDK through the gateway in front of a real llama.cpp: both completion APIs, whole and streamed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

pytest.importorskip("xllamacpp")

from support import llama
from support.inprocess import config_for, running
from support.script_text import TEXT

from backends import catalog
from backends.contract.request import ChatRequest, Message
from config.schema import Backend

pytestmark = pytest.mark.real

USER: Any = [{"role": "user", "content": "Say it."}]
PLAIN: Any = {"chat_template_kwargs": {"enable_thinking": False}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[llama.Llama]:
    started = llama.start("text", Path(tmp_path_factory.mktemp("llama")) / "text.log")
    try:
        yield started
    finally:
        started.stop()


@pytest.fixture
async def sdk(server: llama.Llama) -> AsyncIterator[openai.AsyncOpenAI]:
    async with running(config_for(server.url, driver="llamacpp")) as gateway:
        base = f"http://127.0.0.1:{gateway.public_port}/v1"
        async with openai.AsyncOpenAI(api_key="k", base_url=base, max_retries=0) as client:
            yield client


async def test_a_whole_chat_with_what_only_this_server_says(sdk: openai.AsyncOpenAI) -> None:
    """Its timings, fingerprint and log probabilities come on frames of their own and would be lost."""
    whole = await sdk.chat.completions.create(
        model="mine", messages=USER, extra_body=PLAIN, logprobs=True, top_logprobs=1
    )
    choice = whole.choices[0]
    assert (choice.message.content or "").lstrip("\n") == TEXT
    assert (whole.object, choice.finish_reason) == ("chat.completion", "stop")
    assert whole.system_fingerprint
    assert whole.usage is not None
    assert whole.usage.completion_tokens > 150
    assert (whole.model_extra or {})["timings"]
    assert choice.logprobs is not None
    assert len(choice.logprobs.content or []) > 150


async def test_the_older_api_whole_and_streamed(sdk: openai.AsyncOpenAI) -> None:
    """A prompt would be wrapped in a chat's template, or its text cut into pieces that do not fit."""
    whole = await sdk.completions.create(model="mine", prompt="Hello", max_tokens=40)
    assert whole.choices[0].text
    assert (whole.object, whole.choices[0].finish_reason) == ("text_completion", "length")
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 40
    stream = await sdk.completions.create(model="mine", prompt="Hello", max_tokens=40, stream=True)
    pieces = [piece.choices[0].text async for piece in stream if piece.choices]
    assert "".join(pieces) == whole.choices[0].text
    assert len(pieces) > 20


async def test_a_stream_that_is_left_stops_the_server(sdk: openai.AsyncOpenAI, server: llama.Llama) -> None:
    """It would go on generating for nobody."""
    stream = await sdk.completions.create(model="mine", prompt="Hello", max_tokens=100_000, stream=True)
    async for _ in stream:
        break
    await stream.close()
    await asyncio.to_thread(server.wait_busy, False, 2)


async def test_its_prompt_is_counted_without_generating(server: llama.Llama) -> None:
    """Clients that count before they ask would be told that this server cannot."""
    driver = catalog.build("up", Backend(driver="llamacpp", url=server.url))
    call = driver.count(ChatRequest("m", (Message("system", "Be brief."), Message("user", "Say it."))))
    assert call is not None
    async with aiohttp.ClientSession() as http, http.post(server.url + call.path, data=call.body) as answer:
        assert driver.read_count(await answer.read()) > 5
