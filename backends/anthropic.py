"""Anthropic's Messages API, at Anthropic or at any server that has it (protocol source: Anthropic's reference,
"Messages", "Count tokens in a Message" and "Streaming messages").

Law: what a client of this API says is sent as it is; only its model is replaced and `stream` set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import msgspec
from msgspec import Struct

from backends import wire
from backends.anthropic_request import SAMPLING_REFUSED, count_body, lost, may_prefill, messages_body
from backends.anthropic_stream import AnthropicDecoder
from backends.base import Decoder, HttpRequest, Tap
from backends.base import Driver as BaseDriver
from backends.contract.errors import BackendError
from backends.contract.fit import Feature
from backends.contract.refusal import refused
from backends.contract.request import ChatRequest
from backends.tap import DecoderTap
from config.schema import Backend

_SAMPLING = frozenset({Feature.TEMPERATURE, Feature.TOP_P, Feature.TOP_K})


class Options(Struct, frozen=True, forbid_unknown_fields=True):
    """`version`: the anthropic-version header; `beta`: the anthropic-beta header; clients of this very API bring their
    own (a header under `headers:` wins over theirs). `max_tokens`: when the client names none."""

    version: str = "2023-06-01"
    max_tokens: int = 4096
    beta: str = ""


class Driver(BaseDriver):
    """Anthropic itself, or a server that speaks its Messages API."""

    dialect = "anthropic"
    default_url: ClassVar[str] = "https://api.anthropic.com"
    needs_key: ClassVar[bool] = True
    expresses: ClassVar[frozenset[Feature]] = _SAMPLING | {
        Feature.IMAGES,
        Feature.IMAGE_URLS,
        Feature.FILES,
        Feature.FILE_URLS,
        Feature.FILE_IDS,
        Feature.TOOLS,
        Feature.HOSTED_TOOLS,
        Feature.FORCED_TOOL,
        Feature.PARALLEL_TOOLS,
        Feature.SCHEMA,
        Feature.STOP,
        Feature.USER,
        Feature.REASONING,
        Feature.REASONING_BUDGET,
        Feature.REASONING_HISTORY,
        Feature.CACHE_CONTROL,
        Feature.TOOL_ERRORS,
    }

    continues: ClassVar[str] = "by prefill, where version and model take one; not after white space or beside thinking"

    def __init__(self, name: str, backend: Backend) -> None:
        super().__init__(name, backend)
        self.url = self.url.removesuffix("/v1")
        self.options = wire.options(name, backend, Options)
        self._own: tuple[tuple[str, str], ...] = (
            ("x-api-key", backend.api_key.reveal()),
            ("anthropic-version", self.options.version),
            ("anthropic-beta", self.options.beta),
        )
        if self.options.version >= SAMPLING_REFUSED:
            self.expresses = type(self).expresses - _SAMPLING  # type: ignore[misc]  # this one's API has less

    def prepare(self, request: ChatRequest) -> HttpRequest:
        return self.forward(messages_body(request, self.options.max_tokens, self.options.version), request.model)

    def drops(self, request: ChatRequest) -> tuple[str, ...]:
        return lost(request, self.options.max_tokens)

    def resume(self, request: ChatRequest, so_far: str, reasoning: str) -> HttpRequest | None:
        """By a prefill: the last turn is the assistant's. The API takes none that ends in white space, none beside
        thinking, and newer models and versions take none at all."""
        if reasoning or so_far[-1:].isspace() or not may_prefill(request.model, self.options.version):
            return None
        body = messages_body(request, self.options.max_tokens, self.options.version)
        if (body.get("thinking") or {}).get("type", "disabled") != "disabled":
            return None
        turn = {"role": "assistant", "content": so_far}
        return self.forward({**body, "messages": [*body["messages"], turn]}, request.model)

    def forward(self, body: dict[str, Any], model: str) -> HttpRequest:
        whole = {"max_tokens": self.options.max_tokens, **body, "model": model, "stream": True}
        return self._post("/v1/messages", whole, "text/event-stream")

    def count(self, request: ChatRequest) -> HttpRequest | None:
        return self._post("/v1/messages/count_tokens", count_body(request), "application/json")

    def read_count(self, body: bytes) -> int:
        try:
            count = msgspec.json.decode(body)["input_tokens"]
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
            raise ValueError("no count") from None
        if isinstance(count, bool) or not isinstance(count, int):
            raise ValueError("no count")
        return count

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

    def _post(self, path: str, body: dict[str, Any], accept: str) -> HttpRequest:
        return wire.post(self.backend, path, body, *self._own, accept=accept)


class Messages(Driver):
    """The Messages API of a server whose own driver is another one: the same address, the key as a bearer token.

    `body`: fields added to every request (the client's own win).
    """

    expresses: ClassVar[frozenset[Feature]] = Driver.expresses - {Feature.HOSTED_TOOLS}  # those run at Anthropic

    def __init__(self, name: str, backend: Backend, body: Mapping[str, Any]) -> None:
        super().__init__(name, msgspec.structs.replace(backend, options={}))
        self._body = dict(body)
        self._own = (wire.bearer(backend), ("anthropic-version", self.options.version))

    continues: ClassVar[str] = ""

    def resume(self, request: ChatRequest, so_far: str, reasoning: str) -> HttpRequest | None:
        return None  # whether such a server takes a prefill here is for its own driver to say

    def decoder(self) -> Decoder:
        """Such servers sign their thoughts at random, for the form's sake: whoever has the text can go on with it."""
        return AnthropicDecoder(self.secrets, signed=False)

    def forward(self, body: dict[str, Any], model: str) -> HttpRequest:
        return super().forward({**self._body, **body}, model)
