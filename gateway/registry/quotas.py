"""Concurrency leases and rates of one node, in memory: the twin of what Redis counts for a fleet. Pure.

Law: a request takes all it needs or nothing. A rate is the generic cell rate algorithm (ITU-T I.371): one mark per
scope, the time at which its bucket will be full again; a minute's allowance may be used at once. Clocks are in seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gateway.registry.base import Quota, Rate, Taken

MINUTE = 60.0
DEBT = 3600.0  # seconds a scope may be in debt at most, whatever its streams used
_MANY = 10_000  # marks kept before the spent ones are swept


def passed(mark: float, now: float, rate: Rate) -> tuple[float, float]:
    """(the new mark, 0) when `rate.cost` fits, else (the old mark, seconds until it will). A cost beyond a whole
    minute's allowance fits when the bucket is full: it could never be served otherwise."""
    step, start = MINUTE / rate.per_minute, max(mark, now)
    over = start + min(rate.cost, rate.per_minute) * step - now - MINUTE
    if over > 1e-6:
        return mark, over
    return start + rate.cost * step, 0.0


def charged(mark: float, now: float, rate: Rate) -> float:
    """The mark after a cost that is not asked for; a negative one gives back."""
    return min(max(mark, now) + rate.cost * MINUTE / rate.per_minute, now + DEBT)


class Quotas:
    """All leases and marks of this node."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.leases: dict[str, set[str]] = {}
        self._marks: dict[str, float] = {}
        self._clock = clock

    def take(self, stream_id: str, quotas: Sequence[Quota], rates: Sequence[Rate]) -> Taken:
        """All of it, or nothing and which one refused: the first in order, leases before rates."""
        for quota in quotas:
            held = self.leases.get(quota.scope, set())
            if stream_id not in held and len(held) >= quota.limit:
                return Taken(quota.scope, len(held), quota.limit)
        now, marks = self._clock(), []
        for rate in rates:
            mark, wait = passed(self._marks.get(rate.scope, 0.0), now, rate)
            if wait:
                return Taken(rate.scope, limit=rate.per_minute, retry_after=wait)
            marks.append((rate.scope, mark))
        for quota in quotas:
            self.hold(quota.scope, stream_id)
        for scope, mark in marks:
            self._put(scope, mark, now)
        return Taken("", len(self.leases[quotas[0].scope]), quotas[0].limit) if quotas else Taken()

    def charge(self, rates: Sequence[Rate]) -> None:
        """Costs that are known only now; negative ones are given back."""
        now = self._clock()
        for rate in rates:
            self._put(rate.scope, charged(self._marks.get(rate.scope, 0.0), now, rate), now)

    def hold(self, scope: str, stream_id: str) -> None:
        """Note a lease that was granted."""
        self.leases.setdefault(scope, set()).add(stream_id)

    def release(self, scope: str, stream_id: str) -> None:
        """Give a lease back."""
        held = self.leases.get(scope)
        if held is not None:
            held.discard(stream_id)
            if not held:
                del self.leases[scope]

    def _put(self, scope: str, mark: float, now: float) -> None:
        self._marks[scope] = mark
        if len(self._marks) > _MANY:
            self._marks = {scope: mark for scope, mark in self._marks.items() if mark > now}
