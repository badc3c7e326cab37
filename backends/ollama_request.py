"""A neutral request in the words of Ollama's `/api/chat` and `/api/embed` (protocol source: its API document). Pure.

Law: nothing is sent that Ollama would refuse: what it cannot express is refused or dropped before (`expresses`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backends import wire
from backends.contract.request import ChatRequest, ImagePart, Message, ReasoningPart
from backends.contract.thinking import effort_of

_LEVELS = {"none": "low", "minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "high"}
_OPTION = "options."  # how a client's option without a name of its own is called in `extra`


def chat_body(request: ChatRequest) -> dict[str, Any]:
    """The request as an `/api/chat` body, without `model` and `stream`."""
    names: dict[str, str] = {}  # as far as the turns before say: an id may come again in a later one
    own = request.extra if request.dialect == "ollama" else {}
    body = wire.drop_none(
        options=_options(request, own),
        tools=_tools(request) if request.tool_choice != "none" else None,
        format=_format(request.response_format or {}),
        think=_think(request),
        logprobs=request.logprobs,
        top_logprobs=request.top_logprobs,
    )
    rest = {name: value for name, value in own.items() if not name.startswith(_OPTION)}
    return {**rest, **body, "messages": [_message(m, names) for m in request.messages]}


def embed_body(body: dict[str, Any]) -> dict[str, Any]:
    """An OpenAI-shaped embeddings body as an `/api/embed` one; Ollama's own fields go through."""
    return wire.drop_none(**{name: body.get(name) for name in ("input", "dimensions", "truncate", "options")})


def _options(request: ChatRequest, own: Mapping[str, Any]) -> dict[str, Any]:
    said = wire.drop_none(
        num_predict=request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        stop=list(request.stop),
        seed=request.seed,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
    )
    rest = {name.removeprefix(_OPTION): value for name, value in own.items() if name.startswith(_OPTION)}
    return {**rest, **said}


def _tools(request: ChatRequest) -> list[dict[str, Any]]:
    return [
        {"type": "function", "function": {"name": t.name, "description": t.description, "parameters": t.parameters}}
        for t in request.tools
    ]


def _think(request: ChatRequest) -> bool | str | None:
    """gpt-oss models take a level and cannot be told not to think; all others take yes or no only."""
    effort, budget = request.reasoning_effort, request.reasoning_budget
    if effort is None and budget is not None:
        effort = effort_of(budget)
    if effort is None:
        return None
    return _LEVELS.get(effort, "medium") if "gpt-oss" in request.model.lower() else effort != "none"


def _format(wanted: dict[str, Any]) -> Any:
    if wanted.get("type") == "json_schema" and isinstance(wanted.get("json_schema"), dict):
        return wanted["json_schema"].get("schema")
    return "json" if wanted.get("type") == "json_object" else None


def _message(message: Message, names: dict[str, str]) -> dict[str, Any]:
    """`names`: of the calls of the turns before, by id; this turn's are added."""
    names |= {call.id: call.name for call in message.tool_calls}
    parts = () if isinstance(message.content, str) else message.content
    calls = [
        {**({"id": c.id} if c.id else {}), "function": {"name": c.name, "arguments": wire.arguments_of(c.arguments)}}
        for c in message.tool_calls
    ]
    is_tool = message.role == "tool"
    return {
        "role": message.role,
        "content": message.text(),
        **wire.drop_none(
            images=[part.data for part in parts if isinstance(part, ImagePart)],
            thinking="".join(part.text for part in parts if isinstance(part, ReasoningPart)),
            tool_calls=calls,
            tool_name=(message.name or names.get(message.tool_call_id)) if is_tool else None,
            tool_call_id=message.tool_call_id if is_tool else None,
        ),
    }
