"""A chat completions request, parsed. Pure. Protocol source: the OpenAI API reference, "Create chat completion".

Law: what the neutral request has a place for is read and checked; every other field is kept in `extra` under its own
name, so that it is either sent on or reported as dropped, never lost without a word.
"""

from __future__ import annotations

from typing import Any

from backends.contract.request import ChatRequest
from gateway.protocols.base import Asked
from gateway.protocols.parsing import Fields, decode_object, invalid
from gateway.protocols.turns import read_allowed, read_messages, read_tool_choice, read_tools

# Fields read below, or that belong to the transport of the answer; every other one goes to `extra`.
_READ = frozenset(ChatRequest.__struct_fields__) - {"extra", "dialect", "most", "reasoning_budget"} | {
    "function_call",
    "functions",
    "max_completion_tokens",
    "stream",
    "stream_options",
}
_PLAIN = {"max_completion_tokens", "max_tokens", "messages", "model", "stream", "stream_options", "temperature", "user"}
_SELDOM = _READ - _PLAIN


def read_chat(body: bytes) -> Asked:
    """A request. Raises BackendError INVALID_REQUEST naming the field."""
    fields = Fields(decode_object(body))
    return asked_of(fields, _request(fields))


def asked_of(fields: Fields, request: ChatRequest) -> Asked:
    """What is common to OpenAI's two completion APIs: how the answer is wanted, and who asks on whose behalf. The
    attributes are OpenAI's own `user` and `safety_identifier`, or names in `metadata`."""
    path, options = fields.find("stream_options")
    include = Fields(options, path).flag("include_usage") if options is not None else None
    said = request.metadata
    return Asked(
        request=request,
        stream=fields.flag("stream") is True,
        body=fields.data,
        include_usage=include is True,
        user_id=request.user or _attribute(fields.data, "safety_identifier") or _attribute(said, "user_id"),
        workspace_id=_attribute(said, "workspace_id"),
        conversation_id=_attribute(said, "conversation_id"),
    )


def read_model(fields: Fields) -> str:
    """`model`. Raises INVALID_REQUEST when there is none."""
    model = fields.text("model")
    if not model:
        raise invalid("model", "the name of a model")
    return model


def _attribute(said: dict[str, Any], name: str) -> str:
    value = said.get(name)
    return value if isinstance(value, str) else ""


def _request(fields: Fields) -> ChatRequest:
    if _SELDOM.isdisjoint(fields.data):
        return _plain(fields)
    n = fields.integer("n", low=1)
    tools, mode = read_allowed(fields, read_tools(fields, lenient=True))
    choice = mode or read_tool_choice(fields, lenient=True)
    return ChatRequest(
        model=read_model(fields),
        messages=read_messages(fields, lenient=True),
        max_tokens=fields.integer("max_completion_tokens", "max_tokens", low=1),
        temperature=fields.number("temperature", low=0),
        top_p=fields.number("top_p", low=0, high=1),
        top_k=fields.integer("top_k"),
        stop=fields.stop(),
        seed=fields.integer("seed"),
        n=1 if n is None else n,
        presence_penalty=fields.number("presence_penalty"),
        frequency_penalty=fields.number("frequency_penalty"),
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=fields.flag("parallel_tool_calls"),
        response_format=fields.object("response_format"),
        reasoning_effort=fields.text("reasoning_effort") or None,
        logprobs=fields.flag("logprobs"),
        top_logprobs=fields.integer("top_logprobs", low=0),
        metadata=fields.object("metadata") or {},
        user=fields.text("user"),
        extra=_extra(fields.data, understood=choice is not None),
    )


def _plain(fields: Fields) -> ChatRequest:
    """The same where nothing of `_SELDOM` is said, as in most requests."""
    return ChatRequest(
        model=read_model(fields),
        messages=read_messages(fields, lenient=True),
        max_tokens=fields.integer("max_completion_tokens", "max_tokens", low=1),
        temperature=fields.number("temperature", low=0),
        user=fields.text("user"),
        extra=_extra(fields.data, understood=True),
    )


def _extra(data: dict[str, Any], *, understood: bool) -> dict[str, Any]:
    """`tool_choice` stays among them when it was of a kind nobody here understands."""
    extra = {name: value for name, value in data.items() if name not in _READ and value is not None}
    if not understood and data.get("tool_choice") is not None:
        extra["tool_choice"] = data["tool_choice"]
    return extra
