"""Streams of other nodes, as this one asks Redis for them, and the wish that one be cancelled.

Law: nothing is concluded from a Redis that cannot be asked: a stream nobody names is unknown only when every list of
every node was read. Who cancels waits for the receipt, since only the node of the stream may write it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec

from backends.contract.errors import BackendError, ErrorCode
from gateway.registry.base import Cancelled, Entry
from gateway.registry.redis_client import Link, Op
from gateway.registry.redis_inbox import LIFE
from gateway.registry.redis_layout import Layout, pick, read_entry, read_receipt
from gateway.streams.names import stream_key
from gateway.streams.stream import Receipt

_POLL = 0.03  # seconds between looks for another node's receipt
_BLINK = 1.0  # seconds Redis may be away before a stream that is not here is called unknown


class Abroad:
    """`peers`: the nodes known, `node` first."""

    def __init__(self, node: str, link: Link, layout: Layout, peers: Callable[[], list[str]]) -> None:
        self._node, self._link, self._layout, self._peers = node, link, layout, peers

    async def running(self) -> list[Entry]:
        """Streams of all other nodes; none while Redis is away."""
        ops = [Op("HVALS", (self._layout.node_key("streams", n),)) for n in self._peers() if n != self._node]
        answers = await self._link.ask(ops)
        found = [read_entry(raw) for part in answers if isinstance(part, list) for raw in part]
        return [e for e in found if e is not None]

    async def find(self, stream_id: str, owner: str | None) -> tuple[Entry | Receipt | None, str]:
        """A stream of any node and the node's name; a receipt before an entry. Raises REGISTRY_AWAY when the others
        cannot be asked: that a stream is unknown here says nothing then."""
        nodes, asked = self._peers(), set[str]()
        while nodes:
            ops = [self._layout.receipt_of(n, stream_id, owner) for n in nodes]
            ops += [self._layout.entry_of(n, stream_id, owner) for n in nodes]
            answers = await self._link.ask([*ops, Op("ZRANGE", (self._layout.nodes,), (0, -1))], again=_BLINK)
            if not answers or not self._link.healthy:
                raise _away("streams of other nodes are out of sight")
            found: Entry | Receipt | None
            for i, raw in enumerate(answers[:-1]):
                found = pick(raw, stream_id, read_receipt) if i < len(nodes) else pick(raw, stream_id, read_entry)
                if found is not None:
                    return found, nodes[i % len(nodes)]
            asked.update(nodes)  # a node may have come since this one last looked who is there
            listed = answers[-1] if isinstance(answers[-1], list) else []
            nodes = [name for name in (raw.decode("utf-8", "replace") for raw in listed) if name not in asked]
        return None, ""

    async def cancel(self, stream_id: str, owner: str | None, by: str, reason: str, wait: float) -> Cancelled:
        """`Registry.cancel` of a stream that is not here. Raises REGISTRY_AWAY."""
        found, node = await self.find(stream_id, owner)
        if found is None:
            return Cancelled("unknown")
        if isinstance(found, Receipt):
            return Cancelled("done", found.state, found)
        inbox, key = self._layout.node_key("inbox", node), stream_key(stream_id, found.owner)
        wish = msgspec.json.encode({"by": by, "reason": reason})
        ops = [Op("HSET", (inbox,), (key, wish)), Op("PEXPIRE", (inbox,), (round(LIFE * 1000),))]
        answers = await self._link.ask(ops, again=_BLINK)
        if not answers or isinstance(answers[0], BaseException):  # a Redis that is full says no
            raise _away("the wish to cancel may not have reached the stream's node")
        receipt = await self._await_receipt(self._layout.receipt_of(node, stream_id, found.owner), wait)
        return Cancelled("pending", found.state) if receipt is None else Cancelled("done", receipt.state, receipt)

    async def _await_receipt(self, op: Op, wait: float) -> Receipt | None:
        deadline = time.monotonic() + wait
        while (left := deadline - time.monotonic()) > 0:
            await asyncio.sleep(min(_POLL, left))
            answers = await self._link.ask([op])  # none while Redis is away: it may be back in time
            if answers and isinstance(answers[0], bytes) and (receipt := read_receipt(answers[0])) is not None:
                return receipt
        return None


def _away(what: str) -> BackendError:
    return BackendError(ErrorCode.REGISTRY_AWAY, f"the shared registry cannot be reached now; {what}", retry_after=2)
