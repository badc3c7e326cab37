"""OpenAI chat completions: `POST /v1/chat/completions` as its official SDKs read it. Pure.

Law: `data: [DONE]` ends a whole answer and nothing else: SDKs take its absence without an error frame for success, so a
cancelled or broken stream ends in an error frame they raise. No `id:` lines: they crash openai-python on keepalives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import msgspec

from backends.contract.errors import BackendError
from backends.contract.events import Event, FinishReason, ReasoningDelta, TextDelta, ToolCallDelta
from backends.contract.request import ChatRequest
from gateway.protocols.base import About, Answer, Asked, ClientProtocol, Encoder, Ending, Refusal, ToolCallWhole
from gateway.protocols.errors import error_of, openai_error, retry_after_header
from gateway.protocols.parsing import Fields, decode_object, invalid
from gateway.protocols.turns import read_messages, read_tool_choice, read_tools

_json = msgspec.json.Encoder().encode
_DONE = b"data: [DONE]\n\n"

# OpenAI's word for each reason. A partial answer kept at a timeout is one that was cut short.
_FINISH: dict[FinishReason, str] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "timeout": "length",
}

# Fields that ChatRequest names, or that belong to the transport of the answer; every other one goes to `extra`.
_READ = frozenset(ChatRequest.__struct_fields__) - {"extra"} | {"max_completion_tokens", "stream", "stream_options"}


def _ended_well(ending: Ending) -> bool:
    return ending.error is None and ending.finish in _FINISH


def _completion_id(about: About) -> str:
    return "chatcmpl-" + about.stream_id.removeprefix("st_")


def _usage(ending: Ending) -> dict[str, Any]:
    usage = ending.usage
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }


def _error_frame(ending: Ending) -> bytes:
    return b"data: " + _json(openai_error(error_of(ending))) + b"\n\n"


class _Chunks(Encoder):
    """`chat.completion.chunk` frames; what never changes in them is made once."""

    def __init__(self, about: About) -> None:
        head = {
            "id": _completion_id(about),
            "object": "chat.completion.chunk",
            "created": about.created_ms // 1000,
            "model": about.model,
        }
        self.about = about
        self._head = b"data: " + _json(head)[:-1]
        usage = b',"usage":null' if about.include_usage else b""  # as OpenAI does when usage was asked for
        self._before = self._head + b',"choices":[{"index":0,"delta":'
        self._after = b',"finish_reason":null}]' + usage + b"}\n\n"
        self._last_form = b',"finish_reason":%b}]' + usage + b"}\n\n"

    def start(self) -> bytes:
        return self._chunk(b'{"role":"assistant","content":""}')

    def feed(self, events: Sequence[Event]) -> bytes:
        """Results of tools that ran at the provider have no place in this protocol and are left out."""
        out: list[bytes] = []
        for event in events:
            kind = type(event)
            if kind is TextDelta:
                out.append(self._chunk(b'{"content":%b}' % _json(event.text)))  # type: ignore[union-attr]
            elif isinstance(event, ReasoningDelta) and event.text:
                out.append(self._chunk(b'{"reasoning_content":%b}' % _json(event.text)))
            elif isinstance(event, ToolCallDelta):
                out.append(self._chunk(_json({"tool_calls": [_call_delta(event)]})))
        return out[0] if len(out) == 1 else b"".join(out)

    def _chunk(self, delta: bytes) -> bytes:
        self.frames += 1
        return self._before + delta + self._after

    def end(self, ending: Ending) -> bytes:
        if not _ended_well(ending):
            self.frames += 1
            return _error_frame(ending)
        last = self._before + b"{}" + self._last_form % _json(_FINISH[ending.finish])
        usage = self._head + b',"choices":[],"usage":' + _json(_usage(ending)) + b"}\n\n"
        frames = [last, usage, _DONE] if self.about.include_usage else [last, _DONE]
        self.frames += len(frames)
        return b"".join(frames)


def _call_delta(event: ToolCallDelta) -> dict[str, Any]:
    function: dict[str, str] = {"name": event.name} if event.name else {}
    function["arguments"] = event.arguments
    head: dict[str, Any] = {"index": event.index}
    if event.id:
        head |= {"id": event.id, "type": "function"}
    return {**head, "function": function}


def _whole_call(call: ToolCallWhole) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _message(answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    if answer.tool_calls:
        message["content"] = answer.text or None
        message["tool_calls"] = [_whole_call(call) for call in answer.tool_calls]
    return message


def _request(fields: Fields) -> ChatRequest:
    model = fields.text("model")
    if not model:
        raise invalid("model", "the name of a model")
    n = fields.integer("n", low=1)
    return ChatRequest(
        model=model,
        messages=read_messages(fields, lenient=True),
        max_tokens=fields.integer("max_completion_tokens", "max_tokens", low=1),
        temperature=fields.number("temperature", low=0),
        top_p=fields.number("top_p", low=0, high=1),
        top_k=fields.integer("top_k"),
        stop=fields.stop(),
        seed=fields.integer("seed"),
        n=1 if n is None else n,
        presence_penalty=fields.number("presence_penalty"),
        frequency_penalty=fields.number("frequency_penalty"),
        tools=read_tools(fields, lenient=True),
        tool_choice=read_tool_choice(fields, lenient=True),
        parallel_tool_calls=fields.flag("parallel_tool_calls"),
        response_format=fields.object("response_format"),
        reasoning_effort=fields.text("reasoning_effort") or None,
        user=fields.text("user"),
        extra={name: value for name, value in fields.data.items() if name not in _READ},
    )


class Protocol(ClientProtocol):
    """OpenAI chat completions."""

    name: ClassVar[str] = "openai"
    family: ClassVar[str] = "openai"
    dialect: ClassVar[str] = "openai"
    content_type: ClassVar[str] = "text/event-stream"
    framing: ClassVar[Literal["sse", "ndjson"]] = "sse"
    keepalive: ClassVar[bytes] = b": ping\n"  # one line only: openai-python reads a blank line after it as an event
    head_wait: ClassVar[float] = 5.0
    on_disconnect: ClassVar[str] = "cancel"

    def parse(self, body: bytes, params: Mapping[str, str]) -> Asked:
        fields = Fields(decode_object(body))
        path, options = fields.find("stream_options")
        include = Fields(options, path).flag("include_usage") if options is not None else None
        request = _request(fields)
        return Asked(
            request=request,
            stream=fields.flag("stream") is True,
            body=fields.data,
            include_usage=include is True,
            user_id=request.user,
        )

    def encoder(self, about: About) -> Encoder:
        return _Chunks(about)

    def whole(self, about: About, answer: Answer, ending: Ending) -> bytes:
        finish = _FINISH.get(ending.finish, "stop")
        choice = {"index": 0, "message": _message(answer), "logprobs": None, "finish_reason": finish}
        body = {
            "id": _completion_id(about),
            "object": "chat.completion",
            "created": about.created_ms // 1000,
            "model": about.model,
            "choices": [choice],
            "usage": _usage(ending),
        }
        return _json(body)

    def failure(self, error: BackendError, request_id: str) -> Refusal:
        """`x-should-retry: false` keeps the SDKs, which retry by status, from repeating what cannot succeed."""
        retry = () if error.code.retryable else (("x-should-retry", "false"),)
        return Refusal(error.code.status, retry_after_header(error) + retry, _json(openai_error(error)))

    def error_frame(self, about: About, ending: Ending, seq: int) -> bytes:
        """Also closes an answer kept on purpose (timeout, partial): its finish chunk, then `[DONE]`."""
        return _Chunks(about).end(ending)
