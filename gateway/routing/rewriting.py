"""What a route changes in a request: parameters and system prompt, in the neutral form and in the client's own body.

Law: one table says where each parameter lies in each dialect; what a dialect has no place for is left alone there. A
client's body is never changed in place, and fields nobody named stay as they were. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from backends.contract.request import ChatRequest, Message
from config.schema import Route

_SAME = {
    name: name
    for name in (
        "temperature", "top_p", "stop", "seed", "presence_penalty", "frequency_penalty", "user", "max_tokens",
    )
}  # fmt: skip
_OLLAMA = {
    **{
        name: f"options.{name}"
        for name in ("temperature", "top_p", "top_k", "stop", "seed", "presence_penalty", "frequency_penalty")
    },
    "max_tokens": "options.num_predict",
}

# Dialect -> OpenAI's word -> where its body has it (dotted).
PLACES: dict[str, dict[str, str]] = {
    "openai": {
        **_SAME,
        "top_k": "top_k",
        "reasoning_effort": "reasoning_effort",
        "parallel_tool_calls": "parallel_tool_calls",
    },
    "openai_completions": _SAME,
    "openai_responses": {
        "temperature": "temperature",
        "top_p": "top_p",
        "max_tokens": "max_output_tokens",
        "reasoning_effort": "reasoning.effort",
        "parallel_tool_calls": "parallel_tool_calls",
        "user": "user",
    },
    "anthropic": {
        "temperature": "temperature",
        "top_p": "top_p",
        "top_k": "top_k",
        "stop": "stop_sequences",
        "max_tokens": "max_tokens",
        "user": "metadata.user_id",
    },
    "ollama": _OLLAMA,
    "ollama_generate": _OLLAMA,
    "google": {
        "temperature": "generationConfig.temperature",
        "top_p": "generationConfig.topP",
        "top_k": "generationConfig.topK",
        "stop": "generationConfig.stopSequences",
        "seed": "generationConfig.seed",
        "presence_penalty": "generationConfig.presencePenalty",
        "frequency_penalty": "generationConfig.frequencyPenalty",
        "max_tokens": "generationConfig.maxOutputTokens",
    },
}
_LIMITS = ("max_tokens", "max_completion_tokens")  # one and the same, to OpenAI's clients


def rewrites(route: Route) -> bool:
    """Whether a route changes anything."""
    return bool(route.defaults or route.force or route.system_prompt)


def rewritten(request: ChatRequest, route: Route) -> ChatRequest:
    """The neutral request as the route wants it."""
    if not rewrites(route):
        return request
    fields: dict[str, Any] = {}
    for name, value in route.defaults.items():
        if getattr(request, name) in (None, (), ""):
            fields[name] = _neutral(value)
    fields |= {name: _neutral(value) for name, value in route.force.items()}
    if route.system_prompt:
        fields["messages"] = (Message("system", route.system_prompt), *request.messages)
    return replace(request, **fields) if fields else request


def rewritten_body(body: Mapping[str, Any], route: Route, dialect: str, limit: str = "") -> dict[str, Any]:
    """A client's body of this dialect as the route wants it. `limit`: what the backend calls `max_tokens` (openai)."""
    out, places = dict(body), PLACES.get(dialect, {})
    for name, value in route.defaults.items():
        if name in places and not _said(out, name, places[name], dialect):
            _put(out, _place(places[name], dialect, limit), value)
    for name, value in route.force.items():
        if name in places:
            if name == "max_tokens" and dialect == "openai":
                out = {key: said for key, said in out.items() if key not in _LIMITS}
            _put(out, _place(places[name], dialect, limit), value)
    if route.system_prompt:
        _instruct(out, route.system_prompt, dialect)
    return out


def _neutral(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _place(place: str, dialect: str, limit: str) -> str:
    return limit or place if place == "max_tokens" and dialect == "openai" else place


def _said(body: Mapping[str, Any], name: str, place: str, dialect: str) -> bool:
    if name == "max_tokens" and dialect == "openai":
        return any(body.get(key) is not None for key in _LIMITS)
    outer, _, inner = place.rpartition(".")
    holder = body.get(outer) if outer else body
    return isinstance(holder, Mapping) and holder.get(inner) is not None


def _put(body: dict[str, Any], place: str, value: Any) -> None:
    outer, _, inner = place.rpartition(".")
    if outer:
        holder = body.get(outer)
        body[outer] = {**(holder if isinstance(holder, Mapping) else {}), inner: value}
    else:
        body[inner] = value


def _instruct(body: dict[str, Any], text: str, dialect: str) -> None:
    """The system prompt before the client's own. Completions of a bare prompt have no place for one."""
    match dialect:
        case "openai" | "ollama":
            turns = body.get("messages")
            body["messages"] = [{"role": "system", "content": text}, *(turns if isinstance(turns, list) else [])]
        case "anthropic":
            own = body.get("system")
            body["system"] = [{"type": "text", "text": text}, *own] if isinstance(own, list) else _before(text, own)
        case "ollama_generate":
            body["system"] = _before(text, body.get("system"))
        case "openai_responses":
            body["instructions"] = _before(text, body.get("instructions"))
        case "google":
            name = "system_instruction" if "system_instruction" in body else "systemInstruction"
            own = body.get(name)
            parts = own.get("parts") if isinstance(own, Mapping) else None
            body[name] = {"parts": [{"text": text}, *(parts if isinstance(parts, list) else [])]}
        case _:
            pass


def _before(text: str, own: Any) -> str:
    return f"{text}\n\n{own}" if isinstance(own, str) and own else text
