"""The `input` of a Responses request as turns. Pure.

Law: the items of one assistant turn (reasoning, message, function calls) become one message, so that backends that
know only turns accept it; items and parts this gateway has no word for become an `OtherPart`, never a refusal here: the
whole body goes on unchanged where the backend speaks this API.
"""

from __future__ import annotations

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
    Role,
    TextPart,
    ToolCall,
)
from gateway.protocols.amounts import check_texts
from gateway.protocols.parsing import Fields, encodable, invalid

DIALECT = "openai_responses"
_ROLES: dict[str, Role] = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
_SEAL = "headgate."
_TEXTS = {"input_text": "text", "output_text": "text", "text": "text", "summary_text": "text", "refusal": "refusal"}


class Turns:
    """Messages in the making."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._parts: list[Part] = []  # of the open assistant turn
        self._calls: list[ToolCall] = []

    def read(self, fields: Fields) -> tuple[Message, ...]:
        """`input`: a string, or an array of items. Empty when absent."""
        path, value = fields.find("input")
        if isinstance(value, str):
            return (Message("user", encodable(path, value)),)
        if value is not None and not isinstance(value, list):
            raise invalid(path, "a string or an array of items")
        for at, item in fields.items("input"):
            self._item(Fields(item, at))
        self._close()
        check_texts(path, (call.arguments for message in self.messages for call in message.tool_calls))
        return tuple(self.messages)

    def _item(self, item: Fields) -> None:
        kind = item.text("type") or "message"
        if kind == "message":
            self._message(item)
        elif kind == "function_call":
            self._calls.append(_call(item))
        elif kind == "function_call_output":
            self._close()
            content = self._content(item, "output")
            self.messages.append(Message("tool", content, tool_call_id=item.text("call_id")))
        elif kind == "reasoning":
            self._close_spoken()
            self._parts.append(_reasoning(item))
        else:
            self._close()
            self.messages.append(Message("user", (OtherPart(kind, item.data),)))

    def _message(self, item: Fields) -> None:
        path, role = item.find("role")
        if not isinstance(role, str) or role not in _ROLES:
            raise invalid(path, "one of user, assistant, system, developer")
        content = self._content(item, "content")
        if role != "assistant":
            self._close()
            self.messages.append(Message(_ROLES[role], content))
            return
        self._close_spoken()
        self._parts += [TextPart(content)] if isinstance(content, str) else list(content)

    def _close_spoken(self) -> None:
        """What comes now begins another assistant turn, if the open one has gone beyond reasoning."""
        if self._calls or any(not isinstance(part, ReasoningPart) for part in self._parts):
            self._close()

    def _close(self) -> None:
        """The open assistant turn, if any, is complete."""
        parts, calls = self._parts, self._calls
        self._parts, self._calls = [], []
        if not parts and not calls:
            return
        plain = all(isinstance(part, TextPart) for part in parts)
        content: str | tuple[Part, ...] = tuple(parts)
        if plain and len(parts) <= 1:
            content = "".join(part.text for part in parts if isinstance(part, TextPart))
        self.messages.append(Message("assistant", content, tool_calls=tuple(calls)))

    def _content(self, item: Fields, name: str) -> str | tuple[Part, ...]:
        path, value = item.find(name)
        if isinstance(value, str):
            return encodable(path, value)
        if not isinstance(value, list):
            raise invalid(path, "a string or an array of parts")
        return tuple(_part(Fields(said, at)) for at, said in item.items(name))


def _part(part: Fields) -> Part:
    kind = part.text("type")
    if kind in _TEXTS:
        if not isinstance(part.data.get(_TEXTS[kind]), str):
            raise invalid(part.at(_TEXTS[kind]), "a string")
        return TextPart(part.text(_TEXTS[kind]))
    if kind == "input_image":
        return _image(part)
    if kind == "input_file":
        return _file(part)
    if kind == "input_audio":
        inner = part.inner("input_audio")
        return AudioPart(inner.text("data"), inner.text("format") or "wav")
    if not kind:
        raise invalid(part.at("type"), "the type of a part, such as input_text")
    return OtherPart(kind, part.data)


def _call(item: Fields) -> ToolCall:
    path, arguments = item.find("arguments")
    if isinstance(arguments, dict):
        arguments = msgspec.json.encode(arguments).decode()
    if arguments is not None and not isinstance(arguments, str):
        raise invalid(path, "JSON text")
    name = item.text("name")
    if not name:
        raise invalid(item.at("name"), "the function's name")
    return ToolCall(item.text("call_id") or item.text("id"), name, arguments or "")


def _reasoning(item: Fields) -> ReasoningPart:
    text = _joined(item, "summary") or _joined(item, "content")
    dialect, sealed = unseal(item.text("encrypted_content"))
    return ReasoningPart(
        text=text,
        signature=sealed if text else "",
        redacted="" if text else sealed,
        dialect=dialect,
        id=item.text("id"),
    )


def seal(dialect: str, value: str) -> str:
    """What only another provider can read, as `encrypted_content` that says whose it is: it comes back with the next
    turn. Empty where that is not known."""
    if dialect == DIALECT:
        return value
    return f"{_SEAL}{dialect}.{value}" if dialect and value else ""


def unseal(sealed: str) -> tuple[str, str]:
    """(dialect, value) of an `encrypted_content`."""
    if not sealed.startswith(_SEAL):
        return DIALECT, sealed
    dialect, _, value = sealed.removeprefix(_SEAL).partition(".")
    return dialect, value


def _joined(item: Fields, name: str) -> str:
    """Paragraphs of a summary, or the pieces of reasoning content."""
    return "\n\n".join(Fields(said, at).text("text") for at, said in item.items(name))


def _image(part: Fields) -> Part:
    path, url = part.find("image_url")
    if isinstance(url, dict):  # as chat completions write it
        path, url = f"{path}.url", url.get("url")
    if isinstance(url, str) and url:
        data, media_type = data_url(encodable(path, url))
        detail = part.text("detail")
        return ImagePart(data=data, media_type=media_type, detail=detail) if data else ImagePart(url, detail=detail)
    file_id = part.text("file_id")
    if not file_id:
        raise invalid(path, "an image's url, or a file_id")
    return FilePart(file_id=file_id)


def _file(part: Fields) -> FilePart:
    said = part.text("file_data")
    data, media_type = data_url(said)
    if not (said or part.text("file_url") or part.text("file_id")):
        raise invalid(part.path, "file_data, file_url or file_id")
    return FilePart(
        url=part.text("file_url"),
        data=data or said,
        media_type=media_type,
        filename=part.text("filename"),
        file_id=part.text("file_id"),
    )


def data_url(url: str) -> tuple[str, str]:
    """(base64 data, media type) of a `data:` URL (RFC 2397, base64); two empty strings for any other."""
    head, comma, data = url.partition(",")
    if head.startswith("data:") and head.endswith(";base64") and comma:
        return data, head[5:-7]
    return "", ""


def without(names: Any, data: dict[str, Any]) -> dict[str, Any]:
    """The fields of an object that are not among `names` and not null."""
    return {name: value for name, value in data.items() if name not in names and value is not None}
