"""Leases and rates of the whole fleet: one pipeline takes them all, and what was granted is given back when one is not.

Law: this node's own count is kept beside Redis's, so that it can go on alone. A command whose answer was lost may have
been done: its lease is given back, its rate is not (the bucket fills again by itself; giving back twice would not).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from gateway.registry.base import Quota, Rate, Taken
from gateway.registry.memory import MemoryRegistry
from gateway.registry.redis_client import Away, Link, Op
from gateway.registry.redis_layout import Layout

_ON_ITS_WAY = 0.2  # seconds the command that gives a lease back may take: a tick of the fleet's loop and its round trip


class RedisQuotas:
    """`push` queues a command that is repeated until it arrived."""

    def __init__(
        self, node: str, link: Link, layout: Layout, local: MemoryRegistry, push: Callable[[Op], None]
    ) -> None:
        self._node = node
        self._link = link
        self._layout = layout
        self._local = local.quotas
        self._push = push
        self._gone: deque[tuple[float, str, str]] = deque()  # (when, scope, stream): leases given back a moment ago
        self._noted: set[str] = set()  # scopes the fleet knows this node has leases in
        self._tasks: set[asyncio.Task[None]] = set()

    async def take(self, stream_id: str, quotas: Sequence[Quota], rates: Sequence[Rate], alone: bool) -> Taken:
        """As `Registry.take`."""
        gone = self._just_gone(stream_id) if quotas else {}
        leases = [self._layout.admit(q.scope, stream_id, q.limit, gone.get(q.scope, ())) for q in quotas]
        new = [q.scope for q in quotas if q.scope not in self._noted]
        notes = self._layout.scopes_of(self._node, new)
        marks = [self._layout.rate(r.scope, r.per_minute, r.cost) for r in rates]
        try:
            answers = await self._link.batch([*leases, *marks, *notes], patience=1)
        except Away:
            found = self._by_ourselves(stream_id, quotas, rates, alone)
            self._give_back(stream_id, quotas)  # what is not ours now may have been granted over there
            return found
        except asyncio.CancelledError:
            self._give_back(stream_id, quotas)
            raise
        self._noted.update(new)
        answers = answers[: len(leases) + len(marks)]
        if any(isinstance(answer, BaseException) for answer in answers):
            self._heal(zip([*leases, *marks], answers, strict=True))
            return self._by_ourselves(stream_id, quotas, rates, alone)
        return self._judged(stream_id, quotas, rates, answers)

    def release(self, scope: str, stream_id: str) -> None:
        """Give a lease back. Who asks next on this node finds it free at once, though the command takes a tick."""
        self._local.release(scope, stream_id)
        self._gone.append((time.monotonic(), scope, stream_id))
        self._push(self._layout.release(scope, stream_id))

    def _just_gone(self, stream_id: str) -> dict[str, list[str]]:
        """Scope -> streams that have just given back a lease of it; one that takes it anew is none of them any more."""
        now, found = time.monotonic(), dict[str, list[str]]()
        while self._gone and now - self._gone[0][0] > _ON_ITS_WAY:
            self._gone.popleft()
        for _, scope, one in self._gone:
            if one != stream_id and one not in self._local.leases.get(scope, ()):
                found.setdefault(scope, []).append(one)
        return found

    def renewed(self) -> list[Op]:
        """The commands that prolong all leases of this node, and say anew where they are."""
        held = {scope: sorted(ids) for scope, ids in self._local.leases.items()}
        self._noted = set(held)
        again = self._layout.scopes_of(self._node, sorted(held))
        return [*again, *(self._layout.renew(scope, ids) for scope, ids in held.items())]

    def _judged(
        self, stream_id: str, quotas: Sequence[Quota], rates: Sequence[Rate], answers: list[list[int]]
    ) -> Taken:
        granted, passed = answers[: len(quotas)], answers[len(quotas) :]
        refused = next((Taken(q.scope, a[1], q.limit) for q, a in zip(quotas, granted, strict=True) if not a[0]), None)
        refused = refused or next(
            (Taken(r.scope, 0, r.per_minute, a[1] / 1e6) for r, a in zip(rates, passed, strict=True) if not a[0]), None
        )
        if refused is None:
            for quota in quotas:
                self._local.hold(quota.scope, stream_id)
            self._local.charge(rates)
            return Taken("", granted[0][1], quotas[0].limit) if quotas else Taken()
        self._give_back(stream_id, [q for q, a in zip(quotas, granted, strict=True) if a[0]])
        back = [Rate(r.scope, r.per_minute, -r.cost) for r, a in zip(rates, passed, strict=True) if a[0]]
        if back:
            self._later(self._charge(back))
        return refused

    def _by_ourselves(self, stream_id: str, quotas: Sequence[Quota], rates: Sequence[Rate], alone: bool) -> Taken:
        if not alone:
            return Taken(shared=False)
        found = self._local.take(stream_id, quotas, rates)
        return Taken(found.refused, found.active, found.limit, found.retry_after, shared=False)

    def _give_back(self, stream_id: str, quotas: Sequence[Quota]) -> None:
        for quota in quotas:
            if stream_id not in self._local.leases.get(quota.scope, ()):
                self._push(self._layout.release(quota.scope, stream_id))

    def _heal(self, asked: Any) -> None:
        """Values of the wrong type are moved out of the way."""
        for op, answer in asked:
            if isinstance(answer, BaseException):
                self._push(self._layout.quarantine(op))

    def charge(self, rates: Sequence[Rate]) -> None:
        """As `Registry.charge`: sent once, never repeated."""
        self._local.charge(rates)
        self._later(self._charge(rates))

    async def _charge(self, rates: Sequence[Rate]) -> None:
        ops = [self._layout.rate(r.scope, r.per_minute, r.cost, force=True) for r in rates]
        try:
            await self._link.batch(ops)
        except Away:
            return  # our own count has it

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def settled(self) -> None:
        """Until what was charged has been sent."""
        if self._tasks:
            await asyncio.wait(self._tasks)
