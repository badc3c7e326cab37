"""The shared registry: a MemoryRegistry for this node, and Redis for what the other nodes see.

Law: local truth first. No method waits for Redis longer than its time-out, none raises because of it, and without it
every answer is this node's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from config import schema
from gateway.registry.base import (
    Cancelled,
    Entry,
    Keyed,
    LocalActive,
    LocalOne,
    LocalStop,
    Quota,
    Rate,
    Registry,
    Taken,
)
from gateway.registry.memory import MemoryRegistry
from gateway.registry.redis_abroad import Abroad
from gateway.registry.redis_client import Away, Link
from gateway.registry.redis_figures import figures
from gateway.registry.redis_fleet import Fleet
from gateway.registry.redis_keys import Graves, RedisKeys
from gateway.registry.redis_layout import Layout
from gateway.registry.redis_quotas import RedisQuotas
from gateway.registry.redis_reaper import lease_life
from gateway.streams.names import stream_key
from gateway.streams.stream import Receipt

log = structlog.get_logger(__name__)


class RedisRegistry(Registry):
    """One worker's registry in a fleet. Make it where an event loop runs or will run; `start` connects."""

    def __init__(self, node: str, config: schema.Registry) -> None:
        self.node = node
        self.local = MemoryRegistry(node, config.replay)
        self.local_active: LocalActive = self.local.local_active
        self.local_stop: LocalStop = self.local.local_stop
        lease = max(0.5, float(config.lease))
        self.layout = Layout(config.prefix, config.replay, lease_life(lease), lease * 2)
        self.link = Link(config.url, config.timeout, min(2.0, lease / 4))
        self.fleet = Fleet(node, self.link, self.layout, self.local, lease)
        self.quotas = RedisQuotas(node, self.link, self.layout, self.local, self.fleet.push)
        self.fleet.leases = self.quotas.renewed
        self.abroad = Abroad(node, self.link, self.layout, lambda: self.fleet.peers)
        self.keys = RedisKeys(self.link, self.layout, self.fleet.push)
        self.graves = Graves(self.link, self.layout, self.fleet.push, there=config.share != "off")
        self._loop: asyncio.Task[None] | None = None

    def attach(self, active: LocalActive, stop: LocalStop, one: LocalOne | None = None) -> None:
        super().attach(active, stop, one)
        self.local.attach(active, stop, one)

    def last_lines(self, write: Callable[[Receipt], object]) -> None:
        self.fleet.lines.write = write

    def holds(self, act: Callable[[], object]) -> bool:
        return self.fleet.doubt.holds(act)

    def logs(self, receipt: Receipt) -> bool:
        return self.fleet.lines.wanted(receipt)

    async def start(self) -> None:
        with contextlib.suppress(Away):  # health() says so, and the loop goes on trying
            await self.fleet.beat(probe=True)
            await self.fleet.look()
            await self.fleet.eviction.look()
        self.fleet.news.look(time.monotonic())
        self.fleet.doubt.start()
        self._loop = asyncio.create_task(self.fleet.run(), name="registry")

    async def stop(self) -> None:
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
        self.fleet.doubt.stop()
        await self.fleet.reaper.stop()
        await self.quotas.settled()
        for scope, ids in self.local.leases.items():
            for stream_id in ids:
                self.fleet.push(self.layout.release(scope, stream_id))
        try:
            await self.fleet.finish()
        except Away as error:  # the log has every receipt; of the rest others bury what they have heard of, as lost
            log.warning("registry.untold", node=self.node, streams=len(self.fleet.untold), error=str(error))
        self.fleet.lines.rest(self.fleet.lines.waiting)
        await self.link.close()

    def opened(self, entry: Entry) -> None:
        before = {owner: self.local.peak(owner) for owner in (None, entry.owner)}
        self.local.opened(entry)
        self.fleet.push(self.layout.register(self.node, [entry]))
        for owner, most in before.items():
            if self.local.peak(owner) > most:
                self.fleet.push(self.layout.peak(owner, most + 1))

    def closed(self, receipt: Receipt, key_id: str) -> None:
        counts = self.local.settle(receipt)
        if counts is not None:
            self.fleet.lines.ended(receipt)
            self.fleet.push(self.layout.settle(receipt, self.node, counts[1:]))
            key = stream_key(receipt.stream_id, receipt.owner)
            self.fleet.push(self.layout.keep_claim(key))
            self.graves.add(key, receipt.state)

    def moved(self, entry: Entry) -> None:
        self.local.moved(entry)

    def hold(self, scope: str, stream_id: str) -> None:
        self.local.hold(scope, stream_id)
        self.fleet.push(self.layout.renew(scope, [stream_id]))

    def let_go(self, scope: str, stream_id: str) -> None:
        self.local.let_go(scope, stream_id)

    async def take(
        self, stream_id: str, quotas: Sequence[Quota], rates: Sequence[Rate] = (), *, alone: bool = True
    ) -> Taken:
        return await self.quotas.take(stream_id, quotas, rates, alone)

    def charge(self, rates: Sequence[Rate]) -> None:
        self.quotas.charge(rates)

    def release(self, scope: str, stream_id: str) -> None:
        self.quotas.release(scope, stream_id)

    async def claim(self, stream_id: str, owner: str) -> bool:
        token = self.local.claim_here(stream_id, owner)
        if not token:
            return False
        key = stream_key(stream_id, owner)
        op = self.layout.claim(key, token)
        asking = asyncio.ensure_future(self.link.one(op))
        try:
            if await asyncio.shield(asking):
                return True
        except Away:
            self.fleet.push(op)  # this node's word until Redis is back, and the fleet's then
            return True
        except asyncio.CancelledError:
            self.local.unclaim_here(stream_id, owner)
            asking.add_done_callback(lambda done: self._take_back(done, key, token))
            raise
        self.local.unclaim_here(stream_id, owner)
        return False

    def _take_back(self, asked: asyncio.Future[Any], key: str, token: str) -> None:
        """The caller left before its claim was granted: it may have been, now or (when it failed) later."""
        if not asked.cancelled():
            asked.exception()
        self.fleet.push(self.layout.unclaim(key, token))

    async def unclaim(self, stream_id: str, owner: str) -> None:
        token = self.local.unclaim_here(stream_id, owner)
        key = stream_key(stream_id, owner)
        receipt = self.local.ended(key)
        if receipt is not None:
            self.fleet.push(self.layout.forget(self.node, receipt))  # behind it
            self.unbury(stream_id, owner)
        op = self.layout.unclaim(key, token)
        if self.fleet.pending:
            self.fleet.push(op)  # its claim may be among them
        try:
            await self.link.one(op)
        except Away:
            self.fleet.push(op)
        except asyncio.CancelledError:
            self.fleet.push(op)
            raise

    async def buried(self, stream_id: str, owner: str) -> str:
        return await self.graves.find(stream_id, owner)

    def unbury(self, stream_id: str, owner: str) -> None:
        self.graves.drop(stream_id, owner)

    async def take_key(self, owner: str, key: str, mine: Keyed, instead: Keyed | None = None) -> Keyed | None:
        return await self.keys.take(owner, key, mine, instead)

    async def kept_key(self, owner: str, key: str) -> Keyed | None:
        return await self.keys.find(owner, key)

    def keep_key(self, owner: str, key: str, mine: Keyed, stream_id: str) -> None:
        self.keys.keep(owner, key, mine, stream_id)

    async def claim_probe(self, backend: str, seconds: float) -> bool:
        if not self.local.claim_probe_here(backend, seconds):
            return False
        try:
            granted = await self.link.one(self.layout.claim_probe(backend, self.node, seconds))
        except Away:
            return True  # each worker for itself meanwhile
        if not granted:
            self.local.unclaim_probe(backend)
        return bool(granted)

    def unclaim_probe(self, backend: str) -> None:
        self.local.unclaim_probe(backend)
        self.fleet.push(self.layout.unclaim_probe(backend, self.node))

    async def active(self, owner: str | None) -> list[Entry]:
        mine = self.local.active_here(owner)
        here = {stream_key(e.stream_id, e.owner) for e in mine}  # what was inherited may be in a lost node's list, too
        found = [e for e in await self.abroad.running() if owner is None or e.owner == owner]
        others = {key: e for e in found if (key := stream_key(e.stream_id, e.owner)) not in here}
        return sorted([*mine, *others.values()], key=lambda e: (e.started_at, e.stream_id))

    async def find(self, stream_id: str, owner: str | None) -> Entry | Receipt | None:
        here = self.local.find_here(stream_id, owner)
        if here is None or (isinstance(here, Receipt) and self.local.refused(stream_key(stream_id, here.owner))):
            return (await self.abroad.find(stream_id, owner))[0] or here
        return here

    async def cancel(self, stream_id: str, owner: str | None, *, by: str, reason: str, wait: float = 1.0) -> Cancelled:
        if self.local.find_here(stream_id, owner) is not None:
            return self.local.cancel_here(stream_id, owner, by, reason)
        return await self.abroad.cancel(stream_id, owner, by, reason, wait)

    async def statistics(self, owner: str | None) -> dict[str, Any]:
        running = await self.active(owner)
        try:
            if not self.partial:
                peak = self.local.peak(owner)
                return await figures(self.link, self.layout, self.fleet.peers, owner, running, peak)
        except Away:
            pass
        return self.local.statistics_here(owner) | {"partial": True}

    @property
    def partial(self) -> bool:
        return not self.link.healthy

    def health(self) -> dict[str, Any]:
        well = self.link.healthy and not self.fleet.eviction.note
        found: dict[str, Any] = {
            "status": "healthy" if well else "degraded",
            "backend": "redis",
            "since": int(self.link.since * 1000),
            "nodes": len(self.fleet.peers),
            "active": len(self.local.running),
            "queued": self.fleet.pending,
            "dropped": self.fleet.dropped,
        }
        error = self.link.error or self.fleet.eviction.note
        return found | {"error": error} if error else found
