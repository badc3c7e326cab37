"""A Responses request body as a neutral request. Pure.

Law: whatever the JSON, the outcome is a value or BackendError INVALID_REQUEST naming the field; what has no place in a
ChatRequest is kept in its `extra`, in this API's words, so that it is told when it is dropped.
"""

from __future__ import annotations

from typing import Any

from backends.contract.request import ChatRequest, Message, Tool
from gateway.protocols.openai_responses_items import DIALECT, Turns, without
from gateway.protocols.parsing import Fields, invalid

# Read here, or the gateway's own business; every other field goes to `extra`.
_READ = frozenset(
    (
        *("model", "input", "instructions", "max_output_tokens", "temperature", "top_p", "tools", "tool_choice"),
        *("parallel_tool_calls", "reasoning", "text", "top_logprobs", "metadata", "user", "stream", "stream_options"),
        *("background", "store", "include", "truncation"),
    )
)
_LOGPROBS = "message.output_text.logprobs"


def read_request(fields: Fields) -> ChatRequest:
    """The whole request."""
    model = fields.text("model")
    if not model:
        raise invalid("model", "the name of a model")
    messages = Turns().read(fields)
    if not messages and not any(fields.data.get(name) for name in ("previous_response_id", "prompt", "conversation")):
        raise invalid("input", "a string, or an array of at least one item")
    tools, choice = _tools(fields)
    logprobs = any(item == _LOGPROBS for _, item in fields.items("include"))
    top = fields.integer("top_logprobs", low=0)
    return ChatRequest(
        model=model,
        messages=(*_instructions(fields), *messages),
        max_tokens=fields.integer("max_output_tokens", low=1),
        temperature=fields.number("temperature", low=0),
        top_p=fields.number("top_p", low=0, high=1),
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=fields.flag("parallel_tool_calls"),
        response_format=_format(fields),
        reasoning_effort=Fields(fields.object("reasoning") or {}, "reasoning").text("effort") or None,
        logprobs=True if logprobs or top else None,
        top_logprobs=top,
        metadata=fields.object("metadata") or {},
        user=fields.text("user", "safety_identifier"),
        dialect=DIALECT,
        extra=_extra(fields),
    )


def _instructions(fields: Fields) -> tuple[Message, ...]:
    path, said = fields.find("instructions")
    if said is None or said == "":
        return ()
    if not isinstance(said, str):
        raise invalid(path, "a string")
    return (Message("system", fields.text("instructions")),)


def _extra(fields: Fields) -> dict[str, Any]:
    """Fields that have no place in a ChatRequest, in this API's words."""
    extra = without(_READ, fields.data)
    if fields.data.get("truncation") == "auto":
        extra["truncation"] = "auto"
    text = without(("format",), fields.object("text") or {})
    if text:
        extra["text"] = text
    return extra


def _tools(fields: Fields) -> tuple[tuple[Tool, ...], str | None]:
    """`tools` and `tool_choice`; `allowed_tools` leaves only those."""
    tools = tuple(_tool(Fields(item, path)) for path, item in fields.items("tools"))
    path, choice = fields.find("tool_choice")
    if choice is None or (isinstance(choice, str) and choice in ("auto", "none", "required")):
        return tools, choice
    said = Fields(choice, path)
    if said.text("type") == "allowed_tools":
        names = {Fields(item, at).text("name") for at, item in said.items("tools")}
        allowed = tuple(tool for tool in tools if tool.hosted or tool.name in names)
        return allowed, said.text("mode") or "auto"
    name = said.text("name")
    return tools, f"name:{name}" if name else None


def _tool(fields: Fields) -> Tool:
    """A function, written flat (or as chat completions nest it); any other type runs at the provider."""
    kind = fields.text("type")
    if kind != "function":
        if not kind:
            raise invalid(fields.at("type"), "the tool's type, such as function")
        return Tool(fields.text("name") or kind, hosted=fields.data)
    inner = fields.inner("function")
    name = inner.text("name")
    if not name:
        raise invalid(inner.at("name"), "the function's name")
    return Tool(name, inner.text("description"), inner.object("parameters") or {}, inner.flag("strict"))


def _format(fields: Fields) -> dict[str, Any] | None:
    """`text.format` in the words of chat completions' `response_format`; None for plain text."""
    form = Fields(fields.object("text") or {}, "text").object("format")
    if form is None or form.get("type") == "text":
        return None
    if form.get("type") != "json_schema":
        return form
    return {"type": "json_schema", "json_schema": without(("type",), form)}
