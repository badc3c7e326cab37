"""OpenAI chat completions: `POST /v1/chat/completions` as its official SDKs read it. Pure.

Law: chunks and their end are those of `openai_choices`. No `id:` lines: they crash openai-python on keepalives.
Protocol source: the OpenAI API reference, "The chat completion chunk object".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from backends.contract.events import (
    Citation,
    Event,
    FinishReason,
    OtherChoice,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
)
from gateway.protocols.base import About, Answer, Asked, Encoder, Gatherer
from gateway.protocols.base import ToolCallWhole as Call
from gateway.protocols.openai_chat_request import read_chat
from gateway.protocols.openai_choices import ChoiceEncoder, ChoiceProtocol
from gateway.protocols.openai_gather import ChatGatherer
from gateway.protocols.openai_words import FINISH, to_json

_ROLE = b'{"role":"assistant","content":""}'


class _Chunks(ChoiceEncoder):
    """`chat.completion.chunk` frames."""

    def _write(self, head: dict[str, Any]) -> None:
        super()._write(head)
        self._before = self._before_of(0)
        self._after = b',"finish_reason":null' + self._close
        self._before_text = self._before + b'{"content":"'
        self._after_text = b'"}' + self._after

    def _before_of(self, choice: int) -> bytes:
        return self._head + b',"choices":[{"index":%d,"delta":' % choice

    def start(self) -> bytes:
        return self._chunk(_ROLE)

    def plain(self, text: str) -> bytes:
        self.frames += 1
        return self._before_text + text.encode() + self._after_text

    def nth(self) -> Callable[[str, int], bytes]:
        return lambda text, n: self._before_text + text.encode() + self._after_text

    def said(self, texts: Sequence[str]) -> None:
        self.frames += len(texts)

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

    def _finish(self, choice: int, reason: FinishReason) -> bytes:
        said = to_json(FINISH.get(reason, "stop"))
        return self._before_of(choice) + b'{},"finish_reason":' + said + self._close


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


class Protocol(ChoiceProtocol):
    """OpenAI chat completions."""

    name: ClassVar[str] = "openai"
    paths: ClassVar[tuple[str, ...]] = ("/v1/chat/completions",)
    dialect: ClassVar[str] = "openai"
    id_prefix: ClassVar[str] = "chatcmpl-"
    whole_object: ClassVar[str] = "chat.completion"
    chunk_object: ClassVar[str] = "chat.completion.chunk"

    def parse(self, body: bytes, params: Mapping[str, str]) -> Asked:
        return read_chat(body)

    def encoder(self, about: About) -> Encoder:
        return _Chunks(about, self._head(about, self.chunk_object))

    def gatherer(self) -> Gatherer:
        return ChatGatherer()

    def _choice(self, index: int, answer: Answer, finish: str) -> dict[str, Any]:
        logprobs = {"content": answer.logprobs, "refusal": None} if answer.logprobs else None
        return {"index": index, "message": _message(answer), "logprobs": logprobs, "finish_reason": finish}
