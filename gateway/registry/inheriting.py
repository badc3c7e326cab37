"""Streams of a node that is gone, as another node takes them over: fence the node, read what there is, claim it.

Law: one node wins a claim, by the log itself; whoever loses leaves the stream alone. A claimed stream has no receipt
before it ends on the node that claimed it. What cannot be claimed is given back, to be buried as lost. Some node's list
names a stream at all times: it leaves the lost node's only when a living one's has it, so that an heir may die, too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import structlog
from msgspec import Struct
from msgspec.structs import replace

from backends.base import Driver
from gateway.registry.base import Entry
from gateway.registry.last_receipts import ended, lost
from gateway.registry.redis_client import Link, Op
from gateway.registry.redis_layout import Layout
from gateway.registry.shared_layout import PAGE, SharedLayout, entries_of
from gateway.registry.shared_stream import SharedStream
from gateway.streams.legacy import Will, read_will
from gateway.streams.names import stream_key
from gateway.streams.stream import Identity, Receipt, Stream

log = structlog.get_logger(__name__)

# It goes on here; it is somebody else's; nobody can go on with it, or need: what it is to be buried with.
Became = Literal["taken", "left"] | Receipt
_AT_ONCE = 16  # streams that are read and claimed at the same time


class Legacy(Struct, frozen=True):
    """A claimed stream: who and what, all that was said, and how far its log is."""

    entry: Entry
    stream: SharedStream
    will: Will
    count: int


class Heirs:
    """`accept` goes on with a claimed stream; `living`: other nodes with a lease; `runs` tells whether a stream, by
    its key, runs here; `push` sends a command behind all that is under way, so behind the stream's registration;
    `after` hears of each node whose streams are taken over.
    `leaving`: this node ends soon; what is to be inherited it leaves to others, if there are any."""

    def __init__(
        self,
        node: str,
        link: Link,
        layout: Layout,
        shared: SharedLayout,
        drivers: Callable[[], Mapping[str, Driver]],
        cap: int,
        living: Callable[[], frozenset[str]],
        runs: Callable[[str], bool],
        push: Callable[[Op], None],
        after: Callable[[str], None],
    ) -> None:
        self._node, self._link, self._layout, self._shared = node, link, layout, shared
        self._drivers, self._cap, self._living, self._runs, self._push = drivers, cap, living, runs, push
        self._after = after
        self.accept: Callable[[Legacy], bool] | None = None
        self.leaving = False
        self._turn = asyncio.Semaphore(_AT_ONCE)
        self._claiming: set[str] = set()

    @property
    def open(self) -> bool:
        """Whether this node goes on with streams of others."""
        return self.accept is not None and not (self.leaving and self._living())

    async def inherit(self, node: str, entries: Sequence[Entry]) -> list[Receipt]:
        """Take over what can be taken over; returns the receipts of what is to be buried. Raises Away."""
        if not self.open or (await self._link.batch([self._layout.depose(node)]))[0] != 1:
            return []  # this node is ending: others will; or that one is back
        self._after(node)
        orphans = await self._unlisted(node, entries)
        found = await asyncio.gather(*(self._one(node, entry) for entry in orphans))
        if taken := found.count("taken"):
            log.warning("registry.inherited", node=node, streams=taken)
        return [became for became in found if isinstance(became, Receipt)]

    async def adopt(self, stream: SharedStream) -> bool:
        """Take over what no list names, though its log is open: its node died before the fleet had heard of it. False:
        it is left as it was. Raises Away."""
        carrier = stream.carrier or stream.identity.node
        if not stream.will or not self.open or carrier == self._node or carrier in self._living():
            return False
        if (await self._link.batch([self._layout.depose(carrier)]))[0] != 1:
            return False
        self._after(carrier)
        return await self._one(carrier, _entry_of(stream.identity)) == "taken"

    async def carried(self, entry: Entry) -> bool:
        """Whether another node goes on with a stream this node's list still names. Raises Away."""
        stream = await self._read(self._empty(stream_key(entry.stream_id, entry.owner)))
        return bool(stream.carrier) and stream.carrier != self._node

    def left(self, node: str, key: str) -> Op:
        """Strike a stream off the list of the node that lost it."""
        return Op("HDEL", (self._layout.node_key("streams", node),), (key,))

    async def _unlisted(self, node: str, entries: Sequence[Entry]) -> list[Entry]:
        """Those no living node has in its list; what runs here is struck off."""
        keys = [stream_key(entry.stream_id, entry.owner) for entry in entries]
        nodes = [self._node, *self._living()]
        lists = [self._layout.node_key("streams", name) for name in nodes]
        answers = await self._link.batch([Op("HEXISTS", (where,), (key,)) for key in keys for where in lists])
        found: list[Entry] = []
        for i, (key, entry) in enumerate(zip(keys, entries, strict=True)):
            here, *others = (answer == 1 for answer in answers[i * len(nodes) : (i + 1) * len(nodes)])
            if here and self._runs(key):
                self._push(self.left(node, key))
            elif not any(others):
                found.append(entry)
        return found

    async def _one(self, node: str, entry: Entry) -> Became:
        key = stream_key(entry.stream_id, entry.owner)
        async with self._turn:
            if key in self._claiming or self._runs(key):
                return "left"
            self._claiming.add(key)
            try:
                return await self._claimed(node, entry, key)
            finally:
                self._claiming.discard(key)

    async def _claimed(self, node: str, entry: Entry, key: str) -> Became:
        stream = await self._read(self._empty(key))
        carrier, will = stream.carrier, read_will(stream.will)
        if stream.state.terminal and carrier and carrier != node:
            self._push(self.left(node, key))  # it has its receipt where it went on
            return "left"
        now_ms = int(time.time() * 1000)
        if stream.state.terminal and stream.meta is not None and not stream.failure:
            return ended(entry, stream.state, stream.ending(), now_ms)  # its node died before it told the fleet
        if stream.meta is None or will is None or stream.failure or stream.transcript.base:
            return lost(entry, now_ms)
        if not self.open or (carrier != node and carrier in self._living()):
            return "left"  # the carrier's list will have it in a moment, or it dies, too
        count = (await self._link.batch([self._shared.inherit(key, self._node, stream.epoch)]))[0]
        if not isinstance(count, int) or not count:
            return "left"  # another node was first; what ended meanwhile is seen at the next look
        await self._read(stream)
        if stream.carrier != self._node or self.accept is None:
            return "left"  # this node has ended meanwhile: others will claim it again
        if not self._accepted(Legacy(entry, stream, will, count), self.accept):
            return lost(entry, now_ms)
        self._push(self.left(node, key))
        return "taken"

    @staticmethod
    def _accepted(legacy: Legacy, accept: Callable[[Legacy], bool]) -> bool:
        try:
            return accept(legacy)
        except Exception:  # it is this node's now: whatever went wrong, it must not be left to nobody
            log.exception("registry.not_inherited", stream=legacy.stream.key)
            return False

    def _empty(self, key: str) -> SharedStream:
        return SharedStream(key, self._drivers, self._cap, lambda _: None)

    async def _read(self, stream: SharedStream) -> SharedStream:
        """To the end of its log. Raises Away."""
        while True:
            try:
                page = entries_of((await self._link.batch([self._shared.read(stream.key, stream.after)]))[0])
            except ValueError:
                page = []
            stream.take(page)
            if len(page) < PAGE or not stream.readable:
                return stream


def _entry_of(who: Identity) -> Entry:
    """A stream as its node would have listed it."""
    return replace(Stream(who, 0.0).entry(), survives=True)
