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
    """More of the answer (choice 0). Never empty."""

    text: str


class ReasoningDelta(Struct, frozen=True, gc=False):
    """More of the model's visible reasoning. `signature` is opaque and goes back to the same provider only."""

    text: str
    signature: str = ""


class ToolCallDelta(Struct, frozen=True, gc=False):
    """More of one tool call. The first delta of an `index` carries `id` and `name`; `arguments` is a JSON fragment."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


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


class Finish(Struct, frozen=True, gc=False):
    """Why the model stopped."""

    reason: FinishReason


class Failed(Struct, frozen=True):
    """The backend reported an error inside its stream. Nothing follows that counts."""

    error: BackendError


Event = Start | TextDelta | ReasoningDelta | ToolCallDelta | ToolResult | Usage | Finish | Failed
