"""The client protocol contract: how clients talk to us. Pure; the mirror half of a driver.

A protocol is one file in this folder with a class `Protocol(base.ClientProtocol)`. Encoders are deterministic: ids and
times come from `About`, never from a clock, so the n-th frame of a view is the same bytes whenever it is rendered.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from msgspec import Struct, field

from backends.contract.errors import BackendError
from backends.contract.events import Event, FinishReason, Usage
from backends.contract.request import ChatRequest


class Asked(Struct, frozen=True):
    """A client's request, parsed. `body` is its decoded JSON, whole, for Passthrough."""

    request: ChatRequest
    stream: bool
    body: dict[str, Any]
    include_usage: bool = True  # False: an OpenAI client that did not ask for the usage chunk
    backend: str = ""  # native: a backend by name
    user_id: str = ""
    workspace_id: str = ""
    conversation_id: str = ""


class About(Struct, frozen=True):
    """What an encoder may say of its stream. `created_ms`: when it was accepted, Unix milliseconds."""

    stream_id: str
    model: str  # as the client said it
    backend: str
    created_ms: int
    conversation_id: str = ""
    include_usage: bool = True


class Ending(Struct, frozen=True):
    """How a stream ended, for the last frame. `error` None: completed (or a partial answer kept on purpose)."""

    finish: FinishReason
    usage: Usage
    usage_estimated: bool
    tokens: int  # content deltas delivered
    error: BackendError | None = None


class ToolCallWhole(Struct, frozen=True):
    """One assembled tool call."""

    index: int
    id: str
    name: str
    arguments: str


class Answer(Struct):
    """A whole answer: the fold of a stream's events. See `gateway.protocols.answer.fold`."""

    text: str = ""
    reasoning: str = ""
    signature: str = ""
    tool_calls: list[ToolCallWhole] = field(default_factory=list)
    tool_results: list[Any] = field(default_factory=list)
    finish: FinishReason | None = None


class Refusal(Struct, frozen=True):
    """An answer that is not a stream: status, headers and body of an error before the first byte."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    content_type: str = "application/json"


class Encoder(ABC):
    """One reader's view of one stream: events in, frames out. Whole frames only; b"" when there is nothing to say."""

    frames: int = 0  # frames rendered so far; the n-th frame is the same bytes for every reader

    @abstractmethod
    def start(self) -> bytes:
        """The frames before any event (native: `start`)."""

    @abstractmethod
    def feed(self, events: Sequence[Event]) -> bytes:
        """Frames for these events. `Failed` is ignored: the ending comes by `end`."""

    @abstractmethod
    def end(self, ending: Ending) -> bytes:
        """The last frames: the protocol's completion, or its error frame (after which the connection is cut)."""


class ClientProtocol(ABC):
    """One way of talking to the gateway. Stateless; shared by all streams."""

    name: ClassVar[str]  # "native", "ndjson", "openai"
    family: ClassVar[str]  # its name in server.protocols
    dialect: ClassVar[str]  # equal to a driver's dialect: Passthrough
    content_type: ClassVar[str]
    framing: ClassVar[Literal["sse", "ndjson"]]
    keepalive: ClassVar[bytes]  # harmless bytes between two frames; b"": none is safe
    head_wait: ClassVar[float] = 1.0  # seconds to wait for the first frame, so that an early failure keeps its status
    on_disconnect: ClassVar[str] = "cancel"  # default policy: "cancel" or "grace 30s"

    @abstractmethod
    def parse(self, body: bytes, params: Mapping[str, str]) -> Asked:
        """A request body (and path/query parameters). Raises BackendError INVALID_REQUEST: which field and why."""

    @abstractmethod
    def encoder(self, about: About) -> Encoder:
        """An encoder for one reader (Transcode)."""

    @abstractmethod
    def whole(self, about: About, answer: Answer, ending: Ending) -> bytes:
        """The whole answer as one JSON body."""

    @abstractmethod
    def failure(self, error: BackendError, request_id: str) -> Refusal:
        """An error before the first byte, in this protocol's shape."""

    @abstractmethod
    def error_frame(self, about: About, ending: Ending, seq: int) -> bytes:
        """The error frame of a Passthrough view (`seq`: its number in the view)."""
