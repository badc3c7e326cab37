"""The shared registry: a MemoryRegistry for this node, and Redis for what the other nodes see.

Law: local truth first. No method waits for Redis longer than its time-out, none raises because of it, and without it
every answer is this node's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from typing import Any

import msgspec

from config import schema
from gateway.registry.base import Admission, Cancelled, Entry, LocalActive, LocalStop, Registry
from gateway.registry.memory import MemoryRegistry
from gateway.registry.redis_client import Away, Link, Op
from gateway.registry.redis_fleet import Fleet
from gateway.registry.redis_layout import Layout, read_entry, read_receipt
from gateway.registry.statistics import merge, snapshot
from gateway.streams.stream import Receipt

_POLL = 0.03  # seconds between looks for another node's receipt
_INBOX_MS = 60_000  # a cancel nobody fetches is forgotten


class RedisRegistry(Registry):
    """One worker's registry in a fleet. Make it where an event loop runs or will run; `start` connects."""

    def __init__(self, node: str, config: schema.Registry) -> None:
        self.node = node
        self.local = MemoryRegistry(node, config.replay)
        self.local_active: LocalActive = self.local.local_active
        self.local_stop: LocalStop = self.local.local_stop
        lease = max(0.5, float(config.lease))
        check = min(1.0, lease / 8)
        # The key lives two checks less than the lease, so that a lost node is known within the lease.
        self.layout = Layout(config.prefix, config.replay, lease - 2 * check, lease * 2)
        self.link = Link(config.url, config.timeout, min(2.0, lease / 4))
        self.fleet = Fleet(node, self.link, self.layout, self.local, lease)
        self._loop: asyncio.Task[None] | None = None

    def attach(self, active: LocalActive, stop: LocalStop) -> None:
        super().attach(active, stop)
        self.local.attach(active, stop)

    async def start(self) -> None:
        with contextlib.suppress(Away):  # health() says so, and the loop goes on trying
            await self.fleet.beat(probe=True)
            await self.fleet.look()
        self._loop = asyncio.create_task(self.fleet.run(), name="registry")

    async def stop(self) -> None:
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
        for scope, ids in self.local.leases.items():
            for stream_id in ids:
                self.fleet.push(self.layout.release(scope, stream_id))
        self.fleet.push(Op("DEL", (self.layout.node_key("node", self.node),)))
        try:
            await self.fleet.flush()
        except Away:
            self.fleet.dropped += len(self.fleet.queue)
        await self.link.close()

    def opened(self, entry: Entry) -> None:
        self.local.opened(entry)
        self.fleet.push(self.layout.register(self.node, [entry]))

    def closed(self, receipt: Receipt, key_id: str) -> None:
        counts = self.local.settle(receipt)
        if counts is not None:
            self.fleet.push(self.layout.settle(receipt, self.node, counts[1:]))
            self.fleet.push(self.layout.keep_claim(receipt.stream_id))

    async def admit(self, scope: str, limit: int, stream_id: str) -> Admission:
        if not limit:
            return Admission(True)
        try:
            granted, held = await self.link.one(self.layout.admit(scope, stream_id, limit))
        except (Away, asyncio.CancelledError) as error:
            answer = self.local.admit_here(scope, limit, stream_id) if isinstance(error, Away) else None
            if answer is None or not answer.allowed:
                self.fleet.push(self.layout.release(scope, stream_id))  # it may have been granted over there
            if answer is None:
                raise
            return answer
        if granted:
            self.local.hold(scope, stream_id)
        return Admission(bool(granted), int(held), limit)

    def release(self, scope: str, stream_id: str) -> None:
        self.local.release(scope, stream_id)
        self.fleet.push(self.layout.release(scope, stream_id))

    async def claim(self, stream_id: str, owner: str) -> bool:
        if not self.local.claim_here(stream_id, owner):
            return False
        try:
            if await self.link.one(self.layout.claim(stream_id, owner)):
                return True
        except Away:
            return True
        self.local.unclaim(stream_id)
        return False

    def unclaim(self, stream_id: str) -> None:
        self.local.unclaim(stream_id)
        self.fleet.push(self.layout.unclaim(stream_id))

    async def active(self, owner: str | None) -> list[Entry]:
        others = [e for e in await self._others() if owner is None or e.owner == owner]
        mine = self.local.active_here(owner)
        return sorted(mine + others, key=lambda e: (e.started_at, e.stream_id))

    async def _others(self) -> list[Entry]:
        ops = [Op("HVALS", (self.layout.node_key("streams", n),)) for n in self.fleet.peers if n != self.node]
        answers = await self.link.ask(ops)
        found = [read_entry(raw) for part in answers if isinstance(part, list) for raw in part]
        return [e for e in found if e is not None]

    async def find(self, stream_id: str, owner: str | None) -> Entry | Receipt | None:
        found = self.local.find_here(stream_id, None) or (await self._abroad(stream_id))[0]
        return found if found is not None and owner in (None, found.owner) else None

    async def _abroad(self, stream_id: str) -> tuple[Entry | Receipt | None, str]:
        """A stream of any node and the node's name; a receipt before an entry."""
        nodes = self.fleet.peers
        ops = [Op("GET", (self.layout.node_key("receipt", n, stream_id),)) for n in nodes]
        ops += [Op("HGET", (self.layout.node_key("streams", n),), (stream_id,)) for n in nodes]
        answers = await self.link.ask(ops)
        for i, raw in enumerate(answers):
            if isinstance(raw, bytes):
                found = read_receipt(raw) if i < len(nodes) else read_entry(raw)
                if found is not None:
                    return found, nodes[i % len(nodes)]
        return None, ""

    async def cancel(self, stream_id: str, owner: str | None, *, by: str, reason: str, wait: float = 1.0) -> Cancelled:
        if self.local.find_here(stream_id, None) is not None:
            return self.local.cancel_here(stream_id, owner, by, reason)
        found, node = await self._abroad(stream_id)
        if found is None or owner not in (None, found.owner):
            return Cancelled("unknown")
        if isinstance(found, Receipt):
            return Cancelled("done", found.state, found)
        inbox = self.layout.node_key("inbox", node)
        wish = msgspec.json.encode({"by": by, "reason": reason})
        await self.link.ask([Op("HSET", (inbox,), (stream_id, wish)), Op("PEXPIRE", (inbox,), (_INBOX_MS,))])
        receipt = await self._await_receipt(node, stream_id, wait)
        return Cancelled("pending", found.state) if receipt is None else Cancelled("done", receipt.state, receipt)

    async def _await_receipt(self, node: str, stream_id: str, wait: float) -> Receipt | None:
        deadline = time.monotonic() + wait
        while (left := deadline - time.monotonic()) > 0 and self.link.healthy:
            await asyncio.sleep(min(_POLL, left))
            answers = await self.link.ask([Op("GET", (self.layout.node_key("receipt", node, stream_id),))])
            if answers and isinstance(answers[0], bytes):
                return read_receipt(answers[0])
        return None

    async def statistics(self, owner: str | None) -> dict[str, Any]:
        nodes = self.fleet.peers
        answers = await self.link.ask([Op("HGETALL", (self.layout.stats_key(n, owner),)) for n in nodes])
        if not answers:
            return self.local.statistics_here(owner)
        running = await self.active(owner)
        return snapshot(
            merge(_numbers(part) for part in answers),
            active=len(running),
            peak=max(self.local.peak(owner), self.fleet.peak if owner is None else 0),
            backends=Counter(e.backend for e in running),
            models=Counter(e.model for e in running),
        )

    def health(self) -> dict[str, Any]:
        well = self.link.healthy and not self.fleet.note
        found: dict[str, Any] = {
            "status": "healthy" if well else "degraded",
            "backend": "redis",
            "since": int(self.link.since * 1000),
            "nodes": len(self.fleet.peers),
            "active": len(self.local.running),
            "queued": len(self.fleet.queue),
            "dropped": self.fleet.dropped,
        }
        error = self.link.error or self.fleet.note
        return found | {"error": error} if error else found


def _numbers(raw: Any) -> dict[str, int]:
    if isinstance(raw, BaseException) or not raw:
        return {}
    pairs = raw.items() if isinstance(raw, dict) else zip(raw[::2], raw[1::2], strict=True)
    return {name.decode(): int(value) for name, value in pairs}
