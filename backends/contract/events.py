"""What a model streams, in nobody's dialect. Drivers decode to these, client protocols encode from them.

The vocabulary is closed: match it with `assert_never`. A decoder yields at most one Start, first; `Finish` and `Usage`
may come in either order; the end of the stream is not an event here but `Decoder.done`.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from backends.contract.errors import BackendError

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "cancelled", "timeout", "error"]


class Start(Struct, frozen=True, gc=False):
    """The backend began: its own id of the answer and the model's name as it said it (either may be empty)."""

    id: str = ""
    model: str = ""


class TextDelta(Struct, frozen=True, gc=False):
    """More of the answer. Never empty. `logprobs`: OpenAI's `logprobs.content` items for it, JSON."""

    text: str
    logprobs: Any = None


class ReasoningDelta(Struct, frozen=True, gc=False):
    """More of the model's reasoning. `signature` and `redacted` (reasoning told only in encrypted form; such a delta
    has no text and is a block of its own) are opaque and go back to the same provider only."""

    text: str
    signature: str = ""
    redacted: str = ""


class ToolCallDelta(Struct, frozen=True, gc=False):
    """More of one tool call. The first delta of an `index` carries `id` and `name`; `arguments` is a JSON fragment.
    `signature` is opaque, of the call (Google's thoughtSignature), and goes back with it on the next turn."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""
    signature: str = ""


class Citation(Struct, frozen=True):
    """Where (part of) the answer comes from. `start`/`end` are characters of the text so far, None when not said.
    `source` is the provider's own object, in the words of `dialect`."""

    url: str = ""
    title: str = ""
    text: str = ""  # the words cited
    start: int | None = None
    end: int | None = None
    source: Any = None
    dialect: str = ""


class ToolResult(Struct, frozen=True):
    """The result of a tool that ran at the provider."""

    id: str
    name: str
    result: Any


class Usage(Struct, frozen=True, gc=False):
    """The provider's own count, cumulative: a later one replaces an earlier one."""

    prompt: int = 0
    completion: int = 0
    reasoning: int = 0  # part of completion
    cached: int = 0  # part of prompt
    cache_written: int = 0  # part of prompt


class Finish(Struct, frozen=True, gc=False):
    """Why the model stopped; `stop_sequence` is the one it met, where the provider says."""

    reason: FinishReason
    stop_sequence: str = ""


class Failed(Struct, frozen=True):
    """The backend reported an error inside its stream. Nothing follows that counts."""

    error: BackendError


class OtherChoice(Struct, frozen=True, gc=False):
    """What happened in another choice than the first, where several were asked for (`ChatRequest.n`): `choice` is its
    number, from 1. Whatever comes without this is of the first choice or, as Start, Usage and Failed are, of the whole
    stream; so who knows of one choice only leaves these events out and has a whole answer."""

    choice: int
    event: TextDelta | ReasoningDelta | ToolCallDelta | Citation | ToolResult | Finish


Event = (
    Start | TextDelta | ReasoningDelta | ToolCallDelta | Citation | ToolResult | Usage | Finish | Failed | OtherChoice
)
