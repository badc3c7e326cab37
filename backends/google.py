"""Google's Gemini API (protocol source: its reference, `models.streamGenerateContent`, v1beta, `alt=sse`). Pure.

Law: there is no end marker; the stream is done when the body ends after a finish reason (or a blocked prompt).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from backends import wire
from backends.base import Decoder, HttpRequest, Tap
from backends.base import Driver as BaseDriver
from backends.contract.errors import BackendError, ErrorCode
from backends.contract.events import (
    Event,
    Failed,
    Finish,
    FinishReason,
    ReasoningDelta,
    Start,
    TextDelta,
    ToolCallDelta,
    Usage,
)  # fmt: skip
from backends.contract.payload import sse_events
from backends.contract.refusal import in_stream, refused, unreadable
from backends.contract.request import ChatRequest, ImagePart, Message, TextPart
from backends.tap import DecoderTap
from config.schema import Backend

_MODEL = re.compile(r"[A-Za-z0-9._-]{1,200}")
_FILTERED = {"SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "LANGUAGE"}
_BROKEN = {"MALFORMED_FUNCTION_CALL", "MALFORMED_RESPONSE", "UNEXPECTED_TOOL_CALL", "MISSING_THOUGHT_SIGNATURE"}
_BUDGET = {"none": 0, "minimal": 512, "low": 1024, "medium": 8192, "high": 24576}  # thinking tokens per effort


class Driver(BaseDriver):
    """Gemini."""

    dialect = "google"
    default_url: ClassVar[str] = "https://generativelanguage.googleapis.com"

    def __init__(self, name: str, backend: Backend) -> None:
        super().__init__(name, backend)
        if backend.options:
            raise ValueError(f"backends.{name}: driver google takes no options, got {', '.join(backend.options)}")
        self.secrets = wire.secrets_of(backend)
        self._key = ("x-goog-api-key", backend.api_key.reveal())

    def prepare(self, request: ChatRequest) -> HttpRequest:
        return self.forward(contents_body(request), request.model)

    def forward(self, body: dict[str, Any], model: str) -> HttpRequest:
        model = model.removeprefix("models/")
        if not _MODEL.fullmatch(model) or model in (".", ".."):  # it becomes part of a path
            raise BackendError(
                ErrorCode.UNKNOWN_MODEL, "a Google model's name has letters, digits, '.', '_' and '-' only"
            )
        whole = {k: v for k, v in body.items() if k not in ("model", "stream")}
        path = f"/v1beta/models/{model}:streamGenerateContent?alt=sse"
        return wire.post(self.backend, path, whole, self._key, accept="text/event-stream")

    def decoder(self) -> Decoder:
        return GoogleDecoder(self.secrets)

    def tap(self) -> Tap:
        return DecoderTap(self.decoder())

    def failure(self, status: int, headers: Mapping[str, str], body: bytes) -> BackendError:
        return refused(status, headers, body, self.secrets)

    def probe(self) -> HttpRequest | None:
        return wire.get(self.backend, "/v1beta/models?pageSize=1", self._key)

    def list_models(self) -> HttpRequest | None:
        return wire.get(self.backend, "/v1beta/models?pageSize=1000", self._key)

    def read_models(self, body: bytes) -> Sequence[str]:
        models = [
            m for m in wire.listing(body, "models") or () if isinstance(m, dict)
            and "generateContent" in m.get("supportedGenerationMethods", ("generateContent",))
        ]  # fmt: skip
        return [n.removeprefix("models/") for n in wire.named(models, "name")] or self.backend.models


def contents_body(request: ChatRequest) -> dict[str, Any]:
    """The request as a generateContent body."""
    system = "\n\n".join(m.text() for m in request.messages if m.role == "system")
    declared = [
        wire.drop_none(name=t.name, description=t.description, parametersJsonSchema=t.parameters) for t in request.tools
    ]
    return wire.drop_none(
        contents=_contents(request.messages),
        systemInstruction={"parts": [{"text": system}]} if system else None,
        generationConfig=_generation(request),
        tools=[{"functionDeclarations": declared}] if declared else None,
        toolConfig=_tool_config(request.tool_choice) if declared else None,
    )


def _generation(request: ChatRequest) -> dict[str, Any]:
    wanted = request.response_format or {}
    effort = _BUDGET.get(request.reasoning_effort or "")
    json_wanted = wanted.get("type") in ("json_object", "json_schema")
    schema = wanted.get("json_schema")
    return wire.drop_none(
        maxOutputTokens=request.max_tokens,
        temperature=request.temperature,
        topP=request.top_p,
        topK=request.top_k,
        stopSequences=list(request.stop),
        seed=request.seed,
        presencePenalty=request.presence_penalty,
        frequencyPenalty=request.frequency_penalty,
        responseMimeType="application/json" if json_wanted else None,
        responseJsonSchema=schema.get("schema") if isinstance(schema, dict) else None,
        thinkingConfig={"thinkingBudget": effort, "includeThoughts": effort > 0} if effort is not None else None,
    )


def _tool_config(choice: str | None) -> dict[str, Any] | None:
    if choice is None:
        return None
    if choice.startswith("name:"):
        return {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": [choice[5:]]}}
    mode = {"none": "NONE", "required": "ANY"}.get(choice, "AUTO")
    return {"functionCallingConfig": {"mode": mode}}


def _contents(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Turns of user and model; a result is matched to its call by name, which only the earlier call says."""
    out: list[dict[str, Any]] = []
    names = {call.id: call.name for m in messages for call in m.tool_calls}
    for message in messages:
        if message.role == "system":
            continue
        role = "model" if message.role == "assistant" else "user"
        parts = _parts(message, names)
        if out and out[-1]["role"] == role:
            out[-1]["parts"].extend(parts)
        elif parts:
            out.append({"role": role, "parts": parts})
    return out


