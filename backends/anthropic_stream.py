"""The stream of Anthropic's Messages API (protocol source: its reference, "Streaming messages"). Pure.

Law: `message_stop` ends the stream; an `error` event fails it. Prompt tokens include the cached ones. Events and blocks
of unknown types say nothing.
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
    ToolCallDelta,
    ToolResult,
    Usage,
)
from backends.contract.halves import read_json
from backends.contract.payload import sse_events
from backends.contract.refusal import in_stream, unreadable

FINISH: dict[str, FinishReason] = {  # what is not here means stop
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


class AnthropicDecoder(Decoder):
    """One stream of Messages events. `signed`: signatures mean something to the server that gave them."""

    def __init__(self, secrets: tuple[str, ...] = (), *, signed: bool = True) -> None:
        self._secrets, self._signed = secrets, signed
        self._failed = False
        self._tools: dict[int, int] = {}  # block index -> index of the tool call
        self._bare: set[int] = set()  # tool blocks without arguments so far
        self._served: dict[str, str] = {}  # id of a provider's tool -> its name
        self._usage = Usage()

    def feed(self, block: bytes) -> list[Event]:
        out: list[Event] = []
        for _, data in sse_events(block):
            if self.done or self._failed:
                break
            try:
                self._event(read_json(data), out)
            except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
                self._failed = True
                out.append(Failed(unreadable("an event")))
        return out

    def _event(self, event: dict[str, Any], out: list[Event]) -> None:
        match event["type"]:
            case "content_block_delta":
                self._delta(event["index"], event["delta"], out)
            case "message_start":
                message = event["message"]
                out.append(Start(message.get("id") or "", message.get("model") or ""))
                self._count(message.get("usage"), out)
            case "content_block_start":
                self._open(event["index"], event["content_block"], out)
            case "content_block_stop" if event["index"] in self._bare:
                self._bare.discard(event["index"])
                out.append(ToolCallDelta(self._tools[event["index"]], arguments="{}"))
            case "message_delta":
                self._stopped(event["delta"], out)
                self._count(event.get("usage"), out)
            case "message_stop":
                self.done = True
            case "error":
                self._failed = True
                out.append(Failed(in_stream(event.get("error"), self._secrets)))

    @staticmethod
    def _stopped(delta: dict[str, Any], out: list[Event]) -> None:
        reason = delta.get("stop_reason")
        if reason:
            out.append(Finish(FINISH.get(reason, "stop"), delta.get("stop_sequence") or ""))

    def _open(self, index: int, block: dict[str, Any], out: list[Event]) -> None:
        kind = block["type"]
        if kind == "tool_use":
            self._call(index, block, out)
        elif kind == "text":
            out.extend([TextDelta(_text(block["text"]))] if block.get("text") else [])
            out.extend(_citation(source) for source in block.get("citations") or ())
        elif kind == "thinking":
            text = _text(block.get("thinking") or "")
            signature = _text(block.get("signature") or "") if self._signed else ""
            out.extend([ReasoningDelta(text, signature)] if text or signature else [])
        elif kind == "redacted_thinking":
            out.append(ReasoningDelta("", redacted=_text(block["data"])))
        elif kind == "server_tool_use":
            self._served[block["id"]] = block["name"]
        elif kind.endswith("_tool_result"):
            id_ = block.get("tool_use_id") or ""
            out.append(ToolResult(id_, self._served.get(id_, kind.removesuffix("_tool_result")), block.get("content")))

    def _call(self, index: int, block: dict[str, Any], out: list[Event]) -> None:
        slot = self._tools[index] = len(self._tools)
        whole = msgspec.json.encode(block["input"]).decode() if block.get("input") else ""
        if not whole:
            self._bare.add(index)
        out.append(ToolCallDelta(slot, _text(block.get("id") or f"call_{slot}"), _text(block["name"]), whole))

    def _delta(self, index: int, delta: dict[str, Any], out: list[Event]) -> None:
        match delta["type"]:
            case "text_delta" if delta["text"]:
                out.append(TextDelta(_text(delta["text"])))
            case "thinking_delta" if delta["thinking"]:
                out.append(ReasoningDelta(_text(delta["thinking"])))
            case "signature_delta" if delta["signature"] and self._signed:
                out.append(ReasoningDelta("", _text(delta["signature"])))
            case "input_json_delta" if delta["partial_json"] and index in self._tools:
                self._bare.discard(index)
                out.append(ToolCallDelta(self._tools[index], arguments=_text(delta["partial_json"])))
            case "citations_delta":
                out.append(_citation(delta["citation"]))

    def _count(self, usage: dict[str, Any] | None, out: list[Event]) -> None:
        """Counts that are not repeated keep their earlier value."""
        if not usage:
            return
        before = self._usage
        cached = _said(usage.get("cache_read_input_tokens"), before.cached)
        written = _said(usage.get("cache_creation_input_tokens"), before.cache_written)
        fresh = usage.get("input_tokens")
        details = usage.get("output_tokens_details") or {}
        self._usage = Usage(
            prompt=before.prompt if fresh is None else max(fresh + cached + written, before.prompt),
            completion=usage.get("output_tokens") or before.completion,
            reasoning=_said(details.get("thinking_tokens"), before.reasoning),
            cached=cached,
            cache_written=written,
        )
        out.append(self._usage)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _said(value: int | None, before: int) -> int:
    return before if value is None else value


def _citation(source: dict[str, Any]) -> Citation:
    """Its places are places in the source, not in the answer: they stay in `source`."""
    return Citation(
        url=source.get("url") or "",
        title=source.get("title") or source.get("document_title") or "",
        text=source.get("cited_text") or "",
        source=source,
        dialect="anthropic",
    )
