"""The registry of one worker, in memory: its running streams, receipts for the replay window, claims, leases.

Law: nothing here waits or fails. Everything is bounded, by time and by count. The clock is monotonic seconds, injected.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from gateway.registry.base import Admission, Cancelled, Entry, Registry
from gateway.registry.statistics import Fold, snapshot
from gateway.streams.stream import Receipt

MAX_RECEIPTS = 10_000
MAX_CLAIMS = 100_000

T = TypeVar("T")


class Expiring(Generic[T]):
    """A mapping that forgets a value `life` seconds after it was put, and the oldest beyond `limit`."""

    def __init__(self, life: float, limit: int, clock: Callable[[], float]) -> None:
        self._life = life
        self._limit = limit
        self._clock = clock
        self._items: OrderedDict[str, tuple[float, T]] = OrderedDict()

    def put(self, key: str, value: T) -> None:
        """Keep a value, anew."""
        self._items[key] = (self._clock() + self._life, value)
        self._items.move_to_end(key)
        self._sweep()

    def get(self, key: str) -> T | None:
        """The value, while it lives."""
        self._sweep()
        found = self._items.get(key)
        return None if found is None else found[1]

    def pop(self, key: str) -> None:
        """Forget a value now."""
        self._items.pop(key, None)

    def __len__(self) -> int:
        self._sweep()
        return len(self._items)

    def _sweep(self) -> None:
        now = self._clock()
        while self._items:
            oldest = next(iter(self._items))
            if len(self._items) <= self._limit and self._items[oldest][0] > now:
                return
            del self._items[oldest]


class MemoryRegistry(Registry):
    """Everything a single worker needs, and the local half of a shared registry."""

    def __init__(
        self,
        node: str,
        replay: float = 600.0,
        *,
        clock: Callable[[], float] = time.monotonic,
        max_receipts: int = MAX_RECEIPTS,
    ) -> None:
        self.node = node
        self.fold = Fold()
        self.running: dict[str, Entry] = {}
        self.leases: dict[str, set[str]] = {}
        self._receipts: Expiring[Receipt] = Expiring(replay, max_receipts, clock)
        self._claims: Expiring[str] = Expiring(replay, MAX_CLAIMS, clock)
        self._peak = 0
        self._owner_active: Counter[str] = Counter()
        self._owner_peak: OrderedDict[str, int] = OrderedDict()
        self.local_active = lambda: list(self.running.values())
        self.local_stop = lambda stream_id, by, reason: None

    def opened(self, entry: Entry) -> None:
        if entry.stream_id in self.running:
            return
        self.running[entry.stream_id] = entry
        self._peak = max(self._peak, len(self.running))
        self._owner_active[entry.owner] += 1
        self._owner_peak[entry.owner] = max(self._owner_peak.get(entry.owner, 0), self._owner_active[entry.owner])
        self._owner_peak.move_to_end(entry.owner)
        if len(self._owner_peak) > 1000:
            self._owner_peak.popitem(last=False)

    def closed(self, receipt: Receipt, key_id: str) -> None:
        self.settle(receipt)

    def settle(self, receipt: Receipt) -> tuple[dict[str, int], dict[str, int]] | None:
        """What `closed` does; returns the statistics' increments (all, owner), or None for a repeated call."""
        if self.running.pop(receipt.stream_id, None) is not None:
            self._owner_active[receipt.owner] -= 1
            self._owner_active += Counter()  # drops zeros
        elif self._receipts.get(receipt.stream_id) is not None:
            return None
        self._receipts.put(receipt.stream_id, receipt)
        if self._claims.get(receipt.stream_id) is not None:
            self._claims.put(receipt.stream_id, receipt.owner)
        return self.fold.add(receipt)

    async def admit(self, scope: str, limit: int, stream_id: str) -> Admission:
        return self.admit_here(scope, limit, stream_id)

    def admit_here(self, scope: str, limit: int, stream_id: str) -> Admission:
        """`admit` by this node's own count."""
        held = self.leases.get(scope, set())
        if limit and stream_id not in held and len(held) >= limit:
            return Admission(False, len(held), limit)
        self.hold(scope, stream_id)
        return Admission(True, len(self.leases[scope]), limit)

    def hold(self, scope: str, stream_id: str) -> None:
        """Note a lease that was granted."""
        self.leases.setdefault(scope, set()).add(stream_id)

    def release(self, scope: str, stream_id: str) -> None:
        held = self.leases.get(scope)
        if held is not None:
            held.discard(stream_id)
            if not held:
                del self.leases[scope]

    async def claim(self, stream_id: str, owner: str) -> bool:
        return self.claim_here(stream_id, owner)

    def claim_here(self, stream_id: str, owner: str) -> bool:
        """`claim` on this node. An id in use by anybody is refused: streams are found and stopped by id alone."""
        used = self._claims.get(stream_id) is not None or self.ended(stream_id) is not None
        if used or stream_id in self.running:
            return False
        self._claims.put(stream_id, owner)
        return True

    def unclaim(self, stream_id: str) -> None:
        """Forget a claim on this node."""
        self._claims.pop(stream_id)

    def ended(self, stream_id: str) -> Receipt | None:
        """The receipt of a stream that ended here within the replay window."""
        return self._receipts.get(stream_id)

    async def active(self, owner: str | None) -> list[Entry]:
        return self.active_here(owner)

    def active_here(self, owner: str | None) -> list[Entry]:
        """Running streams of this node, newest last."""
        mine = [e for e in self.local_active() if owner is None or e.owner == owner]
        return sorted(mine, key=lambda e: (e.started_at, e.stream_id))

    async def find(self, stream_id: str, owner: str | None) -> Entry | Receipt | None:
        return self.find_here(stream_id, owner)

    def find_here(self, stream_id: str, owner: str | None) -> Entry | Receipt | None:
        """`find` on this node."""
        found: Entry | Receipt | None = self.ended(stream_id)
        if stream_id in self.running:
            fresh = (e for e in self.local_active() if e.stream_id == stream_id)
            found = next(fresh, self.running[stream_id])
        return found if found is not None and owner in (None, found.owner) else None

    async def cancel(self, stream_id: str, owner: str | None, *, by: str, reason: str, wait: float = 1.0) -> Cancelled:
        return self.cancel_here(stream_id, owner, by, reason)

    def cancel_here(self, stream_id: str, owner: str | None, by: str, reason: str) -> Cancelled:
        """`cancel` on this node: `unknown` or `done`, or `pending` when the stream is ending but has no receipt yet."""
        found = self.find_here(stream_id, owner)
        if isinstance(found, Entry):
            found = self.local_stop(stream_id, by, reason) or self.ended(stream_id) or found
        if isinstance(found, Receipt):
            return Cancelled("done", found.state, found)
        return Cancelled("unknown") if found is None else Cancelled("pending", found.state)

    def peak(self, owner: str | None) -> int:
        """Most streams at once on this node."""
        return self._peak if owner is None else self._owner_peak.get(owner, 0)

    async def statistics(self, owner: str | None) -> dict[str, Any]:
        return self.statistics_here(owner)

    def statistics_here(self, owner: str | None) -> dict[str, Any]:
        """`statistics` of this node."""
        running = self.active_here(owner)
        return snapshot(
            self.fold.counts(owner),
            active=len(running),
            peak=self.peak(owner),
            backends=Counter(e.backend for e in running),
            models=Counter(e.model for e in running),
        )

    def health(self) -> dict[str, Any]:
        return {"status": "healthy", "backend": "memory", "active": len(self.running)}
