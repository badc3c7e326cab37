"""OpenAI chat completions: `POST /v1/chat/completions` as its official SDKs read it. Pure.

Law: `data: [DONE]` ends a whole answer and nothing else (see `openai_words`). No `id:` lines: they crash openai-python
on keepalives. Protocol source: the OpenAI API reference, "The chat completion chunk object".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from backends.contract.errors import BackendError
from backends.contract.events import (
    Citation,
    Event,
    FinishReason,
    OtherChoice,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
)
from gateway.protocols.base import About, Answer, Asked, ClientProtocol, Encoder, Ending, Gatherer, Refusal
from gateway.protocols.base import ToolCallWhole as Call
from gateway.protocols.openai_chat_request import read_chat
from gateway.protocols.openai_gather import ChatGatherer
from gateway.protocols.openai_words import (
    DONE,
    FINISH,
    KEEPALIVE,
    Choices,
    answer_id,
    common,
    ended_well,
    error_frame,
    refusal,
    to_json,
    usage_object,
    whole_choices,
)

_ROLE = b'{"role":"assistant","content":""}'


class _Chunks(Encoder):
    """`chat.completion.chunk` frames; what never changes in them is made once."""

    def __init__(self, about: About) -> None:
        self._choices = Choices()
        self._own = {
            "id": answer_id("chatcmpl-", about),
            "object": "chat.completion.chunk",
            "created": about.created_ms // 1000,
            "model": about.model,
        }
        self.about = about
        self._write(self._own)

    def _write(self, head: dict[str, Any]) -> None:
        about = self.about
        self._head = b"data: " + to_json(head)[:-1]
        usage = b',"usage":null' if about.include_usage else b""  # as OpenAI does when usage was asked for
        self._before = self._before_of(0)
        self._after = b',"finish_reason":null}]' + usage + b"}\n\n"
        self._last = b'{},"finish_reason":%b}]' + usage + b"}\n\n"
        self._before_text = self._before + b'{"content":"'
        self._after_text = b'"}' + self._after

    def _before_of(self, choice: int) -> bytes:
        return self._head + b',"choices":[{"index":%d,"delta":' % choice

    def adopt(self, block: bytes) -> bool:
        """Clients of the official SDKs fold a stream by the id of its chunks."""
        theirs = common(block)
        if theirs:
            self._write({**self._own, **theirs})
        return bool(theirs)

    def start(self) -> bytes:
        return self._chunk(_ROLE)

    def plain(self, text: str) -> bytes:
        self.frames += 1
        return self._before_text + text.encode() + self._after_text

    def feed(self, events: Sequence[Event]) -> bytes:
        """Results of tools that ran at the provider have no place in this protocol and are left out, and so are
        citations of what has no address."""
        return b"".join([self._one(event) for event in events])

    def _one(self, event: Event) -> bytes:
        if type(event) is TextDelta and event.logprobs is None:
            return self._chunk(b'{"content":%b}' % to_json(event.text))
        match event:
            case TextDelta(text, logprobs):
                said = to_json({"content": logprobs, "refusal": None})
                return self._chunk(b'{"content":%b},"logprobs":%b' % (to_json(text), said))
            case ReasoningDelta(text) if text:
                return self._chunk(b'{"reasoning_content":%b}' % to_json(text))
            case ToolCallDelta():
                return self._chunk(to_json({"tool_calls": [_call_delta(event)]}))
            case Citation():
                notes = _annotations([event])
                return self._chunk(to_json({"annotations": notes})) if notes else b""
            case OtherChoice():
                return self._other(event)
            case _:
                return b""

    def _other(self, event: OtherChoice) -> bytes:
        """As of the first choice, under another number; each choice begins with its role."""
        role = self._chunk(_ROLE) if self._choices.note(event) else b""
        said = self._one(event.event)
        before = self._before_of(event.choice)
        return b"".join([before + chunk[len(self._before) :] for chunk in (role, said) if chunk])

    def _chunk(self, delta: bytes) -> bytes:
        self.frames += 1
        return self._before + delta + self._after

    def end(self, ending: Ending) -> bytes:
        if not ended_well(ending):
            self.frames += 1
            return error_frame(ending)
        last = [self._finish(choice, reason) for choice, reason in self._choices.finished(ending)]
        usage = self._head + b',"choices":[],"usage":' + to_json(usage_object(ending.usage)) + b"}\n\n"
        frames = [*last, usage, DONE] if self.about.include_usage else [*last, DONE]
        self.frames += len(frames)
        return b"".join(frames)

    def _finish(self, choice: int, reason: FinishReason) -> bytes:
        return self._before_of(choice) + self._last % to_json(FINISH.get(reason, "stop"))


def _call_delta(event: ToolCallDelta) -> dict[str, Any]:
    function: dict[str, str] = {"name": event.name} if event.name else {}
    function["arguments"] = event.arguments
    head: dict[str, Any] = {"index": event.index}
    if event.id:
        head |= {"id": event.id, "type": "function"}
    return {**head, "function": function}


def _annotations(citations: Sequence[Citation]) -> list[Any]:
    """OpenAI's own annotations as they came; others as `url_citation`, when they name an address."""
    return [c.source if c.dialect == "openai" and c.source else _url_citation(c) for c in citations if _tellable(c)]


