"""OpenAI's older completions: `POST /v1/completions`, a prompt and the text after it. Pure.

Law: where the backend has this API the body goes on unchanged; where it does not, a chat answers it. Reasoning and tool
calls have no place in this API and are left out. Protocol source: the OpenAI API reference, "Create completion".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, ClassVar

from backends.contract.events import Event, FinishReason, OtherChoice, TextDelta
from gateway.protocols.base import About, Answer, Asked, Encoder, Gatherer
from gateway.protocols.openai_choices import ChoiceEncoder, ChoiceProtocol
from gateway.protocols.openai_completions_request import read_completions
from gateway.protocols.openai_gather import TextGatherer
from gateway.protocols.openai_words import FINISH, to_json


class _Texts(ChoiceEncoder):
    """`text_completion` frames."""

    def __init__(self, about: About, head: dict[str, Any]) -> None:
        super().__init__(about, head)
        self._said: dict[int, int] = {}  # characters of each choice, as far as log probabilities are told of them

    def _write(self, head: dict[str, Any]) -> None:
        super()._write(head)
        self._before = self._head + b',"choices":[{"text":'
        self._form = b',"index":%d,"logprobs":%b,"finish_reason":%b' + self._close
        self._after = self._form % (0, b"null", b"null")

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


class Protocol(ChoiceProtocol):
    """OpenAI completions, the older API."""

    name: ClassVar[str] = "openai_completions"
    paths: ClassVar[tuple[str, ...]] = ("/v1/completions",)
    dialect: ClassVar[str] = "openai_completions"
    id_prefix: ClassVar[str] = "cmpl-"
    whole_object: ClassVar[str] = "text_completion"
    chunk_object: ClassVar[str] = "text_completion"

    def parse(self, body: bytes, params: Mapping[str, str]) -> Asked:
        return read_completions(body, self.dialect)

    def encoder(self, about: About) -> Encoder:
        return _Texts(about, self._head(about, self.chunk_object))

    def gatherer(self) -> Gatherer:
        return TextGatherer()

    def _choice(self, index: int, answer: Answer, finish: str) -> dict[str, Any]:
        logprobs, _ = lists_of(answer.logprobs, 0)
        return {"text": answer.text, "index": index, "logprobs": logprobs, "finish_reason": _word(finish)}
