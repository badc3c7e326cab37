"""The official openai SDK through a whole gateway, in front of scripted servers: what it reads is what they said."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from support.inprocess import config_for, running
from support.upstream import Upstream, chunk, head

ROOT = Path(__file__).parent.parent / "transcripts"
USER: Any = [{"role": "user", "content": "hi"}]
WEATHER: Any = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


def streams(path: str) -> list[bytes]:
    """A transcript as a whole chunked answer."""
    return [head() + chunk((ROOT / path).read_bytes()) + b"0\r\n\r\n"]


def says(body: Any, status: bytes = b"200 OK") -> list[bytes]:
    """A JSON answer."""
    raw = json.dumps(body).encode()
    return [b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (status, len(raw), raw)]


@asynccontextmanager
async def asking(url: str = "", driver: str = "openai") -> AsyncIterator[openai.AsyncOpenAI]:
    """An SDK's client of a gateway before one backend; without a url, the demo."""
    async with running(config_for(url, driver=driver)) as gateway:
        base = f"http://127.0.0.1:{gateway.public_port}/v1"
        async with openai.AsyncOpenAI(api_key="k", base_url=base, max_retries=0) as sdk:
            yield sdk


def sent(up: Upstream) -> Any:
    return json.loads(up.requests[-1][1])


async def test_several_choices_whole_and_streamed() -> None:
    """`n: 2` would come back as one answer, or mixed up."""
    async with Upstream(streams("openai/choices.sse")) as up, asking(up.url) as sdk:
        whole = await sdk.chat.completions.create(model="mine", messages=USER, n=2)
        assert [(c.index, c.message.content, c.finish_reason) for c in whole.choices] == [
            (0, "One é!", "stop"), (1, "Deux?", "length"),
        ]  # fmt: skip
        assert (whole.id, whole.model, whole.service_tier) == ("chatcmpl-1", "gpt-x", "default")
        assert whole.usage is not None
        assert whole.usage.total_tokens == 14
        texts = ["", ""]
        async for piece in await sdk.chat.completions.create(model="mine", messages=USER, n=2, stream=True):
            for choice in piece.choices:
                texts[choice.index] += choice.delta.content or ""
        assert (texts, sent(up)["n"]) == (["One é!", "Deux?"], 2)


async def test_log_probabilities_and_annotations() -> None:
    """They would be lost between the stream the gateway asks for and the answer the client wants."""
    async with Upstream(streams("openai/logprobs.sse")) as up, asking(up.url) as sdk:
        whole = await sdk.chat.completions.create(model="m", messages=USER, logprobs=True, top_logprobs=1)
        choice = whole.choices[0]
        assert choice.logprobs is not None
        assert [item.token for item in choice.logprobs.content or []] == ["Hey", "\\xe2\\x98", "\\x95"]
        assert choice.message.content == "Hey☕!"
        notes = choice.message.annotations or []
        assert (notes[0].url_citation.url, len(notes)) == ("https://h/a", 2)


async def test_tool_calls_whole_and_streamed() -> None:
    """An agent could not run its tools."""
    async with Upstream(streams("openai/tools.sse")) as up, asking(up.url) as sdk:
        whole = await sdk.chat.completions.create(model="m", messages=USER, tools=WEATHER)
        calls = [c.function for c in whole.choices[0].message.tool_calls or [] if c.type == "function"]
        assert (calls[0].name, calls[0].arguments) == ("f", '{"a":1}')
        assert whole.choices[0].finish_reason == "tool_calls"
        async with sdk.chat.completions.stream(model="m", messages=USER, tools=WEATHER) as stream:
            final = await stream.get_final_completion()
        assert (final.choices[0].message.tool_calls or [])[0].function.name == "f"


async def test_the_older_api_reaches_a_server_that_has_it() -> None:
    """A completion model would be asked as a chat, or not at all."""
    async with Upstream(streams("vllm/completions.sse")) as up, asking(up.url, "vllm") as sdk:
        whole = await sdk.completions.create(model="mine", prompt=["a", "b"], echo=True, max_tokens=3)
        assert (whole.choices[0].text, whole.choices[0].finish_reason) == ('Once "upon"', "length")
        assert (whole.id, whole.model, whole.object) == ("cmpl-3", "m", "text_completion")
        assert whole.usage is not None
        assert whole.usage.completion_tokens == 3
        assert up.requests[-1][0].startswith(b"POST /v1/completions ")
        assert (sent(up)["prompt"], sent(up)["echo"], sent(up)["stream"]) == (["a", "b"], True, True)
        pieces = [p async for p in await sdk.completions.create(model="mine", prompt="a", stream=True)]
        assert "".join(p.choices[0].text for p in pieces if p.choices) == 'Once "upon"'
        assert all(p.choices for p in pieces)  # nobody asked for usage


