"""Judgements of health: plain functions of what `health` has seen. Pure.

Law: a backend is blamed for what its breaker counts, and for nothing else; what nobody has heard of is unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct

from backends.contract.errors import ErrorCode
from gateway.streams.stream import Receipt

Status = Literal["healthy", "degraded", "unhealthy", "unknown"]
FAULTS = frozenset(code.wire for code in ErrorCode if code.counts)  # of the backend, as its breaker sees it

_FAILURES = 5  # in a row: as many as open a breaker
_RANK: dict[str, int] = {"unknown": 0, "healthy": 0, "degraded": 1, "unhealthy": 2}
_FAILED = frozenset({"upstream_error", "upstream_truncated"})


class Check(Struct, frozen=True, omit_defaults=True):
    """One check's result. `figures` are for everybody; `detail` may name addresses and is for operators only."""

    status: Status
    figures: dict[str, Any] = {}
    detail: str | Mapping[str, Any] = ""


class Seen(Struct):
    """What is known of a backend. `probed`: None before the first probe."""

    probed: bool | None = None
    detail: str = ""
    failures: int = 0  # attempts of streams that failed in a row
    misses: int = 0  # probes that failed in a row
    answered: bool = False  # a probe since the last failure
    at: float | None = None  # monotonic seconds of the last news


def above(value: float, degraded: float, unhealthy: float) -> Status:
    """The status of a figure that is better when small."""
    if value >= unhealthy:
        return "unhealthy"
    return "degraded" if value >= degraded else "healthy"


def of_backend(seen: Seen) -> Status:
    """A failed probe, or five failed attempts in a row and no probe answered since: unhealthy; fewer: degraded."""
    if seen.probed is False or (seen.failures >= _FAILURES and not seen.answered):
        return "unhealthy"
    if seen.failures:
        return "degraded"
    return "unknown" if seen.at is None else "healthy"


def overall(own: Mapping[str, Check], backends: Mapping[str, Check]) -> Status:
    """The worst of the own checks; lost backends degrade, and only the loss of all of them is unhealthy."""
    ranks = [_RANK[c.status] for c in own.values()]
    bad = [_RANK[c.status] for c in backends.values()]
    if bad:
        ranks.append(2 if min(bad) == 2 else min(max(bad), 1))
    return ("healthy", "degraded", "unhealthy")[max(ranks, default=0)]


def blamed(receipt: Receipt) -> bool:
    """Whether a stream's ending was its last backend's fault. A stream that was answered for too long was not."""
    if receipt.error_code:
        return receipt.error_code in FAULTS and receipt.finish_reason != "timeout"
    return receipt.state in _FAILED
