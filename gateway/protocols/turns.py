"""Messages and tools of a request, in OpenAI's words and in the shorter ones the native protocol also accepts. Pure.

Law: whatever the JSON, the outcome is a value or BackendError INVALID_REQUEST naming the field.
"""

from __future__ import annotations

from typing import get_args

import msgspec

from backends.contract.request import ImagePart, Message, Part, Role, TextPart, Tool, ToolCall
from gateway.protocols.parsing import Fields, encodable, invalid

_ROLES: dict[str, Role] = {role: role for role in get_args(Role)}
_ROLES |= {"developer": "system", "function": "tool"}  # OpenAI's newer and older words


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
