"""Tools that run at the provider, said in another provider's words: web search, and running code. Pure.

Law: what only makes a tool cheaper or its results nearer may go unsaid, and is named (`unsaid`); what decides which
results may count, and any other tool, is refused. Protocol sources: the references of OpenAI's Responses
(`web_search`, `code_interpreter`), Anthropic's Messages (`web_search_20250305`, `code_execution_20250825`) and Google's
generateContent (`googleSearch`, `codeExecution`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from msgspec import Struct

from backends import wire
from backends.contract.errors import BackendError, ErrorCode
from backends.contract.request import ChatRequest, Tool

# Fields that may go unsaid: how much is searched, from where, who calls, what is cached.
_HINTS = frozenset(
    ("max_uses", "user_location", "search_context_size", "cache_control", "defer_loading", "strict", "allowed_callers")
)


class _Meant(Struct, frozen=True):
    """What a definition asks for: the tool, its settings that another API may have too, and all its other fields."""

    kind: Literal["search", "code"]
    settings: dict[str, Any]  # allowed_domains, blocked_domains, user_location
    others: frozenset[str]


def said_in(dialect: str, request: ChatRequest) -> list[dict[str, Any]]:
    """The request's hosted tools in the words of `dialect`. Raises BackendError INVALID_REQUEST naming one that this
    API does not have, or cannot have so."""
    return [_said(tool, request.dialect, dialect)[0] for tool in request.tools if tool.hosted]


def unsaid(dialect: str, request: ChatRequest) -> tuple[str, ...]:
    """What of them has no word in `dialect`, by name."""
    hosted = [tool for tool in request.tools if tool.hosted]
    return tuple(f"{name} of {tool.name}" for tool in hosted for name in _said(tool, request.dialect, dialect)[1])


def _said(tool: Tool, source: str, target: str) -> tuple[dict[str, Any], list[str]]:
    if source == target:
        return tool.hosted, []
    meant = _READ[source](tool.hosted) if source in _READ else None
    if meant is None or target not in _WRITE:
        raise _refused(tool, "")
    write, known = _WRITE[target]
    lost = sorted({*meant.others, *(set(meant.settings) - known)})
    hard = [name for name in lost if name not in _HINTS]
    if hard:
        raise _refused(tool, f" with {', '.join(hard)}")
    return write(meant), lost


def _refused(tool: Tool, how: str) -> BackendError:
    text = f"the backend has no such tool of its own: {tool.name}{how}; leave it out, or choose a model elsewhere"
    return BackendError(ErrorCode.INVALID_REQUEST, text, param="tools")


def _meant(kind: Literal["search", "code"], fields: Mapping[str, Any], settings: Mapping[str, Any]) -> _Meant:
    """`fields`: those that are neither the tool's name nor among its settings."""
    others = frozenset(name for name, value in fields.items() if value is not None)
    return _Meant(kind, wire.drop_none(**settings), others)


def _of_openai(said: dict[str, Any]) -> _Meant | None:
    kind, filters = str(said.get("type")), said.get("filters")
    fields = {name: value for name, value in said.items() if name not in ("type", "filters", "user_location")}
    if kind.startswith("web_search"):
        within = dict(filters) if isinstance(filters, dict) else {}
        settings = {"allowed_domains": within.pop("allowed_domains", None), "user_location": said.get("user_location")}
        return _meant("search", {**fields, **within}, settings)
    if kind == "code_interpreter":
        container = fields.pop("container", None)
        return _meant("code", fields if container == {"type": "auto"} else {**fields, "container": container}, {})
    return None


def _of_anthropic(said: dict[str, Any]) -> _Meant | None:
    kind, own = str(said.get("type")), ("allowed_domains", "blocked_domains", "user_location")
    fields = {name: value for name, value in said.items() if name not in ("type", "name", *own)}
    if kind.startswith("web_search_"):
        return _meant("search", fields, {name: said.get(name) for name in own})
    return _meant("code", fields, {}) if kind.startswith("code_execution_") else None


def _of_google(said: dict[str, Any]) -> _Meant | None:
    name, fields = next(iter(said.items()))
    fields = dict(fields) if isinstance(fields, dict) else {}
    if name == "googleSearch":
        return _meant("search", fields, {"blocked_domains": fields.pop("excludeDomains", None)})
    return _meant("code", fields, {}) if name == "codeExecution" else None


def _to_openai(meant: _Meant) -> dict[str, Any]:
    if meant.kind == "code":
        return {"type": "code_interpreter", "container": {"type": "auto"}}
    settings = dict(meant.settings)
    allowed = settings.pop("allowed_domains", None)
    return {"type": "web_search", **settings, **({"filters": {"allowed_domains": allowed}} if allowed else {})}


def _to_anthropic(meant: _Meant) -> dict[str, Any]:
    if meant.kind == "code":
        return {"type": "code_execution_20250825", "name": "code_execution"}
    return {"type": "web_search_20250305", "name": "web_search", **meant.settings}


def _to_google(meant: _Meant) -> dict[str, Any]:
    return {"codeExecution": {}} if meant.kind == "code" else {"googleSearch": {}}


_READ: dict[str, Callable[[dict[str, Any]], _Meant | None]] = {
    "openai_responses": _of_openai,
    "anthropic": _of_anthropic,
    "google": _of_google,
}
_WRITE: dict[str, tuple[Callable[[_Meant], dict[str, Any]], frozenset[str]]] = {
    "openai_responses": (_to_openai, frozenset(("allowed_domains", "user_location"))),
    "anthropic": (_to_anthropic, frozenset(("allowed_domains", "blocked_domains", "user_location"))),
    "google": (_to_google, frozenset()),
}
