"""The fold of an ended stream to its receipt and its last frame. Pure.

Law: one stream, one receipt. The backend's own usage is taken as it is; anything else is marked as estimated.
"""

from __future__ import annotations

from backends.base import Tap
from backends.contract.errors import BackendError, ErrorCode
from backends.contract.events import FinishReason, Usage
from gateway.protocols.base import Ending
from gateway.streams.stream import Receipt, State, Stream

CHARS_PER_TOKEN = 4  # the usual rule of thumb for English text; only for answers whose backend did not count

# How a stream that did not complete is said in the vocabulary of finish reasons.
_FINISH: dict[State, FinishReason] = {
    State.CANCELLED: "cancelled",
    State.CLIENT_GONE: "cancelled",
    State.TIMED_OUT: "timeout",
    State.UPSTREAM_ERROR: "error",
    State.UPSTREAM_TRUNCATED: "error",
    State.NODE_LOST: "error",
    State.SHED: "error",
}

# States that must never look like a completion: the error said when their ending brought none.
_IMPLIED: dict[State, tuple[ErrorCode, str]] = {
    State.TIMED_OUT: (ErrorCode.TIMED_OUT, "the stream exceeded a time limit"),
    State.UPSTREAM_ERROR: (ErrorCode.UPSTREAM_FAILED, "the backend failed"),
    State.UPSTREAM_TRUNCATED: (ErrorCode.UPSTREAM_TRUNCATED, "the backend's answer ended without its end marker"),
    State.NODE_LOST: (ErrorCode.NODE_LOST, "the gateway node that carried this stream was lost"),
    State.SHED: (ErrorCode.SHED, "the gateway gave this stream up to protect the others"),
}


def settle(stream: Stream, *, tap: Tap | None, bytes_in: int, now: float, ended_ms: int, prompt_chars: int) -> Receipt:
    """The receipt of an ended stream; kept in `stream.receipt`, and the same one is returned ever after.

    `now`: monotonic seconds, used when the stream has no end mark; `ended_ms`: Unix milliseconds; `bytes_in`: bytes
    received from the backend; `prompt_chars`: length of the prompt, for the estimate. Raises ValueError while it runs.
    """
    if stream.receipt is not None:
        return stream.receipt
    if not stream.state.terminal:
        raise ValueError(f"stream {stream.identity.id} is still {stream.state.wire}")
    usage, estimated = usage_of(stream, tap, prompt_chars)
    end = now if stream.ended is None else stream.ended
    gap, rate = _pace(stream)
    who, error = stream.identity, stream.error
    stream.receipt = Receipt(
        stream_id=who.id,
        state=stream.state.wire,
        ended_by=stream.ended_by,
        reason=stream.reason,
        protocol=who.protocol,
        model=who.model,
        backend=who.backend,
        upstream_model=who.upstream_model,
        owner=who.owner,
        user_id=who.user_id,
        workspace_id=who.workspace_id,
        conversation_id=who.conversation_id,
        node=who.node,
        started_at=who.started_ms,
        ended_at=ended_ms,
        first_token_ms=None if stream.first_token is None else _ms(stream.first_token - stream.accepted),
        duration_ms=_ms(end - stream.accepted),
        token_count=stream.tokens,
        finish_reason=finish_of(stream, tap),
        prompt_tokens=usage.prompt,
        completion_tokens=usage.completion,
        reasoning_tokens=usage.reasoning,
        cached_tokens=usage.cached,
        usage_estimated=estimated,
        bytes_in=bytes_in,
        average_gap_ms=gap,
        max_gap_ms=None if gap is None else _ms(stream.max_gap),
        tokens_per_second=rate,
        attempts=stream.attempts,
        error_code=error.code.wire if error else "",
        error_message=error.message if error else "",
    )
    return stream.receipt


def ending(stream: Stream, tap: Tap | None, prompt_chars: int = 0) -> Ending:
    """What the last frame says. A failed state always carries an error, also when whoever ended it gave none;
    a cancelled one carries one only when given, and so does a time-out whose partial answer was kept (`finish` set)."""
    usage, estimated = usage_of(stream, tap, prompt_chars)
    error = stream.error
    if error is None and stream.state in _IMPLIED and (stream.state is not State.TIMED_OUT or stream.finish is None):
        error = BackendError(*_IMPLIED[stream.state])
    return Ending(
        finish=finish_of(stream, tap), usage=usage, usage_estimated=estimated, tokens=stream.tokens, error=error
    )


def finish_of(stream: Stream, tap: Tap | None) -> FinishReason:
    """Why it ended: the state's word unless it completed, then the ender's, then the backend's, then `stop`."""
    if stream.state in _FINISH:
        return _FINISH[stream.state]
    return stream.finish or (tap.finish if tap else None) or "stop"


def usage_of(stream: Stream, tap: Tap | None, prompt_chars: int) -> tuple[Usage, bool]:
    """The backend's count, or an estimate and True. A partial count of a backend is kept where it is not zero."""
    said = tap.usage if tap else None
    complete = said is not None and (said.completion > 0 or stream.tokens == 0)
    if said is not None and complete:
        return said, False
    prompt = said.prompt if said and said.prompt else _tokens(prompt_chars)
    cached = said.cached if said else 0
    return Usage(prompt=prompt, completion=_completion(stream, tap), cached=cached), True


def _completion(stream: Stream, tap: Tap | None) -> int:
    counted = max(stream.tokens, tap.tokens if tap else 0)
    return counted or _tokens(tap.chars if tap else 0)


def _tokens(chars: int) -> int:
    return -(-chars // CHARS_PER_TOKEN)


def _pace(stream: Stream) -> tuple[float | None, float | None]:
    """Average gap in milliseconds and tokens per second; None where fewer than two tokens came."""
    if stream.first_token is None or stream.tokens < 2:
        return None, None
    span = stream.last_progress - stream.first_token
    gaps = stream.tokens - 1
    return _ms(span / gaps), round(gaps / span, 3) if span > 0 else None


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
