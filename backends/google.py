"""Google's Gemini API (protocol source: its reference, `models.streamGenerateContent`, v1beta, `alt=sse`). Pure.

Law: a model's name becomes part of a path, so only what cannot lead elsewhere is taken for one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import msgspec
from msgspec import Struct

from backends import wire
from backends.base import Decoder, HttpRequest, Tap
from backends.base import Driver as BaseDriver
from backends.contract.errors import BackendError, ErrorCode
from backends.contract.events import Usage
from backends.contract.fit import Feature
from backends.contract.refusal import refused
from backends.contract.request import ChatRequest
from backends.google_request import contents_body, embed_body
from backends.google_stream import GoogleDecoder
from backends.hosted_tools import unsaid
from backends.tap import DecoderTap
from config.schema import Backend

_MODEL = re.compile(r"[A-Za-z0-9._-]{1,200}")


class _Vector(Struct, frozen=True):
    values: list[float]


class _Counted(Struct, frozen=True, rename="camel"):
    prompt_token_count: int = 0


class _Embedded(Struct, frozen=True, rename="camel"):
    embeddings: list[_Vector]
    usage_metadata: _Counted = _Counted()


class _Total(Struct, frozen=True, rename="camel"):
    total_tokens: int


class Options(Struct, frozen=True, forbid_unknown_fields=True):
    """None: whatever this API can be told is said by the request."""


class Driver(BaseDriver):
    """Gemini."""

    dialect = "google"
    default_url: ClassVar[str] = "https://generativelanguage.googleapis.com"
    needs_key: ClassVar[bool] = True
    expresses: ClassVar[frozenset[Feature]] = frozenset(
        {
            Feature.IMAGES,
            Feature.IMAGE_URLS,
            Feature.FILES,
            Feature.FILE_URLS,
            Feature.AUDIO,
            Feature.TOOLS,
            Feature.HOSTED_TOOLS,
            Feature.FORCED_TOOL,
            Feature.CHOICES,
            Feature.LOGPROBS,
            Feature.STOP,
            Feature.SCHEMA,
            Feature.JSON,
            Feature.TEMPERATURE,
            Feature.TOP_P,
            Feature.TOP_K,
            Feature.SEED,
            Feature.PENALTIES,
            Feature.REASONING,
            Feature.REASONING_BUDGET,
            Feature.REASONING_HISTORY,
            Feature.TOOL_ERRORS,
        }
    )

    def __init__(self, name: str, backend: Backend) -> None:
        super().__init__(name, backend)
        wire.options(name, backend, Options)
        self._key = ("x-goog-api-key", backend.api_key.reveal())

    def prepare(self, request: ChatRequest) -> HttpRequest:
        return self.forward(contents_body(request), request.model)

    def drops(self, request: ChatRequest) -> tuple[str, ...]:
        return unsaid(self.dialect, request)

    def forward(self, body: dict[str, Any], model: str) -> HttpRequest:
        whole = {k: v for k, v in body.items() if k not in ("model", "stream")}
        path = self._path(model, "streamGenerateContent?alt=sse")
        return wire.post(self.backend, path, whole, self._key, accept="text/event-stream")

    def _path(self, model: str, call: str) -> str:
        model = bare(model)
        if not _MODEL.fullmatch(model) or model in (".", ".."):
            text = "a Google model's name has letters, digits, '.', '_' and '-' only"
            raise BackendError(ErrorCode.UNKNOWN_MODEL, text)
        return f"/v1beta/models/{model}:{call}"

    def embed(self, body: dict[str, Any], model: str) -> HttpRequest | None:
        path = self._path(model, "batchEmbedContents")
        return wire.post(self.backend, path, embed_body(body, bare(model)), self._key, accept="application/json")

    def read_embeddings(self, body: bytes) -> tuple[list[list[float]], Usage]:
        found = msgspec.json.decode(body, type=_Embedded)
        return [vector.values for vector in found.embeddings], Usage(prompt=found.usage_metadata.prompt_token_count)

    def count(self, request: ChatRequest) -> HttpRequest | None:
        """With everything that is part of the prompt: the system instruction and the tools too."""
        path = self._path(request.model, "countTokens")
        whole = {"generateContentRequest": {"model": f"models/{bare(request.model)}", **contents_body(request)}}
        return wire.post(self.backend, path, whole, self._key, accept="application/json")

    def read_count(self, body: bytes) -> int:
        return msgspec.json.decode(body, type=_Total).total_tokens

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
        return [bare(n) for n in wire.named(models, "name")] or self.backend.models


def bare(model: str) -> str:
    """A model's name without the collection it is in."""
    return model.removeprefix("models/")
