"""Takes what a stream needs before it starts and gives it back when it has ended; lets a few requests wait in between.

Law: whatever was taken is given back once, by the stream's receipt. Who waits is served by priority, then in order, and
never longer than `access.queue`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

from msgspec import Struct

from config.schema import Access
from gateway.access.limits import Demand, refusal, settlement, without_registry
from gateway.registry.base import Quota, Rate, Registry, Taken
from gateway.streams.legacy import Held
from gateway.streams.names import stream_key
from gateway.streams.stream import Receipt

_LOOK = 0.25  # seconds after which one who waits looks again: another node may have given something back


class Ticket(Struct, frozen=True):
    """What a running stream holds. `rolled`: it belongs to the part a rollout lets in."""

    scopes: tuple[str, ...] = ()
    tokens: tuple[Rate, ...] = ()
    route: str = ""
    rolled: bool = False


class _Waiter:
    """One request that waits, for room in `scope`."""

    def __init__(self, rank: int, turn: int, scope: str) -> None:
        self.order = (rank, turn)
        self.scope = scope
        self.event = asyncio.Event()


class Limiter:
    """One per worker. `tickets` are by stream key, from the admission to the receipt."""

    def __init__(self, registry: Registry, access: Callable[[], Access]) -> None:
        self.tickets: dict[str, Ticket] = {}
        self._registry = registry
        self._access = access
        self._waiting: list[_Waiter] = []
        self._turns = itertools.count()

    @property
    def waiting(self) -> int:
        """Requests that wait for room."""
        return len(self._waiting)

    async def admit(self, key: str, wanted: Demand, *, route: str = "", rolled: bool = False) -> None:
        """Take all of it for a stream (by its key), or raise LimitReached; nothing is left behind then."""
        if wanted.quotas or wanted.rates:
            taken = await self._take(key, wanted)
            if taken.refused:
                taken = await self._wait(key, wanted, taken)
            if taken.refused:
                raise refusal(wanted, taken)
        self.note(key, wanted, route=route, rolled=rolled)

    def note(self, key: str, wanted: Demand, *, route: str, rolled: bool) -> None:
        """A stream has what it needs."""
        scopes = tuple([quota.scope for quota in wanted.quotas])
        self.tickets[key] = Ticket(scopes, wanted.tokens, route, rolled)

    async def _take(self, key: str, wanted: Demand) -> Taken:
        alone = self._access().on_redis_loss == "allow"
        before = self._ahead(wanted) if self._waiting else None
        if before is not None:
            return Taken(before.scope, before.limit, before.limit)
        taken = await self._registry.take(key, wanted.quotas, wanted.rates, alone=alone)
        if not (taken.shared or alone):
            raise without_registry()
        return taken

    def _ahead(self, wanted: Demand) -> Quota | None:
        """One of ours that somebody waits for who comes before us."""
        ours = {quota.scope: quota for quota in wanted.quotas}
        return next((ours[w.scope] for w in self._waiting if w.scope in ours and w.order[0] <= wanted.rank), None)

    async def _wait(self, key: str, wanted: Demand, refused: Taken) -> Taken:
        """Wait for a lease; a rate is not waited for."""
        access, loop = self._access(), asyncio.get_running_loop()
        limit = next((q.limit for q in wanted.quotas if q.scope == refused.refused), 0)
        if not access.queue or not limit or len(self._waiting) >= access.queue_size:
            return refused
        waiter = _Waiter(wanted.rank, next(self._turns), refused.refused)
        self._waiting.append(waiter)
        self._waiting.sort(key=lambda w: w.order)
        deadline = loop.time() + access.queue
        try:
            while (left := deadline - loop.time()) > 0:
                await self._room(waiter, min(left, _LOOK))
                if self._first(waiter):
                    alone = access.on_redis_loss == "allow"
                    refused = await self._registry.take(key, wanted.quotas, wanted.rates, alone=alone)
                    waiter.scope = refused.refused or waiter.scope
                    if not refused.refused or refused.refused not in {q.scope for q in wanted.quotas}:
                        break
        finally:
            self._waiting.remove(waiter)
        return Taken(refused.refused, refused.active or limit, refused.limit or limit, refused.retry_after)

    @staticmethod
    async def _room(waiter: _Waiter, seconds: float) -> None:
        waiter.event.clear()
        try:
            await asyncio.wait_for(waiter.event.wait(), seconds)
        except TimeoutError:
            return

    def _first(self, waiter: _Waiter) -> bool:
        return all(w is waiter or w.scope != waiter.scope or w.order > waiter.order for w in self._waiting)

    def held(self, key: str) -> Held:
        """What a running stream holds, as its will says it."""
        ticket = self.tickets.get(key, Ticket())
        return Held(ticket.scopes, tuple((r.scope, r.per_minute, r.cost) for r in ticket.tokens), ticket.rolled)

    def inherited(self, key: str, held: Held, route: str) -> None:
        """A stream goes on here that another node admitted: its leases are held here from now on."""
        for scope in held.scopes:
            self._registry.hold(scope, key)
        self.tickets[key] = Ticket(held.scopes, tuple(Rate(*rate) for rate in held.tokens), route, held.rolled)

    def moved(self, key: str) -> None:
        """A stream goes on elsewhere: what it holds is held there."""
        for scope in self.tickets.pop(key, Ticket()).scopes:
            self._registry.let_go(scope, key)

    def finished(self, receipt: Receipt) -> Ticket | None:
        """A stream ended: its leases are free, its real use is charged. Its ticket; None: it has none any more."""
        key = stream_key(receipt.stream_id, receipt.owner)
        used = receipt.prompt_tokens + receipt.completion_tokens
        return self.release(key, used)

    def release(self, key: str, used: int) -> Ticket | None:
        """What `finished` does, for what has no receipt; `used` in tokens."""
        ticket = self.tickets.pop(key, None)
        if ticket is None:
            return None
        for scope in ticket.scopes:
            self._registry.release(scope, key)
            self._wake(scope)
        due = settlement(ticket.tokens, used)
        if due:
            self._registry.charge(due)
        return ticket

    def _wake(self, scope: str) -> None:
        for waiter in self._waiting:
            if waiter.scope == scope:
                waiter.event.set()
                return
