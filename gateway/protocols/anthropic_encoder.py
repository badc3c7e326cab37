"""Events as frames of Anthropic's Messages stream (protocol source: its reference, "Streaming messages"). Pure.

Law: content blocks are numbered from 0 and follow each other; only a tool's block may stay open beside the next one,
while its arguments are incomplete, because backends may mix the deltas of several calls. `message_stop` ends a whole
answer and nothing else; every other ending is an `error` event, which SDKs raise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from backends.contract.events import Citation, Event, Finish, FinishReason, ReasoningDelta, TextDelta, ToolCallDelta
from gateway.protocols.base import About, Encoder, Ending
from gateway.protocols.errors import anthropic_error, error_of

_json = msgspec.json.Encoder().encode
_STOPPED = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'

# Anthropic's word for each reason. A partial answer kept at a timeout is one that was cut short.
_REASONS: dict[FinishReason, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
    "timeout": "max_tokens",
}


def message_id(about: About) -> str:
    """The answer's id, in Anthropic's manner."""
    return "msg_" + about.stream_id.removeprefix("st_")


def stop_of(finish: FinishReason, sequence: str, called: bool) -> dict[str, Any]:
    """`stop_reason` and `stop_sequence`. `called`: tools were called, which some backends end with a mere stop."""
    reason = _REASONS.get(finish, "end_turn")
    if reason == "end_turn":
        reason = "stop_sequence" if sequence else "tool_use" if called else reason
    return {"stop_reason": reason, "stop_sequence": sequence if reason == "stop_sequence" else None}


def usage_of(ending: Ending) -> dict[str, Any]:
    """Usage in Anthropic's words: its prompt tokens are without the cached ones."""
    usage = ending.usage
    details = {"output_tokens_details": {"thinking_tokens": usage.reasoning}} if usage.reasoning else {}
    return {
        "input_tokens": max(0, usage.prompt - usage.cached - usage.cache_written),
        "cache_creation_input_tokens": usage.cache_written,
        "cache_read_input_tokens": usage.cached,
        "output_tokens": usage.completion,
        **details,
    }


def frame(name: str, data: dict[str, Any]) -> bytes:
    """One event; its type stands first in its data, as Anthropic writes it."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _json({"type": name, **data}))


def ended_well(ending: Ending) -> bool:
    """Whether this ending is a completion, or a partial answer kept on purpose."""
    return ending.error is None and ending.finish in _REASONS


class _Call:
    """A tool's open block."""

    __slots__ = ("block", "pieces")

    def __init__(self, block: int) -> None:
        self.block = block
        self.pieces: list[str] = []

    def whole(self) -> bool:
        """Whether the arguments are an object; most that are not are told by their end."""
        if not self.pieces or not self.pieces[-1].rstrip().endswith("}"):
            return False
        try:
            return isinstance(msgspec.json.decode("".join(self.pieces)), dict)
        except (msgspec.DecodeError, RecursionError):
            return False


