"""Reading a client's JSON: every complaint names the field and what was expected there. Pure.

Law: whatever the bytes, the outcome is a value or BackendError INVALID_REQUEST; `null` is the same as absent.
Messages and tools are read in OpenAI's words, and in the shorter ones the native protocol also accepts.
"""

from __future__ import annotations

import math
from typing import Any, get_args

import msgspec

from backends.contract.errors import BackendError, ErrorCode
from backends.contract.request import ImagePart, Message, Part, Role, TextPart, Tool, ToolCall

MAX_DEPTH = 128  # far from the interpreter's limit, which would depend on who calls

_ROLES: dict[str, Role] = {role: role for role in get_args(Role)}
_ROLES |= {"developer": "system", "function": "tool"}  # OpenAI's newer and older words
_BIG = 2**63  # what the JSON of every backend can carry


def invalid(path: str, expected: str) -> BackendError:
    """The complaint about one field."""
    return BackendError(ErrorCode.INVALID_REQUEST, f"{path}: expected {expected}", param=path)


def decode_object(body: bytes) -> dict[str, Any]:
    """A body as a JSON object. Raises INVALID_REQUEST: bad JSON or UTF-8, lone surrogates, too deep."""
    try:
        data = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise BackendError(ErrorCode.INVALID_REQUEST, f"body: not valid JSON: {error}") from None
    except RecursionError:
        raise _too_deep() from None
    if not isinstance(data, dict):
        raise BackendError(ErrorCode.INVALID_REQUEST, "body: expected a JSON object")
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH:
        _check_depth(data)
    return data


def _too_deep() -> BackendError:
    return BackendError(ErrorCode.INVALID_REQUEST, f"body: expected JSON nested at most {MAX_DEPTH} deep")


def _check_depth(data: Any) -> None:
    """Level by level, so that the check itself needs no depth."""
    level = [data]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for value in level:
            inner.extend(value.values() if isinstance(value, dict) else value)
        level = [value for value in inner if isinstance(value, dict | list)]
        if not level:
            return
    raise _too_deep()


class Fields:
    """A JSON object read field by field. Each reader takes the names a field may have; the first present one counts."""

    __slots__ = ("data", "path")

    def __init__(self, data: Any, path: str = "") -> None:
        if not isinstance(data, dict):
            raise invalid(path, "an object")
        self.data: dict[str, Any] = data
        self.path = path

    def at(self, name: str) -> str:
        """The path of a field, as complaints say it."""
        return f"{self.path}.{name}" if self.path else name

    def find(self, *names: str) -> tuple[str, Any]:
        """(path, value) of the first field present; the value is None when there is none."""
        for name in names:
            value = self.data.get(name)
            if value is not None:
                return self.at(name), value
        return self.at(names[0]), None

    def text(self, *names: str) -> str:
        """A string; "" when absent."""
        path, value = self.find(*names)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise invalid(path, "a string")
        return encodable(path, value)

    def flag(self, *names: str) -> bool | None:
        """true or false."""
        path, value = self.find(*names)
        if value is not None and not isinstance(value, bool):
            raise invalid(path, "true or false")
        return value

    def number(self, *names: str, low: float = -math.inf, high: float = math.inf) -> float | None:
        """A number within bounds."""
        path, value = self.find(*names)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise invalid(path, f"a number{_between(low, high)}")
        return value

    def integer(self, *names: str, low: int = -_BIG) -> int | None:
        """A whole number; 5.0 is one too."""
        path, value = self.find(*names)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value < _BIG:
            raise invalid(path, "an integer" if low == -_BIG else f"an integer of at least {low}")
        return value

    def object(self, *names: str) -> dict[str, Any] | None:
        """An object."""
        path, value = self.find(*names)
        return None if value is None else Fields(value, path).data

    def inner(self, name: str) -> Fields:
        """The object in a field, or this very object when there is none (the flat form)."""
        return Fields(self.data[name], self.at(name)) if name in self.data else self

    def items(self, *names: str) -> list[tuple[str, Any]]:
        """The elements of an array with their paths; none when absent."""
        path, value = self.find(*names)
        if value is None:
            return []
        if not isinstance(value, list):
            raise invalid(path, "an array")
        return [(f"{path}[{i}]", item) for i, item in enumerate(value)]

    def stop(self) -> tuple[str, ...]:
        """`stop`: a string or an array of strings."""
        value = self.data.get("stop")
        if isinstance(value, str):
            return (value,)
        for path, item in self.items("stop"):
            if not isinstance(item, str):
                raise invalid(path, "a string")
        return tuple(value or ())


