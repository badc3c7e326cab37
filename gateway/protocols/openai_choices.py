"""Answers as numbered choices: chunks, end and whole answer, as OpenAI's two completion APIs share them. Pure.

Law: what never changes in the chunks of a stream is written once; `data: [DONE]` ends a whole answer and nothing else
(see `openai_words`). Protocol source: the OpenAI API reference, "The chat completion chunk object".
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from backends.contract.errors import BackendError
from backends.contract.events import Finish, FinishReason, OtherChoice
from gateway.protocols.base import About, Answer, ClientProtocol, Encoder, Ending, Refusal
from gateway.protocols.openai_words import (
    DONE,
    FINISH,
    KEEPALIVE,
    answer_id,
    common,
    ended_well,
    error_frame,
    refusal,
    to_json,
    usage_object,
)


class Choices:
    """The choices of a stream beside the first: which there are, and how each finished."""

    def __init__(self) -> None:
        self._reasons: dict[int, FinishReason | None] = {}

    def note(self, event: OtherChoice) -> bool:
        """An event of one of them; whether it is the first of its choice."""
        new = event.choice not in self._reasons
        self._reasons.setdefault(event.choice, None)
        if isinstance(event.event, Finish):
            self._reasons[event.choice] = event.event.reason
        return new

    def finished(self, ending: Ending) -> list[tuple[int, FinishReason]]:
        """Every choice of a stream that ended well, with its reason, in order. One that gave no reason of its own
        ended with the stream."""
        own = [(choice, self._reasons[choice] or "stop") for choice in sorted(self._reasons)]
        return [(0, ending.finish), *own]


def whole_choices(answer: Answer, ending: Ending) -> Iterator[tuple[int, Answer, str]]:
    """The choices of a whole answer: number, content, OpenAI's word for how it finished."""
    yield 0, answer, FINISH.get(ending.finish, "stop")
    for index, other in answer.others.items():
        yield index, other, FINISH.get(other.finish or "stop", "stop")


class ChoiceEncoder(Encoder):
    """Chunks with `choices`. A subclass makes its templates in `_write` and says how a choice finishes."""

    def __init__(self, about: About, head: dict[str, Any]) -> None:
        self.about = about
        self._choices = Choices()
        self._own = head
        self._write(head)

    def _write(self, head: dict[str, Any]) -> None:
        """Make what is the same in all chunks; `head`: their fields beside the choices."""
        self._head = b"data: " + to_json(head)[:-1]
        # as OpenAI does when usage was asked for
        self._close = b"}]" + (b',"usage":null' if self.about.include_usage else b"") + b"}\n\n"

    @abstractmethod
    def _finish(self, choice: int, reason: FinishReason) -> bytes:
        """A choice's last chunk."""

    def adopt(self, block: bytes) -> bool:
        """Clients of the official SDKs fold a stream by the id of its chunks."""
        theirs = common(block)
        if theirs:
            self._write({**self._own, **theirs})
        return bool(theirs)

    def end(self, ending: Ending) -> bytes:
        if not ended_well(ending):
            self.frames += 1
            return error_frame(ending)
        last = [self._finish(choice, reason) for choice, reason in self._choices.finished(ending)]
        usage = self._head + b',"choices":[],"usage":' + to_json(usage_object(ending.usage)) + b"}\n\n"
        frames = [*last, usage, DONE] if self.about.include_usage else [*last, DONE]
        self.frames += len(frames)
        return b"".join(frames)


class ChoiceProtocol(ClientProtocol):
    """What both APIs do alike; a subclass says how it is called and what a choice of it holds."""

    family: ClassVar[str] = "openai"
    content_type: ClassVar[str] = "text/event-stream"
    framing: ClassVar[Literal["sse", "ndjson"]] = "sse"
    keepalive: ClassVar[bytes] = KEEPALIVE
    head_wait: ClassVar[float] = 5.0
    on_disconnect: ClassVar[str] = "cancel"
    id_prefix: ClassVar[str]  # of an answer's id
    whole_object: ClassVar[str]  # a whole answer's `object`
    chunk_object: ClassVar[str]

    @abstractmethod
    def _choice(self, index: int, answer: Answer, finish: str) -> dict[str, Any]:
        """One choice of a whole answer; `finish`: OpenAI's word."""

    def _head(self, about: About, kind: str) -> dict[str, Any]:
        made = about.created_ms // 1000
        return {"id": answer_id(self.id_prefix, about), "object": kind, "created": made, "model": about.model}

    def whole(self, about: About, answer: Answer, ending: Ending) -> bytes:
        body = {
            **self._head(about, self.whole_object),
            "choices": [self._choice(*choice) for choice in whole_choices(answer, ending)],
            "usage": usage_object(ending.usage),
        }
        return to_json(body)

    def failure(self, error: BackendError, request_id: str) -> Refusal:
        return refusal(error)

    def error_frame(self, about: About, ending: Ending, seq: int) -> bytes:
        """Also closes an answer kept on purpose (timeout, partial): its finish chunk, then `[DONE]`."""
        return self.encoder(about).end(ending)
