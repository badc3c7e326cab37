"""OpenAI, and any server that speaks its chat completions: `driver: openai`, `url` exactly as given (its /v1 included).

Protocol source: the OpenAI API reference, "Create chat completion", and its streaming object. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from msgspec import Struct

from backends import wire
from backends.base import Decoder, HttpRequest, Tap
from backends.base import Driver as BaseDriver
from backends.contract.errors import BackendError
from backends.contract.events import Usage
from backends.contract.fit import Feature
from backends.contract.refusal import refused
from backends.contract.request import ChatRequest
from backends.openai_body import chat_body
from backends.openai_completions import Completions, streaming
from backends.openai_embeddings import read_embeddings
from backends.openai_responses import Responses
from backends.openai_responses_stream import DIALECT as RESPONSES
from backends.openai_stream import OpenAIDecoder
from backends.tap import DecoderTap
from config.schema import Backend

_HOME = "https://api.openai.com"


class Options(Struct, frozen=True, forbid_unknown_fields=True):
    """`done_marker` True: only `[DONE]` ends an answer; False: the end of the body after a finish reason does too;
    unset: only where finish reason and usage came in one chunk, as transformers serve ends.
    `max_tokens_field`: the limit's name there; empty: `max_completion_tokens` at OpenAI, else `max_tokens`.
    `body`: fields added to every request (the client's own win). `completions` False: the server has no
    `/completions`, so clients of that API are answered by chat; `responses` False: likewise `/responses`.
    `continue_answers` True: the server goes on with a last message of the assistant (by `continue_final_message`, which
    servers that just do may ignore), so that answers broken off elsewhere can be completed there; False: it does not
    even go on with a prompt (mlx_lm loses the space such a rest begins with)."""

    done_marker: bool | None = None
    max_tokens_field: str = ""
    body: dict[str, Any] = {}
    completions: bool = True
    responses: bool = True
    continue_answers: bool | None = None


# What chat completions have no place for. `metadata`: refused by OpenAI unless the answer is stored there.
_FOREIGN = frozenset(
    {
        Feature.CACHE_CONTROL,
        Feature.EXTRA,
        Feature.FILE_URLS,
        Feature.HOSTED_TOOLS,
        Feature.METADATA,
        Feature.OTHER_PARTS,
        Feature.REASONING_BUDGET,
        Feature.STORED_TURNS,
        Feature.TOOL_ERRORS,
    }
)


class Driver(BaseDriver):
    """Any OpenAI-compatible server."""

    dialect = "openai"
    default_url: ClassVar[str] = f"{_HOME}/v1"
    needs_key: ClassVar[bool] = True
    expresses: ClassVar[frozenset[Feature]] = frozenset(Feature) - _FOREIGN - {Feature.REASONING_HISTORY, Feature.TOP_K}
    history: ClassVar[str] = ""  # the field of assistant turns that takes their reasoning; empty: there is none
    has_responses: ClassVar[bool] = True  # whether such servers have OpenAI's Responses API
    continues: ClassVar[str] = "with options.continue_answers: true"
    prefix: ClassVar[str] = ""  # between the base URL and `/chat/completions`

    def __init__(self, name: str, backend: Backend) -> None:
        super().__init__(name, backend)
        self.options = wire.options(name, backend, Options)
        said = self.options.done_marker
        self.done_marker = True if said is None and backend.repairs.get("done_marker") is False else said
        home = "max_completion_tokens" if self.url.startswith(_HOME) else "max_tokens"
        self.limit = self.options.max_tokens_field or home
        own = ("content-type", "application/json"), ("accept", "text/event-stream"), wire.bearer(backend)
        self._headers = wire.headers_of(backend, *own)
        self._siblings = self.siblings()

    def siblings(self) -> dict[str, BaseDriver]:
        """This server's other APIs by their dialect. Called once, when the driver is made."""
        post, fail, extra = self._post, self.failure, self.options.body
        made: list[BaseDriver] = []
        if self.options.completions:
            goes_on, done = self.options.continue_answers is not False, self.done_marker
            made.append(Completions(self.name, self.backend, post, fail, extra, done_marker=done, goes_on=goes_on))
        if self.options.responses and self.has_responses:
            made.append(Responses(self.name, self.backend, post, fail, extra))
        return {sibling.dialect: sibling for sibling in made}

    def speaking(self, dialect: str) -> BaseDriver | None:
        return self if dialect == self.dialect else self._siblings.get(dialect)

    def beside(self) -> Iterable[BaseDriver]:
        """Responses: it takes files by their URL, and tools that run at OpenAI."""
        return [sibling for sibling in self._siblings.values() if sibling.dialect == RESPONSES]

    def prepare(self, request: ChatRequest) -> HttpRequest:
        return self.forward(self.body(request), request.model)

    def body(self, request: ChatRequest) -> dict[str, Any]:
        """The request in the words of this server's chat completions, without `model` and `stream`."""
        return chat_body(request, self.limit, self.history)

    def resume(self, request: ChatRequest, so_far: str, reasoning: str) -> HttpRequest | None:
        """vLLM's words for it. Not after white space, which many chat templates cut off, nor after reasoning where this
        API has no place for it."""
        if not self.options.continue_answers or so_far[-1:].isspace() or (reasoning and not self.history):
            return None
        body = chat_body(request, self.limit, self.history)
        return self.forward(prefilled(body, so_far, reasoning, self.history), request.model)

    def forward(self, body: dict[str, Any], model: str) -> HttpRequest:
        return self._post("/chat/completions", streaming({**self.options.body, **body}, model))

    def embed(self, body: dict[str, Any], model: str) -> HttpRequest | None:
        whole = {**body, "model": model}
        path = f"{self.prefix}/embeddings"
        return wire.post(self.backend, path, whole, wire.bearer(self.backend), accept="application/json")

    def read_embeddings(self, body: bytes) -> tuple[list[list[float]], Usage]:
        return read_embeddings(body)

    def decoder(self) -> Decoder:
        return OpenAIDecoder(self.secrets, self.done_marker)

    def tap(self) -> Tap:
        return DecoderTap(self.decoder())

    def failure(self, status: int, headers: Mapping[str, str], body: bytes) -> BackendError:
        return refused(status, headers, body, self.secrets)

    def probe(self) -> HttpRequest | None:
        return self.list_models()

    def list_models(self) -> HttpRequest | None:
        return wire.get(self.backend, f"{self.prefix}/models", wire.bearer(self.backend))

    def read_models(self, body: bytes) -> Sequence[str]:
        return wire.named(wire.listing(body, "data"), "id") or self.backend.models

    def _post(self, path: str, body: dict[str, Any]) -> HttpRequest:
        return HttpRequest("POST", self.prefix + path, self._headers, wire.encode(body))


def prefilled(body: dict[str, Any], so_far: str, reasoning: str, history: str) -> dict[str, Any]:
    """A chat body that asks for the rest of the answer `so_far`."""
    turn = {"role": "assistant", "content": so_far, **({history: reasoning} if history and reasoning else {})}
    return {
        **body,
        "messages": [*body["messages"], turn],
        "continue_final_message": True,
        "add_generation_prompt": False,
    }


class LocalDriver(Driver):
    """A server of one's own, at `http://host:port` or `http://host:port/v1`: both mean the same."""

    default_url: ClassVar[str] = ""
    needs_key: ClassVar[bool] = False
    prefix: ClassVar[str] = "/v1"

    def beside(self) -> Iterable[BaseDriver]:
        """None: such servers copy the form of those APIs, without the tools and the files."""
        return ()

    def __init__(self, name: str, backend: Backend) -> None:
        super().__init__(name, backend)
        if not self.url:
            raise ValueError(f"backends.{name}: driver {backend.driver} needs a url, such as http://127.0.0.1:8000")
        self.url = self.url.removesuffix("/v1")

    def probe(self) -> HttpRequest | None:
        return wire.get(self.backend, "/health", wire.bearer(self.backend))