def encodable(path: str, text: str) -> str:
    """The text itself, when it can be sent on as UTF-8 (query parameters may hold lone surrogates)."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise invalid(path, "text without lone surrogates") from None
    return text


def _between(low: float, high: float) -> str:
    if math.isinf(low):
        return ""
    return f" of at least {low:g}" if math.isinf(high) else f" from {low:g} to {high:g}"


def read_messages(fields: Fields, *, lenient: bool) -> tuple[Message, ...]:
    """`messages`, at least one. `lenient`: content parts of unknown types are left out instead of refused, because the
    whole body goes on unchanged where the backend speaks the client's own dialect."""
    messages = tuple(_message(Fields(item, path), lenient) for path, item in fields.items("messages"))
    if not messages:
        raise invalid(fields.at("messages"), "an array of at least one message")
    return messages


def _message(fields: Fields, lenient: bool) -> Message:
    path, role = fields.find("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise invalid(path, "one of system, user, assistant, tool")
    return Message(
        role=_ROLES[role],
        content=_content(fields, lenient),
        tool_calls=tuple(_tool_call(Fields(item, at)) for at, item in fields.items("tool_calls", "toolCalls")),
        tool_call_id=fields.text("tool_call_id", "toolCallId"),
        name=fields.text("name"),
    )


def _content(fields: Fields, lenient: bool) -> str | tuple[Part, ...]:
    path, value = fields.find("content")
    if isinstance(value, str):
        return encodable(path, value)
    if value is None and fields.data.get("role") == "assistant":
        return ""  # an assistant turn that only called tools
    if not isinstance(value, list):
        raise invalid(path, "a string or an array of parts")
    parts = (_part(Fields(item, f"{path}[{i}]"), lenient) for i, item in enumerate(value))
    return tuple(part for part in parts if part is not None)


def _part(fields: Fields, lenient: bool) -> Part | None:
    kind = fields.text("type")
    if kind in ("text", "refusal") and isinstance(fields.data.get(kind), str):
        return TextPart(fields.text(kind))
    if kind == "image_url":
        path, image = fields.find("image_url")
        return _image(path, image if isinstance(image, str) else Fields(image, path).text("url"))
    if lenient and kind not in ("", "text"):
        return None
    raise invalid(fields.path, "a part of type text or image_url")


def _image(path: str, url: str) -> ImagePart:
    """A `data:` URL (RFC 2397, base64) becomes data; any other stays a URL."""
    if not url:
        raise invalid(path, "an image's url")
    head, comma, data = url.partition(",")
    if head.startswith("data:") and head.endswith(";base64") and comma:
        return ImagePart(data=data, media_type=head[5:-7])
    return ImagePart(url=url)


def _tool_call(fields: Fields) -> ToolCall:
    inner = fields.inner("function")
    path, arguments = inner.find("arguments")
    if isinstance(arguments, dict):
        arguments = msgspec.json.encode(arguments).decode()
    if arguments is not None and not isinstance(arguments, str):
        raise invalid(path, "JSON text or an object")
    return ToolCall(id=fields.text("id"), name=inner.text("name"), arguments=arguments or "")


def read_tools(fields: Fields, *, lenient: bool) -> tuple[Tool, ...]:
    """`tools`, as `{type: function, function: {...}}` or flat. `lenient`: tools of other types are left out."""
    items = [Fields(item, path) for path, item in fields.items("tools")]
    kept = [item for item in items if not lenient or item.data.get("type", "function") == "function"]
    return tuple(_tool(item) for item in kept)


def _tool(fields: Fields) -> Tool:
    if fields.data.get("type", "function") != "function":
        raise invalid(fields.at("type"), "function")
    inner = fields.inner("function")
    name = inner.text("name")
    if not name:
        raise invalid(inner.at("name"), "the function's name")
    return Tool(name, inner.text("description"), inner.object("parameters", "inputSchema", "input_schema") or {})


def read_tool_choice(fields: Fields, *, lenient: bool) -> str | None:
    """`tool_choice`: auto, none, required, or a function as an object; in our words `name:<tool>`."""
    path, value = fields.find("tool_choice", "toolChoice")
    if value is None or (isinstance(value, str) and value in ("auto", "none", "required")):
        return value
    if isinstance(value, dict):
        named = Fields(value.get("function") or value, path).data.get("name")
        if isinstance(named, str) and named:
            return f"name:{named}"
        if lenient:
            return None
    raise invalid(path, "auto, none, required, or a function's name as an object")
