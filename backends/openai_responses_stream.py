"""The stream of OpenAI's Responses API and of the servers that copy it: the decoder. Pure.

Law: `response.completed` or `response.incomplete` ends the stream; `response.failed`, `error` and a bare error object
are failures. Nothing else of the choreography is relied on: llama.cpp leaves out `output_index`, `sequence_number` and
most of `response.created`, transformers sends no `event:` lines, vLLM says `completed` of an answer that was cut.
Protocol source: the OpenAI API reference, "Responses: streaming events".
"""

from __future__ import annotations

from typing import Any

import msgspec

from backends.base import Decoder
from backends.contract.events import (
    Citation,
    Event,
    Failed,
    Finish,
    FinishReason,
    ReasoningDelta,
    Start,
    TextDelta,
    ToolResult,
    Usage,
)
from backends.contract.halves import reading
from backends.contract.payload import sse_events
from backends.contract.refusal import in_stream, unreadable
from backends.openai_responses_calls import CallSlots

DIALECT = "openai_responses"
_CUT: dict[str, FinishReason] = {"content_filter": "content_filter"}  # any other reason is a limit: length


class _Said(msgspec.Struct):
    """The fields of every event this decoder reads. Loose where servers differ."""

    type: str = ""
    delta: Any = None
    logprobs: Any = None
    item_id: str | None = None
    output_index: int | None = None
    summary_index: int | None = None
    item: dict[str, Any] | None = None
    annotation: Any = None
    arguments: Any = None
    response: dict[str, Any] | None = None
    error: Any = None
    code: Any = None
    message: Any = None
    param: Any = None


_decode = reading(msgspec.json.Decoder(_Said).decode)


class ResponsesDecoder(Decoder):
    """One native Responses stream. Text is told by its deltas alone: what repeats it at the end of an item is not read,
    so that a decoder need not have seen every delta (`Likeness`)."""

    def __init__(self, secrets: tuple[str, ...] = ()) -> None:
        self._secrets = secrets
        self._started = False
        self._failed = False
        self._calls = CallSlots()
        self._thought: set[str] = set()  # reasoning items told by deltas; llama.cpp closes them after the next began

    def feed(self, block: bytes) -> list[Event]:
        out: list[Event] = []
        for _, data in sse_events(block):
            if self.done or self._failed:
                break
            if data.strip() == b"[DONE]":
                continue
            try:
                said = _decode(data)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                self._fail(out, Failed(unreadable("an event")))
                break
            self._event(said, out)
        return out

    def _event(self, said: _Said, out: list[Event]) -> None:
        kind = said.type
        if kind in ("response.output_text.delta", "response.refusal.delta"):
            if isinstance(said.delta, str) and said.delta:
                out.append(TextDelta(said.delta, said.logprobs or None))
        elif kind in ("response.reasoning_summary_text.delta", "response.reasoning_text.delta"):
            if isinstance(said.delta, str) and said.delta:
                self._thought.add(said.item_id or "")
                out.append(ReasoningDelta(said.delta))
        elif kind == "response.function_call_arguments.delta":
            out += self._calls.more(said.item_id, said.output_index, said.delta)
        elif kind == "error" or (said.error is not None and said.response is None):
            self._fail(out, Failed(in_stream(_error(said), self._secrets)))
        else:
            self._rare(said, out)

    def _rare(self, said: _Said, out: list[Event]) -> None:
        kind = said.type
        if kind == "response.output_item.added" and said.item:
            if said.item.get("type") == "function_call":
                out += self._calls.open(said.item, said.output_index)
        elif kind == "response.output_item.done" and said.item:
            self._item(said.item, said.output_index, out)
        elif kind == "response.function_call_arguments.done":
            out += self._calls.whole(said.item_id, said.output_index, said.arguments)
        elif kind == "response.reasoning_summary_part.added" and said.summary_index:
            if (said.item_id or "") in self._thought:
                out.append(ReasoningDelta("\n\n"))  # the parts of a summary are paragraphs
        elif kind == "response.output_text.annotation.added" and isinstance(said.annotation, dict):
            out.append(_citation(said.annotation))
        elif said.response is not None:
            self._response(kind, said.response, out)

    def _item(self, item: dict[str, Any], index: int | None, out: list[Event]) -> None:
        """A finished item: what its deltas did not tell."""
        kind = item.get("type")
        if kind == "function_call":
            out += self._calls.finish(item, index)
        elif kind == "custom_tool_call":
            arguments = msgspec.json.encode({"input": item.get("input")}).decode()
            out += self._calls.finish({**item, "arguments": arguments}, index)
        elif kind == "reasoning":
            out += _reasoning(item, not self._thought.isdisjoint((_text(item.get("id")), "")))
        elif isinstance(kind, str) and kind.endswith("_call"):
            out.append(ToolResult(_text(item.get("id")), kind.removesuffix("_call"), item))

    def _response(self, kind: str, response: dict[str, Any], out: list[Event]) -> None:
        if not self._started:
            self._started = True
            out.append(Start(_text(response.get("id")), _text(response.get("model"))))
        status = response.get("status")
        if kind in ("response.failed", "response.cancelled") or (kind == "response.completed" and status == "failed"):
            error = response.get("error") or {"message": "the backend gave this answer up"}
            self._fail(out, Failed(in_stream(error, self._secrets)))
        elif kind in ("response.completed", "response.incomplete"):
            out.append(Finish(self._reason(kind, response)))
            if isinstance(response.get("usage"), dict):
                out.append(_usage(response["usage"]))
            self.done = True

    def _reason(self, kind: str, response: dict[str, Any]) -> FinishReason:
        if kind == "response.incomplete" or response.get("status") == "incomplete":
            details = response.get("incomplete_details")
            return _CUT.get(_text(details.get("reason")) if isinstance(details, dict) else "", "length")
        return "tool_calls" if self._calls else "stop"

    def _fail(self, out: list[Event], failed: Failed) -> None:
        self._failed = True
        out.append(failed)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _error(said: _Said) -> Any:
    """The error of an `error` event: nested as OpenAI sends it, or flat as its reference says."""
    if said.error is not None:
        return said.error
    return {"message": said.message, "code": said.code, "param": said.param}


