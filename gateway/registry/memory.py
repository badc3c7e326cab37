"""The registry of one worker, in memory: its running streams, receipts for the replay window, claims, leases.

Law: nothing here waits or fails. Everything is bounded, by time and by count. The clock is monotonic seconds, injected.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from gateway.registry.base import Cancelled, Entry, Quota, Rate, Registry, Taken
from gateway.registry.expiring import Expiring
from gateway.registry.quotas import Quotas
from gateway.registry.statistics import Fold, snapshot
from gateway.streams.names import split_key, stream_key
from gateway.streams.stream import Receipt

MAX_RECEIPTS = 10_000
MAX_CLAIMS = 100_000


class MemoryRegistry(Registry):
    """Everything a single worker needs, and the local half of a shared registry. `running`, receipts and claims are by
    `stream_key`."""

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
        self.quotas = Quotas(clock)
        self.leases = self.quotas.leases
        self._receipts: Expiring[Receipt] = Expiring(replay, max_receipts, clock)
        self._claims: Expiring[str] = Expiring(replay, MAX_CLAIMS, clock)
        self._refused: Expiring[bool] = Expiring(replay, max_receipts, clock)  # ended, and its id may be used again
        self._clock = clock
        self._probes: dict[str, float] = {}  # backend -> until when its trial is somebody's
        self._peak = 0
        self._owner_active: Counter[str] = Counter()
        self._owner_peak: OrderedDict[str, int] = OrderedDict()
        self.local_active = lambda: list(self.running.values())
        self.local_stop = lambda stream_id, owner, by, reason: None
        self.local_one = None

    def opened(self, entry: Entry) -> None:
        key = stream_key(entry.stream_id, entry.owner)
        if key in self.running:
            return
        self.running[key] = entry
        self._peak = max(self._peak, len(self.running))
        self._owner_active[entry.owner] += 1
        self._owner_peak[entry.owner] = max(self._owner_peak.get(entry.owner, 0), self._owner_active[entry.owner])
        self._owner_peak.move_to_end(entry.owner)
        if len(self._owner_peak) > 1000:
            self._owner_peak.popitem(last=False)

    def closed(self, receipt: Receipt, key_id: str) -> None:
        if self._settled(receipt):
            self.fold.note(receipt)

    def settle(self, receipt: Receipt) -> tuple[dict[str, int], dict[str, int]] | None:
        """What `closed` does; returns the statistics' increments (all, owner), or None for a repeated call."""
        return self.fold.add(receipt) if self._settled(receipt) else None

    def _settled(self, receipt: Receipt) -> bool:
        """Keep the receipt of a stream that runs no more; False: it is kept already."""
        key = stream_key(receipt.stream_id, receipt.owner)
        if self.running.pop(key, None) is not None:
            self._left(receipt.owner)
        elif self._receipts.get(key) is not None:
            return False
        self._receipts.put(key, receipt)
        token = self._claims.get(key)
        if token is not None:
            self._claims.put(key, token)  # the window begins anew at the end
        return True

    def moved(self, entry: Entry) -> None:
        key = stream_key(entry.stream_id, entry.owner)
        if self.running.pop(key, None) is not None:
            self._left(entry.owner)
        self._receipts.pop(key)

    def _left(self, owner: str) -> None:
        self._owner_active[owner] -= 1
        if not self._owner_active[owner]:
            del self._owner_active[owner]

    def hold(self, scope: str, stream_id: str) -> None:
        self.quotas.hold(scope, stream_id)

    def let_go(self, scope: str, stream_id: str) -> None:
        self.quotas.release(scope, stream_id)

    def adopt(self, receipt: Receipt) -> None:
        """The fleet has another receipt of a stream that ended here (it was declared lost before): that one counts."""
        self._receipts.put(stream_key(receipt.stream_id, receipt.owner), receipt)

    async def take(
        self, stream_id: str, quotas: Sequence[Quota], rates: Sequence[Rate] = (), *, alone: bool = True
    ) -> Taken:
        return self.quotas.take(stream_id, quotas, rates)

    def charge(self, rates: Sequence[Rate]) -> None:
        self.quotas.charge(rates)

    def release(self, scope: str, stream_id: str) -> None:
        self.quotas.release(scope, stream_id)

    async def claim(self, stream_id: str, owner: str) -> bool:
        return bool(self.claim_here(stream_id, owner))

    def claim_here(self, stream_id: str, owner: str) -> str:
        """`claim` on this node: the token of the claim, "" when the id is taken."""
        key = stream_key(stream_id, owner)
        if self._claims.get(key) is not None or key in self.running:
            return ""
        if self.ended(key) is not None:
            if not self.refused(key):
                return ""
            self._receipts.pop(key)
            self._refused.pop(key)
        token = secrets.token_hex(8)
        self._claims.put(key, token)
        return token

    async def unclaim(self, stream_id: str, owner: str) -> None:
        self.unclaim_here(stream_id, owner)

    def unclaim_here(self, stream_id: str, owner: str) -> str:
        """Forget a claim on this node; its token, "" when there was none. A receipt stays until the id is claimed."""
        key = stream_key(stream_id, owner)
        if self.ended(key) is not None:
            self._refused.put(key, True)
        token = self._claims.get(key)
        self._claims.pop(key)
        return token or ""

    async def claim_probe(self, backend: str, seconds: float) -> bool:
        return self.claim_probe_here(backend, seconds)

    def claim_probe_here(self, backend: str, seconds: float) -> bool:
        """`claim_probe` in this worker."""
        now = self._clock()
        if self._probes.get(backend, now) > now:
            return False
        self._probes[backend] = now + seconds
        return True

    def unclaim_probe(self, backend: str) -> None:
        self._probes.pop(backend, None)

    def refused(self, key: str) -> bool:
        """Whether a stream (by its key) that ended here was refused with a status: another may have its id."""
        return self._refused.get(key) is not None

    def ended(self, key: str) -> Receipt | None:
        """The receipt of a stream (by its key) that ended here within the replay window."""
        return self._receipts.get(key)

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
        key = self._key_of(stream_id) if owner is None else stream_key(stream_id, owner)
        if key not in self.running:
            return self.ended(key)
        return self._fresh(key) or self.running[key]

    def _fresh(self, key: str) -> Entry | None:
        """A running stream as it is now."""
        stream_id, owner = split_key(key)
        if self.local_one is not None:
            return self.local_one(stream_id, owner)
        return next((e for e in self.local_active() if (e.stream_id, e.owner) == (stream_id, owner)), None)

    def _key_of(self, stream_id: str) -> str:
        """The key of anybody's stream of this id: a running one before the last one that ended; "" for none."""
        keys = (*self.running, *reversed(self._receipts.keys()))
        return next((key for key in keys if split_key(key)[0] == stream_id), "")

    async def cancel(self, stream_id: str, owner: str | None, *, by: str, reason: str, wait: float = 1.0) -> Cancelled:
        return self.cancel_here(stream_id, owner, by, reason)

    def cancel_here(self, stream_id: str, owner: str | None, by: str, reason: str) -> Cancelled:
        """`cancel` on this node: `unknown` or `done`, or `pending` when the stream is ending but has no receipt yet."""
        found = self.find_here(stream_id, owner)
        if isinstance(found, Entry):
            key = stream_key(stream_id, found.owner)
            found = self.local_stop(stream_id, found.owner, by, reason) or self.ended(key) or found
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
