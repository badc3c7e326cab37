"""google-genai as a client of the gateway, by its asynchronous half (over aiohttp); see `support.clients`."""

from __future__ import annotations

from typing import Any, ClassVar

from google import genai
from support.clients import RAISED, Client, Json
from support.heard import Heard

REASONS = {"STOP": "stop", "MAX_TOKENS": "length", "SAFETY": "content_filter"}


class Unfinished(Exception):
    """What an application must conclude where this SDK raises nothing: no chunk named a finish reason."""


def asked(body: Json) -> Json:
    """A request's fields, in the API's words, as the SDK's arguments: all but the contents are its `config`."""
    config = {name: value for name, value in body.items() if name not in ("contents", "generationConfig")}
    return {"model": "m", "contents": body["contents"], "config": {**config, **body.get("generationConfig", {})}}


class Google(Client):
    """Google's API: `alt=sse` when streamed."""

    name = "google"
    path = "/v1beta/models/m:streamGenerateContent?alt=sse"
    raised: ClassVar = (*RAISED, genai.errors.APIError, genai.errors.UnknownApiResponseError, Unfinished)

    def __init__(self, base: str) -> None:
        super().__init__(base)
        self.sdk = genai.Client(api_key="k", http_options={"base_url": base})

    async def close(self) -> None:
        await self.sdk.aio.aclose()
        self.sdk.close()

    @classmethod
    def body(cls, *, stream: bool) -> Json:
        return {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}

    @classmethod
    def target(cls, *, stream: bool) -> str:
        return cls.path if stream else "/v1beta/models/m:generateContent"

    async def streamed(self, heard: Heard, more: Json) -> None:
        ask = asked({**self.body(stream=True), **more})
        async for part in await self.sdk.aio.models.generate_content_stream(**ask):
            understand(heard, part)
        over(heard)

    async def whole(self, heard: Heard, more: Json) -> None:
        ask = asked({**self.body(stream=False), **more})
        understand(heard, await self.sdk.aio.models.generate_content(**ask))
        over(heard)


def understand(heard: Heard, said: Any) -> None:
    """A chunk, or a whole answer."""
    for candidate in said.candidates or ():
        parts = (candidate.content and candidate.content.parts) or ()
        if candidate.index:
            finish = candidate.finish_reason and REASONS[candidate.finish_reason.name]
            heard.other(candidate.index, "".join(part.text or "" for part in parts if not part.thought), finish)
            continue
        for part in parts:
            _part(heard, part)
        if candidate.finish_reason:
            heard.finish = REASONS[candidate.finish_reason.name]
        heard.logprobs += len((candidate.logprobs_result and candidate.logprobs_result.chosen_candidates) or ())
    usage = said.usage_metadata
    if usage and usage.candidates_token_count is not None:
        thoughts = usage.thoughts_token_count or 0
        heard.usage = (usage.prompt_token_count, usage.candidates_token_count + thoughts, thoughts,
                       usage.cached_content_token_count or 0)  # fmt: skip


def _part(heard: Heard, part: Any) -> None:
    call = part.function_call
    if call:
        heard.call(call.name, call.args or {}, call.id or "")
    elif part.thought:
        heard.reasoning += part.text or ""
    else:
        heard.text += part.text or ""


def over(heard: Heard) -> None:
    """The end: this API has no finish reason of its own for calls."""
    if not heard.finish:
        raise Unfinished("no finish reason")
    if heard.calls and heard.finish == "stop":
        heard.finish = "tool_calls"
