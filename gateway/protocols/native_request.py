"""A request of the native protocol, in its body or in query parameters (EventSource can only GET). Pure.

Law: SSE and NDJSON clients ask in the same words; camelCase and snake_case names mean the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backends.contract.request import ChatRequest, Message
from gateway.protocols.base import Asked
from gateway.protocols.parsing import Fields, decode_object, invalid
from gateway.protocols.turns import read_messages, read_tool_choice, read_tools

# Query and path parameters that go before the field of the same name in the body, in each spelling.
_TEXT_PARAMS = {
    "message": ("message",),
    "conversation_id": ("conversation_id", "conversationId"),
    "model": ("model",),
    "backend": ("backend",),
    "user_id": ("user_id", "userId"),
    "workspaceId": ("workspace_id", "workspaceId"),
    "system": ("system", "systemPrompt", "system_prompt"),
}
_NUMBER_PARAMS = {"temperature": ("temperature",), "max_tokens": ("max_tokens", "maxTokens")}


def _said(params: Mapping[str, str], names: tuple[str, ...]) -> tuple[str, str]:
    """(name, value) of the first parameter that is there; empty texts where none is."""
    return next(((name, params[name]) for name in names if params.get(name)), ("", ""))


def _merged(data: dict[str, Any], params: Mapping[str, str]) -> dict[str, Any]:
    """The body with the parameters laid over it. Raises INVALID_REQUEST for numbers that are none."""
    merged = dict(data)
    for field, names in _TEXT_PARAMS.items():
        _, text = _said(params, names)
        if text:
            merged[field] = text
    for field, names in _NUMBER_PARAMS.items():
        name, text = _said(params, names)
        if text:
            try:
                merged[field] = float(text)
            except ValueError:
                raise invalid(name, "a number") from None
    return merged


def _messages(fields: Fields, params: Mapping[str, str]) -> tuple[Message, ...]:
    """`messages`, or one user turn from `prompt` or `message`; `system` goes before them."""
    system = fields.text("system", "systemPrompt", "system_prompt")
    before = (Message("system", system),) if system else ()
    if fields.data.get("messages") is not None and not params.get("message"):
        return before + read_messages(fields, lenient=False)
    text = fields.text("message") if params.get("message") else fields.text("prompt", "message")
    if not text:
        raise invalid("messages", "an array of messages, or a `prompt`")
    return (*before, Message("user", text))


def _request(fields: Fields, params: Mapping[str, str]) -> ChatRequest:
    if (fields.integer("n", low=1) or 1) > 1:
        raise invalid("n", "1: this protocol tells one choice")
    return ChatRequest(
        model=fields.text("model"),
        messages=_messages(fields, params),
        max_tokens=fields.integer("max_tokens", "maxTokens", low=1),
        temperature=fields.number("temperature", low=0),
        top_p=fields.number("topP", "top_p", low=0, high=1),
        top_k=fields.integer("topK", "top_k", low=0),
        stop=fields.stop(),
        seed=fields.integer("seed"),
        presence_penalty=fields.number("presencePenalty", "presence_penalty"),
        frequency_penalty=fields.number("frequencyPenalty", "frequency_penalty"),
        tools=read_tools(fields, lenient=False),
        tool_choice=read_tool_choice(fields, lenient=False),
        parallel_tool_calls=fields.flag("parallelToolCalls", "parallel_tool_calls"),
        response_format=fields.object("responseFormat", "response_format"),
        reasoning_effort=fields.text("reasoningEffort", "reasoning_effort") or None,
        reasoning_budget=fields.integer("reasoningBudget", "reasoning_budget", low=0),
        dialect="native",
    )


def read_native(body: bytes, params: Mapping[str, str]) -> Asked:
    """A request, parsed; the model may be left out (""): the router knows what to do. An empty body is one made of
    parameters. Raises BackendError INVALID_REQUEST naming the field."""
    data = decode_object(body) if body.strip() or not params.get("message") else {}
    fields = Fields(_merged(data, params))
    return Asked(
        request=_request(fields, params),
        stream=fields.flag("stream") is not False,
        body=data,
        backend=fields.text("backend"),
        user_id=fields.text("user_id", "userId"),
        workspace_id=fields.text("workspaceId", "workspace_id"),
        conversation_id=fields.text("conversation_id", "conversationId"),
    )
