"""The native protocol as NDJSON: one JSON object a line, told apart by `type` (CONTRACT.md section 1). Pure.

Law: the first line is `start`, the last `complete_state` or `error`, always. Requests are those of the native protocol.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from backends.contract.events import ToolCallDelta, ToolResult
from gateway.protocols import native
from gateway.protocols.answer import arguments_of
from gateway.protocols.base import About, Answer, Encoder, Ending, ToolCallWhole
from gateway.protocols.errors import error_of
from gateway.protocols.lines import encode, to_json
from gateway.protocols.native import EventEncoder


def _usage_json(ending: Ending) -> dict[str, Any]:
    usage = ending.usage
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "reasoning_tokens": usage.reasoning,
        "cached_tokens": usage.cached,
        "estimated": ending.usage_estimated,
    }


def _error_json(about: About, ending: Ending, tokens: int) -> dict[str, Any]:
    error = error_of(ending)
    return {
        "type": "error",
        "code": error.code.wire,
        "message": error.message,
        "stream_id": about.stream_id,
        "retryable": error.code.retryable,
        "tokens": tokens,
    }


def _state_json(about: About, ending: Ending, text: str, tokens: int) -> dict[str, Any]:
    return {
        "type": "complete_state",
        "message": text,
        "total_tokens": tokens,
        "finish_reason": ending.finish,
        "stream_id": about.stream_id,
        "usage": _usage_json(ending),
    }


def _call_json(call: ToolCallWhole) -> dict[str, Any]:
    return {"type": "tool_call", "tool_name": call.name, "id": call.id, "args": arguments_of(call)}


class _Lines(EventEncoder):
    """One line per event; tool calls are told whole only."""

    def start(self) -> bytes:
        about = self.about
        return self._line(
            {
                "type": "start",
                "stream_id": about.stream_id,
                "model": about.model,
                "backend": about.backend,
                "conversation_id": about.conversation_id or None,
                "timestamp": about.created_ms,
            }
        )

    def _line(self, data: dict[str, Any]) -> bytes:
        self.frames += 1
        return to_json(data) + b"\n"

    def _token(self, text: str) -> bytes:
        self.frames += 1
        said = encode(text) if text.isascii() else to_json(text)
        return b'{"type":"message_chunk","content":%b,"tokens":%d}\n' % (said, self.tokens)

    def _reasoning(self, text: str) -> bytes:
        return self._line({"type": "reasoning_chunk", "content": text, "tokens": self.tokens})

    def _tool_delta(self, delta: ToolCallDelta) -> bytes:
        return b""

    def _tool_call(self, call: ToolCallWhole) -> bytes:
        return self._line(_call_json(call))

    def _tool_result(self, result: ToolResult) -> bytes:
        return self._line({"type": "tool_result", "tool_name": result.name, "id": result.id, "result": result.result})

    def _reset(self) -> bytes:
        return self._line({"type": "reset", "stream_id": self.about.stream_id, "reason": "the backend failed"})

    def _done(self, ending: Ending, text: str) -> bytes:
        return self._line(_state_json(self.about, ending, text, self.tokens))

    def _error(self, ending: Ending) -> bytes:
        return self._line(_error_json(self.about, ending, self.tokens))


class Protocol(native.Protocol):
    """Native, NDJSON."""

    name: ClassVar[str] = "ndjson"
    paths: ClassVar[tuple[str, ...]] = ()  # the edge chooses it by Accept
    dialect: ClassVar[str] = "native-ndjson"
    content_type: ClassVar[str] = "application/x-ndjson"
    framing: ClassVar[Literal["sse", "ndjson"]] = "ndjson"
    # White space may stand before any JSON value (RFC 8259, 2), so a lone space becomes the beginning of the next line
    # and every line-wise JSON parser reads over it. A blank line would not do: many clients parse each line unseen.
    keepalive: ClassVar[bytes] = b" "

    def encoder(self, about: About) -> Encoder:
        return _Lines(about)

    def whole(self, about: About, answer: Answer, ending: Ending) -> bytes:
        """The `complete_state` line's object, with what a stream would have told before it."""
        body = {
            **_state_json(about, ending, answer.text, answer.texts),
            "model": about.model,
            "backend": about.backend,
            "conversation_id": about.conversation_id or None,
            **({"reasoning": answer.reasoning} if answer.reasoning else {}),
            "tool_calls": [_call_json(call) for call in answer.tool_calls],
        }
        return to_json(body)

    def error_frame(self, about: About, ending: Ending, seq: int) -> bytes:
        return to_json(_error_json(about, ending, ending.tokens)) + b"\n"
