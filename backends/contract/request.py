"""What a client asks for, in nobody's dialect. Client protocols parse to this, drivers prepare from it."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct, field

Role = Literal["system", "user", "assistant", "tool"]


class TextPart(Struct, frozen=True, tag="text"):
    """A piece of text."""

    text: str


class ImagePart(Struct, frozen=True, tag="image"):
    """An image: `url`, or base64 `data` with its `media_type`."""

    url: str = ""
    data: str = ""
    media_type: str = ""


Part = TextPart | ImagePart


class ToolCall(Struct, frozen=True):
    """A call the assistant made in an earlier turn; `arguments` is JSON text."""

    id: str
    name: str
    arguments: str


class Message(Struct, frozen=True):
    """One turn. `tool_call_id` says which call a `tool` message answers."""

    role: Role
    content: str | tuple[Part, ...] = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    name: str = ""

    def text(self) -> str:
        """The text of the turn, its parts joined."""
        if isinstance(self.content, str):
            return self.content
        return "".join(p.text for p in self.content if isinstance(p, TextPart))


class Tool(Struct, frozen=True):
    """A function the model may call; `parameters` is a JSON Schema."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)


class ChatRequest(Struct, frozen=True):
    """A whole request. None means: the client did not say.

    `tool_choice`: auto, none, required, or the name of one tool as `name:<tool>`. `response_format` and
    `extra` are JSON in OpenAI's words; drivers that cannot express a field drop it.
    """

    model: str
    messages: tuple[Message, ...]
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    n: int = 1
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: str | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    user: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
