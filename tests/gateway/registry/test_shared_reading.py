"""Streams of other nodes whose beginning is lost, as a node reads them. A real Redis."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from support.redis_server import BINARY, RedisServer
from support.registry_nodes import entry as entry_of

from gateway.registry.inheriting import Heirs
from gateway.registry.redis_client import Link
from gateway.registry.redis_layout import Layout
from gateway.registry.shared_entry import sealed
from gateway.registry.shared_layout import PAGE, SharedLayout, addition
from gateway.registry.shared_reading import Reading

pytestmark = pytest.mark.skipif(BINARY is None, reason="redis-server is not installed")
SHARED = SharedLayout("t", 60.0, 2.0, cluster=False)
LAYOUT = Layout("t", 60.0, 5.0, 10.0)
KEY = "x@o"


@pytest.fixture
async def link() -> AsyncIterator[Link]:
    """A connection to a Redis with a stream of more than a page, whose first entry was trimmed away."""
    with RedisServer() as server:
        made = Link(server.url, 1.0)
        made.recovered()
        words = [sealed("0-1", ("m", "{}")), *(sealed(f"{i}-0", ("d", "a")) for i in range(1, PAGE + 9))]
        answers = await made.batch(
            [SHARED.ship([(KEY, addition(i, max(0, i - 1), 60_000, 0, 0, one)) for i, one in enumerate(words)])]
        )
        assert answers[0] == list(range(1, PAGE + 10))
        server.command("LTRIM", SHARED.log(KEY), "1", "-1")
        yield made
        await made.close()


async def test_who_asks_for_one_is_told_and_others_are_read(link: Link) -> None:
    """A node asked for a stream that outgrew its cap would read its first page for ever, and no other stream."""

    async def nowhere(_stream_id: str, _owner: str) -> None:
        """No node names it."""

    reading = Reading(link, SHARED, dict, nowhere, cap=1 << 20, lease=2.0)
    running = asyncio.create_task(reading.run())
    try:
        async with asyncio.timeout(5):
            stream = await reading.open(KEY)
            other = await reading.open("y@o")
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    assert (stream.beginning_lost, stream.meta, other.beginning_lost) == (True, None, False)
    assert len(reading) == 0


async def test_one_is_buried(link: Link) -> None:
    """A node would look for the end of such a stream of a dead node for ever, and bury none of that node's."""

    heir = Heirs(
        "c", link, LAYOUT, SHARED, dict, 1 << 20, frozenset, lambda _key: False, lambda _op: None, lambda _node: None
    )
    heir.accept = lambda _legacy: True
    async with asyncio.timeout(5):
        (receipt,) = await heir.inherit("a", [entry_of("x", "o", survives=True)])
    assert (receipt.stream_id, receipt.state) == ("x", "node_lost")
