"""What Ollama's clients ask, `/api/chat` and `/api/generate` (protocol source: its API document). Pure.

Law: whatever the JSON, the outcome is a value or BackendError INVALID_REQUEST naming the field. What only Ollama has
words for becomes an OtherPart, so that a backend of another kind refuses it instead of answering something else.
"""

from __future__ import annotations

from typing import Any

import msgspec

from backends.contract.request import (
    ChatRequest,
    ImagePart,
    Message,
    OtherPart,
    Part,
    ReasoningPart,
    Role,
    TextPart,
    ToolCall,
)
from gateway.protocols.call_ids import CallIds
from gateway.protocols.parsing import Fields, invalid
from gateway.protocols.turns import read_tools

_ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
_KINDS = {"iVBOR": "image/png", "/9j/": "image/jpeg", "R0lGOD": "image/gif", "UklGR": "image/webp"}
_EFFORTS = {level: level for level in ("minimal", "low", "medium", "high", "xhigh")} | {"max": "xhigh"}
_OPTIONS = frozenset(
    ("num_predict", "temperature", "top_p", "top_k", "stop", "seed", "presence_penalty", "frequency_penalty")
)
_READ = frozenset(
    ("model", "messages", "prompt", "system", "images", "stream", "tools", "format", "options", "think", "logprobs")
) | {"top_logprobs", "suffix", "template", "context", "raw"}
_ONLY_OLLAMA = ("suffix", "template", "context", "raw")  # without them the answer would mean something else


def read_chat(fields: Fields) -> ChatRequest:
    """A body of `/api/chat`. No messages is a wish to load the model (or, with `keep_alive: 0`, to unload it)."""
    ids = CallIds()
    messages = tuple(_message(Fields(item, path), ids) for path, item in fields.items("messages"))
    return _request(fields, messages)


def read_generate(fields: Fields) -> ChatRequest:
    """A body of `/api/generate`."""
    system, prompt = fields.text("system"), fields.text("prompt")
    other = [OtherPart(name, fields.data[name]) for name in _ONLY_OLLAMA if fields.data.get(name)]
    images = _images(fields)
    messages = [Message("system", system)] if system else []
    if prompt or images or other:
        parts: tuple[Part, ...] = (TextPart(prompt), *images, *other)
        messages.append(Message("user", parts if images or other else prompt))
    return _request(fields, tuple(messages))


def unloads(body: dict[str, Any]) -> bool:
    """Whether a body without a prompt asks to unload the model: `keep_alive` of nothing."""
    value = body.get("keep_alive")
    if isinstance(value, str):
        return value.rstrip("smhun") in ("0", "0.0")
    return isinstance(value, int | float) and not isinstance(value, bool) and value == 0


def _request(fields: Fields, messages: tuple[Message, ...]) -> ChatRequest:
    model = fields.text("model")
    if not model:
        raise invalid("model", "the name of a model")
    options = Fields(fields.data.get("options") or {}, "options")
    limit = options.integer("num_predict")  # negative: as much as it likes
    extra = {name: value for name, value in fields.data.items() if name not in _READ and value is not None}
    extra |= {f"options.{name}": value for name, value in options.data.items() if name not in _OPTIONS}
    return ChatRequest(
        model=model,
        messages=messages,
        max_tokens=limit if limit is not None and limit > 0 else None,
        temperature=options.number("temperature"),
        top_p=options.number("top_p"),
        top_k=options.integer("top_k"),
        stop=options.stop(),
        seed=options.integer("seed"),
        presence_penalty=options.number("presence_penalty"),
        frequency_penalty=options.number("frequency_penalty"),
        tools=read_tools(fields, lenient=True),
        response_format=_format(fields),
        reasoning_effort=_effort(fields),
        logprobs=fields.flag("logprobs"),
        top_logprobs=fields.integer("top_logprobs", low=0),
        dialect="ollama",
        extra=extra,
    )


def _format(fields: Fields) -> dict[str, Any] | None:
    path, value = fields.find("format")
    if value is None or value == "":
        return None
    if value == "json":
        return {"type": "json_object"}
    if isinstance(value, dict):
        return {"type": "json_schema", "json_schema": {"name": "answer", "schema": value}}
    raise invalid(path, '"json" or a JSON schema')


def _effort(fields: Fields) -> str | None:
    path, value = fields.find("think")
    if value is None or value == "":
        return None
    if isinstance(value, bool):
        return "medium" if value else "none"
    effort = _EFFORTS.get(value) if isinstance(value, str) else None
    if effort is None:
        raise invalid(path, "true, false, low, medium or high")
    return effort


def _message(fields: Fields, ids: CallIds) -> Message:
    path, role = fields.find("role")
    if not isinstance(role, str) or not role:
        raise invalid(path, "one of system, user, assistant, tool")
    if role not in _ROLES:  # some models' templates know more of them
        return Message("user", (OtherPart(f"role {role}"),))
    text, thinking, images = fields.text("content"), fields.text("thinking"), _images(fields)
    content: str | tuple[Part, ...] = text
    if thinking or images:
        before: tuple[Part, ...] = (ReasoningPart(thinking, dialect="ollama"),) if thinking else ()
        content = (*before, *((TextPart(text),) if text else ()), *images)
    if role == "tool":
        call, name = ids.answered(fields.text("tool_name", "name"), fields.text("tool_call_id"))
        return Message("tool", content, tool_call_id=call, name=name)
    calls = tuple(_call(Fields(item, at), ids) for at, item in fields.items("tool_calls"))
    return Message(_ROLES[role], content, calls)


def _images(fields: Fields) -> tuple[ImagePart, ...]:
    found = []
    for path, data in fields.items("images"):
        if not isinstance(data, str):
            raise invalid(path, "an image in base64")
        found.append(ImagePart(data=data, media_type=_kind(data)))
    return tuple(found)


def _kind(data: str) -> str:
    """By the first bytes: Ollama's clients do not say."""
    return next((kind for start, kind in _KINDS.items() if data.startswith(start)), "image/png")


def _call(fields: Fields, ids: CallIds) -> ToolCall:
    inner = fields.inner("function")
    arguments = inner.object("arguments") or {}
    name = inner.text("name")
    return ToolCall(ids.called(name, fields.text("id")), name, msgspec.json.encode(arguments).decode())
