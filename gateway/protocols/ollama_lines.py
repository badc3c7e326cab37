"""An answer as Ollama's lines, and its lines as one answer (protocol source: its API document). Pure.

Law: one JSON object a line, the last one alone says `done: true`. Its durations are 0: measured ones would not be the
same for every reader, and clients read numbers there.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from backends.contract.errors import BackendError
from backends.contract.events import Event, FinishReason, ReasoningDelta, TextDelta, ToolCallDelta
from backends.contract.halves import read_json
from backends.contract.payload import BOM
from gateway.protocols.answer import Calls, arguments_of
from gateway.protocols.base import About, Answer, Encoder, Ending, Gatherer, ToolCallWhole
from gateway.protocols.errors import error_of
from gateway.protocols.lines import to_json

_encode = msgspec.json.Encoder().encode

# Ollama's word for each reason. A partial answer kept at a timeout is one that was cut short.
_FINISH: dict[FinishReason, str] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "stop",
    "content_filter": "stop",
    "timeout": "length",
}


_DURATIONS = {"total_duration": 0, "load_duration": 0, "prompt_eval_duration": 0, "eval_duration": 0}


def head_of(about: About) -> dict[str, Any]:
    """What every line begins with."""
    return {"model": about.model, "created_at": moment(about.created_ms)}


def moment(milliseconds: int) -> str:
    """A time as Ollama says it (RFC 3339, UTC)."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def error_line(error: BackendError) -> bytes:
    """Ollama's error object."""
    return to_json({"error": error.message})


def spoken(text: str, *, chat: bool, thinking: str = "", calls: Sequence[ToolCallWhole] = ()) -> dict[str, Any]:
    """The fields that carry content; `/api/generate` has no place for tool calls."""
    thought = {"thinking": thinking} if thinking else {}
    if not chat:
        return {"response": text, **thought}
    tools = {"tool_calls": [_call(call) for call in calls]} if calls else {}
    return {"message": {"role": "assistant", "content": text, **thought, **tools}}


def _call(call: ToolCallWhole) -> dict[str, Any]:
    """Arguments are an object or nothing: a model's broken JSON has no form here."""
    arguments = arguments_of(call)
    function = {
        "index": call.index,
        "name": call.name,
        "arguments": arguments if isinstance(arguments, dict) else {},
    }
    return {"id": call.id, "function": function}


def closing(ending: Ending) -> dict[str, Any]:
    """The fields of the last line alone."""
    counts = {"prompt_eval_count": ending.usage.prompt, "eval_count": ending.usage.completion}
    return {"done": True, "done_reason": _FINISH.get(ending.finish, "stop"), **_DURATIONS, **counts}


class Lines(Encoder):
    """One line per event; tool calls are told whole only, citations and results of provider's tools not at all."""

    def __init__(self, about: About, *, chat: bool) -> None:
        self._chat = chat
        self._head = head_of(about)
        self._calls = Calls()
        head = _encode(self._head)[:-1]
        place = b',"message":{"role":"assistant","content":' if chat else b',"response":'
        self._before = head + place
        self._after = b'},"done":false}\n' if chat else b',"done":false}\n'

    def start(self) -> bytes:
        return b""

    def feed(self, events: Sequence[Event]) -> bytes:
        return b"".join([self._event(event) for event in events])

    def plain(self, text: str) -> bytes:
        self.frames += 1
        return self._before + b'"%b"' % text.encode() + self._after

    def _event(self, event: Event) -> bytes:
        match event:
            case TextDelta(text, None):
                self.frames += 1
                return self._before + to_json(text) + self._after
            case TextDelta(text, logprobs):
                return self._line(**spoken(text, chat=self._chat), done=False, logprobs=logprobs)
            case ReasoningDelta(text) if text:
                return self._line(**spoken("", chat=self._chat, thinking=text), done=False)
            case ToolCallDelta():
                return self._tools(self._calls.feed(event))
            case _:
                return b""

    def _tools(self, calls: list[ToolCallWhole]) -> bytes:
        if not calls or not self._chat:
            return b""
        return self._line(**spoken("", chat=True, calls=calls), done=False)

    def _line(self, **fields: Any) -> bytes:
        self.frames += 1
        return to_json({**self._head, **fields}) + b"\n"

    def end(self, ending: Ending) -> bytes:
        if ending.error is not None or ending.finish not in _FINISH:
            self.frames += 1
            return error_line(error_of(ending)) + b"\n"
        return self._tools(self._calls.rest()) + self._line(**spoken("", chat=self._chat), **closing(ending))


def whole(about: About, answer: Answer, ending: Ending, *, chat: bool) -> bytes:
    """The answer of a request with `stream: false`."""
    content = spoken(answer.text, chat=chat, thinking=answer.reasoning, calls=answer.tool_calls)
    logprobs = {"logprobs": answer.logprobs} if answer.logprobs else {}
    return to_json({**head_of(about), **content, **logprobs, **closing(ending)})


class Gathered(Gatherer):
    """Lines put together: texts are joined, lists go on, of everything else the last word counts."""

    def __init__(self) -> None:
        self._fields: dict[str, Any] = {}

    def feed(self, block: bytes) -> None:
        for line in block.split(b"\n"):
            try:
                said = read_json(line.removeprefix(BOM))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue  # the decoder has told of it
            if isinstance(said, dict):
                _merge(self._fields, said)

    def body(self, about: About, ending: Ending) -> bytes:
        """With the backend's own counts and durations."""
        return _encode({**self._fields, "model": about.model})


_JOINED = frozenset(("content", "thinking", "response"))


def _merge(into: dict[str, Any], said: dict[str, Any]) -> None:
    for name, value in said.items():
        match into.get(name), value:
            case str() as before, str() if name in _JOINED:
                into[name] = before + value
            case list() as known, list():
                into[name] = known + value
            case dict() as inner, dict():
                _merge(inner, value)
            case _:
                into[name] = value