def _parts(message: Message, names: Mapping[str, str]) -> list[dict[str, Any]]:
    if message.role == "tool":
        name = message.name or names.get(message.tool_call_id, message.tool_call_id)
        response = wire.arguments_of(message.text()) or {"result": message.text()}
        return [{"functionResponse": {"name": name, "response": response}}]
    parts: list[dict[str, Any]] = []
    for part in (TextPart(message.content),) if isinstance(message.content, str) else message.content:
        match part:
            case TextPart(text):
                parts += [{"text": text}] if text else []
            case ImagePart(url, data, media_type) if url:
                parts.append({"fileData": wire.drop_none(fileUri=url, mimeType=media_type)})
            case ImagePart(url, data, media_type):
                parts.append({"inlineData": {"mimeType": media_type or "image/png", "data": data}})
    parts += [{"functionCall": {"name": c.name, "args": wire.arguments_of(c.arguments)}} for c in message.tool_calls]
    return parts


class GoogleDecoder(Decoder):
    """One stream of GenerateContentResponse objects, candidate 0."""

    def __init__(self, secrets: tuple[str, ...] = ()) -> None:
        self._secrets = secrets
        self._started = self._finished = self._failed = False
        self._calls = 0
        self._usage = Usage()

    def feed(self, block: bytes) -> list[Event]:
        out: list[Event] = []
        for _, data in sse_events(block):
            if self._failed:
                break
            try:
                self._chunk(msgspec.json.decode(data), out)
            except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
                self._fail(out, unreadable("a chunk"))
        return out

    def eof(self) -> list[Event]:
        self.done = self._finished and not self._failed
        return []

    def _fail(self, out: list[Event], error: BackendError) -> None:
        self._failed = True
        out.append(Failed(error))

    def _chunk(self, chunk: dict[str, Any], out: list[Event]) -> None:
        if chunk.get("error"):
            self._fail(out, in_stream(chunk["error"], self._secrets))
            return
        if not self._started:
            self._started = True
            out.append(Start(chunk.get("responseId") or "", chunk.get("modelVersion") or ""))
        for candidate in chunk.get("candidates") or ():
            if candidate.get("index", 0) == 0:
                self._candidate(candidate, out)
        if (chunk.get("promptFeedback") or {}).get("blockReason"):
            self._finish("content_filter", out)
        self._count(chunk.get("usageMetadata"), out)

    def _candidate(self, candidate: dict[str, Any], out: list[Event]) -> None:
        for part in (candidate.get("content") or {}).get("parts") or ():
            self._part(part, out)
        reason = candidate.get("finishReason")
        if reason in _BROKEN:
            self._fail(out, BackendError(ErrorCode.UPSTREAM_FAILED, f"the model broke off: {reason}", kind=reason))
        elif reason:
            self._finish(_reason(reason, self._calls), out)

    def _part(self, part: dict[str, Any], out: list[Event]) -> None:
        text, signature, call = part.get("text") or "", part.get("thoughtSignature") or "", part.get("functionCall")
        if part.get("thought") or signature:
            thought = text if part.get("thought") else ""
            if thought or signature:
                out.append(ReasoningDelta(thought, signature))
        if text and not part.get("thought"):
            out.append(TextDelta(text))
        if call:
            arguments = msgspec.json.encode(call.get("args") or {}).decode()
            out.append(ToolCallDelta(self._calls, call.get("id") or f"call_{self._calls}", call["name"], arguments))
            self._calls += 1

    def _finish(self, reason: FinishReason, out: list[Event]) -> None:
        if not self._finished:
            self._finished = True
            out.append(Finish(reason))

    def _count(self, usage: dict[str, Any] | None, out: list[Event]) -> None:
        if not usage:
            return
        thoughts = usage.get("thoughtsTokenCount") or 0
        self._usage = Usage(
            prompt=usage.get("promptTokenCount") or self._usage.prompt,
            completion=(usage.get("candidatesTokenCount") or 0) + thoughts,
            reasoning=thoughts,
            cached=usage.get("cachedContentTokenCount") or 0,
        )
        out.append(self._usage)


def _reason(reason: str, calls: int) -> FinishReason:
    if reason == "MAX_TOKENS":
        return "length"
    if reason in _FILTERED or reason.startswith("IMAGE_"):
        return "content_filter"
    return "tool_calls" if calls else "stop"
