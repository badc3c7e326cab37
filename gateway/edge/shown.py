"""A stream as JSON: the same fields while it runs and after its end, and its receipt, final or so far. Pure.

Law: what is not known yet is null (`endedAt`, `endedBy`, `finishReason`); usage that nobody counted is an estimate and
says so.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.registry.base import Entry
from gateway.streams.producer import Producer
from gateway.streams.settle import guessed, so_far
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


def shown(
    found: Entry | Receipt, producer: Producer | None, now: float, now_ms: int, *, resumable: bool
) -> dict[str, Any]:
    """One stream. `producer`: where it runs on this node, which knows more than its entry; `now`: monotonic seconds,
    `now_ms`: Unix milliseconds; `resumable`: whether its frames can be read here."""
    if isinstance(found, Receipt):
        receipt = msgspec.to_builtins(found)
        return {**{name: receipt[name] for name in _TOP}, "resumable": resumable, "receipt": receipt}
    told = _of_producer(producer, now, now_ms) if producer is not None else guessed(found, now_ms)
    return {**listed(found), "resumable": resumable, "receipt": {**msgspec.to_builtins(told), **_NOT_YET}}


def _of_producer(producer: Producer, now: float, now_ms: int) -> Receipt:
    return so_far(
        producer.stream,
        tap=producer.tap,
        bytes_in=producer.bytes_in,
        now=now,
        ended_ms=now_ms,
        prompt_chars=producer.plan.prompt_chars,
    )
