"""Google's stream of GenerateContentResponse objects, decoded (protocol source: its reference). Pure.

Law: there is no end marker; the stream is done when the body ends after every candidate's finish reason (or a blocked
prompt).
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from backends.base import Decoder
from backends.contract.errors import BackendError
from backends.contract.events import Event, Failed, Start, Usage
from backends.contract.halves import read_json
from backends.contract.payload import sse_events
from backends.contract.refusal import in_stream, unreadable
from backends.google_candidate import CandidateReader, OtherCandidates, text_of

_NO_NAME = re.compile(r"[^A-Za-z0-9_-]")  # what APIs do not take in a call's id
_NAMED = 24  # characters of an answer's id that go into those of its calls, which some APIs want short


class GoogleDecoder(Decoder):
    """One stream, `alt=sse`."""

    def __init__(self, secrets: tuple[str, ...] = ()) -> None:
        self._secrets = secrets
        self._started = self._failed = False
        self._first = CandidateReader()
        self._others = OtherCandidates()
        self._usage = Usage()

    def feed(self, block: bytes) -> list[Event]:
        out: list[Event] = []
        for _, data in sse_events(block):
            if self._failed:
                break
            try:
                self._chunk(read_json(data), out)
            except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError, RecursionError):
                self._fail(out, unreadable("a chunk"))
        return out

    def eof(self) -> list[Event]:
        self.done = self._first.finished and self._others.finished and not self._failed
        return []

    def _fail(self, out: list[Event], error: BackendError) -> None:
        self._failed = True
        out.append(Failed(error))

    def _chunk(self, chunk: dict[str, Any], out: list[Event]) -> None:
        if chunk.get("error"):
            self._fail(out, in_stream(chunk["error"], self._secrets))
            return
        if not self._started:
            self._started = True
            self._begin(text_of(chunk.get("responseId")), text_of(chunk.get("modelVersion")), out)
        for candidate in chunk.get("candidates") or ():
            (self._others if candidate.get("index") else self._first).read(candidate, out)
        self._failed = self._first.broken or self._others.broken
        if (chunk.get("promptFeedback") or {}).get("blockReason"):
            self._first.finish("content_filter", out)
        self._count(chunk.get("usageMetadata"), out)

    def _begin(self, answer: str, model: str, out: list[Event]) -> None:
        out.append(Start(answer, model))
        named = _NO_NAME.sub("", answer)[:_NAMED]
        if named:
            self._first, self._others = CandidateReader(f"{named}_"), OtherCandidates(f"{named}_")

    def _count(self, usage: dict[str, Any] | None, out: list[Event]) -> None:
        if not usage:
            return
        thoughts = _number(usage.get("thoughtsTokenCount"))
        prompt = _number(usage.get("promptTokenCount")) + _number(usage.get("toolUsePromptTokenCount"))
        self._usage = Usage(
            prompt=prompt or self._usage.prompt,
            completion=_number(usage.get("candidatesTokenCount")) + thoughts,
            reasoning=thoughts,
            cached=_number(usage.get("cachedContentTokenCount")),
        )
        out.append(self._usage)


def _number(value: Any) -> int:
    return value if type(value) is int else 0