def _tellable(citation: Citation) -> bool:
    return bool(citation.url) or (citation.dialect == "openai" and bool(citation.source))


def _url_citation(citation: Citation) -> dict[str, Any]:
    place = {"start_index": citation.start or 0, "end_index": citation.end or 0}
    return {"type": "url_citation", "url_citation": {**place, "title": citation.title, "url": citation.url}}


def _whole_call(call: Call) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _message(answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    notes = _annotations(answer.citations)
    if notes:
        message["annotations"] = notes
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    if answer.tool_calls:
        message["content"] = answer.text or None
        message["tool_calls"] = [_whole_call(call) for call in answer.tool_calls]
    return message


def _whole_choice(index: int, answer: Answer, finish: str) -> dict[str, Any]:
    logprobs = {"content": answer.logprobs, "refusal": None} if answer.logprobs else None
    return {"index": index, "message": _message(answer), "logprobs": logprobs, "finish_reason": finish}


class Protocol(ClientProtocol):
    """OpenAI chat completions."""

    name: ClassVar[str] = "openai"
    family: ClassVar[str] = "openai"
    paths: ClassVar[tuple[str, ...]] = ("/v1/chat/completions",)
    dialect: ClassVar[str] = "openai"
    content_type: ClassVar[str] = "text/event-stream"
    framing: ClassVar[Literal["sse", "ndjson"]] = "sse"
    keepalive: ClassVar[bytes] = KEEPALIVE
    head_wait: ClassVar[float] = 5.0
    on_disconnect: ClassVar[str] = "cancel"

    def parse(self, body: bytes, params: Mapping[str, str]) -> Asked:
        return read_chat(body)

    def encoder(self, about: About) -> Encoder:
        return _Chunks(about)

    def whole(self, about: About, answer: Answer, ending: Ending) -> bytes:
        body = {
            "id": answer_id("chatcmpl-", about),
            "object": "chat.completion",
            "created": about.created_ms // 1000,
            "model": about.model,
            "choices": [_whole_choice(*choice) for choice in whole_choices(answer, ending)],
            "usage": usage_object(ending.usage),
        }
        return to_json(body)

    def gatherer(self) -> Gatherer:
        return ChatGatherer()

    def failure(self, error: BackendError, request_id: str) -> Refusal:
        return refusal(error)

    def error_frame(self, about: About, ending: Ending, seq: int) -> bytes:
        """Also closes an answer kept on purpose (timeout, partial): its finish chunk, then `[DONE]`."""
        return _Chunks(about).end(ending)
