"""anthropic-python and ollama-python as clients of the gateway; see `support.clients`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, ClassVar

import anthropic
import ollama
from support.clients import Client, Json
from support.heard import Heard

_STOPS = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "tool_use": "tool_calls",
          "refusal": "content_filter"}  # fmt: skip


class Messages(Client):
    """anthropic-python, streamed by its accumulator."""

    name = "anthropic"
    path = "/v1/messages"
    headers: ClassVar = {"anthropic-version": "2023-06-01"}

    def __init__(self, base: str) -> None:
        super().__init__(base)
        self.sdk = anthropic.AsyncAnthropic(api_key="k", base_url=base, max_retries=0)

    async def close(self) -> None:
        await self.sdk.close()

    @classmethod
    def body(cls, *, stream: bool) -> Json:
        return {"model": "m", "max_tokens": 64, "messages": [{"role": "user", "content": "hi"}], "stream": stream}

    async def streamed(self, heard: Heard, more: Json) -> None:
        asked = {**self.body(stream=True), **more}
        asked.pop("stream")
        async with self.sdk.messages.stream(**asked) as stream:
            text = "".join([piece async for piece in stream.text_stream])
            self._read(heard, await stream.get_final_message())
        assert text == heard.text
        if not heard.finish:
            raise anthropic.AnthropicError("no stop_reason")

    async def whole(self, heard: Heard, more: Json) -> None:
        self._read(heard, await self.sdk.messages.create(**{**self.body(stream=False), **more}))

    def _read(self, heard: Heard, message: Any) -> None:
        for block in message.content:
            if block.type == "text":
                heard.text += block.text
            elif block.type == "thinking":
                heard.reasoning += block.thinking
            elif block.type == "tool_use":
                heard.call(block.name, block.input, block.id)
        heard.finish = _STOPS.get(message.stop_reason or "", "")
        usage = message.usage
        cached, details = usage.cache_read_input_tokens or 0, usage.output_tokens_details
        thought = details.thinking_tokens if details else 0
        heard.usage = (usage.input_tokens + cached, usage.output_tokens, thought, cached)


class Ollama(Client):
    """ollama-python, chat."""

    name = "ollama"
    path = "/api/chat"

    def __init__(self, base: str) -> None:
        super().__init__(base)
        self.sdk = ollama.AsyncClient(host=base)

    @classmethod
    def body(cls, *, stream: bool) -> Json:
        return {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": stream}

    async def _parts(self, stream: bool, more: Json) -> AsyncIterator[Any]:
        answer = await self.sdk.chat(**{**self.body(stream=stream), **more})
        if not stream:
            yield answer
            return
        async for part in answer:
            yield part

    async def streamed(self, heard: Heard, more: Json) -> None:
        await self._hear(heard, True, more)

    async def whole(self, heard: Heard, more: Json) -> None:
        await self._hear(heard, False, more)

    async def _hear(self, heard: Heard, stream: bool, more: Json) -> None:
        async for part in self._parts(stream, more):
            self._content(heard, part)
            heard.logprobs += len(part.logprobs or ())
            if part.done:
                heard.finish = {"stop": "stop", "length": "length"}[part.done_reason]
                heard.usage = (part.prompt_eval_count or 0, part.eval_count or 0, None, None)
        if not heard.finish:
            raise ollama.ResponseError("no line said done")
        if heard.calls and heard.finish == "stop":  # this API has no word of its own for it
            heard.finish = "tool_calls"

    def _content(self, heard: Heard, part: Any) -> None:
        heard.text += part.message.content or ""
        heard.reasoning += part.message.thinking or ""
        for call in part.message.tool_calls or ():
            heard.call(call.function.name, dict(call.function.arguments), "")


class Generate(Ollama):
    """ollama-python, generate."""

    name = "ollama_generate"
    path = "/api/generate"

    @classmethod
    def body(cls, *, stream: bool) -> Json:
        return {"model": "m", "prompt": "hi", "stream": stream}

    async def _parts(self, stream: bool, more: Json) -> AsyncIterator[Any]:
        answer = await self.sdk.generate(**{**self.body(stream=stream), **more})
        if not stream:
            yield answer
            return
        async for part in answer:
            yield part

    def _content(self, heard: Heard, part: Any) -> None:
        heard.text += part.response or ""
        heard.reasoning += part.thinking or ""
