"""OpenAI's older completions: `POST /v1/completions`, a prompt and the text after it. Pure.

Law: where the backend has this API the body goes on unchanged; where it does not, a chat answers it. Reasoning and tool
calls have no place in this API and are left out. Protocol source: the OpenAI API reference, "Create completion".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, ClassVar, Literal

from backends.contract.errors import BackendError
from backends.contract.events import Event, FinishReason, OtherChoice, TextDelta
from gateway.protocols.base import About, Answer, Asked, ClientProtocol, Encoder, Ending, Gatherer, Refusal
from gateway.protocols.openai_completions_request import read_completions
from gateway.protocols.openai_gather import TextGatherer
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


class _Texts(Encoder):
    """`text_completion` frames; what never changes in them is made once."""

    def __init__(self, about: About) -> None:
        self._own = {
            "id": answer_id("cmpl-", about),
            "object": "text_completion",
            "created": about.created_ms // 1000,
            "model": about.model,
        }
        self.about = about
        self._choices = Choices()
        self._said: dict[int, int] = {}  # characters of each choice, as far as log probabilities are told of them
        self._write(self._own)

    def _write(self, head: dict[str, Any]) -> None:
        self._head = b"data: " + to_json(head)[:-1]
        usage = b',"usage":null' if self.about.include_usage else b""
        self._before = self._head + b',"choices":[{"text":'
        self._form = b',"index":%d,"logprobs":%b,"finish_reason":%b}]' + usage + b"}\n\n"
        self._after = self._form % (0, b"null", b"null")

    def adopt(self, block: bytes) -> bool:
        """As in chat."""
        theirs = common(block)
        if theirs:
            self._write({**self._own, **theirs})
        return bool(theirs)

    def start(self) -> bytes:
        return b""

    def plain(self, text: str) -> bytes:
        self.frames += 1
        return self._before + b'"' + text.encode() + b'"' + self._after

    def feed(self, events: Sequence[Event]) -> bytes:
        return b"".join([self._one(event) for event in events])

    def _one(self, event: Event) -> bytes:
        match event:
            case TextDelta(text, None):
                return self._text(to_json(text), 0, b"null")
            case TextDelta():
                return self._likely(event, 0)
            case OtherChoice(choice, said):
                self._choices.note(event)
                return self._likely(said, choice) if isinstance(said, TextDelta) else b""
            case _:
                return b""

    def _likely(self, event: TextDelta, choice: int) -> bytes:
        logprobs, end = lists_of(event.logprobs, self._said.get(choice, 0))
        self._said[choice] = end
        return self._text(to_json(event.text), choice, to_json(logprobs))

    def _text(self, text: bytes, choice: int, logprobs: bytes) -> bytes:
        self.frames += 1
        return self._before + text + self._form % (choice, logprobs, b"null")

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
        word = _word(FINISH.get(reason, "stop"))
        return self._before + b'""' + self._form % (choice, b"null", to_json(word))


def lists_of(items: Sequence[Any] | None, offset: int) -> tuple[dict[str, Any] | None, int]:
    """The items of a chat's `logprobs.content` as this API's parallel lists, and where in the text they end; they begin
    at `offset`."""
    if not items:
        return None, offset
    tokens = [item["token"] for item in items]
    ends = list(accumulate(map(len, tokens), initial=offset))
    tops = [{top["token"]: top["logprob"] for top in item.get("top_logprobs") or ()} for item in items]
    said = {
        "tokens": tokens,
        "token_logprobs": [item["logprob"] for item in items],
        "top_logprobs": tops if any(tops) else None,
        "text_offset": ends[:-1],
    }
    return said, ends[-1]


def _word(finish: str) -> str:
    return "stop" if finish == "tool_calls" else finish


def _whole_choice(index: int, answer: Answer, finish: str) -> dict[str, Any]:
    logprobs, _ = lists_of(answer.logprobs, 0)
    return {"text": answer.text, "index": index, "logprobs": logprobs, "finish_reason": _word(finish)}


class Protocol(ClientProtocol):
    """OpenAI completions, the older API."""

    name: ClassVar[str] = "openai_completions"
    family: ClassVar[str] = "openai"
    paths: ClassVar[tuple[str, ...]] = ("/v1/completions",)
    dialect: ClassVar[str] = "openai_completions"
    content_type: ClassVar[str] = "text/event-stream"
    framing: ClassVar[Literal["sse", "ndjson"]] = "sse"
    keepalive: ClassVar[bytes] = KEEPALIVE
    head_wait: ClassVar[float] = 5.0
    on_disconnect: ClassVar[str] = "cancel"

    def parse(self, body: bytes, params: Mapping[str, str]) -> Asked:
        return read_completions(body, self.dialect)

    def encoder(self, about: About) -> Encoder:
        return _Texts(about)

    def whole(self, about: About, answer: Answer, ending: Ending) -> bytes:
        body = {
            "id": answer_id("cmpl-", about),
            "object": "text_completion",
            "created": about.created_ms // 1000,
            "model": about.model,
            "choices": [_whole_choice(*choice) for choice in whole_choices(answer, ending)],
            "usage": usage_object(ending.usage),
        }
        return to_json(body)

    def gatherer(self) -> Gatherer:
        return TextGatherer()

    def failure(self, error: BackendError, request_id: str) -> Refusal:
        return refusal(error)

    def error_frame(self, about: About, ending: Ending, seq: int) -> bytes:
        """Also closes an answer kept on purpose (timeout, partial): its finish chunk, then `[DONE]`."""
        return _Texts(about).end(ending)
