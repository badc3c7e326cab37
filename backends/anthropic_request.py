"""A neutral request in the words of Anthropic's Messages API. Pure.

Law: what the API would answer with 400 is not sent: thinking beside a forced tool or an unsigned history, sampling
under versions that refuse it, reasoning that another provider signed. `lost` names what of it goes without a trace.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

from backends import wire
from backends.contract.request import ChatRequest, FilePart, ImagePart, Message, Part, ReasoningPart, TextPart, Tool
from backends.contract.thinking import BUDGETS
from backends.hosted_tools import said_in, unsaid

SAMPLING_REFUSED = "2026-10-21"  # from this API version on temperature, top_p and top_k are refused

PREFILL_REFUSED = "2026-10-21"  # likewise a last turn of the assistant
# Models that refuse a last turn of the assistant under any version (Anthropic's migration guides).
NO_PREFILL = (
    "claude-opus-4-6*",
    "claude-opus-4-7*",
    "claude-opus-4-8*",
    "claude-opus-5*",
    "claude-sonnet-4-6*",
    "claude-sonnet-5*",
    "claude-haiku-5*",
    "claude-mythos*",
)

_LEAST = 1024  # thinking tokens, by the API
_COUNTED = ("system", "messages", "tools", "tool_choice", "thinking", "output_config", "cache_control", "speed")


def messages_body(request: ChatRequest, default_limit: int, version: str = "") -> dict[str, Any]:
    """The request as a Messages body, without `model` and `stream`. `version`: the API's, a date."""
    limit, thinking = _limits(request, default_limit)
    body = wire.drop_none(
        system=_system(request.messages),
        stop_sequences=list(request.stop),
        metadata={"user_id": request.user} if request.user else None,
        tools=[_tool(tool) for tool in request.tools if not tool.hosted] + said_in("anthropic", request),
        tool_choice=_tool_choice(request) if request.tools else None,
        output_config=_output(request.response_format),
        thinking=thinking,
    )
    if not _thinks(thinking) and version < SAMPLING_REFUSED:  # thinking allows none of them either
        body |= _sampling(request)
    extra = request.extra if request.dialect == "anthropic" else {}
    return {**extra, **body, "max_tokens": limit, "messages": _turns(request.messages)}


def lost(request: ChatRequest, default_limit: int) -> tuple[str, ...]:
    """What of a fitted request `messages_body` leaves out or changes, in words for people."""
    _limit, thinking = _limits(request, default_limit)
    names: list[str] = []
    if _thinks(thinking):
        sampling = {"temperature": request.temperature, "top_p": request.top_p, "top_k": request.top_k}
        names += [name for name, value in sampling.items() if value is not None]
        if thinking and thinking["budget_tokens"] < (request.reasoning_budget or 0):
            names.append("reasoning budget above max_tokens")
    else:
        names += ["temperature above 1"] if (request.temperature or 0) > 1 else []
        names += ["reasoning effort"] if request.reasoning_effort not in (None, "none") else []
        names += ["reasoning budget"] if request.reasoning_budget and request.reasoning_effort != "none" else []
    return (*names, *unsaid("anthropic", request))


def may_prefill(model: str, version: str) -> bool:
    """Whether this model under this version of the API goes on with a last turn of the assistant."""
    return version < PREFILL_REFUSED and not any(fnmatchcase(model, glob) for glob in NO_PREFILL)


def count_body(request: ChatRequest) -> dict[str, Any]:
    """The request as a body of the count of its tokens."""
    body = messages_body(request, _LEAST)
    return {"model": request.model, **{name: body[name] for name in _COUNTED if name in body}}


def _sampling(request: ChatRequest) -> dict[str, Any]:
    temperature = request.temperature
    return wire.drop_none(
        temperature=None if temperature is None else min(temperature, 1.0), top_p=request.top_p, top_k=request.top_k
    )


