"""An answer as GenerateContentResponse objects (protocol source: its reference, v1beta). Pure.

Law: the last object alone has a finish reason, and there is no end marker: clients take the end of the body for one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from backends.contract.events import (
    Citation,
    Event,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from gateway.protocols.answer import Calls, arguments_of
from gateway.protocols.base import About, Answer, Encoder, Ending, ToolCallWhole
from gateway.protocols.errors import error_of, google_error
from gateway.protocols.google_gather import objects
from gateway.protocols.lines import to_json

# Google's word for each reason. A partial answer kept at a timeout is one that was cut short.
_FINISH: dict[FinishReason, str] = {
    "stop": "STOP",
    "length": "MAX_TOKENS",
    "tool_calls": "STOP",
    "content_filter": "SAFETY",
    "timeout": "MAX_TOKENS",
}


def ended_well(ending: Ending) -> bool:
    """Whether the ending is one Google has a finish reason for."""
    return ending.error is None and ending.finish in _FINISH


def tail_of(about: About) -> dict[str, Any]:
    """What every object ends with."""
    return {"modelVersion": about.model, "responseId": about.stream_id.removeprefix("st_")}


def candidate(parts: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """The one candidate of an object."""
    return {"content": {"parts": parts, "role": "model"}, "index": 0, **more}


def usage_of(usage: Usage) -> dict[str, Any]:
    """Google counts thoughts apart from the answer."""
    said = {"promptTokenCount": usage.prompt, "candidatesTokenCount": max(0, usage.completion - usage.reasoning)}
    if usage.reasoning:
        said["thoughtsTokenCount"] = usage.reasoning
    if usage.cached:
        said["cachedContentTokenCount"] = usage.cached
    return {**said, "totalTokenCount": usage.prompt + usage.completion}


def call_part(call: ToolCallWhole, signature: str = "") -> dict[str, Any]:
    """A call, whole; arguments are an object or nothing."""
    arguments = arguments_of(call)
    said = {"id": call.id, "name": call.name, "args": arguments if isinstance(arguments, dict) else {}}
    return {"functionCall": said, **({"thoughtSignature": signature} if signature else {})}


def logprobs_result(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """OpenAI's items as `logprobsResult`."""
    tops = [{"candidates": [_token(t) for t in item.get("top_logprobs") or ()]} for item in items]
    return {
        "chosenCandidates": [_token(item) for item in items],
        **({"topCandidates": tops} if any(top["candidates"] for top in tops) else {}),
    }


def _token(item: dict[str, Any]) -> dict[str, Any]:
    return {"token": item["token"], "logProbability": item["logprob"]}


def cited(citations: Sequence[Citation]) -> dict[str, Any]:
    """`citationMetadata` of citations with an address; {} when there are none."""
    sources = [_source(citation) for citation in citations if citation.url]
    return {"citationMetadata": {"citationSources": sources}} if sources else {}


def _source(citation: Citation) -> dict[str, Any]:
    said = {
        "startIndex": citation.start,
        "endIndex": citation.end,
        "uri": citation.url,
        "title": citation.title or None,
    }
    return {name: value for name, value in said.items() if value is not None}


_BEFORE = b'{"candidates":[{"content":{"parts":[{"text":'


class Chunks(Encoder):
    """One object per event; tool calls are told whole. Signatures go on to the client where they are Google's."""

    def __init__(self, about: About) -> None:
        self._name(tail_of(about))
        self._calls = Calls()
        self._signatures = about.dialect == "google"
        self._signed: dict[int, str] = {}
        self._citations: list[Citation] = []

    def _name(self, tail: dict[str, Any]) -> None:
        self._tail = tail
        self._after = b',"role":"model"},"index":0}],' + to_json(tail)[1:]

    def adopt(self, block: bytes) -> None:
        for said in objects(block):
            self._name({name: said.get(name, value) for name, value in self._tail.items()})
            return

    def start(self) -> bytes:
        return b""

    def feed(self, events: Sequence[Event]) -> bytes:
        return b"".join([self._event(event) for event in events])

    def plain(self, text: str) -> bytes:
        return self.frame(_BEFORE + b'"%b"}]' % text.encode() + self._after)

    def _event(self, event: Event) -> bytes:
        match event:
            case TextDelta(text, None):
                return self.frame(_BEFORE + to_json(text) + b"}]" + self._after)
            case TextDelta(text, logprobs):
                return self._object(candidate([{"text": text}], logprobsResult=logprobs_result(logprobs)))
            case ReasoningDelta():
                return self._thought(event)
            case ToolCallDelta():
                self._signed[event.index] = self._signed.get(event.index, "") or event.signature
                return self._tools(self._calls.feed(event))
            case Citation():
                self._citations.append(event)
        return b""

    def _thought(self, event: ReasoningDelta) -> bytes:
        signature = event.signature if self._signatures else ""
        if not event.text and not signature:
            return b""
        part: dict[str, Any] = {"text": event.text, **({"thought": True} if event.text else {})}
        return self._object(candidate([{**part, **({"thoughtSignature": signature} if signature else {})}]))

    def _tools(self, calls: list[ToolCallWhole]) -> bytes:
        return self._object(candidate(self._parts(calls))) if calls else b""

    def _parts(self, calls: list[ToolCallWhole]) -> list[dict[str, Any]]:
        return [call_part(call, self._signed.get(call.index, "") if self._signatures else "") for call in calls]

    def _object(self, one: dict[str, Any], **more: Any) -> bytes:
        return self.frame(to_json({"candidates": [one], **more, **self._tail}))

    def frame(self, data: bytes) -> bytes:
        """One object as it goes over the wire."""
        self.frames += 1
        return b"data: " + data + b"\r\n\r\n"

    def end(self, ending: Ending) -> bytes:
        if not ended_well(ending):
            return self.frame(to_json(google_error(error_of(ending))))
        reason = {"finishReason": _FINISH[ending.finish], **cited(self._citations)}
        parts = self._parts(self._calls.rest()) or [{"text": ""}]
        return self._object(candidate(parts, **reason), usageMetadata=usage_of(ending.usage))


class ArrayChunks(Chunks):
    """Without `alt=sse`: the objects as elements of one JSON array, each on a line of its own."""

    def frame(self, data: bytes) -> bytes:
        self.frames += 1
        return (b"[" if self.frames == 1 else b",") + data + b"\n"

    def end(self, ending: Ending) -> bytes:
        return super().end(ending)[:-1] + b"]\n"


def whole(about: About, answer: Answer, ending: Ending) -> bytes:
    """The answer of `:generateContent`."""
    parts: list[dict[str, Any]] = [{"text": answer.reasoning, "thought": True}] if answer.reasoning else []
    if answer.text or not answer.tool_calls:
        parts.append({"text": answer.text})
    parts += [call_part(call) for call in answer.tool_calls]
    more: dict[str, Any] = {"finishReason": _FINISH.get(ending.finish, "STOP"), **cited(answer.citations)}
    if answer.logprobs:
        more["logprobsResult"] = logprobs_result(answer.logprobs)
    body = {"candidates": [candidate(parts, **more)], "usageMetadata": usage_of(ending.usage), **tail_of(about)}
    return to_json(body)
