"""OpenAI's older completions: `POST /v1/completions`, a prompt and the text after it. Pure.

Law: where the backend has this API the body goes on unchanged. Where it does not, the prompt becomes one user turn of a
chat, and what a chat cannot do (several prompts, tokens, echo, suffix, best_of, logprobs) is refused by name. Reasoning
has no place in this API and is left out. Protocol source: the OpenAI API reference, "Create completion".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

from backends.contract.errors import BackendError
from backends.contract.events import Event, TextDelta
from backends.contract.request import ChatRequest, Message, OtherPart, Part, TextPart
from gateway.protocols.base import About, Answer, Asked, ClientProtocol, Encoder, Ending, Gatherer, Refusal
from gateway.protocols.openai_chat_request import asked_of, read_model
from gateway.protocols.openai_gather import TextGatherer
from gateway.protocols.openai_words import (
    DONE,
    FINISH,
    KEEPALIVE,
    answer_id,
    ended_well,
    error_frame,
    refusal,
    to_json,
    usage_object,
)
from gateway.protocols.parsing import Fields, decode_object, encodable, invalid

# Fields read below, or that belong to the transport of the answer; every other one goes to `extra`.
_READ = frozenset(
    {
        "best_of",
        "echo",
        "frequency_penalty",
        "logprobs",
        "max_tokens",
        "metadata",
        "model",
        "n",
        "presence_penalty",
        "prompt",
        "seed",
        "stop",
        "stream",
        "stream_options",
        "suffix",
        "temperature",
        "top_k",
        "top_p",
        "user",
    }
)


class _Texts(Encoder):
    """`text_completion` frames; what never changes in them is made once."""

    def __init__(self, about: About) -> None:
        head = {
            "id": answer_id("cmpl-", about),
            "object": "text_completion",
            "created": about.created_ms // 1000,
            "model": about.model,
        }
        self.about = about
        self._head = b"data: " + to_json(head)[:-1]
        usage = b',"usage":null' if about.include_usage else b""
        self._before = self._head + b',"choices":[{"text":'
        self._form = b',"index":0,"logprobs":null,"finish_reason":%b}]' + usage + b"}\n\n"
        self._after = self._form % b"null"

    def start(self) -> bytes:
        return b""

    def plain(self, text: str) -> bytes:
        self.frames += 1
        return self._before + b'"' + text.encode() + b'"' + self._after

    def feed(self, events: Sequence[Event]) -> bytes:
        texts = [event.text for event in events if isinstance(event, TextDelta)]
        self.frames += len(texts)
        return b"".join([self._before + to_json(text) + self._after for text in texts])

    def end(self, ending: Ending) -> bytes:
        if not ended_well(ending):
            self.frames += 1
            return error_frame(ending)
        last = self._before + b'""' + self._form % to_json(_finish(ending))
        usage = self._head + b',"choices":[],"usage":' + to_json(usage_object(ending.usage)) + b"}\n\n"
        frames = [last, usage, DONE] if self.about.include_usage else [last, DONE]
        self.frames += len(frames)
        return b"".join(frames)


def _finish(ending: Ending) -> str:
    word = FINISH.get(ending.finish, "stop")
    return "stop" if word == "tool_calls" else word


def _request(fields: Fields) -> ChatRequest:
    n = fields.integer("n", low=1)
    content = (*_prompt(fields), *_only_here(fields))
    single = content[0].text if len(content) == 1 and isinstance(content[0], TextPart) else ""
    return ChatRequest(
        model=read_model(fields),
        messages=(Message("user", single or content),),
        max_tokens=fields.integer("max_tokens", low=0),
        temperature=fields.number("temperature", low=0),
        top_p=fields.number("top_p", low=0, high=1),
        top_k=fields.integer("top_k"),
        stop=fields.stop(),
        seed=fields.integer("seed"),
        n=1 if n is None else n,
        presence_penalty=fields.number("presence_penalty"),
        frequency_penalty=fields.number("frequency_penalty"),
        metadata=fields.object("metadata") or {},
        user=fields.text("user"),
        dialect=Protocol.dialect,
        extra={name: value for name, value in fields.data.items() if name not in _READ and value is not None},
    )


def _prompt(fields: Fields) -> Iterator[Part]:
    """One text; or, for servers that have this API, several, tokens, or none (a document from nothing)."""
    path, value = fields.find("prompt")
    texts = [value] if isinstance(value, str) else value
    if texts is None or texts in ([], [""]):
        yield OtherPart("an empty prompt", value)
    elif not isinstance(texts, list):
        raise invalid(path, "a string, or an array of strings or tokens")
    elif not all(isinstance(item, str) for item in texts):
        yield OtherPart("a prompt of tokens", value)
    else:
        yield from (TextPart(encodable(path, text)) for text in texts)
        if len(texts) > 1:
            yield OtherPart("several prompts", value)


def _only_here(fields: Fields) -> Iterator[Part]:
    """What this API has and a chat has not, where it would change the answer."""
    best_of, logprobs = fields.integer("best_of", low=0), fields.integer("logprobs", low=0)
    wanted: dict[str, Any] = {
        "echo": fields.flag("echo"),
        "suffix": fields.text("suffix"),
        "best_of": best_of is not None and best_of > 1,
        "logprobs": logprobs is not None,
    }
    return (OtherPart(name, fields.data[name]) for name, asked in wanted.items() if asked)


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
        fields = Fields(decode_object(body))
        return asked_of(fields, _request(fields))

    def encoder(self, about: About) -> Encoder:
        return _Texts(about)

    def whole(self, about: About, answer: Answer, ending: Ending) -> bytes:
        choice = {"text": answer.text, "index": 0, "logprobs": None, "finish_reason": _finish(ending)}
        body = {
            "id": answer_id("cmpl-", about),
            "object": "text_completion",
            "created": about.created_ms // 1000,
            "model": about.model,
            "choices": [choice],
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