def _texts(parts: Any) -> str:
    """The texts of a list of content or summary parts, joined."""
    found = (part for part in parts if isinstance(part, dict)) if isinstance(parts, list) else ()
    return "".join(_text(part.get("text")) or _text(part.get("refusal")) for part in found)


def _reasoning(item: dict[str, Any], said: bool) -> list[ReasoningDelta]:
    """What a finished reasoning item adds: its text unless deltas told it, and its encrypted form. An item that is
    encrypted and nothing else is a redacted block of its own."""
    text = "" if said else _texts(item.get("summary")) or _texts(item.get("content"))
    sealed = _text(item.get("encrypted_content"))
    if not text and not sealed:
        return []
    if said or text:
        return [ReasoningDelta(text, signature=sealed)]
    return [ReasoningDelta("", redacted=sealed)]


def _citation(said: dict[str, Any]) -> Citation:
    start, end = said.get("start_index"), said.get("end_index")
    return Citation(
        url=_text(said.get("url")),
        title=_text(said.get("title")) or _text(said.get("filename")),
        start=start if isinstance(start, int) else None,
        end=end if isinstance(end, int) else None,
        source=said,
        dialect=DIALECT,
    )


def _usage(said: dict[str, Any]) -> Usage:
    prompt, completion = said.get("input_tokens_details"), said.get("output_tokens_details")
    return Usage(
        prompt=_count(said, "input_tokens"),
        completion=_count(said, "output_tokens"),
        reasoning=_count(completion, "reasoning_tokens"),
        cached=_count(prompt, "cached_tokens"),
        cache_written=_count(prompt, "cache_write_tokens"),
    )


def _count(said: Any, name: str) -> int:
    value = said.get(name) if isinstance(said, dict) else None
    return value if isinstance(value, int) and value > 0 else 0
