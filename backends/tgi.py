"""Text Generation Inference (protocol source: its OpenAPI document, 2026; the server is in maintenance mode).

`options.api`: `chat` (default) is its OpenAI-compatible endpoint; `generate` is its own `/generate_stream`, whose
events end with the one that carries `generated_text`, then the body. Errors, even "overloaded", arrive inside a 200.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec
from msgspec import Struct

from backends import wire
from backends.base import Decoder, HttpRequest, Tap
from backends.base import Driver as BaseDriver
from backends.contract.errors import BackendError, ErrorCode
from backends.contract.events import Event, Failed, Finish, FinishReason, Start, TextDelta, Usage
from backends.contract.fit import Feature
from backends.contract.halves import reading
from backends.contract.payload import sse_events
from backends.contract.refusal import in_stream, unreadable
from backends.contract.request import ChatRequest
from backends.openai import LocalDriver
from backends.tap import DecoderTap
from config.schema import Backend

_FINISH: dict[str, FinishReason] = {"length": "length", "eos_token": "stop", "stop_sequence": "stop"}


class Options(Struct, frozen=True, forbid_unknown_fields=True):
    """`api`: chat or generate. `prompt` (generate): how one turn is written, with {role} and {content}."""

    api: Literal["chat", "generate"] = "chat"
    prompt: str = "{role}: {content}\n"


class _Token(Struct):
    text: str = ""
    logprob: float | None = None
    special: bool = False

    def likely(self) -> dict[str, Any]:
        return {"token": self.text, "logprob": self.logprob or 0.0, "bytes": list(self.text.encode("utf-8", "replace"))}


class _Details(Struct):
    finish_reason: str = ""
    generated_tokens: int = 0
    input_length: int | None = None


class _Event(Struct):
    token: _Token | None = None
    top_tokens: list[_Token] | None = None  # told when log probabilities were asked for
    generated_text: str | None = None
    details: _Details | None = None
    error: Any = None
    error_type: str = ""


_decode = reading(msgspec.json.Decoder(_Event).decode)


# `/generate_stream`: a prompt, and how to sample.
_GENERATES = frozenset(
    {Feature.LOGPROBS, Feature.SEED, Feature.STOP, Feature.TEMPERATURE, Feature.TOP_K, Feature.TOP_P}
)


class Driver(LocalDriver):
    """`url: http://host:8080`."""

    has_responses: ClassVar[bool] = False
    expresses: ClassVar[frozenset[Feature]] = frozenset(
        {
            Feature.FORCED_TOOL,
            Feature.IMAGES,
            Feature.IMAGE_URLS,
            Feature.LOGPROBS,
            Feature.PENALTIES,
            Feature.SCHEMA,
            Feature.SEED,
            Feature.STOP,
            Feature.TEMPERATURE,
            Feature.TOOLS,
            Feature.TOP_P,
        }
    )

    def __init__(self, name: str, backend: Backend) -> None:
        own = wire.options(name, backend, Options)
        super().__init__(name, msgspec.structs.replace(backend, options={}))
        self.backend = backend
        self._own = own
        if own.api == "generate":
            self.dialect = "tgi"
            self.expresses = _GENERATES  # type: ignore[misc]  # an option decides, not the class

    def prepare(self, request: ChatRequest) -> HttpRequest:
        if self._own.api == "chat":
            return super().prepare(msgspec.structs.replace(request, response_format=_grammar(request.response_format)))
        body = {"inputs": self._prompt(request), "parameters": _parameters(request)}
        return wire.post(self.backend, "/generate_stream", body, wire.bearer(self.backend), accept="text/event-stream")

    continues: ClassVar[str] = "with options.api: generate, by the prompt"

    def resume(self, request: ChatRequest, so_far: str, reasoning: str) -> HttpRequest | None:
        """The prompt and the answer so far are one text to it. Its chat endpoint always begins a new answer."""
        if self._own.api != "generate" or reasoning:
            return None
        body = {"inputs": self._prompt(request) + so_far, "parameters": _parameters(request)}
        return wire.post(self.backend, "/generate_stream", body, wire.bearer(self.backend), accept="text/event-stream")

    def forward(self, body: dict[str, Any], model: str) -> HttpRequest:
        if self._own.api == "generate":
            raise NotImplementedError(self.dialect)
        return super().forward(body, model)

    def speaking(self, dialect: str) -> BaseDriver | None:
        if self._own.api == "generate":
            return self if dialect == self.dialect else None
        return super().speaking(dialect)

    def embed(self, body: dict[str, Any], model: str) -> HttpRequest | None:
        return None

    def decoder(self) -> Decoder:
        return TgiDecoder(self.secrets) if self._own.api == "generate" else super().decoder()

    def tap(self) -> Tap:
        return DecoderTap(self.decoder()) if self._own.api == "generate" else super().tap()

    def _prompt(self, request: ChatRequest) -> str:
        if len(request.messages) == 1:
            return request.messages[0].text()
        turn = self._own.prompt
        said = (turn.replace("{role}", m.role).replace("{content}", m.text()) for m in request.messages)
        return "".join(said) + turn.partition("{content}")[0].replace("{role}", "assistant").rstrip()


class TgiDecoder(Decoder):
    """One `/generate_stream`."""

    def __init__(self, secrets: tuple[str, ...] = ()) -> None:
        self._secrets = secrets
        self._started = False
        self._finished = False
        self._failed = False

    def feed(self, block: bytes) -> list[Event]:
        out: list[Event] = []
        for _, data in sse_events(block):
            if self._failed or self._finished:
                break
            try:
                self._event(_decode(data), out)
            except (msgspec.DecodeError, UnicodeDecodeError):
                self._fail(out, unreadable("an event"))
        return out

    def eof(self) -> list[Event]:
        self.done = self._finished
        return []

    def _fail(self, out: list[Event], error: BackendError) -> None:
        self._failed = True
        out.append(Failed(error))

    def _event(self, event: _Event, out: list[Event]) -> None:
        if event.error is not None:
            said = event.error if isinstance(event.error, dict) else {"message": event.error, "type": event.error_type}
            error = in_stream(said, self._secrets)
            cut = event.error_type.startswith("incomplete_generation")
            self._fail(
                out, BackendError(ErrorCode.UPSTREAM_TRUNCATED, error.message, kind=error.kind) if cut else error
            )
            return
        if not self._started:
            self._started = True
            out.append(Start())
        if event.token is not None and event.token.text and not event.token.special:
            out.append(TextDelta(event.token.text, _logprobs(event.token, event.top_tokens)))
        if event.generated_text is not None:
            self._end(event.details or _Details(), out)

    def _end(self, details: _Details, out: list[Event]) -> None:
        self._finished = True
        out.append(Finish(_FINISH.get(details.finish_reason, "stop")))
        if details.generated_tokens:
            out.append(Usage(prompt=details.input_length or 0, completion=details.generated_tokens))


def _grammar(form: dict[str, Any] | None) -> dict[str, Any] | None:
    """A JSON schema in TGI's own words (its guidance guide); other forms as they are."""
    said = (form or {}).get("json_schema")
    return {"type": "json", "value": said.get("schema") or {}} if isinstance(said, dict) else form


def _logprobs(token: _Token, tops: list[_Token] | None) -> list[dict[str, Any]] | None:
    """In OpenAI's words."""
    return [{**token.likely(), "top_logprobs": [top.likely() for top in tops]}] if tops else None


def _parameters(request: ChatRequest) -> dict[str, Any]:
    return {
        "details": True,
        "decoder_input_details": False,
        **wire.drop_none(
            max_new_tokens=request.max_tokens,
            temperature=request.temperature or None,  # TGI demands more than 0; without it, it is greedy
            top_p=request.top_p if request.top_p and request.top_p < 1 else None,
            top_k=request.top_k,
            stop=list(request.stop),
            seed=request.seed,
            top_n_tokens=max(request.top_logprobs or 0, 1) if request.logprobs else None,
        ),
    }