def _limits(request: ChatRequest, default_limit: int) -> tuple[int, dict[str, Any] | None]:
    """max_tokens and thinking. The API's limit counts thinking, and so do those of other APIs: a budget fits below the
    limit a client names. It comes on top of our own, up to the operators'."""
    wanted = _budget(request)
    limit = default_limit + wanted if request.max_tokens is None else request.max_tokens
    limit = min(limit, request.most or limit)
    if request.reasoning_effort == "none":
        return limit, {"type": "disabled"}
    exact = request.reasoning_budget is not None and wanted < limit
    ample = exact or limit - wanted >= default_limit
    # An effort is our own guess at a budget, so it leaves room for the answer.
    budget = wanted if ample else min(wanted, max(limit // 2, _LEAST))
    return limit, {"type": "enabled", "budget_tokens": budget} if 0 < budget < limit else None


def _budget(request: ChatRequest) -> int:
    """Thinking tokens asked for; 0: none, or none can be had. A budget stands for more than the effort beside it."""
    budget = request.reasoning_budget or BUDGETS.get(request.reasoning_effort or "", 0)
    if not budget or request.reasoning_effort == "none" or not _may_think(request):
        return 0
    return max(budget, _LEAST)


def _thinks(thinking: dict[str, Any] | None) -> bool:
    return thinking is not None and thinking["type"] == "enabled"


def _may_think(request: ChatRequest) -> bool:
    """Not with a forced tool, not from a prefill, and not on after a tool's result whose call was not thought of."""
    if request.tools and request.tool_choice not in (None, "auto", "none"):
        return False
    turns = [message for message in request.messages if message.role != "system"]
    if not turns or turns[-1].role == "user":
        return True
    caller = next((message for message in reversed(turns) if message.role == "assistant"), None)
    return turns[-1].role == "tool" and caller is not None and any(map(_is_ours, _parts(caller)))


def _is_ours(part: Part) -> bool:
    return isinstance(part, ReasoningPart) and part.dialect == "anthropic" and bool(part.signature or part.redacted)


def _output(response_format: dict[str, Any] | None) -> dict[str, Any] | None:
    wanted = (response_format or {}).get("json_schema")
    schema = wanted.get("schema") if isinstance(wanted, dict) else None
    return {"format": {"type": "json_schema", "schema": schema}} if isinstance(schema, dict) else None


def _system(messages: Sequence[Message]) -> str | list[dict[str, Any]]:
    """One text, or blocks where a block is to be cached."""
    parts = [part for message in messages if message.role == "system" for part in _parts(message)]
    texts = [part for part in parts if isinstance(part, TextPart) and part.text]
    if any(part.cache for part in texts):
        return [_cached({"type": "text", "text": part.text}, part.cache) for part in texts]
    return "\n\n".join(message.text() for message in messages if message.role == "system")


def _tool(tool: Tool) -> dict[str, Any]:
    said = wire.drop_none(name=tool.name, description=tool.description, strict=tool.strict, cache_control=tool.cache)
    return {**said, "input_schema": tool.parameters or {"type": "object"}}


def _tool_choice(request: ChatRequest) -> dict[str, Any] | None:
    choice = request.tool_choice
    said: dict[str, Any] | None = {"auto": {"type": "auto"}, "none": {"type": "none"}, "required": {"type": "any"}}.get(
        choice or ""
    )
    if choice is not None and choice.startswith("name:"):
        said = {"type": "tool", "name": choice[5:]}
    if request.parallel_tool_calls is False and choice != "none":
        said = {**(said or {"type": "auto"}), "disable_parallel_tool_use": True}
    return said


def _turns(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Turns of user and assistant; the results of one round of tools are one user turn."""
    out: list[dict[str, Any]] = []
    for message in messages:
        if message.role == "system":
            continue
        role = "assistant" if message.role == "assistant" else "user"
        blocks = list(_blocks(message))
        if out and out[-1]["role"] == role:
            out[-1]["content"].extend(blocks)
        elif blocks:
            out.append({"role": role, "content": blocks})
    return out


def _parts(message: Message) -> Sequence[Part]:
    return (TextPart(message.content),) if isinstance(message.content, str) else message.content


def _blocks(message: Message) -> Iterator[dict[str, Any]]:
    blocks = (block for block in map(_block, _parts(message)) if block)
    if message.role == "tool":
        plain = isinstance(message.content, str)
        yield {
            "type": "tool_result",
            "tool_use_id": message.tool_call_id,
            "content": message.text() if plain else list(blocks),
            **({"is_error": True} if message.failed else {}),
        }
        return
    yield from blocks
    for call in message.tool_calls:
        yield {"type": "tool_use", "id": call.id, "name": call.name, "input": wire.arguments_of(call.arguments)}


def _block(part: Part) -> dict[str, Any] | None:
    match part:
        case TextPart():
            return _cached({"type": "text", "text": part.text}, part.cache) if part.text else None
        case ImagePart():
            return _cached({"type": "image", "source": _image(part)}, part.cache)
        case FilePart():
            kind = "image" if part.media_type.startswith("image/") else "document"
            title = wire.drop_none(title=part.filename) if kind == "document" else {}
            return _cached({"type": kind, "source": _file(part), **title}, part.cache)
        case ReasoningPart() if _is_ours(part):
            if part.redacted:
                return {"type": "redacted_thinking", "data": part.redacted}
            return {"type": "thinking", "thinking": part.text, "signature": part.signature}
        case _:
            return None


def _cached(block: dict[str, Any], cache: dict[str, Any]) -> dict[str, Any]:
    return {**block, "cache_control": cache} if cache else block


def _image(part: ImagePart) -> dict[str, Any]:
    if part.url:
        return {"type": "url", "url": part.url}
    return {"type": "base64", "media_type": part.media_type or "image/png", "data": part.data}


def _file(part: FilePart) -> dict[str, Any]:
    """Plain text goes as text: as base64 the API takes PDF only."""
    if part.file_id:
        return {"type": "file", "file_id": part.file_id}
    if part.url:
        return {"type": "url", "url": part.url}
    if part.media_type.startswith("text/"):
        return {"type": "text", "media_type": "text/plain", "data": _text_of(part.data)}
    return {"type": "base64", "media_type": part.media_type or "application/pdf", "data": part.data}


def _text_of(data: str) -> str:
    try:
        return base64.b64decode(data).decode("utf-8", "replace")
    except (binascii.Error, ValueError):
        return data
