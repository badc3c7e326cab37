"""A node's housekeeping in Redis: flush, heartbeat, inbox of cancels, and now and then a look at the others.

Law: one loop, one step after the other; what fails is kept and repeated (every command is idempotent). Writes carry
this node's epoch: once the fleet has declared it lost they are refused, and the streams it had stop as `node_lost`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import uuid4

import structlog

from gateway.registry.memory import MemoryRegistry
from gateway.registry.redis_client import Away, Link, Op
from gateway.registry.redis_doubt import Doubt
from gateway.registry.redis_eviction import Eviction
from gateway.registry.redis_healing import healed
from gateway.registry.redis_inbox import Inbox
from gateway.registry.redis_last_lines import LastLines
from gateway.registry.redis_layout import LOST, STALE, Layout, read_receipt, registered_keys, settled_key
from gateway.registry.redis_news import News
from gateway.registry.redis_reaper import Reaper, lease_life, missed_for
from gateway.streams.names import split_key, stream_key

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
        self.lines = LastLines()
        self.doubt = Doubt(lease_life(lease) + missed_for(lease), lease / 3)
        self.reaper = Reaper(node, link, layout, local, lease, self.lines)
        self.inbox = Inbox(node, link, layout, local.running.__contains__, self._stop)
        self.leases: Callable[[], list[Op]] = list  # the commands that prolong the leases held here
        self.epoch = uuid4().hex
        self.queue: deque[Op] = deque()
        self._sent: list[Op] = []  # of the queue, and not answered yet
        self.dropped = 0
        self.eviction = Eviction(link)
        self.news = News(link, node)
        self._due = dict.fromkeys(("beat", "inbox", "check", "tidy", "policy"), 0.0)
        self._written: set[str] = set()  # running streams the fleet knows under this epoch
        self._lost: set[str] = set()  # those of the epoch that was declared lost: the fleet has ended them
        self._stale = False

    @property
    def peers(self) -> list[str]:
        """The nodes of the fleet, this one first."""
        return self.reaper.peers

    async def look(self) -> None:
        """See who is there. Raises Away."""
        await self.reaper.look()

    def push(self, op: Op) -> None:
        """Queue a command for the next flush; the oldest goes when there is no room."""
        if len(self.queue) >= _QUEUE:
            self.queue.popleft()
            self.dropped += 1
        self.queue.append(op)

    @property
    def pending(self) -> int:
        """Commands the fleet may not have heard of: they wait, or are on their way."""
        return len(self.queue) + len(self._sent)

    async def run(self) -> None:
        """The loop; ends by being cancelled between steps or within a wait that harms no connection."""
        while True:
            try:
                await self.step()
            except Away:
                pass  # `news` says so
            except Exception:
                log.exception("registry.step_failed")  # a fault of ours must not end the heartbeat
            self.news.look(time.monotonic())
            await asyncio.sleep(TICK)

    async def step(self) -> None:
        """What is due now. Raises Away."""
        now = time.monotonic()
        if not self.link.healthy:
            if now >= self.link.retry_at:
                await self.link.refresh()
                await self.beat(probe=True)
            return
        if self._stale or self._is_due("beat", now, self.lease / 3):
            await self.beat()
        await self.flush()
        if self._is_due("inbox", now, INBOX):
            await self.inbox.read(self.reaper.left)
        if self._is_due("check", now, self.reaper.check):
            await self.look()
            if self.reaper.emptied:
                self._due["beat"] = 0.0  # our streams, too, are not known there any more
        if self._is_due("tidy", now, self.lease):
            await self.reaper.tidy(self.epoch, lambda: not self.queue)
        if self._is_due("policy", now, POLICY):
            await self.eviction.look()

    def _is_due(self, name: str, now: float, period: float) -> bool:
        due = now >= self._due[name]
        if due:
            self._due[name] = now + period
        return due

    async def beat(self, *, probe: bool = False) -> None:
        """Renew the lease, register every running stream anew, prolong concurrency leases; the probe of the breaker."""
        sent = self.doubt.now
        before = (await self._ask(self.layout.beat(self.node, self.epoch), probe=probe))[0]
        if before == LOST:
            self._declared_lost()
            sent = self.doubt.now
            before = (await self._ask(self.layout.beat(self.node, self.epoch), probe=probe))[0]
        self.link.recovered()
        self._stale = False
        self._due["beat"] = time.monotonic() + self.lease / 3
        await self._register()
        if self._stale or not self.doubt.heard(sent):
            self._due["beat"] = 0.0
        if before != self.epoch.encode():
            self._due["tidy"] = 0.0

    async def _ask(self, ops: list[Op], *, probe: bool = False) -> list[Any]:
        return await healed(self.link, self.layout, ops, probe=probe)

    def _declared_lost(self) -> None:
        """This node was silent for longer than its lease: its streams have been ended without it."""
        self._lost, self._written, self.epoch = self._written, set(), uuid4().hex
        log.warning("registry.declared_lost", node=self.node, streams=len(self._lost))
        for key in self._lost & self.local.running.keys():
            self._lose(key)

    async def _register(self) -> None:
        running = self.local.local_active()
        entries = [e for e in running if self.local.ended(stream_key(e.stream_id, e.owner)) is None]
        self._written.intersection_update(self.local.running)
        ops = [self.layout.register(self.node, entries[i : i + _CHUNK]) for i in range(0, len(entries), _CHUNK)]
        ops += self.leases()
        for i in range(0, len(ops), _BATCH):
            await self._deliver(ops[i : i + _BATCH])

    async def flush(self) -> None:
        """Send the queue. What may not have arrived is put back, in order. A refused epoch waits for the next beat."""
        while self.queue and not self._stale:
            self._sent = [self.queue.popleft() for _ in range(min(_BATCH, len(self.queue)))]
            try:
                await self._deliver(self._sent)
            except BaseException:
                self.queue.extendleft(reversed(self._sent))
                raise
            finally:
                self._sent = []

    async def finish(self) -> None:
        """The last words: all that waits, then the farewell. Redis is asked once more, whatever the breaker says.
        Raises Away; what is in the queue then, the fleet may never hear of."""
        if not self.link.healthy:
            await self.link.refresh()
            await self.beat(probe=True)
        await self.flush()
        if self._stale:
            await self.beat()
            await self.flush()
        await self._ask(self.layout.farewell(self.node))

    @property
    def untold(self) -> set[str]:
        """Streams, by their key, whose end the fleet may not have heard of."""
        return {settled_key(op) for op in self.queue if op.name == "settle"}

    async def _deliver(self, ops: list[Op]) -> None:
        ready = [self._fenced(op) for op in ops]
        again = []
        for op, answer in zip(ready, await self._ask(ready), strict=True):
            if answer == STALE:
                self._stale = True
                if op.name == "settle":  # registrations are made anew by the beat
                    again.append(op)
            elif op.name == "register" and isinstance(answer, list):
                self._registered(op, answer)
            elif op.name == "settle" and answer == 1:
                self.lines.taken(settled_key(op))
            elif op.name in ("settle", "HGET") and isinstance(answer, bytes):
                self._adopt(answer)
        self.queue.extendleft(reversed(again))

    def _fenced(self, op: Op) -> Op:
        """A write under the present epoch. Of a stream the fleet has ended, only the receipt is asked for."""
        if op.name == "settle" and settled_key(op) in self._lost:
            stream_id, owner = split_key(settled_key(op))
            return self.layout.receipt_of(self.node, stream_id, owner)
        return self.layout.stamped(op, self.epoch)

    def _registered(self, op: Op, ended: list[bytes]) -> None:
        """Those that ended were buried by another node while we were away: they must not go on here."""
        self._written.update(registered_keys(op))
        for raw in ended:
            key = raw.decode()
            self._written.discard(key)
            if self.local.ended(key) is None:
                log.warning("registry.fenced", stream=key)
                self._lose(key)

    def _adopt(self, raw: bytes) -> None:
        receipt = read_receipt(raw)
        if receipt is None:
            return
        self.lines.there(receipt)
        if self.local.ended(stream_key(receipt.stream_id, receipt.owner)) != receipt:
            self.local.adopt(receipt)

    def _lose(self, key: str) -> None:
        self.doubt.decide(partial(self._stop, key, "gateway", "node_lost"))

    def _stop(self, key: str, by: str, reason: str) -> None:
        stream_id, owner = split_key(key)
        self.local.local_stop(stream_id, owner, by, reason)