async def test_the_older_api_on_a_backend_that_chats() -> None:
    """Old clients could not use any newer model."""
    async with asking() as sdk:
        prompt = "tell [tokens=5] [rate=0] [reasoning]"
        whole = await sdk.completions.create(model="m", prompt=prompt)
        assert whole.choices[0].text
        assert (whole.object, whole.choices[0].finish_reason) == ("text_completion", "stop")
        stream = await sdk.completions.create(
            model="m", prompt=prompt, stream=True, stream_options={"include_usage": True}
        )
        pieces = [p async for p in stream]
        assert "".join(p.choices[0].text for p in pieces if p.choices) == whole.choices[0].text
        assert pieces[-1].usage is not None
        assert pieces[-1].usage.completion_tokens > 4
        with pytest.raises(openai.BadRequestError, match="several prompts"):
            await sdk.completions.create(model="m", prompt=["a", "b"])
        with pytest.raises(openai.APIError):
            async for _ in await sdk.completions.create(model="m", prompt="[fail=error@2]", stream=True):
                pass


async def test_a_chat_backend_of_another_dialect() -> None:
    """Usage, reasons or text would differ from what the same client reads of OpenAI."""
    async with Upstream(streams("anthropic/text.sse")) as up, asking(up.url, "anthropic") as sdk:
        whole = await sdk.chat.completions.create(model="m", messages=USER)
        assert whole.choices[0].message.content
        assert whole.choices[0].finish_reason == "stop"
        with pytest.raises(openai.BadRequestError, match="cannot do n"):
            await sdk.chat.completions.create(model="m", messages=USER, n=2)
        with pytest.raises(openai.BadRequestError, match="logprobs"):
            await sdk.chat.completions.create(model="m", messages=USER, logprobs=True)


VECTORS = {
    "object": "list",
    "model": "real",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.5, -1.0]}],
    "usage": {"prompt_tokens": 3, "total_tokens": 3},
}


async def test_embeddings_of_an_openai_backend_pass_untouched() -> None:
    """The SDK asks for base64 and reads what comes: a translation in between could only lose precision."""
    async with Upstream(says(VECTORS)) as up, asking(f"{up.url}/v1") as sdk:
        got = await sdk.embeddings.create(model="mine", input=["a"], dimensions=2, encoding_format="float")
        assert (got.data[0].embedding, got.model, got.usage.total_tokens) == ([0.5, -1.0], "real", 3)
        assert up.requests[-1][0].startswith(b"POST /v1/embeddings ")
        assert sent(up) == {"model": "mine", "input": ["a"], "dimensions": 2, "encoding_format": "float"}
        await sdk.embeddings.create(model="mine", input=[[1, 2]])
        assert (sent(up)["encoding_format"], sent(up)["input"]) == ("base64", [[1, 2]])


async def test_embeddings_are_refused_in_openais_words() -> None:
    """The SDK would raise something else, or retry what cannot succeed."""
    async with asking() as sdk:
        with pytest.raises(openai.BadRequestError, match="cannot make embeddings"):
            await sdk.embeddings.create(model="m", input="a")
    refusal = says({"error": {"message": "too long", "type": "t"}}, b"400 Bad Request")
    async with Upstream(refusal) as up, asking(up.url) as sdk:
        with pytest.raises(openai.BadRequestError, match="too long"):
            await sdk.embeddings.create(model="m", input="a")
        with pytest.raises(openai.BadRequestError, match="encoding_format"):
            await sdk.embeddings.create(model="m", input="a", encoding_format="morse")  # type: ignore[call-overload]
        with pytest.raises(openai.BadRequestError, match="input: expected"):
            await sdk.embeddings.create(model="m", input=5)  # type: ignore[arg-type]
