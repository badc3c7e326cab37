"""Messages and tools of a request, in OpenAI's words and in the shorter ones the native protocol also accepts. Pure.

Law: whatever the JSON, the outcome is a value or BackendError INVALID_REQUEST naming the field. `lenient` is for
OpenAI's own clients: what is unknown here is kept under its name instead of refused, because the whole body goes on
unchanged where the backend speaks the client's dialect; anywhere else `backends.contract.fit` refuses it. `functions`
and `function_call`, the words of OpenAI's first clients, are read as the tools and calls they became.
"""

from __future__ import annotations

from typing import Any, get_args

import msgspec

from backends.contract.request import Message, OtherPart, Part, Role, TextPart, Tool, ToolCall
from gateway.protocols.amounts import check_texts
from gateway.protocols.parsing import Fields, encodable, invalid
from gateway.protocols.parts import read_part, read_reasoning

_ROLES: dict[str, Role] = {role: role for role in get_args(Role)}
_ROLES |= {"developer": "system", "function": "tool"}  # OpenAI's newer and older words


def read_messages(fields: Fields, *, lenient: bool) -> tuple[Message, ...]:
    """`messages`, at least one."""
    called: dict[str, str] = {}
    messages = tuple(_message(Fields(item, path), lenient, called) for path, item in fields.items("messages"))
    if not messages:
        raise invalid(fields.at("messages"), "an array of at least one message")
    check_texts(fields.at("messages"), (call.arguments for message in messages for call in message.tool_calls))
    return messages


