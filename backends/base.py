"""The driver contract: how to talk to one kind of model server. Pure: no I/O, no clock; tested with text files.

A driver is one file in this folder with a class `Driver(base.Driver)`; its name in YAML is the file's name.
Upstream always streams: `prepare` and `forward` ask for a stream whatever the client asked for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

from msgspec import Struct

from backends.contract.errors import BackendError
from backends.contract.events import Event, FinishReason, Usage
from backends.contract.fit import Feature
from backends.contract.likeness import Likeness
from backends.contract.request import ChatRequest
from config.schema import Backend


class HttpRequest(Struct, frozen=True):
    """One request to a backend: `path` is joined to the backend's base URL as it is (query included)."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


class Decoder(ABC):
    """One stream's bytes, framed by the dialect's framer, to events. One per stream and reader; not thread-safe.

    `done` turns True at the dialect's own end marker (`[DONE]`, `message_stop`, `done: true`, ...). A stream that ends
    without it is truncated. A `Failed` event also ends the stream; nothing is decoded after it.
    """

    done: bool = False

    @abstractmethod
    def feed(self, block: bytes) -> list[Event]:
        """Decode a block of complete frames (as a framer returned it). Never raises: bad frames become Failed."""

    def eof(self) -> list[Event]:
        """The body ended by its framing. Dialects whose marker is the end after a finish set `done` here."""
        return []


class Tap(ABC):
    """Accounting of one stream with as little work as possible; fed every block, once, by the producer.

    After `feed` the producer reads: `tokens` (content deltas so far: text, reasoning and tool-call deltas),
    `done`, `finish`, `usage`, `failure`. `chars` is the length of the content in bytes where it is cheaply known.
    """

    tokens: int = 0
    chars: int = 0
    done: bool = False
    finish: FinishReason | None = None
    usage: Usage | None = None
    failure: BackendError | None = None
    estimated: bool = False  # `usage` is partly our own estimate
    likeness: Likeness  # learns from what was fed; blocks it knows need not be fed, but counted by `plain`

    @abstractmethod
    def feed(self, block: bytes) -> None:
        """Count a block of complete frames."""

    def plain(self, count: int = 1) -> None:
        """Count blocks that `likeness` says are text. `chars` is for answers whose tokens were not counted."""
        self.tokens += count

    def eof(self) -> None:  # noqa: B027 - most dialects have a marker of their own and need no more
        """The body ended by its framing."""


class Play(Struct, frozen=True):
    """One step of a script played without a network (the demo): wait `delay` seconds, then `data`.

    `end`: None goes on; "eof" ends the body cleanly; "cut" breaks it.
    """

    delay: float
    data: bytes = b""
    end: Literal["eof", "cut"] | None = None


class Script(Struct, frozen=True):
    """An answer played by the transport instead of asking a server: a response head, then steps (may be endless)."""

    status: int
    headers: tuple[tuple[str, str], ...]
    steps: Iterator[Play]


def secrets_of(backend: Backend) -> tuple[str, ...]:
    """Everything of this backend that no message may show; longest first, so that none is starred in part."""
    texts: Iterable[str] = (secret.reveal() for secret in (backend.api_key, *backend.headers.values()))
    return tuple(sorted((t for t in texts if len(t) >= 6), key=len, reverse=True))


