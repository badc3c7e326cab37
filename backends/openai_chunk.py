"""What chunks of a chat completion stream look like to a reader who wants as little of them as possible. Pure.

Fields whose form servers do not agree on are read as anything, so that an odd one never costs the answer.
Protocol source: the OpenAI API reference, "The chat completion chunk object".
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import msgspec

from backends.contract.events import Citation, FinishReason, Usage
from backends.contract.halves import reading

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
    content: Any = None  # text; Mistral's reasoning models send lists of parts
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[Tool] | None = None
    function_call: Any = None  # the oldest form of a tool call: a function's name, then its arguments in pieces
    annotations: Any = None


class Choice(msgspec.Struct):
    index: int = 0
    delta: Delta | None = None
    text: str | None = None  # the older completions API, instead of a delta
    logprobs: Any = None
    finish_reason: str | None = None


class Details(msgspec.Struct, gc=False):
    cached_tokens: float | int | None = None
    reasoning_tokens: float | int | None = None


class Counts(msgspec.Struct):
    prompt_tokens: float | int | None = None
    completion_tokens: float | int | None = None
    prompt_tokens_details: Details | None = None
    completion_tokens_details: Details | None = None


class Chunk(msgspec.Struct):
    id: Any = None
    model: Any = None
    object: Any = None
    choices: list[Choice] | None = None
    usage: Counts | None = None
    error: Any = None
    error_type: Any = None  # of an error that is a text (TGI)


decode = reading(msgspec.json.Decoder(Chunk).decode)


def usage_of(usage: Counts) -> Usage:
    """Its counts, as far as they were said."""
    prompt, completion = usage.prompt_tokens_details, usage.completion_tokens_details
    return Usage(
        prompt=int(usage.prompt_tokens or 0),
        completion=int(usage.completion_tokens or 0),
        reasoning=int(completion.reasoning_tokens or 0) if completion else 0,
        cached=int(prompt.cached_tokens or 0) if prompt else 0,
    )


def spoken(content: Any) -> tuple[str, str]:
    """(text, reasoning) of a `content`: a text, or parts of type `text` and `thinking`, which may hold parts again."""
    if isinstance(content, str):
        return content, ""
    text = reasoning = ""
    for part in content if isinstance(content, list) else ():
        kind, said = (part.get("type"), part) if isinstance(part, dict) else (None, {})
        if kind == "thinking":
            reasoning += "".join(spoken(said.get("thinking")))
        elif kind == "text":
            text += _string(said.get("text"))
    return text, reasoning


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
    return [item for item in items if _is_item(item)] if isinstance(items, list) else []


def _is_item(item: Any) -> bool:
    return (
        isinstance(item, dict) and isinstance(item.get("token"), str) and isinstance(item.get("logprob"), int | float)
    )


def text_logprob_items(logprobs: Any) -> list[Any]:
    """The older completions API's parallel lists, as items of `logprobs.content`. Some servers of that API tell such
    items themselves."""
    tokens = logprobs.get("tokens") if isinstance(logprobs, dict) else None
    if not isinstance(tokens, list):
        return logprob_items(logprobs)
    numbers, tops = _list(logprobs.get("token_logprobs")), _list(logprobs.get("top_logprobs"))
    rows = zip_longest(tokens, numbers[: len(tokens)], tops[: len(tokens)])
    return [{**_item(token, number), "top_logprobs": _top(top)} for token, number, top in rows]


def _top(said: Any) -> list[dict[str, Any]]:
    return [_item(token, number) for token, number in said.items()] if isinstance(said, dict) else []


def _item(token: Any, number: Any) -> dict[str, Any]:
    """One token. Of one that is part of a character this API tells only how it would be printed."""
    text = token if isinstance(token, str) else ""
    known = not text.startswith("bytes:") and "\ufffd" not in text
    return {
        "token": text,
        "logprob": number if isinstance(number, int | float) else 0.0,
        "bytes": list(text.encode("utf-8", "replace")) if known else None,
    }


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
