"""What OpenAI's two completion APIs have in common on their way out: reasons, usage, errors, endings. Pure.

Law: `data: [DONE]` ends a whole answer and nothing else: SDKs take its absence without an error frame for success, so a
cancelled or broken stream ends in an error frame they raise.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from backends.contract.errors import BackendError
from backends.contract.events import Finish, FinishReason, OtherChoice, Usage
from backends.contract.payload import sse_events
from gateway.protocols.base import About, Answer, Ending, Refusal
from gateway.protocols.errors import error_of, openai_error, retry_after_header

to_json = msgspec.json.Encoder().encode
DONE = b"data: [DONE]\n\n"
KEEPALIVE = b": ping\n"  # one line only: openai-python reads a blank line after it as an event

# OpenAI's word for each reason. A partial answer kept at a timeout is one that was cut short.
FINISH: dict[FinishReason, str] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "timeout": "length",
}
_COMMON = ("id", "object", "created", "model", "system_fingerprint", "service_tier")


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


def ended_well(ending: Ending) -> bool:
    """Whether a stream ends with a finish reason instead of an error."""
    return ending.error is None and ending.finish in FINISH


def answer_id(prefix: str, about: About) -> str:
    """The answer's id: the stream's, in OpenAI's form."""
    return prefix + about.stream_id.removeprefix("st_")


def usage_object(usage: Usage) -> dict[str, Any]:
    """`usage`."""
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }


def error_frame(ending: Ending) -> bytes:
    """The frame the SDKs raise."""
    return b"data: " + to_json(openai_error(error_of(ending))) + b"\n\n"


def refusal(error: BackendError) -> Refusal:
    """An error before the first byte. `x-should-retry: false` keeps the SDKs, which retry by status, from repeating
    what cannot succeed."""
    retry = () if error.code.retryable else (("x-should-retry", "false"),)
    return Refusal(error.code.status, retry_after_header(error) + retry, to_json(openai_error(error)))


def common(block: bytes) -> dict[str, Any]:
    """What every chunk of an answer has beside its choices, by the first of these chunks that has choices; empty: none
    of them has (a comment; Azure's first chunk, which names nothing yet)."""
    for _, data in sse_events(block):
        try:
            chunk = msgspec.json.decode(data, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        if chunk.get("choices"):
            return {name: chunk[name] for name in _COMMON if name in chunk}
    return {}
