"""An answer as GenerateContentResponse objects (protocol source: its reference, v1beta). Pure.

Law: the last object alone has a finish reason, and there is no end marker: clients take the end of the body for one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from backends.contract.events import (
    Citation,
    Event,
    Finish,
    FinishReason,
    OtherChoice,
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


def candidate(parts: list[dict[str, Any]], number: int = 0, **more: Any) -> dict[str, Any]:
    """One candidate of an object."""
    return {"content": {"parts": parts, "role": "model"}, "index": number, **more}


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


class _Candidate:
    """What is kept of one candidate until it can be told."""

    def __init__(self) -> None:
        self.calls = Calls()
        self.signed: dict[int, str] = {}
        self.citations: list[Citation] = []
        self.finish: FinishReason = "stop"


class Chunks(Encoder):
    """One object per event; tool calls are told whole. Signatures go on to the client where they are Google's."""

    def __init__(self, about: About) -> None:
        self._name(tail_of(about))
        self._signatures = about.dialect == "google"
        self._candidates = {0: _Candidate()}

    def _name(self, tail: dict[str, Any]) -> None:
        self._tail = tail
        self._after = b',"role":"model"},"index":0}],' + to_json(tail)[1:]

    def adopt(self, block: bytes) -> bool:
        for said in objects(block):
            self._name({name: said.get(name, value) for name, value in self._tail.items()})
            return True
        return False

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
            case OtherChoice(number, said):
                return self._rare(said, number)
            case _:
                return self._rare(event, 0)

    def _rare(self, event: Event, number: int) -> bytes:
        kept = self._candidates.get(number) or self._candidates.setdefault(number, _Candidate())
        match event:
            case TextDelta(text, logprobs):
                more = {"logprobsResult": logprobs_result(logprobs)} if logprobs else {}
                return self._object(candidate([{"text": text}], number, **more))
            case ReasoningDelta():
                return self._thought(event, number)
            case ToolCallDelta():
                kept.signed[event.index] = kept.signed.get(event.index, "") or event.signature
                parts = self._parts(kept.calls.feed(event), kept)
                return self._object(candidate(parts, number)) if parts else b""
            case Citation():
                kept.citations.append(event)
            case Finish(reason):
                kept.finish = reason
        return b""

    def _thought(self, event: ReasoningDelta, number: int) -> bytes:
        signature = event.signature if self._signatures else ""
        if not event.text and not signature:
            return b""
        part: dict[str, Any] = {"text": event.text, **({"thought": True} if event.text else {})}
        return self._object(candidate([{**part, **({"thoughtSignature": signature} if signature else {})}], number))

    def _parts(self, calls: list[ToolCallWhole], kept: _Candidate) -> list[dict[str, Any]]:
        return [call_part(call, kept.signed.get(call.index, "") if self._signatures else "") for call in calls]

    def _object(self, *candidates: dict[str, Any], **more: Any) -> bytes:
        return self.frame(to_json({"candidates": candidates, **more, **self._tail}))

    def frame(self, data: bytes) -> bytes:
        """One object as it goes over the wire."""
        self.frames += 1
        return b"data: " + data + b"\r\n\r\n"

    def end(self, ending: Ending) -> bytes:
        if not ended_well(ending):
            return self.frame(to_json(google_error(error_of(ending))))
        self._candidates[0].finish = ending.finish
        last = [self._last(number, self._candidates[number]) for number in sorted(self._candidates)]
        return self._object(*last, usageMetadata=usage_of(ending.usage))

    def _last(self, number: int, kept: _Candidate) -> dict[str, Any]:
        parts = self._parts(kept.calls.rest(), kept) or [{"text": ""}]
        return candidate(parts, number, finishReason=_FINISH.get(kept.finish, "STOP"), **cited(kept.citations))


class ArrayChunks(Chunks):
    """Without `alt=sse`: the objects as elements of one JSON array, each on a line of its own."""

    def frame(self, data: bytes) -> bytes:
        self.frames += 1
        return (b"[" if self.frames == 1 else b",") + data + b"\n"

    def end(self, ending: Ending) -> bytes:
        return super().end(ending)[:-1] + b"]\n"


def whole(about: About, answer: Answer, ending: Ending) -> bytes:
    """The answer of `:generateContent`."""
    others = [_whole(number, other, other.finish or "stop") for number, other in answer.others.items()]
    found = [_whole(0, answer, ending.finish), *others]
    return to_json({"candidates": found, "usageMetadata": usage_of(ending.usage), **tail_of(about)})


def _whole(number: int, answer: Answer, finish: FinishReason) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"text": answer.reasoning, "thought": True}] if answer.reasoning else []
    if answer.text or not answer.tool_calls:
        parts.append({"text": answer.text})
    parts += [call_part(call) for call in answer.tool_calls]
    more: dict[str, Any] = {"finishReason": _FINISH.get(finish, "STOP"), **cited(answer.citations)}
    if answer.logprobs:
        more["logprobsResult"] = logprobs_result(answer.logprobs)
    return candidate(parts, number, **more)
