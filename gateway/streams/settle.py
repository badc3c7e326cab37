"""The fold of an ended stream to its receipt and its last frame. Pure.

Law: one stream, one receipt, and a state that is no completion never reads like one. What it used, `accounts` tells.
"""

from __future__ import annotations

from msgspec.structs import replace

from backends.base import Tap
from backends.contract.errors import BackendError, ErrorCode
from backends.contract.events import FinishReason
from gateway.protocols.base import Ending
from gateway.streams.accounts import usage_of
from gateway.streams.stream import Entry, Receipt, State, Stream, Try

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
    stream.receipt = so_far(stream, tap=tap, bytes_in=bytes_in, now=now, ended_ms=ended_ms, prompt_chars=prompt_chars)
    return stream.receipt


def so_far(stream: Stream, *, tap: Tap | None, bytes_in: int, now: float, ended_ms: int, prompt_chars: int) -> Receipt:
    """As `settle`, of a stream that may still run: then `ended_at` and `finish_reason` mean nothing yet."""
    usage, estimated = usage_of(stream, tap, prompt_chars)
    end = now if stream.ended is None else stream.ended
    gap, rate = _pace(stream)
    who, error = stream.identity, stream.error
    return Receipt(
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
        unread_tokens=stream.unread,
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
        tries=tuple(stream.tries),
        last=_last(stream),
        degraded=stream.degraded,
    )


def _last(stream: Stream) -> Try | None:
    last = stream.last
    if last is None or not stream.tries:
        return None
    outcome = stream.error.code.wire if stream.error else stream.state.wire
    return replace(last, outcome=outcome, tokens=stream.tokens - last.tokens)


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


def _pace(stream: Stream) -> tuple[float | None, float | None]:
    """Average gap in milliseconds and tokens per second; None where fewer than two tokens came."""
    if stream.first_token is None or stream.tokens < 2:
        return None, None
    span = stream.last_progress - stream.first_token
    gaps = stream.tokens - 1
    return _ms(span / gaps), round(gaps / span, 3) if span > 0 else None


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def outlived(receipt: Receipt) -> Receipt:
    """That of a stream which another node goes on with, whatever this one thought of its end: it is nobody's receipt,
    and counts as lost to this node."""
    lost = State.NODE_LOST.wire
    return replace(receipt, state=lost, ended_by="gateway", finish_reason="error", error_code=ErrorCode.NODE_LOST.wire)


def guessed(entry: Entry, now_ms: int) -> Receipt:
    """What is known of a stream by its entry alone, which another node wrote: not ended, usage estimated from its
    count. `now_ms`: Unix milliseconds."""
    return Receipt(
        stream_id=entry.stream_id,
        state=entry.state,
        ended_by="",
        reason="",
        protocol=entry.protocol,
        model=entry.model,
        backend=entry.backend,
        upstream_model=entry.upstream_model,
        owner=entry.owner,
        user_id=entry.user_id,
        workspace_id=entry.workspace_id,
        conversation_id=entry.conversation_id,
        node=entry.node,
        started_at=entry.started_at,
        ended_at=0,
        first_token_ms=entry.first_token_ms,
        duration_ms=float(max(0, now_ms - entry.started_at)),
        token_count=entry.token_count,
        finish_reason="",
        prompt_tokens=0,
        completion_tokens=entry.token_count,
        reasoning_tokens=0,
        cached_tokens=0,
        usage_estimated=True,
        bytes_in=0,
        average_gap_ms=None,
        max_gap_ms=None,
        tokens_per_second=None,
        attempts=1,
    )
