"""A stream as JSON: the same fields while it runs and after its end, and its receipt, final or so far. Pure.

Law: what is not known yet is null (`endedAt`, `endedBy`, `finishReason`); usage that nobody counted is an estimate and
says so.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.registry.base import Entry
from gateway.streams.producer import Producer
from gateway.streams.settle import so_far
from gateway.streams.stream import Receipt

_TOP = (
    "streamId",
    "state",
    "model",
    "backend",
    "protocol",
    "owner",
    "userId",
    "workspaceId",
    "conversationId",
    "node",
    "startedAt",
    "firstTokenMs",
    "tokenCount",
    "upstreamModel",
)
_NOT_YET = {"endedAt": None, "endedBy": None, "finishReason": None}


def listed(entry: Entry) -> dict[str, Any]:
    """A running stream as a list shows it. Which key it counts for, and what nodes agree on, is not shown."""
    shown: dict[str, Any] = msgspec.to_builtins(entry)
    shown.pop("keyId", None)
    shown.pop("survives", None)
    return shown


def shown(found: Entry | Receipt, producer: Producer | None, now: float, now_ms: int) -> dict[str, Any]:
    """One stream. `producer`: where it runs on this node, which knows more than its entry; `now`: monotonic seconds,
    `now_ms`: Unix milliseconds."""
    if isinstance(found, Receipt):
        receipt = msgspec.to_builtins(found)
        return {**{name: receipt[name] for name in _TOP}, "resumable": True, "receipt": receipt}
    told = _of_producer(producer, now, now_ms) if producer is not None else _of_entry(found, now_ms)
    return {**listed(found), "receipt": {**msgspec.to_builtins(told), **_NOT_YET}}


def _of_producer(producer: Producer, now: float, now_ms: int) -> Receipt:
    return so_far(
        producer.stream,
        tap=producer.tap,
        bytes_in=producer.bytes_in,
        now=now,
        ended_ms=now_ms,
        prompt_chars=producer.plan.prompt_chars,
    )


def _of_entry(entry: Entry, now_ms: int) -> Receipt:
    """What another node's stream is known by here."""
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
