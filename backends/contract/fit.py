"""What a request needs against what a driver can express: dropped with a warning, or refused. Pure.

Law: this table alone decides. A feature is *dropped* when the answer stays what was asked for (a hint, a tuning knob);
it is *refused* when the answer would mean something else without it. What can be said in other words is said in them
first (`backends.contract.thinking`). `docs/compatibility.md` prints this table.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Literal

from msgspec.structs import replace

from backends.contract.errors import BackendError, ErrorCode
from backends.contract.request import AudioPart, ChatRequest, FilePart, ImagePart, Message, OtherPart, ReasoningPart
from backends.contract.thinking import budget_of, effort_of


class Feature(Enum):
    """(name in messages, what happens where it cannot be expressed, the field of ChatRequest to reset or "")"""

    IMAGES = ("images", "refuse", "")
    IMAGE_URLS = ("images by URL", "refuse", "")
    FILES = ("files", "refuse", "")
    FILE_URLS = ("files by URL", "refuse", "")
    FILE_IDS = ("files by a provider's id", "refuse", "")
    AUDIO = ("audio input", "refuse", "")
    OTHER_PARTS = ("what only another API has words for", "refuse", "")
    STORED_TURNS = ("previous_response_id, conversation or prompt", "refuse", "previous_response_id")  # kept elsewhere
    TOOLS = ("tools", "refuse", "")
    HOSTED_TOOLS = ("tools that run at the provider", "refuse", "")
    FORCED_TOOL = ("tool_choice that forces a tool", "refuse", "")
    SCHEMA = ("structured output by JSON schema", "refuse", "")
    JSON = ("JSON mode", "refuse", "")
    CHOICES = ("n", "refuse", "")
    LOGPROBS = ("logprobs", "refuse", "")
    STOP = ("stop sequences", "refuse", "")
    PARALLEL_TOOLS = ("parallel_tool_calls", "drop", "parallel_tool_calls")
    REASONING = ("reasoning effort", "drop", "reasoning_effort")
    REASONING_BUDGET = ("reasoning budget", "drop", "reasoning_budget")
    REASONING_HISTORY = ("reasoning of earlier turns", "drop", "")
    CACHE_CONTROL = ("cache control", "drop", "")
    TOOL_ERRORS = ("error marks of tool results", "drop", "")  # the result's own words stay
    SEED = ("seed", "drop", "seed")
    TEMPERATURE = ("temperature", "drop", "temperature")
    TOP_P = ("top_p", "drop", "top_p")
    TOP_K = ("top_k", "drop", "top_k")
    PENALTIES = ("penalties", "drop", "presence_penalty")
    METADATA = ("metadata", "drop", "metadata")
    USER = ("user", "drop", "user")
    EXTRA = ("fields of another API", "drop", "extra")

    def __init__(self, title: str, policy: Literal["drop", "refuse"], field: str) -> None:
        self.title = title
        self.policy = policy
        self.field = field


# Providers that take back only reasoning they signed themselves; any other is left out of what they are sent.
_SIGNED = frozenset(("anthropic", "google"))
STORED = frozenset(("previous_response_id", "conversation", "prompt"))


def used(request: ChatRequest) -> set[Feature]:
    """The features a request makes use of (plain text, system prompts, turns and max_tokens every driver can)."""
    found = set(_of_fields(request))
    for message in request.messages:
        found.update(_of_message(message))
    return found


def _of_fields(request: ChatRequest) -> Iterator[Feature]:
    kind = (request.response_format or {}).get("type")
    asked = {
        Feature.STORED_TURNS: request.dialect == "openai_responses" and not STORED.isdisjoint(request.extra),
        Feature.TOOLS: any(not tool.hosted for tool in request.tools),
        Feature.HOSTED_TOOLS: any(tool.hosted for tool in request.tools),
        Feature.FORCED_TOOL: bool(request.tools) and request.tool_choice not in (None, "auto", "none"),
        Feature.SCHEMA: kind == "json_schema",
        Feature.JSON: kind == "json_object",
        Feature.CHOICES: request.n > 1,
        Feature.LOGPROBS: bool(request.logprobs) or bool(request.top_logprobs),
        Feature.STOP: bool(request.stop),
        Feature.PARALLEL_TOOLS: request.parallel_tool_calls is not None and bool(request.tools),
        Feature.REASONING: request.reasoning_effort is not None,
        Feature.REASONING_BUDGET: request.reasoning_budget is not None,
        Feature.SEED: request.seed is not None,
        Feature.TEMPERATURE: request.temperature is not None,
        Feature.TOP_P: request.top_p is not None,
        Feature.TOP_K: request.top_k is not None,
        Feature.PENALTIES: bool(request.presence_penalty) or bool(request.frequency_penalty),
        Feature.METADATA: bool(request.metadata),
        Feature.USER: bool(request.user),
        Feature.CACHE_CONTROL: any(tool.cache for tool in request.tools),
    }
    return (feature for feature, wanted in asked.items() if wanted)


def _of_message(message: Message) -> Iterator[Feature]:
    if message.failed:
        yield Feature.TOOL_ERRORS
    if isinstance(message.content, str):
        return
    for part in message.content:
        if getattr(part, "cache", None):
            yield Feature.CACHE_CONTROL
        match part:
            case ImagePart():
                yield Feature.IMAGE_URLS if part.url else Feature.IMAGES
            case FilePart():
                yield Feature.FILE_IDS if part.file_id else Feature.FILE_URLS if part.url else Feature.FILES
            case AudioPart():
                yield Feature.AUDIO
            case ReasoningPart():
                yield Feature.REASONING_HISTORY
            case OtherPart():
                yield Feature.OTHER_PARTS
            case _:
                pass


def fit(
    request: ChatRequest, can: frozenset[Feature], backend: str, dialect: str
) -> tuple[ChatRequest, tuple[str, ...]]:
    """The request as this backend can be asked it, and the titles of what was dropped (fields of another API by name).

    `can`: what the driver expresses; `dialect`: the driver's. Raises BackendError INVALID_REQUEST naming what the
    backend cannot do.
    """
    request = _in_its_words(request, can)
    if dialect in _SIGNED and _has_foreign_reasoning(request, dialect):
        can = can - {Feature.REASONING_HISTORY}
    missing = sorted(used(request) - can, key=lambda feature: feature.name)
    for feature in missing:
        if feature.policy == "refuse":
            title = feature.title + _named(request, feature)
            text = f"backend {backend!r} cannot do {title}; leave it out, or choose a model on another backend"
            raise BackendError(ErrorCode.INVALID_REQUEST, text, param=feature.field or None)
    dropped = [feature.title for feature in missing]
    fields = {f.field: _empty(f.field) for f in missing if f.field}
    if Feature.PENALTIES in missing:
        fields["frequency_penalty"] = None
    if request.extra and request.dialect != dialect:
        dropped += sorted(request.extra)
        fields["extra"] = {}
    return (replace(request, **fields) if fields else request), tuple(dropped)


def _in_its_words(request: ChatRequest, can: frozenset[Feature]) -> ChatRequest:
    """Effort and budget are one wish: where a backend has a word for one of them, that one says it."""
    effort, budget = request.reasoning_effort, request.reasoning_budget
    if Feature.REASONING in can and Feature.REASONING_BUDGET not in can and budget is not None:
        return replace(request, reasoning_effort=effort or effort_of(budget), reasoning_budget=None)
    if Feature.REASONING_BUDGET in can and Feature.REASONING not in can and effort is not None:
        tokens = budget_of(effort) if budget is None else budget
        return request if tokens is None else replace(request, reasoning_effort=None, reasoning_budget=tokens)
    return request


def _has_foreign_reasoning(request: ChatRequest, dialect: str) -> bool:
    contents = (m.content for m in request.messages if not isinstance(m.content, str))
    parts = (part for content in contents for part in content)
    return any(isinstance(part, ReasoningPart) and part.dialect != dialect for part in parts)


def _named(request: ChatRequest, feature: Feature) -> str:
    """What exactly is refused, in brackets, where the title does not say it."""
    kinds: set[str] = set()
    if feature is Feature.HOSTED_TOOLS:
        kinds = {tool.name for tool in request.tools if tool.hosted}
    elif feature is Feature.OTHER_PARTS:
        contents = (m.content for m in request.messages if not isinstance(m.content, str))
        kinds = {part.kind for content in contents for part in content if isinstance(part, OtherPart)}
    return f" ({', '.join(sorted(kinds))[:200]})" if kinds else ""


def _empty(field: str) -> object:
    return {"metadata": {}, "extra": {}, "user": ""}.get(field)
