"""The client protocol contract: how clients talk to us. Pure; the mirror half of a driver.

A protocol is one file in this folder with a class `Protocol(base.ClientProtocol)`. Encoders are deterministic: ids and
times come from `About`, never from a clock, so the n-th frame of a view is the same bytes whenever it is rendered.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

from msgspec import Struct, field

from backends.contract.errors import BackendError, ErrorCode
from backends.contract.events import Citation, Event, FinishReason, TextDelta, Usage
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
    background: bool = False  # OpenAI Responses: the stream goes on when its client leaves
    turns: bytes = b""  # OpenAI Responses: what a later request that names this answer goes on from, items in JSON
    echo: dict[str, Any] = {}  # OpenAI Responses: fields of the request that the answer says again


class About(Struct, frozen=True):
    """What an encoder may say of its stream. `created_ms`: when it was accepted, Unix milliseconds."""

    stream_id: str
    model: str  # as the client said it
    backend: str
    created_ms: int
    conversation_id: str = ""
    include_usage: bool = True
    dialect: str = ""  # the backend's, whose opaque signatures these are
    renamed: bool = False  # the route asks the backend for another model than `model`
    echo: Mapping[str, Any] = {}  # as in `Asked`


class Ending(Struct, frozen=True):
    """How a stream ended, for the last frame. `error` None: completed (or a partial answer kept on purpose)."""

    finish: FinishReason
    usage: Usage
    usage_estimated: bool
    tokens: int  # content deltas delivered
    error: BackendError | None = None

    @property
    def partial(self) -> bool:
        """Whether it is an answer that ran out of time, given as far as it came."""
        return self.error is None and self.finish == "timeout"


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
    citations: list[Citation] = field(default_factory=list)
    redacted: list[str] = field(default_factory=list)  # encrypted reasoning, opaque
    stop_sequence: str = ""  # the one met, where the backend says
    logprobs: list[Any] = field(default_factory=list)  # OpenAI's `logprobs.content` items of the text
    deltas: int = 0  # pieces of text and reasoning, one token each with most backends
    texts: int = 0  # pieces of text alone
    others: dict[int, Answer] = field(default_factory=dict)  # the other choices by number, where several were asked for


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

    def plain(self, text: str) -> bytes:
        """As `feed([TextDelta(text)])`, byte for byte, for text that needs no escape in JSON: the token path."""
        return self.feed((TextDelta(text),))

    def nth(self) -> Callable[[str, int], bytes] | None:
        """What `plain` says of the n-th text (from 1) since `said` was last told of some, without noting it: that
        touches little memory. None: `plain` is to be called for each."""
        return None

    def said(self, texts: Sequence[str]) -> None:  # noqa: B027 - only for those that have `nth`
        """These went out as `nth` says them."""

    def adopt(self, block: bytes) -> bool:
        """`block` is of an answer the client has read as the backend wrote it: what follows must carry the same ids.
        Whether they are known now; until then the next block is asked, as a comment may come first."""
        return True  # most protocols' frames carry nothing of the kind

    def reset(self) -> bytes:
        """The frames that say: the answer begins anew. Raises BackendError where the protocol has no word for it."""
        raise BackendError(ErrorCode.UPSTREAM_FAILED, "the answer was begun anew, which this protocol cannot say")

    @abstractmethod
    def end(self, ending: Ending) -> bytes:
        """The last frames: the protocol's completion, or its error frame (after which the connection is cut)."""


class Gatherer(ABC):
    """The whole answer of a backend that speaks the client's own dialect, put together from its stream with every
    field it sent, known or not (several choices, logprobs, annotations, ...). Pure; one per answer."""

    @abstractmethod
    def feed(self, block: bytes) -> None:
        """A block of complete frames. Never raises."""

    @abstractmethod
    def body(self, about: About, ending: Ending) -> bytes:
        """The answer as the backend would have sent it unstreamed, its model named `about.model`."""


class ClientProtocol(ABC):
    """One way of talking to the gateway. Stateless; shared by all streams. A file of this folder may define several
    (subclasses with a `name` of their own)."""

    name: ClassVar[str]  # "native", "ndjson", "openai"
    family: ClassVar[str]  # its name in server.protocols
    paths: ClassVar[tuple[str, ...]] = ()  # POST targets, in aiohttp's pattern language; variables reach `parse`
    dialect: ClassVar[str]  # equal to a driver's dialect: Passthrough
    content_type: ClassVar[str]
    framing: ClassVar[Literal["sse", "ndjson"]]
    keepalive: ClassVar[bytes]  # harmless bytes between two frames; b"": none is safe
    head_wait: ClassVar[float] = 1.0  # seconds to wait for the first frame, so that an early failure keeps its status
    on_disconnect: ClassVar[str] = "cancel"  # default policy: "cancel" or "grace 30s"
    forwarded: ClassVar[tuple[str, ...]] = ()  # headers of a request (lower case) that go on in Passthrough

    @abstractmethod
    def parse(self, body: bytes, params: Mapping[str, str]) -> Asked:
        """A request body (and path/query parameters). Raises BackendError INVALID_REQUEST: which field and why."""

    @abstractmethod
    def encoder(self, about: About) -> Encoder:
        """An encoder for one reader (Transcode)."""

    @abstractmethod
    def whole(self, about: About, answer: Answer, ending: Ending) -> bytes:
        """The whole answer as one JSON body."""

    def pending(self, about: About) -> bytes:
        """What stands for a whole answer that was asked for in the background (`Asked.background`)."""
        raise NotImplementedError(self.name)

    def gatherer(self) -> Gatherer | None:
        """Puts whole answers together where the backend speaks this very dialect; None: `whole` is good enough."""
        return None

    @abstractmethod
    def failure(self, error: BackendError, request_id: str) -> Refusal:
        """An error before the first byte, in this protocol's shape."""

    @abstractmethod
    def error_frame(self, about: About, ending: Ending, seq: int) -> bytes:
        """The error frame of a Passthrough view (`seq`: its number in the view)."""

    def break_off(self, about: About, ending: Ending, seq: int, began: bytes) -> bytes:
        """As `error_frame`, after an answer that `began` with this block of the backend's: protocols whose clients
        know an answer by its id say it again."""
        return self.error_frame(about, ending, seq)
