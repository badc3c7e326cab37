"""Anthropic's Messages API (protocol source: its reference, "Messages" and "Streaming").

Law: `message_stop` ends the stream; an `error` event fails it. Prompt tokens include the cached ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import msgspec
from msgspec import Struct

from backends import wire
from backends.base import Decoder, HttpRequest, Tap
from backends.base import Driver as BaseDriver
from backends.contract.errors import BackendError
from backends.contract.events import (
    Event,
    Failed,
    Finish,
    FinishReason,
    ReasoningDelta,
    Start,
    TextDelta,
    ToolCallDelta,
    ToolResult,
    Usage,
)  # fmt: skip
from backends.contract.payload import sse_events
from backends.contract.refusal import in_stream, refused, unreadable
from backends.contract.request import ChatRequest, ImagePart, Message, TextPart
from backends.tap import DecoderTap
from config.schema import Backend

FINISH: dict[str, FinishReason] = {  # what is not here means stop
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_BUDGET = {"minimal": 1024, "low": 1024, "medium": 4096, "high": 16384}  # thinking tokens per reasoning effort


class Options(Struct, frozen=True, forbid_unknown_fields=True):
    """`version`: the anthropic-version header; `max_tokens`: when the client names none; `beta`: the beta header."""

    version: str = "2023-06-01"
    max_tokens: int = 4096
    beta: str = ""


class Driver(BaseDriver):
    """Anthropic, and servers that speak its Messages API."""

    dialect = "anthropic"
    default_url: ClassVar[str] = "https://api.anthropic.com"

    def __init__(self, name: str, backend: Backend) -> None:
        super().__init__(name, backend)
        self.url = self.url.removesuffix("/v1")
        self.options = wire.options(name, backend, Options)
        self.secrets = wire.secrets_of(backend)
        self._own = (
            ("x-api-key", backend.api_key.reveal()),
            ("anthropic-version", self.options.version),
            ("anthropic-beta", self.options.beta),
        )

    def prepare(self, request: ChatRequest) -> HttpRequest:
        return self.forward(messages_body(request, self.options.max_tokens), request.model)

    def forward(self, body: dict[str, Any], model: str) -> HttpRequest:
        whole = {"max_tokens": self.options.max_tokens, **body, "model": model, "stream": True}
        return wire.post(self.backend, "/v1/messages", whole, *self._own, accept="text/event-stream")

    def decoder(self) -> Decoder:
        return AnthropicDecoder(self.secrets)

    def tap(self) -> Tap:
        return DecoderTap(self.decoder())

    def failure(self, status: int, headers: Mapping[str, str], body: bytes) -> BackendError:
        return refused(status, headers, body, self.secrets)

    def probe(self) -> HttpRequest | None:
        return wire.get(self.backend, "/v1/models?limit=1", *self._own)

    def list_models(self) -> HttpRequest | None:
        return wire.get(self.backend, "/v1/models?limit=1000", *self._own)

    def read_models(self, body: bytes) -> Sequence[str]:
        return wire.named(wire.listing(body, "data"), "id") or self.backend.models


def messages_body(request: ChatRequest, default_limit: int) -> dict[str, Any]:
    """The request as a Messages body, without `model` and `stream`."""
    limit = request.max_tokens or default_limit
    body = wire.drop_none(
        system="\n\n".join(m.text() for m in request.messages if m.role == "system"),
        temperature=min(request.temperature, 1.0) if request.temperature is not None else None,
        top_p=request.top_p,
        top_k=request.top_k,
        stop_sequences=list(request.stop),
        metadata={"user_id": request.user} if request.user else None,
        tools=[_tool(t.name, t.description, t.parameters) for t in request.tools],
        tool_choice=_tool_choice(request) if request.tools else None,
    )
    thinking = request.extra.get("thinking")
    budget = _BUDGET.get(request.reasoning_effort or "", 0)
    if isinstance(thinking, dict):
        body["thinking"] = thinking
    elif budget:
        body["thinking"], limit = {"type": "enabled", "budget_tokens": budget}, limit + budget
    if body.get("thinking", {}).get("type") == "enabled":  # thinking allows neither
        body.pop("temperature", None)
        body.pop("top_k", None)
    return {**body, "max_tokens": limit, "messages": _messages(request.messages)}


def _tool(name: str, description: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {**wire.drop_none(name=name, description=description), "input_schema": parameters or {"type": "object"}}


def _tool_choice(request: ChatRequest) -> dict[str, Any] | None:
    choice = request.tool_choice
    said: dict[str, Any] | None = {"auto": {"type": "auto"}, "none": {"type": "none"}, "required": {"type": "any"}}.get(
        choice or ""
    )
    if choice is not None and choice.startswith("name:"):
        said = {"type": "tool", "name": choice[5:]}
    if request.parallel_tool_calls is False and choice != "none":
        said = {**(said or {"type": "auto"}), "disable_parallel_tool_use": True}
    return said


def _messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Turns of user and assistant; the results of one round of tools are one user turn."""
    out: list[dict[str, Any]] = []
    for message in messages:
        if message.role == "system":
            continue
        role = "assistant" if message.role == "assistant" else "user"
        blocks = _blocks(message)
        if out and out[-1]["role"] == role:
            out[-1]["content"].extend(blocks)
        elif blocks:
            out.append({"role": role, "content": blocks})
    return out


