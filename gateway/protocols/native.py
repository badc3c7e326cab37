"""The native protocol over SSE: CONTRACT.md, "Shapes of the native protocol". Pure.

Law: `start` first, `done` or `error` last, always; the n-th frame carries the id `<stream id>.<n>`. A stream that was
cancelled on request is `done` with what there was; every other failure is `error`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from typing import Any, ClassVar, Literal

from backends.contract.errors import BackendError
from backends.contract.events import (
    Event,
    Failed,
    Finish,
    OtherChoice,
    ReasoningDelta,
    Start,
    TextDelta,
    ToolCallDelta,
    ToolResult,
    Usage,
)
from gateway.protocols.answer import CallNames, Calls, arguments_of
from gateway.protocols.base import About, Answer, Asked, ClientProtocol, Encoder, Ending, Refusal, ToolCallWhole
from gateway.protocols.errors import error_of, native_error, retry_after_header
from gateway.protocols.lines import encode, to_json
from gateway.protocols.native_request import read_native


def complete(ending: Ending) -> bool:
    """Whether the last event is `done`: nothing failed, or somebody asked for the end."""
    return ending.error is None or ending.finish == "cancelled"


class EventEncoder(Encoder):
    """What the SSE and the NDJSON form share: which events there are and when. Subclasses say how one looks. `tokens`:
    the pieces of text so far; reasoning and tool calls are not counted."""

    __slots__ = ("_calls", "_names", "_text", "about", "frames", "tokens")  # side by side: a token touches them

    def __init__(self, about: About) -> None:
        self.about = about
        self.frames = 0
        self.tokens = 0
        self._text = StringIO()  # as a list it would keep an object per token
        self._calls: Calls | None = None
        self._names = CallNames()

    def feed(self, events: Sequence[Event]) -> bytes:
        out: list[bytes] = []
        for event in events:
            if type(event) is TextDelta:
                self.tokens += 1
                self._text.write(event.text)
                out.append(self._token(event.text))
            else:
                self._feed_other(event, out)
        return out[0] if len(out) == 1 else b"".join(out)

    def _feed_other(self, event: Event, out: list[bytes]) -> None:
        match event:
            case ReasoningDelta():
                if event.text:  # a signature alone is for the provider, not for readers
                    out.append(self._reasoning(event.text))
            case ToolCallDelta():
                self._calls = self._calls or Calls()
                finished = self._calls.feed(event)
                out.extend(self._tool_call(call) for call in finished)
                out.append(self._tool_delta(self._names.told(event)))
            case ToolResult():
                out.append(self._tool_result(event))
            case Finish():
                out.append(self._open_calls())
            case Start() | TextDelta() | Usage() | Failed():
                pass  # the gateway says these itself: in `start` and in the last frames
            case OtherChoice():
                pass  # asked for in another protocol, by somebody else; here there is one

    def end(self, ending: Ending) -> bytes:
        """A call the backend left unfinished is not told as a whole one: somebody might run it."""
        if not complete(ending):
            return self._error(ending)
        calls = b"" if ending.finish in ("cancelled", "timeout") else self._open_calls()
        return calls + self._done(ending, self._text.getvalue())

    def reset(self) -> bytes:
        """`reset`: what was said so far is void; `tokenCount` and the texts begin anew."""
        self.tokens, self._text, self._calls = 0, StringIO(), None
        self._names = CallNames()
        return self._reset()

    @abstractmethod
    def _reset(self) -> bytes: ...

    def _open_calls(self) -> bytes:
        if self._calls is None:
            return b""
        return b"".join([self._tool_call(call) for call in self._calls.rest()])

    @abstractmethod
    def _token(self, text: str) -> bytes: ...

    @abstractmethod
    def _reasoning(self, text: str) -> bytes: ...

    @abstractmethod
    def _tool_delta(self, delta: ToolCallDelta) -> bytes: ...

    @abstractmethod
    def _tool_call(self, call: ToolCallWhole) -> bytes: ...

    @abstractmethod
    def _tool_result(self, result: ToolResult) -> bytes: ...

    @abstractmethod
    def _done(self, ending: Ending, text: str) -> bytes: ...

    @abstractmethod
    def _error(self, ending: Ending) -> bytes: ...


def usage_json(ending: Ending) -> dict[str, Any]:
    """The native `usage` object."""
    usage = ending.usage
    return {
        "promptTokens": usage.prompt,
        "completionTokens": usage.completion,
        "reasoningTokens": usage.reasoning,
        "cachedTokens": usage.cached,
        "estimated": ending.usage_estimated,
    }


def _error_json(about: About, ending: Ending, tokens: int) -> dict[str, Any]:
    error = error_of(ending)
    return {
        "code": error.code.wire,
        "message": error.message,
        "retryable": error.code.retryable,
        "streamId": about.stream_id,
        "tokenCount": tokens,
    }


def _call_json(call: ToolCallWhole) -> dict[str, Any]:
    return {"index": call.index, "id": call.id, "name": call.name, "arguments": arguments_of(call)}


class _Sse(EventEncoder):
    """Events with ids. A token costs one JSON encoding of its text and one formatting of a ready template."""

    __slots__ = ("_event_form", "_plain_form", "_token_form")

    def __init__(self, about: About) -> None:
        super().__init__(about)
        head = b"id: " + about.stream_id.encode().replace(b"%", b"%%") + b".%d\nevent: "
        self._token_form = head + b'token\ndata: {"content":%b,"tokenCount":%d}\n\n'
        self._plain_form = head + b'token\ndata: {"content":"%b","tokenCount":%d}\n\n'
        self._event_form = head + b"%b\ndata: %b\n\n"

    def plain(self, text: str) -> bytes:
        self.tokens += 1
        self.frames += 1
        self._text.write(text)
        return self._plain_form % (self.frames, text.encode(), self.tokens)

    def nth(self) -> Callable[[str, int], bytes]:
        return self._nth

    def _nth(self, text: str, n: int) -> bytes:
        return self._plain_form % (self.frames + n, text.encode(), self.tokens + n)

    def said(self, texts: Sequence[str]) -> None:
        self.frames += len(texts)
        self.tokens += len(texts)
        self._text.write("".join(texts))

    def start(self) -> bytes:
        about = self.about
        data = {
            "streamId": about.stream_id,
            "model": about.model,
            "backend": about.backend,
            "conversationId": about.conversation_id or None,
            "timestamp": about.created_ms,
        }
        return b"retry: 1000\n" + self._event(b"start", data)

    def _event(self, kind: bytes, data: dict[str, Any]) -> bytes:
        self.frames += 1
        return self._event_form % (self.frames, kind, to_json(data))

    def _token(self, text: str) -> bytes:
        self.frames += 1
        return self._token_form % (self.frames, encode(text) if text.isascii() else to_json(text), self.tokens)

    def _reasoning(self, text: str) -> bytes:
        return self._event(b"reasoning", {"content": text})

    def _tool_delta(self, delta: ToolCallDelta) -> bytes:
        data = {"index": delta.index, "id": delta.id, "name": delta.name, "arguments": delta.arguments}
        return self._event(b"tool_call_delta", data)

    def _tool_call(self, call: ToolCallWhole) -> bytes:
        return self._event(b"tool_call", _call_json(call))

    def _tool_result(self, result: ToolResult) -> bytes:
        return self._event(b"tool_result", {"id": result.id, "name": result.name, "result": result.result})

    def _reset(self) -> bytes:
        return self._event(b"reset", {"streamId": self.about.stream_id, "reason": "the backend failed"})

    def _done(self, ending: Ending, text: str) -> bytes:
        usage = usage_json(ending)
        done = {"fullText": text, "tokenCount": self.tokens, "finishReason": ending.finish, "usage": usage}
        return self._event(b"usage", usage) + self._event(b"done", done)

    def _error(self, ending: Ending) -> bytes:
        return self._event(b"error", _error_json(self.about, ending, self.tokens))


class Protocol(ClientProtocol):
    """Native, SSE."""

    name: ClassVar[str] = "native"
    family: ClassVar[str] = "native"
    paths: ClassVar[tuple[str, ...]] = ("/api/streaming/chat", "/api/streaming/generate")
    dialect: ClassVar[str] = "native"
    content_type: ClassVar[str] = "text/event-stream"
    framing: ClassVar[Literal["sse", "ndjson"]] = "sse"
    keepalive: ClassVar[bytes] = b": ping\n\n"
    head_wait: ClassVar[float] = 1.0
    on_disconnect: ClassVar[str] = "grace 30s"

    def parse(self, body: bytes, params: Mapping[str, str]) -> Asked:
        return read_native(body, params)

    def encoder(self, about: About) -> Encoder:
        return _Sse(about)

    def whole(self, about: About, answer: Answer, ending: Ending) -> bytes:
        body = {
            "streamId": about.stream_id,
            "model": about.model,
            "backend": about.backend,
            "conversationId": about.conversation_id or None,
            "fullText": answer.text,
            "content": answer.text,
            **({"reasoning": answer.reasoning} if answer.reasoning else {}),
            "toolCalls": [_call_json(call) for call in answer.tool_calls],
            **({"toolResults": answer.tool_results} if answer.tool_results else {}),
            "tokenCount": answer.texts,
            "finishReason": ending.finish,
            "usage": usage_json(ending),
        }
        return to_json(body)

    def failure(self, error: BackendError, request_id: str) -> Refusal:
        return Refusal(error.code.status, retry_after_header(error), to_json(native_error(error, request_id)))

    def error_frame(self, about: About, ending: Ending, seq: int) -> bytes:
        head = f"id: {about.stream_id}.{seq}\nevent: error\ndata: ".encode()
        return head + to_json(_error_json(about, ending, ending.tokens)) + b"\n\n"
