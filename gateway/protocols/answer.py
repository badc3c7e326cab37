"""A whole answer is the fold of a stream's events: texts joined, tool calls assembled. Pure.

Law: feeding events one by one or all at once gives the same answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import takewhile
from typing import Any

import msgspec

from backends.contract.events import (
    Citation,
    Event,
    Failed,
    Finish,
    FinishReason,
    OtherChoice,
    ReasoningDelta,
    Start,
    TextDelta,
    ToolCallDelta,
    ToolResult,
    Usage,
)
from gateway.protocols.base import Answer, ToolCallWhole


def arguments_of(call: ToolCallWhole) -> Any:
    """The arguments as an object; `{}` when the model sent none, the raw text when it is not JSON (a cut answer)."""
    if not call.arguments.strip():
        return {}
    try:
        return msgspec.json.decode(call.arguments)
    except (msgspec.DecodeError, RecursionError):
        return call.arguments


class _Call:
    """A call in the making."""

    __slots__ = ("id", "index", "name", "pieces")

    def __init__(self, index: int) -> None:
        self.index = index
        self.id = ""
        self.name = ""
        self.pieces: list[str] = []

    def add(self, delta: ToolCallDelta) -> None:
        self.id = self.id or delta.id
        self.name = self.name or delta.name
        if delta.arguments:
            self.pieces.append(delta.arguments)

    def whole(self) -> ToolCallWhole:
        return ToolCallWhole(self.index, self.id, self.name, "".join(self.pieces))


class Calls:
    """Tool calls assembled from their deltas, in order of their first delta; deltas of several calls may interleave."""

    __slots__ = ("_last", "_open", "_taken")

    def __init__(self) -> None:
        self._open: dict[int, _Call] = {}
        self._taken: set[int] = set()
        self._last: int | None = None

    def feed(self, delta: ToolCallDelta) -> list[ToolCallWhole]:
        """Add a delta; the earlier calls that are now known to be complete, each returned once.

        A call is complete when another began and its arguments are a whole JSON object: no beginning of an object is
        one, so a call whose deltas interleave with another's is never returned half. One that is complete before an
        earlier one waits for it: they are told in the order they have in a whole answer.
        """
        if delta.index not in self._taken:
            call = self._open.get(delta.index)
            if call is None:
                call = self._open[delta.index] = _Call(delta.index)
            call.add(delta)
        if self._last is None or self._last == delta.index:
            self._last = delta.index
            return []
        self._last = delta.index
        earlier = takewhile(lambda call: call.index != delta.index and _is_object(call), self._open.values())
        return self._take(list(earlier))

    def rest(self) -> list[ToolCallWhole]:
        """Every call not returned yet, as it stands."""
        return self._take(list(self._open.values()))

    def _take(self, calls: list[_Call]) -> list[ToolCallWhole]:
        for call in calls:
            self._taken.add(call.index)
            del self._open[call.index]
        return [call.whole() for call in calls]


class CallNames:
    """Backends name a call in its first delta only; who reads deltas one by one wants to know with each."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[int, tuple[str, str]] = {}

    def told(self, delta: ToolCallDelta) -> ToolCallDelta:
        """The delta with its call's id and name, once they are known."""
        id_, name = self._known.get(delta.index, ("", ""))
        known = self._known[delta.index] = (id_ or delta.id, name or delta.name)
        return ToolCallDelta(delta.index, *known, delta.arguments, delta.signature)


def _is_object(call: _Call) -> bool:
    return isinstance(arguments_of(call.whole()), dict) and bool(call.pieces)


class Folding:
    """An answer in the making. Memory is that of the answer."""

    __slots__ = (
        "_calls",
        "_citations",
        "_finish",
        "_logprobs",
        "_others",
        "_reasoning",
        "_redacted",
        "_results",
        "_signature",
        "_stop_sequence",
        "_text",
    )

    def __init__(self) -> None:
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._signature: list[str] = []
        self._calls: dict[int, _Call] = {}
        self._results: list[Any] = []
        self._citations: list[Citation] = []
        self._logprobs: list[Any] = []
        self._finish: FinishReason | None = None
        self._redacted: list[str] = []
        self._stop_sequence = ""
        self._others: dict[int, Folding] = {}

    def feed(self, events: Iterable[Event]) -> None:
        """Add events. Start, Usage and Failed do not change an answer."""
        for event in events:
            match event:
                case TextDelta():
                    self._text.append(event.text)
                    self._logprobs.extend(event.logprobs or ())
                case ReasoningDelta():
                    self._reasoning.append(event.text)
                    self._signature.append(event.signature)
                    self._redacted.extend([event.redacted] if event.redacted else [])
                case ToolCallDelta():
                    self._calls.setdefault(event.index, _Call(event.index)).add(event)
                case ToolResult():
                    self._results.append(event)
                case Citation():
                    self._citations.append(event)
                case Finish():
                    self._finish = event.reason
                    self._stop_sequence = event.stop_sequence
                case OtherChoice(choice, said):
                    self._others.setdefault(choice, Folding()).feed((said,))
                case Start() | Usage() | Failed():
                    pass

    def answer(self) -> Answer:
        """The answer so far."""
        return Answer(
            text="".join(self._text),
            reasoning="".join(self._reasoning),
            signature="".join(self._signature),
            tool_calls=[call.whole() for call in self._calls.values()],
            tool_results=list(self._results),
            finish=self._finish,
            citations=list(self._citations),
            logprobs=list(self._logprobs),
            redacted=list(self._redacted),
            stop_sequence=self._stop_sequence,
            deltas=len(self._text) + len(self._reasoning),
            texts=len(self._text),
            others={choice: self._others[choice].answer() for choice in sorted(self._others)},
        )


def fold(events: Iterable[Event]) -> Answer:
    """The answer these events make."""
    folding = Folding()
    folding.feed(events)
    return folding.answer()
