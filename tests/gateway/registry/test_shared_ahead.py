"""What is written ahead by itself: when batches go, and how the wire they go by fails. A real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.redis_server import BINARY, RedisServer

from gateway.registry.redis_client import Away, Link, Op
from gateway.registry.shared_layout import SharedLayout
from gateway.registry.shared_pace import AheadPace
from gateway.registry.shared_wire import SocketWire

needs_redis = pytest.mark.skipif(BINARY is None, reason="redis-server is not installed")
NOTHING = SharedLayout("t", 60.0, 2.0, cluster=False).ship([("x@o", ("0 0 0 0 0", b""))])


def test_company_is_waited_for_where_there_is_some() -> None:
    """A lone stream would wait for nobody, or many would cost a batch for every token."""
    pace = AheadPace(0.008)
    assert 0.008 <= pace.rest(1) <= 0.012
    assert pace.rest(1) < pace.rest(4) < pace.rest(1000) <= 0.03
    assert AheadPace(0.2).rest(1000) == 0.2


class Ends:
    """What became of each batch."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.lost = 0
        self.heard = asyncio.Event()

    def told(self, answers: list[Any]) -> None:
        self.said.append(answers)
        self.heard.set()

    def gone(self) -> None:
        self.lost += 1
        self.heard.set()

    async def one(self) -> None:
        """Until the next end."""
        await asyncio.wait_for(self.heard.wait(), 5)
        self.heard.clear()


@pytest.fixture
async def redis() -> AsyncIterator[RedisServer]:
    with RedisServer() as server:
        yield server


@needs_redis
async def test_every_batch_has_one_end(redis: RedisServer) -> None:
    """Frames would never be shown where an answer got lost, or would be twice where it came after all."""
    link, ends = Link(redis.url, 0.2), Ends()
    link.recovered()
    wire = SocketWire(link, ends.told, ends.gone)
    assert not wire.open
    await wire.connect()
    wire.send([NOTHING, NOTHING])
    await ends.one()
    assert ends.said == [[[0], [0]]]
    redis.command("SCRIPT", "FLUSH")
    wire.send([NOTHING])
    await ends.one()
    assert (ends.lost, link.healthy, wire.open) == (1, True, False)
    await wire.connect()
    redis.command("CLIENT", "KILL", "TYPE", "normal")
    await asyncio.sleep(0.1)
    assert (ends.lost, link.healthy, wire.open) == (1, True, False)  # nothing was under way
    await wire.connect()
    redis.pause()
    wire.send([NOTHING])
    await ends.one()
    assert (ends.lost, link.healthy, wire.open) == (2, False, False)
    redis.resume()
    link.recovered()
    await wire.connect()
    wire.send([Op("NO-SUCH-COMMAND", ())])
    await ends.one()
    assert (ends.lost, link.healthy, len(ends.said)) == (3, False, 1)
    redis.kill()
    with pytest.raises(Away):
        await wire.connect()
    wire.close()
    await link.close()
