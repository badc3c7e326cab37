"""What chunks of a chat completion stream look like to a reader who wants as little of them as possible. Pure.

Fields whose form servers do not agree on are read as anything, so that an odd one never costs the answer.
Protocol source: the OpenAI API reference, "The chat completion chunk object".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from backends.contract.events import Citation, FinishReason, Usage

FINISH: dict[str, FinishReason] = {  # what is not here means stop
    "length": "length",
    "max_tokens": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "error": "error",
}


class Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: Any = None  # text; some servers send the object itself


class Tool(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: Function | None = None


class Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[Tool] | None = None
    annotations: Any = None


class Choice(msgspec.Struct):
    index: int = 0
    delta: Delta | None = None
    text: str | None = None  # the older completions API, instead of a delta
    logprobs: Any = None
    finish_reason: str | None = None


class Details(msgspec.Struct, gc=False):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class Counts(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: Details | None = None
    completion_tokens_details: Details | None = None


class Chunk(msgspec.Struct):
    id: str | None = None
    model: str | None = None
    object: str | None = None
    choices: list[Choice] | None = None
    usage: Counts | None = None
    error: Any = None


decode = msgspec.json.Decoder(Chunk).decode


def usage_of(usage: Counts) -> Usage:
    """Its counts, as far as they were said."""
    prompt, completion = usage.prompt_tokens_details, usage.completion_tokens_details
    return Usage(
        prompt=usage.prompt_tokens or 0,
        completion=usage.completion_tokens or 0,
        reasoning=(completion.reasoning_tokens or 0) if completion else 0,
        cached=(prompt.cached_tokens or 0) if prompt else 0,
    )


def citations(annotations: Any) -> Iterator[Citation]:
    """`annotations` of a message or of a delta; only `url_citation` says something others understand."""
    for item in annotations if isinstance(annotations, list) else ():
        said = item.get("url_citation") if isinstance(item, dict) else None
        said = said if isinstance(said, dict) else {}
        yield Citation(
            url=_string(said.get("url")),
            title=_string(said.get("title")),
            start=_whole(said.get("start_index")),
            end=_whole(said.get("end_index")),
            source=item,
            dialect="openai",
        )


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def logprob_items(logprobs: Any) -> list[Any]:
    """`logprobs.content`, or those of a refusal."""
    if not isinstance(logprobs, dict):
        return []
    items = logprobs.get("content") or logprobs.get("refusal")
    return items if isinstance(items, list) else []
