"""Clients of the APIs the gateway serves: what they share, and openai-python (others: `*_client(s)` beside it).

Each `ask` sends one request and returns what the client understood; what an SDK raises is in `Heard.error`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import aiohttp
import anthropic
import httpx
import ollama
import openai
from support.heard import Calls, Heard

Json = dict[str, Any]
RAISED = (openai.OpenAIError, anthropic.AnthropicError, ollama.ResponseError, httpx.HTTPError, aiohttp.ClientError)


class Client(ABC):
    """One API. `path` and `body`: the plainest request, for tests that speak HTTP themselves."""

    name: ClassVar[str]
    path: ClassVar[str]
    headers: ClassVar[dict[str, str]] = {}
    raised: ClassVar[tuple[type[Exception], ...]] = RAISED  # by its SDK

    def __init__(self, base: str) -> None:
        self.base = base

    @classmethod
    @abstractmethod
    def body(cls, *, stream: bool) -> Json:
        """The plainest request: `hi`, to the model `m`."""

    @classmethod
    def target(cls, *, stream: bool) -> str:
        """Where it is posted to."""
        return cls.path

    async def ask(self, *, stream: bool, **more: Any) -> Heard:
        """What was understood; `more` are further fields of the request, in the SDK's words."""
        heard = Heard()
        try:
            await (self.streamed if stream else self.whole)(heard, more)
        except self.raised as error:
            heard.error = f"{type(error).__name__}: {error}"
        return heard

    @abstractmethod
    async def streamed(self, heard: Heard, more: Json) -> None: ...

    @abstractmethod
    async def whole(self, heard: Heard, more: Json) -> None: ...

    async def close(self) -> None:  # noqa: B027 - some have nothing to close
        """Let go of connections."""


def _openai_usage(usage: Any) -> tuple[int, ...]:
    prompt, completion = usage.prompt_tokens_details, usage.completion_tokens_details
    return (
        usage.prompt_tokens,
        usage.completion_tokens,
        (completion.reasoning_tokens or 0) if completion else 0,
        (prompt.cached_tokens or 0) if prompt else 0,
    )


