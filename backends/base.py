"""The driver contract: how to talk to one kind of model server. Pure: no I/O, no clock; tested with text files.

A driver is one file in this folder with a class `Driver(base.Driver)`; its name in YAML is the file's name.
Upstream always streams: `prepare` and `forward` ask for a stream whatever the client asked for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

from msgspec import Struct

from backends.contract.errors import BackendError
from backends.contract.events import Event, FinishReason, Usage
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

    @abstractmethod
    def feed(self, block: bytes) -> None:
        """Count a block of complete frames."""

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


class Driver(ABC):
    """One backend of gateway.yaml. Immutable after construction; shared by all its streams."""

    # "openai", "anthropic", "google", "ollama", "tgi"; same as a client protocol's -> Passthrough.
    dialect: str
    framing: ClassVar[Literal["sse", "ndjson"]] = "sse"
    default_url: ClassVar[str] = ""  # empty: `url` is required
    needs_key: ClassVar[bool] = False  # api_key must be set
    keepalive: ClassVar[bool] = True  # may connections be reused

    def __init__(self, name: str, backend: Backend) -> None:
        """Raises ValueError with a sentence when `backend` (its `options` included) does not suit this driver."""
        self.name = name
        self.backend = backend
        self.url = (backend.url or self.default_url).rstrip("/")

    @abstractmethod
    def prepare(self, request: ChatRequest) -> HttpRequest:
        """The request in this backend's dialect, streaming. `request.model` is already the backend's name for it."""

    def forward(self, body: dict[str, Any], model: str) -> HttpRequest:
        """Passthrough: a client's body of the same dialect (decoded JSON, unknown fields and all), its model replaced,
        `stream` set. Raises NotImplementedError where no client protocol speaks this dialect."""
        raise NotImplementedError(self.dialect)

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
