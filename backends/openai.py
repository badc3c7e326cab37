"""OpenAI, and any server that speaks its chat completions: `driver: openai`, `url` exactly as given (its /v1 included).

Protocol source: the OpenAI API reference, "Create chat completion", and its streaming object. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from msgspec import Struct

from backends import wire
from backends.base import Decoder, HttpRequest, Tap
from backends.base import Driver as BaseDriver
from backends.contract.errors import BackendError
from backends.contract.refusal import refused
from backends.contract.request import ChatRequest, ImagePart, Message, Part, TextPart, Tool
from backends.openai_stream import OpenAIDecoder, OpenAITap
from config.schema import Backend

_HOME = "https://api.openai.com"


class Options(Struct, frozen=True, forbid_unknown_fields=True):
    """`done_marker` False: the server ends after its finish reason without `[DONE]` (transformers serve).
    `max_tokens_field`: the limit's name there; empty: `max_completion_tokens` at OpenAI, else `max_tokens`.
    `body`: fields added to every request (the client's own win)."""

    done_marker: bool = True
    max_tokens_field: str = ""
    body: dict[str, Any] = {}


class Driver(BaseDriver):
    """Any OpenAI-compatible server."""

    dialect = "openai"
    default_url: ClassVar[str] = f"{_HOME}/v1"
    prefix: ClassVar[str] = ""  # between the base URL and `/chat/completions`

    def __init__(self, name: str, backend: Backend) -> None:
        super().__init__(name, backend)
        self.options = wire.options(name, backend, Options)
        self.secrets = wire.secrets_of(backend)
        home = "max_completion_tokens" if self.url.startswith(_HOME) else "max_tokens"
        self._limit = self.options.max_tokens_field or home

    def prepare(self, request: ChatRequest) -> HttpRequest:
        return self.forward(chat_body(request, self._limit), request.model)

    def forward(self, body: dict[str, Any], model: str) -> HttpRequest:
        streaming = body.get("stream_options")
        whole = {
            **self.options.body,
            **body,
            "model": model,
            "stream": True,
            "stream_options": {**(streaming if isinstance(streaming, dict) else {}), "include_usage": True},
        }
        return self._post("/chat/completions", whole)

    def decoder(self) -> Decoder:
        return OpenAIDecoder(self.secrets, self.options.done_marker)

    def tap(self) -> Tap:
        return OpenAITap(self.decoder())

    def failure(self, status: int, headers: Mapping[str, str], body: bytes) -> BackendError:
        return refused(status, headers, body, self.secrets)

    def probe(self) -> HttpRequest | None:
        return self.list_models()

    def list_models(self) -> HttpRequest | None:
        return wire.get(self.backend, f"{self.prefix}/models", wire.bearer(self.backend))

    def read_models(self, body: bytes) -> Sequence[str]:
        return wire.named(wire.listing(body, "data"), "id") or self.backend.models

    def _post(self, path: str, body: dict[str, Any]) -> HttpRequest:
        return wire.post(self.backend, self.prefix + path, body, wire.bearer(self.backend), accept="text/event-stream")


class LocalDriver(Driver):
    """A server of one's own, at `http://host:port` or `http://host:port/v1`: both mean the same."""

    default_url: ClassVar[str] = ""
    prefix: ClassVar[str] = "/v1"

    def __init__(self, name: str, backend: Backend) -> None:
        super().__init__(name, backend)
        if not self.url:
            raise ValueError(f"backends.{name}: driver {backend.driver} needs a url, such as http://127.0.0.1:8000")
        self.url = self.url.removesuffix("/v1")

    def probe(self) -> HttpRequest | None:
        return wire.get(self.backend, "/health", wire.bearer(self.backend))


def chat_body(request: ChatRequest, limit: str = "max_tokens") -> dict[str, Any]:
    """The request as a chat completions body, without `model` and `stream`; `limit` names the field for max_tokens."""
    body = wire.drop_none(
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        stop=list(request.stop),
        seed=request.seed,
        n=request.n if request.n != 1 else None,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        tools=[_tool(tool) for tool in request.tools],
        tool_choice=_tool_choice(request.tool_choice),
        parallel_tool_calls=request.parallel_tool_calls,
        response_format=request.response_format,
        reasoning_effort=request.reasoning_effort,
        user=request.user,
    )
    if request.max_tokens is not None:
        body[limit] = request.max_tokens
    return {**request.extra, **body, "messages": [_message(m) for m in request.messages]}


def _message(message: Message) -> dict[str, Any]:
    content: Any = message.content
    if not isinstance(content, str):
        content = [_part(part) for part in content]
    said = wire.drop_none(name=message.name, tool_call_id=message.tool_call_id)
    if message.tool_calls:
        said["tool_calls"] = [
            {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
            for c in message.tool_calls
        ]
        content = content or None
    return {"role": message.role, "content": content, **said}


def _part(part: Part) -> dict[str, Any]:
    match part:
        case TextPart(text):
            return {"type": "text", "text": text}
        case ImagePart(url, data, media_type):
            return {"type": "image_url", "image_url": {"url": url or f"data:{media_type or 'image/png'};base64,{data}"}}


def _tool(tool: Tool) -> dict[str, Any]:
    function = wire.drop_none(name=tool.name, description=tool.description, parameters=tool.parameters)
    return {"type": "function", "function": function}


def _tool_choice(choice: str | None) -> Any:
    if choice is not None and choice.startswith("name:"):
        return {"type": "function", "function": {"name": choice[5:]}}
    return choice
