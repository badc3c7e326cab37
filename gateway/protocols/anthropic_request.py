"""A Messages body as a neutral request (protocol source: Anthropic's reference, "Create a Message"). Pure.

Law: whatever the JSON, the outcome is a value or BackendError INVALID_REQUEST naming the field. What only Anthropic has
words for is kept under its name, so that another backend refuses it or tells that it was dropped.
"""

from __future__ import annotations

from typing import Any

from backends.contract.request import ChatRequest, Message, Tool
from gateway.protocols.anthropic_turns import cache_of, read_system, read_turns
from gateway.protocols.parsing import Fields, invalid

# Read here, or the gateway's own business; every other field goes to `extra`.
_READ = frozenset(
    (
        *("model", "messages", "system", "max_tokens", "stop_sequences", "temperature", "top_p", "top_k", "metadata"),
        *("tools", "tool_choice", "thinking", "output_config", "output_format", "stream"),
    )
)
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_EFFORTS = {"low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "xhigh"}


def read_request(fields: Fields, *, counting: bool = False) -> ChatRequest:
    """The whole request. `counting`: it only asks for the number of its tokens and needs no max_tokens."""
    model = fields.text("model")
    if not model:
        raise invalid("model", "the name of a model")
    limit = fields.integer("max_tokens", low=0)
    if limit is None and not counting:
        raise invalid("max_tokens", "an integer of at least 0")
    choice, parallel = _tool_choice(fields)
    effort, budget = _reasoning(fields)
    return ChatRequest(
        model=model,
        messages=_messages(fields),
        max_tokens=limit,
        temperature=fields.number("temperature", low=0),
        top_p=fields.number("top_p", low=0, high=1),
        top_k=fields.integer("top_k", low=0),
        stop=_stop(fields),
        tools=tuple(_tool(Fields(item, path)) for path, item in fields.items("tools")),
        tool_choice=choice,
        parallel_tool_calls=parallel,
        response_format=_format(fields),
        reasoning_effort=effort,
        reasoning_budget=budget,
        user=Fields(fields.object("metadata") or {}, "metadata").text("user_id"),
        dialect="anthropic",
        extra={name: value for name, value in fields.data.items() if name not in _READ and value is not None},
    )


def _messages(fields: Fields) -> tuple[Message, ...]:
    turns = read_turns(fields)
    if not turns:
        raise invalid("messages", "an array of at least one message")
    return (*read_system(fields), *turns)


def _stop(fields: Fields) -> tuple[str, ...]:
    items = fields.items("stop_sequences")
    for path, item in items:
        if not isinstance(item, str):
            raise invalid(path, "a string")
    return tuple(item for _, item in items)


def _tool(fields: Fields) -> Tool:
    """A tool of any other type than `custom` is one Anthropic defines; nobody else knows its schema."""
    kind, name = fields.text("type"), fields.text("name")
    if kind not in ("", "custom"):
        return Tool(name or kind, hosted=fields.data)
    if not name:
        raise invalid(fields.at("name"), "the tool's name")
    return Tool(
        name=name,
        description=fields.text("description"),
        parameters=fields.object("input_schema") or {},
        strict=fields.flag("strict"),
        cache=cache_of(fields),
    )


def _tool_choice(fields: Fields) -> tuple[str | None, bool | None]:
    """The choice in our words, and whether calls may be parallel; None: not said."""
    said = fields.object("tool_choice")
    if said is None:
        return None, None
    inner = Fields(said, "tool_choice")
    alone = inner.flag("disable_parallel_tool_use")
    kind = inner.text("type")
    name = inner.text("name")
    if kind == "tool" and name:
        choice = f"name:{name}"
    elif kind in _CHOICES:
        choice = _CHOICES[kind]
    else:
        raise invalid("tool_choice", "a type of auto, any, none, or tool with its name")
    return choice, None if alone is None else not alone


def _reasoning(fields: Fields) -> tuple[str | None, int | None]:
    """Effort and budget; `adaptive` leaves both to the model."""
    effort = _EFFORTS.get(Fields(fields.object("output_config") or {}, "output_config").text("effort"))
    thinking = Fields(fields.object("thinking") or {}, "thinking")
    if thinking.text("type") == "disabled":
        return "none", None
    budget = thinking.integer("budget_tokens", low=1) if thinking.text("type") == "enabled" else None
    return effort, budget


def _format(fields: Fields) -> dict[str, Any] | None:
    """`output_config.format`, or `output_format` as it was called in the beta, in OpenAI's words."""
    config = Fields(fields.object("output_config") or {}, "output_config")
    said = config.object("format") or fields.object("output_format")
    schema = (said or {}).get("schema")
    if not isinstance(schema, dict):
        return None
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
