"""Whose streams have nobody any more: nodes that are gone, and entries of this node that no stream stands behind.

Law: nothing is judged about others unless this node has itself seen Redis well for a whole lease, and nobody is buried
who was not missed for longer than a heartbeat takes: a jump of Redis's clock ends every lease at once, or none in an
hour, and neither may count. A node that has said its farewell is gone at once. What cannot be read is set aside, not
judged.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Container
from typing import Any

import structlog

from gateway.registry.base import Entry
from gateway.registry.inheriting import Heirs
from gateway.registry.last_receipts import lost
from gateway.registry.living import Living
from gateway.registry.memory import MemoryRegistry
from gateway.registry.redis_client import Away, Link, Op
from gateway.registry.redis_healing import healed
from gateway.registry.redis_last_lines import LastLines
from gateway.registry.redis_layout import FAREWELL, REMEMBER_MS, STALE, Layout, read_entry, read_named
from gateway.registry.redis_unanswered import Unanswered
from gateway.registry.statistics import Fold
from gateway.streams.names import stream_key
from gateway.streams.stream import Receipt

log = structlog.get_logger(__name__)

_BATCH = 500  # commands of one pipeline
_AT_ONCE = 100  # streams that are buried in one go, and logged


def check_every(lease: float) -> float:
    """Seconds between two looks."""
    return min(1.0, lease / 8)


def missed_for(lease: float) -> float:
    """Seconds a node must have been without a lease: a living one renews it in less (every third of a lease)."""
    return lease / 3 + check_every(lease)


def lease_life(lease: float) -> float:
    """Seconds the key of a lease lives: so that a lost node is known within the lease, all in all."""
    return lease - missed_for(lease) - check_every(lease)


class Reaper:
    """The looks one node takes at the fleet. `peers`: the nodes known, this one first."""

    def __init__(
        self, node: str, link: Link, layout: Layout, local: MemoryRegistry, lease: float, lines: LastLines
    ) -> None:
        self._node, self._link, self._layout, self._local, self._lines = node, link, layout, local, lines
        self._lease = lease
        self.check = check_every(lease)
        self.peers: list[str] = [node]
        self._most = 0  # running streams of the fleet that were seen at once
        self._seen: dict[str, int] = {}  # nodes, and when in Unix milliseconds they were seen
        self.emptied = False  # the last look found a server that had forgotten nodes
        self._missed: dict[str, float] = {}  # since when, in monotonic seconds
        self._looked = 0.0
        self.alive: frozenset[str] = frozenset()  # other nodes with a lease, or without for less than makes one lost
        self._living = Living(layout.holds, missed_for(lease))
        self.heirs: Heirs | None = None  # goes on with what survives its node
        self._inheriting: dict[str, asyncio.Task[None]] = {}
        self._moved: dict[str, float] = {}  # streams of this node that others are to claim: until when they may
        self._unanswered = Unanswered()
        self._wills = Fold()  # bounds the labels of streams this node buries

    async def look(self) -> None:
        """Who is there; bury the streams of a node that has been without a lease for long enough. Raises Away."""
        now = time.monotonic()
        if now - self._looked > self.check * 4 + 0.5:
            self._missed.clear()  # we were away ourselves
        self._looked = now
        if self._unanswered:
            await self._recall(now)
        gone, left = await self._gone()
        self._missed = {node: self._missed.get(node, now) for node in gone}
        for node in left:
            await self._bury(node)
        if now - self._link.up_since < self._lease:
            return  # after an outage the others need time to return
        for node, since in self._missed.items():
            if now - since >= missed_for(self._lease):
                await self._bury(node)

    def moved(self, key: str) -> None:
        """A stream of this node is another's to go on with: it stays in the list until it is claimed."""
        self._moved[key] = time.monotonic() + 2 * self._lease

    @property
    def left(self) -> Container[str]:
        """Streams of this node that wait to be claimed."""
        return self._moved.keys()

    async def _gone(self) -> tuple[set[str], set[str]]:
        """The nodes with streams and without a lease; and those of them that have said farewell."""
        self.peers = [self._node, *(name for name in await self._named() if name != self._node)]
        key = self._layout.node_key
        ops = [Op("PTTL", (key("node", n),)) for n in self.peers]
        ops += [Op("HLEN", (key("streams", n),)) for n in self.peers]
        answers = await healed(self._link, self._layout, ops)
        lives, sizes = answers[: len(self.peers)], answers[len(self.peers) :]
        active = sum(n for n in sizes if isinstance(n, int))
        if active > self._most:
            self._most = active
            await self._send([self._layout.peak(None, active)])
        self.alive = self._living.seen(dict(zip(self.peers[1:], lives[1:], strict=True)), time.monotonic())
        listed = zip(self.peers, lives, sizes, strict=True)
        gone = {n: life for n, life, size in listed if size and n != self._node and not self._layout.holds(life)}
        kept = [n for n, life in gone.items() if isinstance(life, int) and life >= 0]  # not a lease, but something
        said = await healed(self._link, self._layout, [Op("GET", (key("node", n),)) for n in kept]) if kept else []
        left = {n for n, word in zip(kept, said, strict=True) if word == FAREWELL}
        return gone.keys() - left, left

    async def _named(self) -> list[str]:
        """The nodes there are. Those a server has forgotten before their time (it was emptied) are named anew, as last
        seen: their counters would be out of sight until their next heartbeat, which may never come."""
        listed = (await healed(self._link, self._layout, [self._layout.named()]))[0]
        seen, known = read_named(listed), self._seen
        newest = max([*seen.values(), *known.values()], default=0)
        missing = {n: at for n, at in known.items() if n not in seen and at > newest - REMEMBER_MS}
        self.emptied = bool(missing)
        self._seen = seen | missing
        await self._send([self._layout.name_again(name, at) for name, at in missing.items()])
        return list(self._seen)

    async def _entries(self, node: str) -> list[Entry]:
        """A node's list; what nobody can read leaves it."""
        raw = (await healed(self._link, self._layout, [Op("HGETALL", (self._layout.node_key("streams", node),))]))[0]
        pairs = raw.items() if isinstance(raw, dict) else zip(raw[::2], raw[1::2], strict=True)
        found: list[Entry] = []
        aside: list[Op] = []
        for field, value in pairs:
            entry = read_entry(value)
            if entry is None or stream_key(entry.stream_id, entry.owner) != field.decode("utf-8", "replace"):
                log.warning("registry.corrupt_entry", node=node, field=field[:100])
                aside += self._layout.set_aside(node, field, value)
            else:
                found.append(entry)
        await self._send(aside)
        return found

    async def _bury(self, node: str) -> None:
        entries = await self._entries(node)
        surviving = [entry for entry in entries if entry.survives and self.heirs is not None]
        if surviving and node not in self._inheriting:
            task = asyncio.create_task(self._inherit(node, surviving), name="inherit")
            self._inheriting[node] = task
        now_ms = int(time.time() * 1000)
        await self._bury_all(node, [lost(entry, now_ms) for entry in entries if entry not in surviving])

    async def _inherit(self, node: str, entries: list[Entry]) -> None:
        """Beside the heartbeat: reading and claiming many streams takes longer than one may last."""
        try:
            assert self.heirs is not None
            await self._bury_all(node, await self.heirs.inherit(node, entries))
        except Away:
            pass  # the next look tries again
        except Exception:
            log.exception("registry.inherit_failed", node=node)
        finally:
            self._inheriting.pop(node, None)

    async def stop(self) -> None:
        """What is being inherited is left to others, or was claimed and is opened."""
        for task in list(self._inheriting.values()):
            task.cancel()
        await asyncio.gather(*self._inheriting.values(), return_exceptions=True)

    async def _bury_all(self, node: str, receipts: list[Receipt]) -> None:
        for i in range(0, len(receipts), _AT_ONCE):
            some = receipts[i : i + _AT_ONCE]
            ops = [self._layout.bury(receipt, node, self._wills.add(receipt)[:1]) for receipt in some]
            answers = zip(some, await self._settled(node, some, ops), strict=True)
            await self._buried(node, [receipt for receipt, answer in answers if answer == 1])
        if receipts:
            log.warning("registry.node_lost", node=node, streams=len(receipts))

    async def _buried(self, node: str, receipts: list[Receipt]) -> None:
        for receipt in receipts:
            self._lines.wrote(receipt)
        await self._release(node, [stream_key(receipt.stream_id, receipt.owner) for receipt in receipts])

    async def _settled(self, node: str, receipts: list[Receipt], ops: list[Op]) -> list[Any]:
        """Send the ends of a node's streams. Raises Away: whether they were taken is seen later."""
        try:
            return await self._send(ops)
        except Away:
            self._unanswered.add(node, receipts, time.monotonic() + 2 * self._lease)
            raise

    async def _recall(self, now: float) -> None:
        async def read(asked: list[tuple[str, Receipt]]) -> list[Any]:
            return await self._send([self._layout.receipt_of(node, r.stream_id, r.owner) for node, r in asked])

        for node, receipt in await self._unanswered.there(read, now):
            await self._buried(node, [receipt])

    async def _release(self, node: str, keys: list[str]) -> None:
        """Give back the leases of streams that were buried: nobody else will."""
        scopes = (await healed(self._link, self._layout, [Op("SMEMBERS", (self._layout.node_key("scopes", node),))]))[0]
        if keys and not isinstance(scopes, BaseException):
            names = [raw.decode("utf-8", "replace") for raw in scopes]
            await self._send([Op("ZREM", (self._layout.scope_key(name),), tuple(keys)) for name in names])

    async def tidy(self, epoch: str, flushed: Callable[[], bool]) -> None:
        """Entries of this node that no running stream stands behind: an earlier life's, or of writes that were lost.
        Nothing is judged while writes wait in the queue. Raises Away."""
        now = time.monotonic()
        self._moved = {key: until for key, until in self._moved.items() if until > now}
        entries = await self._entries(self._node)
        if not flushed():
            return
        unsaid, receipts = self._lines.waiting, []
        for entry in entries:
            key = stream_key(entry.stream_id, entry.owner)
            if key in self._local.running or key in self._moved:
                continue
            if not await self._carried(entry):
                receipts.append(self._local.ended(key) or lost(entry, int(time.time() * 1000)))
        ops = [self._layout.settle(receipt, self._node, self._wills.add(receipt)[:1]) for receipt in receipts]
        mine = [r for r in receipts if self._lines.wanted(r)]  # of others this node has logged the end
        new = [r for r in mine if stream_key(r.stream_id, r.owner) not in unsaid]
        answers = await self._settled(self._node, new, [self._layout.stamped(op, epoch) for op in ops])
        for receipt, answer in zip(receipts, answers, strict=True):
            if answer == 1 and receipt in mine:
                self._lines.wrote(receipt)
        if STALE not in answers:
            self._lines.rest(unsaid)

    async def _carried(self, entry: Entry) -> bool:
        """Whether another node goes on with it; then it only leaves this node's list."""
        if not entry.survives or self.heirs is None or not await self.heirs.carried(entry):
            return False
        await self._send([self.heirs.left(self._node, stream_key(entry.stream_id, entry.owner))])
        return True

    async def _send(self, ops: list[Op]) -> list[Any]:
        answers: list[Any] = []
        for i in range(0, len(ops), _BATCH):
            answers += await healed(self._link, self._layout, ops[i : i + _BATCH])
        return answers
