"""Ollama's own API, NDJSON (protocol source: its API document, `/api/chat` and `/api/generate`). Pure.

Its OpenAI endpoint loses errors in mid-stream, so the native one is used. Law: a client of `/api/chat` is forwarded to
`/api/chat`, one of `/api/generate` to `/api/generate`: they are two dialects of one server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import msgspec
from msgspec import Struct

from backends import wire
from backends.base import Decoder, HttpRequest, Tap
from backends.base import Driver as BaseDriver
from backends.contract.errors import BackendError
from backends.contract.events import Usage
from backends.contract.fit import Feature
from backends.contract.refusal import refused
from backends.contract.request import ChatRequest
from backends.ollama_request import chat_body, embed_body
from backends.ollama_stream import OllamaDecoder
from backends.tap import DecoderTap
from config.schema import Backend


class Options(Struct, frozen=True, forbid_unknown_fields=True):
    """`keep_alive`: how long the model stays loaded; `model_options`: Ollama's `options`, beneath the client's."""

    keep_alive: str = ""
    model_options: dict[str, Any] = {}


class _Embedded(Struct):
    embeddings: list[list[float]]
    prompt_eval_count: int = 0


class Driver(BaseDriver):
    """An Ollama server."""

    dialect = "ollama"
    framing: ClassVar[Literal["sse", "ndjson"]] = "ndjson"
    default_url: ClassVar[str] = "http://127.0.0.1:11434"
    expresses: ClassVar[frozenset[Feature]] = frozenset(
        {
            Feature.IMAGES,
            Feature.TOOLS,
            Feature.STOP,
            Feature.SCHEMA,
            Feature.JSON,
            Feature.LOGPROBS,
            Feature.TEMPERATURE,
            Feature.TOP_P,
            Feature.TOP_K,
            Feature.SEED,
            Feature.PENALTIES,
            Feature.REASONING,
            Feature.REASONING_BUDGET,
            Feature.REASONING_HISTORY,
        }
    )
    continues: ClassVar[str] = "chat, by a last message of the assistant"
    _path: ClassVar[str] = "/api/chat"

    def __init__(self, name: str, backend: Backend) -> None:
        super().__init__(name, backend)
        self.options = wire.options(name, backend, Options)
        self._siblings = {kind.dialect: kind(name, backend) for kind in self._kinds()}

    def _kinds(self) -> tuple[type[Driver], ...]:
        return (GenerateDriver,)

    def prepare(self, request: ChatRequest) -> HttpRequest:
        return self.forward(chat_body(request), request.model)

    def resume(self, request: ChatRequest, so_far: str, reasoning: str) -> HttpRequest | None:
        """Its templates leave an answer open that the assistant's turn ends with. It has thought already."""
        turn = {"role": "assistant", "content": so_far, **wire.drop_none(thinking=reasoning)}
        body = chat_body(request)
        said = {"think": False} if reasoning or "think" in body else {}
        return self.forward({**body, **said, "messages": [*body["messages"], turn]}, request.model)

    def forward(self, body: dict[str, Any], model: str) -> HttpRequest:
        own = wire.drop_none(keep_alive=self.options.keep_alive)
        said = body.get("options")
        if self.options.model_options:
            own["options"] = {**self.options.model_options, **(said if isinstance(said, dict) else {})}
            body = {k: v for k, v in body.items() if k != "options"}
        whole = {**own, **body, "model": model, "stream": True}
        return wire.post(self.backend, self._path, whole, wire.bearer(self.backend), accept="application/x-ndjson")

    def speaking(self, dialect: str) -> BaseDriver | None:
        return self if dialect == self.dialect else self._siblings.get(dialect)

    def embed(self, body: dict[str, Any], model: str) -> HttpRequest | None:
        whole = {**wire.drop_none(keep_alive=self.options.keep_alive), **embed_body(body), "model": model}
        return wire.post(self.backend, "/api/embed", whole, wire.bearer(self.backend), accept="application/json")

    def read_embeddings(self, body: bytes) -> tuple[list[list[float]], Usage]:
        found = msgspec.json.decode(body, type=_Embedded)
        return found.embeddings, Usage(prompt=found.prompt_eval_count)

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

    def ask(self, path: str, body: dict[str, Any] | None = None) -> HttpRequest:
        """A call of its management API (`/api/show`, `/api/ps`, ...): POST of `body`, GET without one."""
        if body is None:
            return wire.get(self.backend, path, wire.bearer(self.backend))
        return wire.post(self.backend, path, body, wire.bearer(self.backend), accept="application/json")


class GenerateDriver(Driver):
    """The same server through `/api/generate`: only for clients of that path (`speaking`)."""

    dialect = "ollama_generate"
    continues: ClassVar[str] = ""
    _path: ClassVar[str] = "/api/generate"

    def resume(self, request: ChatRequest, so_far: str, reasoning: str) -> HttpRequest | None:
        return None  # it has no turns; `/api/chat` goes on with what it began

    def _kinds(self) -> tuple[type[Driver], ...]:
        return ()