def _message(fields: Fields, lenient: bool, called: dict[str, str]) -> Message:
    """`called`: function name -> id of its last call, where calls have none of their own."""
    said = fields.data.get("content")
    if type(said) is str and len(fields.data) == 2 and fields.data.get("role") in ("user", "system", "assistant"):
        return Message(fields.data["role"], encodable(fields.at("content"), said))
    path, role = fields.find("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise invalid(path, "one of system, user, assistant, tool")
    content = _content(fields, lenient)
    calls = tuple(_tool_call(Fields(item, at)) for at, item in fields.items("tool_calls", "toolCalls"))
    answered = fields.text("tool_call_id", "toolCallId")
    if role == "assistant":
        legacy = () if calls or not lenient else _function_call(fields, called)
        content = _joined((*read_reasoning(fields), *_spoken(fields, understood=bool(legacy))), content)
        calls += legacy
    elif role == "function" and lenient:
        answered = called.get(fields.text("name"), "")
        content = content if answered else _joined((OtherPart("function messages", fields.data),), content)
    return Message(
        role=_ROLES[role],
        content=content,
        tool_calls=calls,
        tool_call_id=answered,
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
    return tuple(read_part(Fields(item, at), lenient=lenient) for at, item in fields.items("content"))


def _function_call(fields: Fields, called: dict[str, str]) -> tuple[ToolCall, ...]:
    """`function_call`: a call without an id gets one, the same whenever it is read. () where it is no such call."""
    said = fields.data.get("function_call")
    name, arguments = (said.get("name"), said.get("arguments")) if isinstance(said, dict) else (None, None)
    if not isinstance(name, str) or not name or not isinstance(arguments, str | None):
        return ()
    path = fields.at("function_call")
    called[name] = "function_" + "".join(filter(str.isdigit, fields.path))
    return (ToolCall(called[name], encodable(path, name), encodable(path, arguments or "")),)


def _spoken(fields: Fields, *, understood: bool) -> tuple[Part, ...]:
    """What an assistant turn said beside its content: a refusal (text), sound by its id, a call of the oldest kind that
    was not `understood`."""
    said: list[Part] = []
    refusal = fields.data.get("refusal")
    if isinstance(refusal, str) and refusal and not fields.data.get("content"):
        said.append(TextPart(encodable(fields.at("refusal"), refusal)))
    others = ((name, fields.data.get(name)) for name in ("audio", *(() if understood else ("function_call",))))
    return (*said, *(OtherPart(name, value) for name, value in others if value is not None))


def _joined(before: tuple[Part, ...], content: str | tuple[Part, ...]) -> str | tuple[Part, ...]:
    if not before:
        return content
    if isinstance(content, str):
        content = (TextPart(content),) if content else ()
    return (*before, *content)


def _tool_call(fields: Fields) -> ToolCall:
    """A call of a custom tool has text for input, no arguments: it becomes an object that holds it."""
    if fields.data.get("type") == "custom":
        custom = fields.inner("custom")
        return ToolCall(fields.text("id"), custom.text("name"), _json({"input": custom.text("input")}))
    inner = fields.inner("function")
    path, arguments = inner.find("arguments")
    if isinstance(arguments, dict):
        arguments = _json(arguments)
    if arguments is not None and not isinstance(arguments, str):
        raise invalid(path, "JSON text or an object")
    return ToolCall(id=fields.text("id"), name=inner.text("name"), arguments=arguments or "")


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def read_tools(fields: Fields, *, lenient: bool) -> tuple[Tool, ...]:
    """`tools`, as `{type: function, function: {...}}` or flat. `lenient`: tools of other types (hosted, custom) are
    kept as they are; the `functions` of OpenAI's first clients are tools."""
    tools = tuple(_tool(Fields(item, path), lenient) for path, item in fields.items("tools"))
    if lenient:
        tools += tuple(_function(Fields(item, path)) for path, item in fields.items("functions"))
    return tools


def _tool(fields: Fields, lenient: bool) -> Tool:
    kind = fields.data.get("type", "function")
    if kind != "function":
        if lenient:
            return Tool(str(kind)[:64], hosted=fields.data)
        raise invalid(fields.at("type"), "function")
    return _function(fields.inner("function"))


def _function(inner: Fields) -> Tool:
    name = inner.text("name")
    if not name:
        raise invalid(inner.at("name"), "the function's name")
    parameters = inner.object("parameters", "inputSchema", "input_schema") or {}
    return Tool(name, inner.text("description"), parameters, inner.flag("strict"))


def read_tool_choice(fields: Fields, *, lenient: bool) -> str | None:
    """`tool_choice`: auto, none, required, or a function as an object; in our words `name:<tool>`. `lenient`: None for
    objects of other kinds (see `read_allowed`); `function_call` is its older name."""
    names = ("tool_choice", "toolChoice", *(("function_call",) if lenient else ()))
    path, value = fields.find(*names)
    if value is None or (isinstance(value, str) and value in ("auto", "none", "required")):
        return value
    if isinstance(value, dict):
        named = Fields(value.get("function") or value.get("custom") or value, path).data.get("name")
        if isinstance(named, str) and named:
            return f"name:{named}"
        if lenient:
            return None
    raise invalid(path, "auto, none, required, or a function's name as an object")


def read_allowed(fields: Fields, tools: tuple[Tool, ...]) -> tuple[tuple[Tool, ...], str | None]:
    """`tool_choice` of type `allowed_tools`: the tools it leaves, and its mode; the tools as they are and None for any
    other. Whatever its form, nothing is refused: it goes on unchanged to those who know it."""
    choice = fields.data.get("tool_choice")
    allowed = choice.get("allowed_tools") if isinstance(choice, dict) else None
    if not isinstance(allowed, dict) or not isinstance(allowed.get("tools"), list):
        return tools, None
    items = [item for item in allowed["tools"] if isinstance(item, dict)]
    names = {_named(item) for item in items}
    mode = allowed.get("mode")
    return tuple(t for t in tools if t.name in names), mode if mode in ("auto", "required") else None


def _named(item: dict[str, Any]) -> str:
    inner = item.get("function")
    name = (inner if isinstance(inner, dict) else item).get("name")
    return name if isinstance(name, str) else str(item.get("type"))
