"""Breakers as operators see them. Pure."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from gateway.routing.upstream import Upstream
from gateway.routing.upstreams import Upstreams


class Circuit(Struct, frozen=True, rename="camel"):
    """A breaker, as operators see it. Seconds are ages: how long ago, or how long still."""

    backend: str
    state: str
    failures: int
    successes: int
    opened: int
    retry_in: float
    active: int
    waiting: int
    load: int | None
    first_token: float | None
    reason: str
    history: list[dict[str, Any]]


def circuit(upstream: Upstream, now: float) -> Circuit:
    breaker = upstream.breaker
    mean = upstream.seen(now).first_token
    return Circuit(
        backend=upstream.name,
        state=breaker.state.wire,
        failures=breaker.failures,
        successes=breaker.successes,
        opened=breaker.opened,
        retry_in=round(breaker.wait(now), 3),
        active=upstream.active,
        waiting=upstream.waiting,
        load=upstream.load,
        first_token=None if mean is None else round(mean, 4),
        reason=breaker.reason,
        history=[{"ago": round(now - c.at, 3), "state": c.state, "reason": c.reason} for c in breaker.history],
    )


def circuits(upstreams: Upstreams) -> list[Circuit]:
    """All of them, now."""
    now = upstreams.clock()
    return [circuit(upstream, now) for upstream in upstreams]