class Driver(ABC):
    """One backend of gateway.yaml. Immutable after construction; shared by all its streams."""

    # "openai", "anthropic", "google", "ollama", "tgi"; same as a client protocol's -> Passthrough.
    dialect: str
    framing: ClassVar[Literal["sse", "ndjson"]] = "sse"
    default_url: ClassVar[str] = ""  # empty: `url` is required
    needs_key: ClassVar[bool] = False  # at `default_url` nothing is answered without an api_key
    keepalive: ClassVar[bool] = True  # may connections be reused
    expresses: ClassVar[frozenset[Feature]] = frozenset()  # see backends.contract.fit
    ignores: ClassVar[frozenset[Feature]] = frozenset()  # of these: taken without complaint, and not understood
    continues: ClassVar[str] = ""  # how it goes on with a half-finished answer, for people; empty: it cannot
    limit: str = ""  # what an OpenAI-compatible server calls max_tokens; empty: that

    def __init__(self, name: str, backend: Backend) -> None:
        """Raises ValueError with a sentence when `backend` (its `options` included) does not suit this driver."""
        self.name = name
        self.backend = backend
        self.url = (backend.url or self.default_url).rstrip("/")
        self.secrets = secrets_of(backend)

    @abstractmethod
    def prepare(self, request: ChatRequest) -> HttpRequest:
        """The request in this backend's dialect, streaming. `request.model` is already the backend's name for it."""

    def drops(self, request: ChatRequest) -> tuple[str, ...]:
        """What `prepare` leaves out of, or changes in, a request that was fitted to this driver, in words for people:
        what cannot go together here, or goes only up to a bound."""
        return ()

    def forward(self, body: dict[str, Any], model: str) -> HttpRequest:
        """Passthrough: a client's body of the same dialect (decoded JSON, unknown fields and all), its model replaced,
        `stream` set. Raises NotImplementedError where no client protocol speaks this dialect."""
        raise NotImplementedError(self.dialect)

    def speaking(self, dialect: str) -> Driver | None:
        """This backend through the API of its own whose dialect is `dialect` (its own `forward`, `decoder`, `tap`,
        `framing`), so that a client of that dialect gets Passthrough; None: it has none, Transcode. Built once, not per
        request."""
        return self if dialect == self.dialect else None

    def beside(self) -> Iterable[Driver]:
        """This backend's APIs, other than its main one, to which a client's request may be translated where the main
        one has no word for something in it; the best first."""
        return ()

    def resume(self, request: ChatRequest, so_far: str, reasoning: str) -> HttpRequest | None:
        """The request that goes on with an answer of which `so_far` was given (after `reasoning`): the model's next
        token is what follows `so_far`, and nothing of it comes again. None: this API or model cannot, or not exactly
        with such a text. See `continues`."""
        return None

    def load(self) -> HttpRequest | None:
        """The call that tells how many requests the backend has now; None: it does not say."""
        return None

    def read_load(self, body: bytes) -> int:
        """Requests it works on and those that wait there, of a `load` answer. Raises ValueError when it holds none."""
        raise ValueError("no load")

    def embed(self, body: dict[str, Any], model: str) -> HttpRequest | None:
        """The embeddings call for an OpenAI-shaped body (`input`, ...); None: it cannot embed."""
        return None

    def read_embeddings(self, body: bytes) -> tuple[list[list[float]], Usage]:
        """Vectors, in order, and usage of an `embed` answer. Raises ValueError when it holds none."""
        raise ValueError("no embeddings")

    def count(self, request: ChatRequest) -> HttpRequest | None:
        """The call that counts a request's prompt tokens without generating; None: it has none."""
        return None

    def read_count(self, body: bytes) -> int:
        """Prompt tokens of a `count` answer. Raises ValueError when it holds none."""
        raise ValueError("no count")

    @abstractmethod
    def decoder(self) -> Decoder:
        """A decoder for one stream."""

    @abstractmethod
    def tap(self) -> Tap:
        """A tap for one stream."""

    @abstractmethod
    def failure(self, status: int, headers: Mapping[str, str], body: bytes) -> BackendError:
        """The error of an answer whose status is not 200 (`headers` in lower case; `body` may be cut at 64 KiB)."""

    def script(self, request: HttpRequest) -> Script | None:
        """A script to play instead of asking a server; None: ask the server at `url`."""
        return None

    def probe(self) -> HttpRequest | None:
        """The backend's cheapest call, for health checks; None: none needed."""
        return None

    def list_models(self) -> HttpRequest | None:
        """The call that lists its models; None: it cannot."""
        return None

    def read_models(self, body: bytes) -> Sequence[str]:
        """Model names of a `list_models` answer."""
        return self.backend.models
