"""Ollama's own API, NDJSON (protocol source: its API document, `/api/chat` and `/api/generate`). Pure.

Its OpenAI endpoint loses errors in mid-stream, so the native one is used. Law: the line with `done: true` ends it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import msgspec
from msgspec import Struct

from backends import wire
from backends.base import Decoder, HttpRequest, Tap
from backends.base import Driver as BaseDriver
from backends.contract.errors import BackendError, ErrorCode
from backends.contract.events import (
    Event,
    Failed,
    Finish,
    ReasoningDelta,
    Start,
    TextDelta,
    ToolCallDelta,
    Usage,
)  # fmt: skip
from backends.contract.refusal import in_stream, refused, unreadable
from backends.contract.request import ChatRequest, ImagePart, Message
from backends.tap import DecoderTap
from config.schema import Backend


class Options(Struct, frozen=True, forbid_unknown_fields=True):
    """`keep_alive`: how long the model stays loaded; `model_options`: Ollama's `options`, beneath the client's."""

    keep_alive: str = ""
    model_options: dict[str, Any] = {}


class Driver(BaseDriver):
    """An Ollama server."""

    dialect = "ollama"
    framing: ClassVar[Literal["sse", "ndjson"]] = "ndjson"
    default_url: ClassVar[str] = "http://127.0.0.1:11434"

    def __init__(self, name: str, backend: Backend) -> None:
        super().__init__(name, backend)
        self.options = wire.options(name, backend, Options)
        self.secrets = wire.secrets_of(backend)

    def prepare(self, request: ChatRequest) -> HttpRequest:
        return self.forward(chat_body(request), request.model)

    def forward(self, body: dict[str, Any], model: str) -> HttpRequest:
        path = "/api/generate" if "prompt" in body and "messages" not in body else "/api/chat"
        own = wire.drop_none(keep_alive=self.options.keep_alive)
        said = body.get("options")
        if self.options.model_options:
            own["options"] = {**self.options.model_options, **(said if isinstance(said, dict) else {})}
            body = {k: v for k, v in body.items() if k != "options"}
        whole = {**own, **body, "model": model, "stream": True}
        return wire.post(self.backend, path, whole, wire.bearer(self.backend), accept="application/x-ndjson")

    def decoder(self) -> Decoder:
        return OllamaDecoder(self.secrets)

    def tap(self) -> Tap:
        return DecoderTap(self.decoder())

    def failure(self, status: int, headers: Mapping[str, str], body: bytes) -> BackendError:
        return refused(status, headers, body, self.secrets)

    def probe(self) -> HttpRequest | None:
        return wire.get(self.backend, "/api/version", wire.bearer(self.backend))

    def list_models(self) -> HttpRequest | None:
        return wire.get(self.backend, "/api/tags", wire.bearer(self.backend))

    def read_models(self, body: bytes) -> Sequence[str]:
        return wire.named(wire.listing(body, "models"), "name") or self.backend.models


def chat_body(request: ChatRequest) -> dict[str, Any]:
    """The request as an `/api/chat` body, without `model` and `stream`."""
    names = {call.id: call.name for m in request.messages for call in m.tool_calls}
    options = wire.drop_none(
        num_predict=request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        stop=list(request.stop),
        seed=request.seed,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
    )
    tools = [
        {"type": "function", "function": {"name": t.name, "description": t.description, "parameters": t.parameters}}
        for t in request.tools
    ]
    body = wire.drop_none(
        options=options,
        tools=tools if request.tool_choice != "none" else None,
        format=_format(request.response_format or {}),
        think=request.reasoning_effort != "none" if request.reasoning_effort else None,
    )
    return {**body, "messages": [_message(m, names) for m in request.messages]}


def _format(wanted: dict[str, Any]) -> Any:
    if wanted.get("type") == "json_schema" and isinstance(wanted.get("json_schema"), dict):
        return wanted["json_schema"].get("schema")
    return "json" if wanted.get("type") == "json_object" else None


def _message(message: Message, names: Mapping[str, str]) -> dict[str, Any]:
    images = [_image(p) for p in message.content if isinstance(p, ImagePart)] if message.content else []
    calls = [{"function": {"name": c.name, "arguments": wire.arguments_of(c.arguments)}} for c in message.tool_calls]
    tool = message.name or names.get(message.tool_call_id, "") if message.role == "tool" else ""
    return {
        "role": message.role,
        "content": message.text(),
        **wire.drop_none(images=images, tool_calls=calls, tool_name=tool),
    }


def _image(part: ImagePart) -> str:
    if not part.data:
        raise BackendError(ErrorCode.INVALID_REQUEST, "this backend (Ollama) takes images as data, not by URL")
    return part.data


class OllamaDecoder(Decoder):
    """One stream of lines of `/api/chat` or `/api/generate`."""

    def __init__(self, secrets: tuple[str, ...] = ()) -> None:
        self._secrets = secrets
        self._started = self._failed = False
        self._calls = 0

    def feed(self, block: bytes) -> list[Event]:
        out: list[Event] = []
        for line in block.split(b"\n"):
            if self.done or self._failed:
                break
            if not line.strip():
                continue
            try:
                self._line(msgspec.json.decode(line.removeprefix(b"\xef\xbb\xbf")), out)
            except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
                self._fail(out, unreadable("a line"))
        return out

    def _fail(self, out: list[Event], error: BackendError) -> None:
        self._failed = True
        out.append(Failed(error))

    def _line(self, line: dict[str, Any], out: list[Event]) -> None:
        if "error" in line:
            self._fail(out, in_stream(line["error"], self._secrets))
            return
        if not self._started:
            self._started = True
            out.append(Start("", line.get("model") or ""))
        message = line.get("message") or line
        if message.get("thinking"):
            out.append(ReasoningDelta(message["thinking"]))
        text = message.get("content") or line.get("response")
        if text:
            out.append(TextDelta(text))
        for call in message.get("tool_calls") or ():
            self._call(call, out)
        if line.get("done"):
            self._end(line, out)

    def _call(self, call: dict[str, Any], out: list[Event]) -> None:
        function, index = call["function"], self._calls
        arguments = msgspec.json.encode(function.get("arguments") or {}).decode()
        out.append(ToolCallDelta(index, call.get("id") or f"call_{index}", function["name"], arguments))
        self._calls += 1

    def _end(self, line: dict[str, Any], out: list[Event]) -> None:
        reason = line.get("done_reason") or ""
        if not reason and "eval_count" not in line:  # its runner closed the connection: no reason, no counts
            self._fail(out, BackendError(ErrorCode.UPSTREAM_TRUNCATED, "the backend's model runner broke off"))
            return
        out.append(Finish("length" if reason == "length" else "tool_calls" if self._calls else "stop"))
        out.append(Usage(prompt=line.get("prompt_eval_count") or 0, completion=line.get("eval_count") or 0))
        self.done = True
