"""A node's housekeeping in Redis: flush, heartbeat, inbox of cancels, and the reaping of nodes that are gone.

Law: one loop, one step after the other; what fails is kept and repeated (every command is idempotent), and nothing is
judged about others unless this node has itself seen Redis well for a whole lease.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any
from uuid import uuid4

import msgspec
import structlog

from gateway.registry.base import Entry, LocalStop
from gateway.registry.memory import MemoryRegistry
from gateway.registry.redis_client import Away, Link, Op
from gateway.registry.redis_layout import Layout, lost, read_entry
from gateway.registry.statistics import Fold

log = structlog.get_logger(__name__)

TICK = 0.05  # seconds between flushes
INBOX = 0.1  # seconds between looks at the inbox: polled, so a lost message is no harm
POLICY = 30.0  # seconds between looks at the eviction policy
_BATCH = 500  # commands of one pipeline
_CHUNK = 200  # streams of one register script
_QUEUE = 20_000  # commands kept while Redis is away


class Fleet:
    """This node among the others."""

    def __init__(self, node: str, link: Link, layout: Layout, local: MemoryRegistry, lease: float) -> None:
        self.node = node
        self.link = link
        self.layout = layout
        self.local = local
        self.lease = lease
        self.check = min(1.0, lease / 8)
        self.epoch = uuid4().hex
        self.queue: deque[Op] = deque()
        self.dropped = 0
        self.peers: list[str] = [node]
        self.peak = 0
        self.note = ""
        self._suspects: dict[str, float] = {}
        self._due = dict.fromkeys(("beat", "inbox", "check", "policy"), 0.0)
        self._looked = 0.0
        self._wills = Fold()  # bounds the labels of streams this node buries

    def push(self, op: Op) -> None:
        """Queue a command for the next flush; the oldest goes when there is no room."""
        if len(self.queue) >= _QUEUE:
            self.queue.popleft()
            self.dropped += 1
        self.queue.append(op)

    async def run(self) -> None:
        """The loop; ends by being cancelled between steps or within a wait that harms no connection."""
        while True:
            try:
                await self.step()
            except Away as error:
                log.debug("registry.away", error=str(error))
            except Exception:
                log.exception("registry.step_failed")  # a fault of ours must not end the heartbeat
            await asyncio.sleep(TICK)

    async def step(self) -> None:
        """What is due now. Raises Away."""
        now = time.monotonic()
        if not self.link.healthy:
            if now >= self.link.retry_at:
                await self.beat(probe=True)
            return
        if self._is_due("beat", now, self.lease / 3):
            await self.beat()
        await self.flush()
        if self._is_due("inbox", now, INBOX):
            await self.read_inbox()
        if self._is_due("check", now, self.check):
            await self.look()
        if self._is_due("policy", now, POLICY) and not self.link.cluster:
            await self.check_policy()

    def _is_due(self, name: str, now: float, period: float) -> bool:
        due = now >= self._due[name]
        if due:
            self._due[name] = now + period
        return due

    async def beat(self, *, probe: bool = False) -> None:
        """Renew the lease, register every running stream anew, prolong concurrency leases; the probe of the breaker."""
        before = (await self.link.batch(self.layout.beat(self.node, self.epoch), probe=probe))[0]
        if not self.link.healthy:
            self.link.recovered()
            log.info("registry.connected", node=self.node)
        self._due["beat"] = time.monotonic() + self.lease / 3
        await self._register()
        if before not in (self.epoch.encode(), self.epoch):
            await self._bury_own()

    async def _register(self) -> None:
        entries = [e for e in self.local.local_active() if self.local.ended(e.stream_id) is None]
        ops = [self.layout.register(self.node, entries[i : i + _CHUNK]) for i in range(0, len(entries), _CHUNK)]
        ops += [self.layout.renew(scope, sorted(ids)) for scope, ids in self.local.leases.items()]
        for i in range(0, len(ops), _BATCH):
            await self._deliver(ops[i : i + _BATCH])

    async def flush(self) -> None:
        """Send the queue. What may not have arrived is put back, in order."""
        while self.queue:
            batch = [self.queue.popleft() for _ in range(min(_BATCH, len(self.queue)))]
            try:
                await self._deliver(batch)
            except BaseException:
                self.queue.extendleft(reversed(batch))
                raise

    async def _deliver(self, ops: list[Op]) -> None:
        for op, answer in zip(ops, await self.link.batch(ops), strict=True):
            if isinstance(answer, BaseException):
                log.warning("registry.corrupt_key", keys=op.keys[:2], error=str(answer))
            elif op.name == "register":
                self._fence(answer)

    def _fence(self, ended: list[bytes]) -> None:
        """Another node buried these while we were away: they must not go on here."""
        for raw in ended:
            stream_id = raw.decode()
            if self.local.ended(stream_id) is None:
                log.warning("registry.fenced", stream=stream_id)
                self._stop(stream_id, "gateway", "node_lost")

    def _stop(self, stream_id: str, by: str, reason: str) -> None:
        stop: LocalStop = self.local.local_stop
        stop(stream_id, by, reason)

    async def read_inbox(self) -> None:
        """Cancels other nodes asked of this one: done first, struck off after, so none is lost in between."""
        key = self.layout.node_key("inbox", self.node)
        answer = (await self.link.batch([Op("HGETALL", (key,))]))[0]
        if not answer or isinstance(answer, BaseException):
            return
        wishes = answer if isinstance(answer, dict) else dict(zip(answer[::2], answer[1::2], strict=True))
        for raw_id, raw in wishes.items():
            wish = msgspec.json.decode(raw, type=dict[str, str])
            if raw_id.decode() in self.local.running:
                self._stop(raw_id.decode(), wish["by"], wish["reason"])
        await self.link.batch([Op("HDEL", (key,), tuple(wishes))])

    async def look(self) -> None:
        """Who is there; bury the streams of a node found without a lease twice in a row."""
        now = time.monotonic()
        if now - self._looked > self.check * 4 + 0.5:
            self._suspects.clear()  # we were away ourselves
        self._looked = now
        names = (await self.link.batch([Op("ZRANGE", (self.layout.nodes,), (0, -1))]))[0]
        self.peers = [self.node, *(n for n in (raw.decode() for raw in names) if n != self.node)]
        ops = [Op("EXISTS", (self.layout.node_key("node", n),)) for n in self.peers]
        ops += [Op("HLEN", (self.layout.node_key("streams", n),)) for n in self.peers]
        answers = await self.link.batch(ops)
        alive, sizes = answers[: len(self.peers)], answers[len(self.peers) :]
        self.peak = max(self.peak, sum(n for n in sizes if isinstance(n, int)))
        gone = {n for n, a, size in zip(self.peers, alive, sizes, strict=True) if a == 0 and size and n != self.node}
        sure = now - self.link.up_since >= self.lease  # after an outage the others need time to return
        for node in gone & self._suspects.keys() if sure else ():
            await self._bury(node, await self._entries(node), if_dead=True)
        self._suspects = dict.fromkeys(gone, now)

    async def _entries(self, node: str) -> list[Entry]:
        raw = (await self.link.batch([Op("HVALS", (self.layout.node_key("streams", node),))]))[0]
        found = [] if isinstance(raw, BaseException) else [read_entry(item) for item in raw]
        return [entry for entry in found if entry is not None]

    async def _bury_own(self) -> None:
        """Streams of an earlier life of this node (it was restarted under the same name)."""
        own = {e.stream_id for e in self.local.local_active()}
        left = [e for e in await self._entries(self.node) if e.stream_id not in own]
        await self._bury(self.node, [e for e in left if self.local.ended(e.stream_id) is None], if_dead=False)

    async def _bury(self, node: str, entries: list[Entry], *, if_dead: bool) -> None:
        ops = []
        for entry in entries:
            receipt = lost(entry, int(time.time() * 1000))
            ops.append(self.layout.settle(receipt, node, self._wills.add(receipt)[:1], if_dead=if_dead))
        for i in range(0, len(ops), _BATCH):
            await self._deliver(ops[i : i + _BATCH])
        if entries:
            log.warning("registry.node_lost", node=node, streams=len(entries))

    async def check_policy(self) -> None:
        """A server that evicts keys may forget streams: say so."""
        info: dict[str, Any] = await self.link.run(lambda client: client.info("memory"))
        policy = str(info.get("maxmemory_policy", "noeviction"))
        note = "" if policy == "noeviction" else f"maxmemory-policy {policy} may evict streams; set noeviction"
        if note and note != self.note:
            log.warning("registry.evicting_policy", policy=policy)
        self.note = note