def _blocks(message: Message) -> list[dict[str, Any]]:
    if message.role == "tool":
        return [{"type": "tool_result", "tool_use_id": message.tool_call_id, "content": message.text()}]
    blocks: list[dict[str, Any]] = []
    parts = (TextPart(message.content),) if isinstance(message.content, str) else message.content
    for part in parts:
        match part:
            case TextPart(text):
                blocks += [{"type": "text", "text": text}] if text else []
            case ImagePart():
                blocks.append({"type": "image", "source": _source(part)})
    for call in message.tool_calls:
        blocks.append(
            {"type": "tool_use", "id": call.id, "name": call.name, "input": wire.arguments_of(call.arguments)}
        )
    return blocks


def _source(part: ImagePart) -> dict[str, Any]:
    if part.url:
        return {"type": "url", "url": part.url}
    return {"type": "base64", "media_type": part.media_type or "image/png", "data": part.data}


class AnthropicDecoder(Decoder):
    """One stream of Messages events."""

    def __init__(self, secrets: tuple[str, ...] = ()) -> None:
        self._secrets = secrets
        self._failed = False
        self._tools: dict[int, int] = {}  # block index -> index of the tool call
        self._bare: set[int] = set()  # tool blocks without arguments so far
        self._served: dict[str, str] = {}  # id of a provider's tool -> its name
        self._usage = Usage()

    def feed(self, block: bytes) -> list[Event]:
        out: list[Event] = []
        for _, data in sse_events(block):
            if self.done or self._failed:
                break
            try:
                self._event(msgspec.json.decode(data), out)
            except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
                self._failed = True
                out.append(Failed(unreadable("an event")))
        return out

    def _event(self, event: dict[str, Any], out: list[Event]) -> None:
        match event["type"]:
            case "content_block_delta":
                self._delta(event["index"], event["delta"], out)
            case "message_start":
                message = event["message"]
                out.append(Start(message.get("id") or "", message.get("model") or ""))
                self._count(message.get("usage"), out)
            case "content_block_start":
                self._open(event["index"], event["content_block"], out)
            case "content_block_stop" if event["index"] in self._bare:
                self._bare.discard(event["index"])
                out.append(ToolCallDelta(self._tools[event["index"]], arguments="{}"))
            case "message_delta":
                reason = event["delta"].get("stop_reason")
                if reason:
                    out.append(Finish(FINISH.get(reason, "stop")))
                self._count(event.get("usage"), out)
            case "message_stop":
                self.done = True
            case "error":
                self._failed = True
                out.append(Failed(in_stream(event.get("error"), self._secrets)))

    def _open(self, index: int, block: dict[str, Any], out: list[Event]) -> None:
        kind = block["type"]
        if kind == "tool_use":
            slot = self._tools[index] = len(self._tools)
            whole = msgspec.json.encode(block["input"]).decode() if block.get("input") else ""
            if not whole:
                self._bare.add(index)
            out.append(ToolCallDelta(slot, block.get("id") or f"call_{slot}", block["name"], whole))
        elif kind == "text" and block.get("text"):
            out.append(TextDelta(block["text"]))
        elif kind == "server_tool_use":
            self._served[block["id"]] = block["name"]
        elif kind.endswith("_tool_result"):
            id_ = block.get("tool_use_id") or ""
            out.append(ToolResult(id_, self._served.get(id_, kind.removesuffix("_tool_result")), block.get("content")))

    def _delta(self, index: int, delta: dict[str, Any], out: list[Event]) -> None:
        match delta["type"]:
            case "text_delta" if delta["text"]:
                out.append(TextDelta(delta["text"]))
            case "thinking_delta" if delta["thinking"]:
                out.append(ReasoningDelta(delta["thinking"]))
            case "signature_delta" if delta["signature"]:
                out.append(ReasoningDelta("", delta["signature"]))
            case "input_json_delta" if delta["partial_json"] and index in self._tools:
                self._bare.discard(index)
                out.append(ToolCallDelta(self._tools[index], arguments=delta["partial_json"]))

    def _count(self, usage: dict[str, Any] | None, out: list[Event]) -> None:
        """Counts that are not repeated keep their earlier value."""
        if not usage:
            return
        before, cached = self._usage, usage.get("cache_read_input_tokens")
        prompt = before.prompt
        if usage.get("input_tokens") is not None:
            prompt = usage["input_tokens"] + (cached or 0) + (usage.get("cache_creation_input_tokens") or 0)
        self._usage = Usage(
            prompt=max(prompt, before.prompt),
            completion=usage.get("output_tokens") or before.completion,
            cached=cached if cached is not None else before.cached,
        )
        out.append(self._usage)
