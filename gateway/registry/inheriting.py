"""Streams of a node that is gone, as another node takes them over: fence the node, read what there is, claim it.

Law: one node wins a claim, by the log itself; whoever loses leaves the stream alone. A claimed stream has no receipt
before it ends on the node that claimed it. What cannot be claimed is given back, to be buried as lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

import structlog
from msgspec import Struct

from backends.base import Driver
from gateway.registry.base import Entry
from gateway.registry.redis_client import Link, Op
from gateway.registry.redis_layout import Layout
from gateway.registry.shared_layout import PAGE, SharedLayout, entries_of
from gateway.registry.shared_stream import SharedStream
from gateway.streams.legacy import Will, read_will
from gateway.streams.names import stream_key

log = structlog.get_logger(__name__)

_AT_ONCE = 16  # streams that are read and claimed at the same time


class Legacy(Struct, frozen=True):
    """A claimed stream: who and what, all that was said, and how far its log is."""

    entry: Entry
    stream: SharedStream
    will: Will
    count: int


class Heirs:
    """`accept` goes on with a claimed stream; `alive` tells whether a node has a lease, `runs` whether a stream (by its
    key) runs here."""

    def __init__(
        self,
        node: str,
        link: Link,
        layout: Layout,
        shared: SharedLayout,
        drivers: Callable[[], Mapping[str, Driver]],
        cap: int,
        alive: Callable[[str], bool],
        runs: Callable[[str], bool],
    ) -> None:
        self._node, self._link, self._layout, self._shared = node, link, layout, shared
        self._drivers, self._cap, self._alive, self._runs = drivers, cap, alive, runs
        self.accept: Callable[[Legacy], bool] | None = None
        self._turn = asyncio.Semaphore(_AT_ONCE)

    async def inherit(self, node: str, entries: Sequence[Entry]) -> list[Entry]:
        """Take over what can be taken over; returns what is to be buried. Raises Away."""
        if self.accept is None:
            return []  # this node is ending: others will
        if (await self._link.batch([self._layout.depose(node)]))[0] != 1:
            return []  # it is back
        buried = await asyncio.gather(*(self._one(node, entry) for entry in entries))
        return [entry for entry, bury in zip(entries, buried, strict=True) if bury]

    async def carried(self, entry: Entry) -> bool:
        """Whether another node goes on with a stream this node's list still names. Raises Away."""
        stream = await self._read(self._empty(stream_key(entry.stream_id, entry.owner)))
        return bool(stream.carrier) and stream.carrier != self._node

    def left(self, node: str, key: str) -> Op:
        """Strike a stream off the list of the node that lost it."""
        return Op("HDEL", (self._layout.node_key("streams", node),), (key,))

    async def _one(self, node: str, entry: Entry) -> bool:
        """True: nobody goes on with it."""
        async with self._turn:
            key = stream_key(entry.stream_id, entry.owner)
            stream = await self._read(self._empty(key))
            will = read_will(stream.will)
            if stream.meta is None or will is None or stream.state.terminal or stream.failure or stream.transcript.base:
                return True
            carrier = stream.carrier or stream.identity.node
            if carrier != node and (self._runs(key) if carrier == self._node else self._alive(carrier)):
                await self._link.batch([self.left(node, key)])
                return False
            count = (await self._link.batch([self._shared.inherit(key, self._node, stream.epoch)]))[0]
            if not isinstance(count, int) or not count:
                return False  # another node was first; what ended meanwhile is seen at the next look
            await self._read(stream)
            if stream.carrier != self._node:
                return False
            if not self._accepted(Legacy(entry, stream, will, count)):
                return True
            await self._link.batch([self.left(node, key)])
            return False

    def _accepted(self, legacy: Legacy) -> bool:
        try:
            return self.accept is not None and self.accept(legacy)
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
            if len(page) < PAGE or stream.state.terminal:
                return stream
