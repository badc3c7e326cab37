"""Receipts of streams whose own node did not live to write them. Pure; the clock is an argument.

Law: what a stream's log says of its end holds, since its readers were told so. Without that it was lost with its node.
"""

from __future__ import annotations

from msgspec.structs import replace

from gateway.protocols.base import Ending
from gateway.registry.base import Entry
from gateway.streams.settle import guessed
from gateway.streams.stream import Receipt, State

_BY = {State.CANCELLED: "client", State.CLIENT_GONE: "client", State.SHED: "gateway", State.TIMED_OUT: "gateway"}


def lost(entry: Entry, now_ms: int) -> Receipt:
    """The receipt of a stream whose node is gone: usage is estimated from the last heartbeat's count."""
    return replace(
        guessed(entry, now_ms),
        state=State.NODE_LOST.wire,
        ended_by="gateway",
        reason="node_lost",
        ended_at=now_ms,
        finish_reason="error",
        error_code="node_lost",
        error_message="the gateway node that carried this stream is gone",
    )


def ended(entry: Entry, state: State, ending: Ending, now_ms: int) -> Receipt:
    """The receipt of one that had ended in its log, and whose node died before it could tell the fleet."""
    if state is State.NODE_LOST:
        return lost(entry, now_ms)
    usage, error = ending.usage, ending.error
    return replace(
        guessed(entry, now_ms),
        state=state.wire,
        ended_by=_BY.get(state, "backend"),
        reason=error.message if error else state.wire,
        ended_at=now_ms,
        token_count=ending.tokens,
        finish_reason=ending.finish,
        prompt_tokens=usage.prompt,
        completion_tokens=usage.completion,
        reasoning_tokens=usage.reasoning,
        cached_tokens=usage.cached,
        usage_estimated=ending.usage_estimated,
        error_code=error.code.wire if error else "",
        error_message=error.message if error else "",
    )
