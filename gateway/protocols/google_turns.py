"""One content of Google's API as turns of ours: text, media, thoughts with their signatures, calls and results. Pure.

Law: signatures stay where they were, marked as Google's. Parts only Google has words for become an OtherPart.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from backends.contract.request import (
    AudioPart,
    FilePart,
    ImagePart,
    Message,
    OtherPart,
    Part,
    ReasoningPart,
    TextPart,
    ToolCall,
)
from gateway.protocols.call_ids import CallIds
from gateway.protocols.parsing import Fields, invalid

_HUMP = re.compile(r"_([a-z0-9])")
_SOUNDS = {"mpeg": "mp3", "x-wav": "wav"}
_NOTHING = frozenset(("thought", "thoughtSignature", "videoMetadata", "mediaResolution", "partMetadata"))


def camelled(value: Any, path: str = "") -> Fields:
    """An object with its own fields in camel case; what is within them stays as it is."""
    data = Fields(value, path).data
    return Fields({_HUMP.sub(lambda match: match[1].upper(), name): said for name, said in data.items()}, path)


def inner(fields: Fields, name: str) -> Fields:
    """The object in a field; an empty one when it is absent."""
    return camelled(fields.object(name) or {}, fields.at(name))


def _parts_of(fields: Fields) -> list[Fields]:
    return [camelled(item, path) for path, item in fields.items("parts")]


def texts_of(fields: Fields) -> str:
    """The text of a content, its parts on lines of their own."""
    return "\n".join(text for text in (part.text("text") for part in _parts_of(fields)) if text)


def read_turn(fields: Fields, ids: CallIds) -> Iterator[Message]:
    """A content: one turn, or one for each result of a function and one for what stands beside them."""
    role = fields.text("role") or "user"
    if role not in ("user", "model", "function"):
        raise invalid(fields.at("role"), "user or model")
    parts = _parts_of(fields)
    for part in parts:
        if part.data.get("functionResponse") is not None:
            yield _result(part, ids)
    calls = tuple(_call(part, ids) for part in parts if part.data.get("functionCall") is not None)
    rest = [found for part in parts for found in _rest(part)]
    if rest or calls or not parts:
        content: str | tuple[Part, ...] = tuple(rest)
        if not rest or (len(rest) == 1 and isinstance(rest[0], TextPart)):
            content = "".join(p.text for p in rest if isinstance(p, TextPart))
        yield Message("assistant" if role == "model" else "user", content, calls)


def _result(part: Fields, ids: CallIds) -> Message:
    said = Fields(part.data["functionResponse"], part.at("functionResponse"))
    call, name = ids.answered(said.text("name"), said.text("id"))
    response = said.object("response") or {}
    only = next(iter(response.values())) if len(response) == 1 else None
    failed = "error" in response and len(response) == 1
    wrapped = isinstance(only, str) and ("result" in response or "output" in response or failed)
    text = only if wrapped and isinstance(only, str) else msgspec.json.encode(response).decode()
    return Message("tool", text, tool_call_id=call, name=name, failed=failed)


def _call(part: Fields, ids: CallIds) -> ToolCall:
    said = Fields(part.data["functionCall"], part.at("functionCall"))
    name = said.text("name")
    if not name:
        raise invalid(said.at("name"), "the function's name")
    arguments = msgspec.json.encode(said.object("args") or {}).decode()
    return ToolCall(ids.called(name, said.text("id")), name, arguments, part.text("thoughtSignature"))


def _rest(part: Fields) -> Iterator[Part]:
    """What is neither a call nor a result."""
    data = part.data
    if data.get("functionCall") is not None or data.get("functionResponse") is not None:
        return
    text, signature, thought = part.text("text"), part.text("thoughtSignature"), part.flag("thought")
    if thought or signature:
        yield ReasoningPart(text if thought else "", signature, dialect="google")
    if text and not thought:
        yield TextPart(text)
    for name, value in data.items():
        if name in ("inlineData", "fileData"):
            yield _media(camelled(value, part.at(name)))
        elif name != "text" and name not in _NOTHING and value is not None:
            yield OtherPart(name, value)


def _media(said: Fields) -> Part:
    kind, url, data = said.text("mimeType"), said.text("fileUri"), said.text("data")
    if not url and not data:
        raise invalid(said.path, "data or fileUri")
    if kind.startswith("image/"):
        return ImagePart(url=url, data=data, media_type=kind)
    if kind.startswith("audio/") and data:
        sound = kind.removeprefix("audio/")
        return AudioPart(data, _SOUNDS.get(sound, sound))
    return FilePart(url=url, data=data, media_type=kind, filename=said.text("displayName"))