class Chat(Client):
    """openai-python, chat completions."""

    name = "openai"
    path = "/v1/chat/completions"

    def __init__(self, base: str) -> None:
        super().__init__(base)
        self.sdk = openai.AsyncOpenAI(api_key="k", base_url=f"{base}/v1", max_retries=0)

    async def close(self) -> None:
        await self.sdk.close()

    @classmethod
    def body(cls, *, stream: bool) -> Json:
        options: Json = {"stream_options": {"include_usage": True}} if stream else {}
        return {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": stream, **options}

    async def streamed(self, heard: Heard, more: Json) -> None:
        calls = Calls()
        async for chunk in await self.sdk.chat.completions.create(**{**self.body(stream=True), **more}):
            if chunk.usage is not None:
                heard.usage = _openai_usage(chunk.usage)
            for choice in chunk.choices:
                delta = choice.delta
                if choice.index:
                    heard.other(choice.index, delta.content or "", choice.finish_reason)
                    continue
                heard.text += delta.content or ""
                heard.reasoning += getattr(delta, "reasoning_content", None) or getattr(delta, "reasoning", None) or ""
                for call in delta.tool_calls or ():
                    function = call.function
                    calls.add(call.index, call.id, function and function.name, function and function.arguments)
                heard.finish = choice.finish_reason or heard.finish
                heard.logprobs += len((choice.logprobs and choice.logprobs.content) or ())
        calls.into(heard)

    async def whole(self, heard: Heard, more: Json) -> None:
        answer = await self.sdk.chat.completions.create(**{**self.body(stream=False), **more})
        choice = answer.choices[0]
        heard.text = choice.message.content or ""
        said = choice.message
        heard.reasoning = getattr(said, "reasoning_content", None) or getattr(said, "reasoning", None) or ""
        for call in choice.message.tool_calls or ():
            heard.call(call.function.name, call.function.arguments, call.id)
        heard.finish, heard.usage = choice.finish_reason, _openai_usage(answer.usage)
        heard.logprobs = len((choice.logprobs and choice.logprobs.content) or ())
        for other in answer.choices[1:]:
            heard.other(other.index, other.message.content or "", other.finish_reason)


class Completions(Chat):
    """openai-python, the older completions."""

    name = "openai_completions"
    path = "/v1/completions"

    @classmethod
    def body(cls, *, stream: bool) -> Json:
        options: Json = {"stream_options": {"include_usage": True}} if stream else {}
        return {"model": "m", "prompt": "hi", "stream": stream, **options}

    async def streamed(self, heard: Heard, more: Json) -> None:
        async for chunk in await self.sdk.completions.create(**{**self.body(stream=True), **more}):
            if chunk.usage is not None:
                heard.usage = _openai_usage(chunk.usage)
            for choice in chunk.choices:
                if choice.index:
                    heard.other(choice.index, choice.text or "", choice.finish_reason)
                else:
                    heard.finish = choice.finish_reason or heard.finish
                    self._read_text(heard, choice)

    async def whole(self, heard: Heard, more: Json) -> None:
        answer = await self.sdk.completions.create(**{**self.body(stream=False), **more})
        heard.finish, heard.usage = answer.choices[0].finish_reason or "", _openai_usage(answer.usage)
        self._read_text(heard, answer.choices[0])
        for other in answer.choices[1:]:
            heard.other(other.index, other.text, other.finish_reason)

    def _read_text(self, heard: Heard, choice: Any) -> None:
        said = choice.logprobs
        if said and said.tokens:
            offsets = [len(heard.text) + len("".join(said.tokens[:at])) for at in range(len(said.tokens))]
            assert said.text_offset == offsets
            assert len(said.token_logprobs) == len(said.tokens)
            heard.logprobs += len(said.tokens)
        heard.text += choice.text or ""


class Responses(Chat):
    """openai-python, Responses, streamed by its own accumulator, which is strict about the order of events."""

    name = "openai_responses"
    path = "/v1/responses"

    @classmethod
    def body(cls, *, stream: bool) -> Json:
        return {"model": "m", "input": "hi", "stream": stream}

    async def streamed(self, heard: Heard, more: Json) -> None:
        asked = {"model": "m", "input": "hi", **more}
        async with self.sdk.responses.stream(**asked) as events:
            text = ""
            async for event in events:
                if event.type == "response.output_text.delta":
                    text += event.delta
                elif event.type == "error":
                    raise openai.OpenAIError(event.message)
                elif event.type == "response.failed":
                    raise openai.OpenAIError(str(event.response.error))
                elif event.type in ("response.completed", "response.incomplete"):
                    self._read(heard, event.response)
            assert text == heard.text or heard.error
        if not heard.finish:
            raise openai.OpenAIError("the stream ended without response.completed")

    async def whole(self, heard: Heard, more: Json) -> None:
        self._read(heard, await self.sdk.responses.create(**{"model": "m", "input": "hi", **more}))

    def _read(self, heard: Heard, answer: Any) -> None:
        heard.text = answer.output_text
        for item in answer.output:
            if item.type == "reasoning":
                heard.reasoning += "".join(part.text for part in item.summary or item.content or ())
            elif item.type == "function_call":
                heard.call(item.name, item.arguments, item.call_id)
            elif item.type == "message":
                heard.logprobs += sum(len(getattr(part, "logprobs", None) or ()) for part in item.content)
        cut = answer.incomplete_details.reason if answer.incomplete_details else ""
        heard.finish = {"max_output_tokens": "length"}.get(cut, cut) or ("tool_calls" if heard.calls else "stop")
        usage = answer.usage
        heard.usage = (usage.input_tokens, usage.output_tokens, usage.output_tokens_details.reasoning_tokens,
                       usage.input_tokens_details.cached_tokens)  # fmt: skip
