"""Clients without an SDK: the native protocol's two forms, and Google's array; and every client by its name."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import aiohttp
from support.clients import Chat, Client, Completions, Json, Responses
from support.google_client import REASONS, Google
from support.heard import Heard
from support.sdk_clients import Generate, Messages, Ollama


class _Http(Client):
    """Reads a body to its end; a status, an error frame or an unclean end is an error, in this order."""

    cut: aiohttp.ClientError | None = None  # how the last body ended, when it did not end cleanly

    async def ask(self, *, stream: bool, **more: Any) -> Heard:
        self.cut = None
        heard = await super().ask(stream=stream, **more)
        if self.cut is not None and not heard.error:
            heard.error = repr(self.cut)
        return heard

    async def _body(self, body: Json, path: str = "") -> str:
        async with (
            aiohttp.ClientSession(self.base) as session,
            session.post(path or self.path, json=body, headers=self.headers) as answer,
        ):
            data = b""
            try:
                async for piece in answer.content.iter_any():
                    data += piece
            except aiohttp.ClientError as error:
                self.cut = error
            text = data.decode()
            if answer.status != 200:
                raise aiohttp.ClientError(f"{answer.status} {text}")
            return text


def _native_usage(usage: Json) -> tuple[int, ...]:
    return usage["promptTokens"], usage["completionTokens"], usage["reasoningTokens"], usage["cachedTokens"]


class Native(_Http):
    """The native protocol, SSE."""

    name = "native"
    path = "/api/streaming/chat"
    headers: ClassVar = {"Accept": "text/event-stream"}

    @classmethod
    def body(cls, *, stream: bool) -> Json:
        return {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": stream}

    async def streamed(self, heard: Heard, more: Json) -> None:
        for frame in (await self._body({**self.body(stream=True), **more})).split("\n\n"):
            fields = dict(line.split(": ", 1) for line in frame.split("\n") if ": " in line)
            if "event" in fields:
                self._event(heard, fields["event"], json.loads(fields["data"]))
        if not heard.finish:
            raise aiohttp.ClientError("no done")

    def _event(self, heard: Heard, kind: str, data: Json) -> None:
        if kind == "token":
            heard.text += data["content"]
        elif kind == "reasoning":
            heard.reasoning += data["content"]
        elif kind == "tool_call":
            heard.call(data["name"], data["arguments"], data["id"])
        elif kind == "error":
            raise aiohttp.ClientError(data["message"])
        elif kind == "done":
            assert data["fullText"] == heard.text
            heard.finish, heard.usage = data["finishReason"], _native_usage(data["usage"])

    async def whole(self, heard: Heard, more: Json) -> None:
        said = json.loads(await self._body({**self.body(stream=False), **more}))
        heard.text, heard.reasoning = said["fullText"], said.get("reasoning", "")
        for call in said["toolCalls"]:
            heard.call(call["name"], call["arguments"], call["id"])
        heard.finish, heard.usage = said["finishReason"], _native_usage(said["usage"])


class Ndjson(Native):
    """The native protocol, NDJSON."""

    name = "ndjson"
    path = "/api/v1/conversations/c1/stream"
    headers: ClassVar = {"Accept": "application/x-ndjson"}

    async def streamed(self, heard: Heard, more: Json) -> None:
        for line in (await self._body({**self.body(stream=True), **more})).splitlines():
            data = json.loads(line)
            kind = data["type"]
            if kind == "message_chunk":
                heard.text += data["content"]
            elif kind == "reasoning_chunk":
                heard.reasoning += data["content"]
            elif kind == "tool_call":
                heard.call(data["tool_name"], data["args"], data["id"])
            elif kind == "error":
                raise aiohttp.ClientError(data["message"])
            elif kind == "complete_state":
                assert data["message"] == heard.text
                self._end(heard, data)
        if not heard.finish:
            raise aiohttp.ClientError("no complete_state")

    async def whole(self, heard: Heard, more: Json) -> None:
        said = json.loads(await self._body({**self.body(stream=False), **more}))
        heard.text, heard.reasoning = said["message"], said.get("reasoning", "")
        for call in said["tool_calls"]:
            heard.call(call["tool_name"], call["args"], call["id"])
        self._end(heard, said)

    def _end(self, heard: Heard, data: Json) -> None:
        usage, names = data["usage"], ("prompt", "completion", "reasoning", "cached")
        heard.finish, heard.usage = data["finish_reason"], tuple(usage[f"{name}_tokens"] for name in names)


class GoogleArray(_Http):
    """Google's API without `alt=sse`, which its SDK never asks for: one JSON array."""

    name = "google_array"
    path = "/v1beta/models/m:streamGenerateContent"

    @classmethod
    def body(cls, *, stream: bool) -> Json:
        return Google.body(stream=stream)

    @classmethod
    def target(cls, *, stream: bool) -> str:
        return cls.path if stream else Google.target(stream=False)

    async def streamed(self, heard: Heard, more: Json) -> None:
        text = await self._body({**self.body(stream=True), **more})
        chunks: list[Any] = json.loads(text if text.rstrip().endswith("]") else text + "]")
        for chunk in chunks:
            self._chunk(heard, chunk)
        self._over(heard)

    async def whole(self, heard: Heard, more: Json) -> None:
        said = await self._body({**self.body(stream=False), **more}, self.target(stream=False))
        self._chunk(heard, json.loads(said))
        self._over(heard)

    def _over(self, heard: Heard) -> None:
        if not heard.finish:
            raise aiohttp.ClientError("no finishReason")
        if heard.calls and heard.finish == "stop":
            heard.finish = "tool_calls"

    def _chunk(self, heard: Heard, said: Json) -> None:
        if "error" in said:
            raise aiohttp.ClientError(said["error"]["message"])
        for candidate in said.get("candidates", ()):
            if candidate.get("index"):
                parts = candidate.get("content", {}).get("parts", ())
                finish = REASONS.get(candidate.get("finishReason", ""))
                spoken = "".join(part.get("text", "") for part in parts if not part.get("thought"))
                heard.other(candidate["index"], spoken, finish)
                continue
            for part in candidate.get("content", {}).get("parts", ()):
                self._part(heard, part)
            heard.finish = REASONS.get(candidate.get("finishReason", ""), heard.finish)
            heard.logprobs += len(candidate.get("logprobsResult", {}).get("chosenCandidates", ()))
        usage = said.get("usageMetadata") or {}
        if "candidatesTokenCount" in usage:
            thoughts = usage.get("thoughtsTokenCount", 0)
            heard.usage = (usage["promptTokenCount"], usage["candidatesTokenCount"] + thoughts, thoughts,
                           usage.get("cachedContentTokenCount", 0))  # fmt: skip

    def _part(self, heard: Heard, part: Json) -> None:
        if "functionCall" in part:
            call = part["functionCall"]
            heard.call(call["name"], call.get("args", {}), call.get("id", ""))
        elif part.get("thought"):
            heard.reasoning += part["text"]
        else:
            heard.text += part.get("text", "")


CLIENTS: dict[str, type[Client]] = {
    kind.name: kind
    for kind in (
        Native, Ndjson, Chat, Completions, Responses, Messages, Ollama, Generate, Google, GoogleArray
    )
}  # fmt: skip
