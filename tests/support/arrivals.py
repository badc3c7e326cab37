"""What must arrive at each kind of server for everything a client can ask: a part of the request, in the words of that
server's API (`support.arriving`). A feature that is missing there must be dropped by name, or refused."""

from __future__ import annotations

from typing import Any

from support.arriving import (
    Json,
    Kind,
    Nothing,
    Same,
    anthropic,
    generate,
    google,
    llamacpp,
    local,
    ollama,
    openai,
    tgi,
)


def within(part: Any, whole: Any) -> bool:
    """Whether all that `part` says is so in `whole`: objects may hold more, lists must be of one length."""
    if isinstance(part, Same):
        return part.holds(whole)
    if isinstance(part, Kind):
        return isinstance(whole, part.kind)
    if isinstance(part, dict):
        if not isinstance(whole, dict):
            return False
        return all(
            name not in whole if isinstance(said, Nothing) else name in whole and within(said, whole[name])
            for name, said in part.items()
        )
    if isinstance(part, list):
        return isinstance(whole, list) and len(part) == len(whole) and all(map(within, part, whole))
    return type(part) is type(whole) and bool(part == whole)


_KINDS = {
    "openai": openai, "vllm": local, "llamacpp": llamacpp, "tgi": tgi, "tgi generate": generate,
    "anthropic": anthropic, "google": google, "ollama": ollama,
}  # fmt: skip

# Every name a request may have at its top; anything else would be the gateway's own business leaking out.
_OPENAI = frozenset(
    (*("model", "messages", "stream", "stream_options", "max_tokens", "temperature", "top_p", "top_k", "seed"),
     *("presence_penalty", "frequency_penalty", "stop", "tools", "tool_choice", "parallel_tool_calls", "user"),
     *("response_format", "logprobs", "top_logprobs", "reasoning_effort", "thinking_budget_tokens", "n"))
)  # fmt: skip
_NAMES: dict[str, frozenset[str]] = {
    "openai": _OPENAI,
    "openai_responses": frozenset(("model", "input", "stream", "max_output_tokens", "tools", "store")),
    "tgi": frozenset(("inputs", "parameters")),
    "anthropic": frozenset(
        ("model", "messages", "system", "stream", "max_tokens", "temperature", "top_p", "top_k", "stop_sequences",
         "tools", "tool_choice", "output_config", "thinking", "metadata")
    ),
    "google": frozenset(("contents", "systemInstruction", "generationConfig", "tools", "toolConfig")),
    "ollama": frozenset(
        ("model", "messages", "stream", "options", "tools", "format", "think", "logprobs", "top_logprobs")
    ),
}  # fmt: skip


def wanted(kind: str, feature: str) -> Json | None:
    """What must arrive at a server of this kind; None: it cannot be asked."""
    found: Json | None = _KINDS[kind]().get(feature)
    return found


def foreign(dialect: str, body: Json) -> set[str]:
    """Names at the top of a translated request that this API does not have."""
    return set(body) - _NAMES[dialect]
