"""What a client asks for, in nobody's dialect. Client protocols parse to this, drivers prepare from it."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct, field

Role = Literal["system", "user", "assistant", "tool"]


class TextPart(Struct, frozen=True, tag="text"):
    """A piece of text. `cache`: Anthropic's cache_control object, {} for none (the other parts have it too)."""

    text: str
    cache: dict[str, Any] = field(default_factory=dict)


class ImagePart(Struct, frozen=True, tag="image"):
    """An image: `url`, or base64 `data` with its `media_type`. `detail`: OpenAI's low, high, auto."""

    url: str = ""
    data: str = ""
    media_type: str = ""
    detail: str = ""
    cache: dict[str, Any] = field(default_factory=dict)


class FilePart(Struct, frozen=True, tag="file"):
    """A document (PDF, text, ...): `url`, base64 `data` with its `media_type`, or a provider's own `file_id`."""

    url: str = ""
    data: str = ""
    media_type: str = ""
    filename: str = ""
    file_id: str = ""
    cache: dict[str, Any] = field(default_factory=dict)


class AudioPart(Struct, frozen=True, tag="audio"):
    """Sound, base64 `data`; `format` is wav, mp3, ..."""

    data: str
    format: str = "wav"


class ReasoningPart(Struct, frozen=True, tag="reasoning"):
    """Reasoning of an earlier assistant turn. `signature` and `redacted` are opaque and mean something only to the
    provider whose dialect is `dialect`: a driver of another dialect leaves them out."""

    text: str = ""
    signature: str = ""
    redacted: str = ""
    dialect: str = ""
    id: str = ""  # OpenAI Responses: the item's id


class OtherPart(Struct, frozen=True, tag="other"):
    """Something only the request's own dialect has words for: `kind` names it in messages, `raw` is what the client
    said. Goes on unchanged in Passthrough; everything else refuses it."""

    kind: str
    raw: Any = None


Part = TextPart | ImagePart | FilePart | AudioPart | ReasoningPart | OtherPart


class ToolCall(Struct, frozen=True):
    """A call the assistant made in an earlier turn; `arguments` is JSON text; `signature` as in ToolCallDelta."""

    id: str
    name: str
    arguments: str
    signature: str = ""


class Message(Struct, frozen=True):
    """One turn. `tool_call_id` says which call a `tool` message answers; `failed`: that tool reported an error."""

    role: Role
    content: str | tuple[Part, ...] = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    name: str = ""
    failed: bool = False

    def text(self) -> str:
        """The text of the turn, its parts joined; those of a system turn are paragraphs, others pieces of one text."""
        if isinstance(self.content, str):
            return self.content
        return ("\n\n" if self.role == "system" else "").join(p.text for p in self.content if isinstance(p, TextPart))


class Tool(Struct, frozen=True):
    """A function the model may call; `parameters` is a JSON Schema. `hosted`: not a function but a tool that runs at
    the provider (web search, ...), its definition in the words of the request's `dialect`."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    strict: bool | None = None
    cache: dict[str, Any] = field(default_factory=dict)
    hosted: dict[str, Any] = field(default_factory=dict)


class ChatRequest(Struct, frozen=True):
    """A whole request. None means: the client did not say.

    `tool_choice`: auto, none, required, or the name of one tool as `name:<tool>`. `response_format` is JSON in OpenAI's
    words. `extra` holds the client's other fields in the words of `dialect`; a driver of that dialect sends them on.
    `most`: operators let no call ask for more tokens than this, whoever named the limit; 0: they set none. What a
    driver cannot express is dropped or refused by one table: `backends.contract.fit`.
    """

    model: str
    messages: tuple[Message, ...]
    max_tokens: int | None = None
    most: int = 0
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
    reasoning_effort: str | None = None  # none, minimal, low, medium, high, xhigh
    reasoning_budget: int | None = None  # tokens
    logprobs: bool | None = None
    top_logprobs: int | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    user: str = ""
    dialect: str = "openai"
    extra: dict[str, Any] = field(default_factory=dict)
