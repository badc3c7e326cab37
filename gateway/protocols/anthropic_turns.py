"""System prompt and turns of a Messages body: content blocks to parts. Pure.

Law: results of tools become turns of their own, in their order; a block of a type not known here becomes an OtherPart,
never nothing. Reasoning is marked as Anthropic's: its signature means nothing to others.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import msgspec

from backends.contract.request import (
    FilePart,
    ImagePart,
    Message,
    OtherPart,
    Part,
    ReasoningPart,
    Role,
    TextPart,
    ToolCall,
)
from gateway.protocols.parsing import Fields, encodable, invalid

_ROLES: dict[str, Role] = {"user": "user", "assistant": "assistant", "system": "system"}


def cache_of(fields: Fields) -> dict[str, Any]:
    """A block's `cache_control`."""
    return fields.object("cache_control") or {}


def read_system(fields: Fields) -> tuple[Message, ...]:
    """`system`: a string or text blocks; blocks stay apart only where one is to be cached."""
    path, value = fields.find("system")
    if value is None or value in ("", []):
        return ()
    content = _content(path, value)
    if not isinstance(content, str) and not any(getattr(part, "cache", None) for part in content):
        content = "\n\n".join(part.text for part in content if isinstance(part, TextPart))
    return (Message("system", content),)


def read_turns(fields: Fields) -> list[Message]:
    """`messages`; the last one may be the assistant's, to be continued."""
    return [turn for path, item in fields.items("messages") for turn in _turns(Fields(item, path))]


def _turns(fields: Fields) -> Iterator[Message]:
    role = _ROLES.get(fields.text("role"))
    if role is None:
        raise invalid(fields.at("role"), "user or assistant")
    path, value = fields.find("content")
    if not isinstance(value, list):
        yield Message(role, _content(path, value))
        return
    parts: list[Part] = []
    calls: list[ToolCall] = []
    for at, item in fields.items("content"):
        block = Fields(item, at)
        kind = block.text("type")
        if kind == "tool_result":
            if parts:
                yield Message(role, _simple(parts))
                parts = []
            yield _tool_result(block)
        elif kind == "tool_use" and role == "assistant":
            calls.append(_tool_call(block))
        else:
            parts.append(_part(block))
    if parts or calls or not value:
        yield Message(role, _simple(parts), tool_calls=tuple(calls))


def _content(path: str, value: Any) -> str | tuple[Part, ...]:
    if isinstance(value, str):
        return encodable(path, value)
    if not isinstance(value, list):
        raise invalid(path, "a string or an array of content blocks")
    return _simple([_part(Fields(item, f"{path}[{i}]")) for i, item in enumerate(value)])


def _simple(parts: list[Part]) -> str | tuple[Part, ...]:
    """A single plain text as what it is."""
    if not parts:
        return ""
    first = parts[0]
    return first.text if len(parts) == 1 and isinstance(first, TextPart) and not first.cache else tuple(parts)


def _tool_result(fields: Fields) -> Message:
    path, value = fields.find("content")
    content: str | tuple[Part, ...] = "" if value is None else _content(path, value)
    cache = cache_of(fields)
    if cache and isinstance(content, str):
        content = (TextPart(content, cache),)
    id_ = fields.text("tool_use_id")
    if not id_:
        raise invalid(fields.at("tool_use_id"), "the id of a tool_use block")
    return Message("tool", content, tool_call_id=id_, failed=fields.flag("is_error") is True)


def _tool_call(fields: Fields) -> ToolCall:
    name = fields.text("name")
    if not name:
        raise invalid(fields.at("name"), "the tool's name")
    arguments = msgspec.json.encode(fields.object("input") or {}).decode()
    return ToolCall(id=fields.text("id"), name=name, arguments=arguments)


def _part(fields: Fields) -> Part:
    kind = fields.text("type")
    match kind:
        case "text":
            return TextPart(fields.text("text"), cache_of(fields))
        case "image":
            return _image(fields)
        case "document":
            return _document(fields)
        case "thinking":
            return ReasoningPart(fields.text("thinking"), fields.text("signature"), dialect="anthropic")
        case "redacted_thinking":
            return ReasoningPart(redacted=fields.text("data"), dialect="anthropic")
        case "":
            raise invalid(fields.at("type"), "the type of a content block")
        case _:
            return OtherPart(kind, fields.data)


def _image(fields: Fields) -> Part:
    source = _source(fields)
    match source.text("type"):
        case "base64":
            return ImagePart(data=source.text("data"), media_type=source.text("media_type"), cache=cache_of(fields))
        case "url":
            return ImagePart(url=source.text("url"), cache=cache_of(fields))
        case "file":
            return FilePart(file_id=source.text("file_id"), media_type="image/*", cache=cache_of(fields))
        case _:
            return OtherPart("image", fields.data)


def _document(fields: Fields) -> Part:
    """A document of content blocks has no other words than Anthropic's, unless it is text alone."""
    source, cache = _source(fields), cache_of(fields)
    title = fields.text("title")
    match source.text("type"):
        case "base64":
            media_type = source.text("media_type") or "application/pdf"
            return FilePart(data=source.text("data"), media_type=media_type, filename=title, cache=cache)
        case "text":
            data = base64.b64encode(source.text("data").encode()).decode("ascii")
            return FilePart(data=data, media_type="text/plain", filename=title, cache=cache)
        case "url":
            return FilePart(url=source.text("url"), filename=title, cache=cache)
        case "file":
            return FilePart(file_id=source.text("file_id"), filename=title, cache=cache)
        case "content" if isinstance(source.data.get("content"), str):
            return TextPart(source.text("content"), cache)
        case _:
            return OtherPart("document", fields.data)


def _source(fields: Fields) -> Fields:
    path, value = fields.find("source")
    return Fields(value, path)
