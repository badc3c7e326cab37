"""What OpenAI's two completion APIs have in common on their way out: reasons, usage, errors. Pure.

Law: `data: [DONE]` ends a whole answer and nothing else: SDKs take its absence without an error frame for success, so a
cancelled or broken stream ends in an error frame they raise.
"""

from __future__ import annotations

from typing import Any

import msgspec

from backends.contract.errors import BackendError
from backends.contract.events import FinishReason, Usage
from backends.contract.payload import sse_events
from gateway.protocols.base import About, Ending, Refusal
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