class MessageEncoder(Encoder):
    """`_kind` is the open block's: text or thinking, "" for none; tools' open blocks are in `_calls`."""

    def __init__(self, about: About) -> None:
        self._about = about
        self._blocks = 0  # opened so far
        self._kind = ""
        self._signed = False  # the open thinking block has its signature: more reasoning is another block
        self._calls: dict[int, _Call] = {}
        self._over: set[int] = set()  # calls whose block is closed: what still comes for them is a repetition
        self._last: int | None = None  # the call whose delta came last
        self._stop_sequence = ""
        self._before = b""  # of a text delta in the open block
        self._out: list[bytes] = []

    def start(self) -> bytes:
        message: dict[str, Any] = {
            "id": message_id(self._about),
            "type": "message",
            "role": "assistant",
            "model": self._about.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {
                "input_tokens": 0,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
                "output_tokens": 0,
            },
        }
        self._say("message_start", {"message": message})
        return self._taken()

    def feed(self, events: Sequence[Event]) -> bytes:
        """Results of tools that ran at the provider have no place here unless it is Anthropic: they are left out."""
        for event in events:
            match event:
                case TextDelta(text):
                    self._text(_json(text))
                case ReasoningDelta():
                    self._reason(event)
                case ToolCallDelta():
                    self._call(event)
                case Citation() if event.dialect == "anthropic":
                    self._open_text()
                    self._delta(self._blocks - 1, {"type": "citations_delta", "citation": event.source})
                case Finish():
                    self._stop_sequence = event.stop_sequence
                case _:
                    pass
        return self._taken()

    def plain(self, text: str) -> bytes:
        self._text(b'"%b"' % text.encode())
        return self._taken()

    def end(self, ending: Ending) -> bytes:
        if not ended_well(ending):
            self._say("error", {"error": anthropic_error(error_of(ending))})
            return self._taken()
        self._close()
        for call in list(self._calls):
            self._close_call(call)
        stop = stop_of(ending.finish, self._stop_sequence, bool(self._over))
        self._say("message_delta", {"delta": stop, "usage": usage_of(ending)})
        self._raw(_STOPPED)
        return self._taken()

    # -- blocks --------------------------------------------------------------------------------------------------------

    def _text(self, text: bytes) -> None:
        if self._kind != "text":
            self._open_text()
        self._raw(self._before + text + b"}}\n\n")

    def _open_text(self) -> None:
        if self._kind == "text":
            return
        self._close_whole_calls()
        index = self._open({"type": "text", "text": ""})
        self._kind = "text"
        self._before = (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,'
            b'"delta":{"type":"text_delta","text":' % index
        )

    def _reason(self, event: ReasoningDelta) -> None:
        if event.redacted:
            self._close_whole_calls()
            self._open({"type": "redacted_thinking", "data": event.redacted})
            self._kind = "redacted_thinking"
            return
        if self._kind != "thinking" or (self._signed and event.text):
            self._close_whole_calls()
            self._open({"type": "thinking", "thinking": "", "signature": ""})
            self._kind, self._signed = "thinking", False
        index = self._blocks - 1
        if event.text:
            self._delta(index, {"type": "thinking_delta", "thinking": event.text})
        if event.signature:
            self._signed = True
            self._delta(index, {"type": "signature_delta", "signature": event.signature})

    def _call(self, event: ToolCallDelta) -> None:
        if event.index in self._over:
            return
        if self._last != event.index:
            self._close_whole_calls()
            self._last = event.index
        call = self._calls.get(event.index)
        if call is None:
            call = self._calls[event.index] = self._open_call(event)
        if event.arguments:
            call.pieces.append(event.arguments)
            self._delta(call.block, {"type": "input_json_delta", "partial_json": event.arguments})

    def _open_call(self, event: ToolCallDelta) -> _Call:
        id_ = event.id or f"toolu_{self._blocks}"
        return _Call(self._open({"type": "tool_use", "id": id_, "name": event.name, "input": {}}))

    def _open(self, block: dict[str, Any]) -> int:
        """Close what is open and begin a block; its number."""
        self._close()
        index, self._blocks = self._blocks, self._blocks + 1
        self._say("content_block_start", {"index": index, "content_block": block})
        return index

    def _close(self) -> None:
        if self._kind:
            self._say("content_block_stop", {"index": self._blocks - 1})
            self._kind = ""

    def _close_whole_calls(self) -> None:
        """Something else comes: calls that have all their arguments are over."""
        self._last = None
        for index in [index for index, call in self._calls.items() if call.whole()]:
            self._close_call(index)

    def _close_call(self, index: int) -> None:
        self._over.add(index)
        self._say("content_block_stop", {"index": self._calls.pop(index).block})

    # -- frames --------------------------------------------------------------------------------------------------------

    def _delta(self, index: int, delta: dict[str, Any]) -> None:
        self._say("content_block_delta", {"index": index, "delta": delta})

    def _say(self, name: str, data: dict[str, Any]) -> None:
        self._raw(frame(name, data))

    def _raw(self, data: bytes) -> None:
        self.frames += 1
        self._out.append(data)

    def _taken(self) -> bytes:
        out, self._out = self._out, []
        return out[0] if len(out) == 1 else b"".join(out)
