"""A node that stops tells the fleet all it knows, whatever state its own view of Redis is in."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs
from support.redis_server import BINARY, RedisServer
from support.registry_nodes import Node, until

from gateway.streams.stream import Receipt

pytestmark = pytest.mark.skipif(BINARY is None, reason="redis-server is not installed")


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


async def counts(at: Node, **states: int) -> bool:
    """Whether the fleet, asked at a node, has counted exactly so many streams of these states."""
    found = (await at.registry.statistics(None))["states"]
    return {state: n for state, n in found.items() if n} == states


async def ended(at: Node, stream_id: str, state: str) -> bool:
    found = await at.registry.find(stream_id, "acme")
    return isinstance(found, Receipt) and found.state == state


async def test_a_redis_that_forgot_who_is_leaving(server: RedisServer) -> None:
    """A node's name is written by its heartbeat; one that stops before the next one, after Redis was emptied, would
    leave counters and receipts under a name nobody knows: its last streams would have never been."""
    async with Node("stays", server.url) as stays:
        async with Node("leaves", server.url, lease=60.0) as leaves:
            server.command("FLUSHALL")
            leaves.open("s1")
            leaves.close("s1")
        assert await until(lambda: counts(stays, completed=1))
        assert await until(lambda: ended(stays, "s1", "completed"))


async def test_declared_lost_and_told_to_stop(server: RedisServer) -> None:
    """A node that learns only from its last flush that the fleet has buried it would take its newest receipts along."""
    async with Node("stays", server.url) as stays:
        async with Node("leaves", server.url) as leaves:
            leaves.open("s1")
            assert await until(lambda: _listed(stays, "s1"))
            leaves.freeze()
            assert await until(lambda: ended(stays, "s1", "node_lost"))
            leaves.close("s1")
            leaves.open("s2")
            leaves.close("s2")
        assert await until(lambda: counts(stays, node_lost=1, completed=1))
        assert await until(lambda: ended(stays, "s2", "completed"))


async def _listed(at: Node, stream_id: str) -> bool:
    return stream_id in [entry.stream_id for entry in await at.registry.active(None)]


async def test_a_breaker_that_is_open_still(server: RedisServer) -> None:
    """Redis is back, and this node has not looked again yet: streams that ended well would be buried as lost by others
    a lease later, and those nobody had heard of would have never been."""
    async with Node("stays", server.url) as stays:
        async with Node("leaves", server.url, lease=60.0) as leaves:
            leaves.open("s1")
            assert await until(lambda: _listed(stays, "s1"))
            leaves.freeze()
            leaves.registry.link.trip("a stumble")
            leaves.close("s1")
            leaves.open("s2")
            leaves.close("s2")
        assert await until(lambda: counts(stays, completed=2))


async def test_a_redis_that_is_away_for_good(server: RedisServer) -> None:
    """Nobody can be told then: the node must still end in time, and say how many receipts only its log has."""
    leaves = Node("leaves", server.url)
    await leaves.registry.start()
    leaves.open("s1")
    leaves.open("s2")
    server.kill()
    leaves.close("s1")
    began = time.monotonic()
    with capture_logs() as logs:
        await leaves.registry.stop()
    assert time.monotonic() - began < 10
    assert [line["streams"] for line in logs if line["event"] == "registry.untold"] == [1]


async def test_a_refused_stream_that_is_told_twice(server: RedisServer) -> None:
    """Whose stream was refused may use its id again, so its receipt is taken away: a batch that is repeated, since its
    answer was lost or the node was told to stop meanwhile, would find none and count the stream once more."""
    async with Node("stays", server.url) as stays:
        async with Node("leaves", server.url) as leaves:
            assert await until(lambda: len(stays.registry.fleet.peers) == 2)
            leaves.freeze()
            leaves.open("s1")
            leaves.close("s1", "timed_out")
            await leaves.registry.unclaim("s1", "acme")
            queue = leaves.registry.fleet.queue
            batch = list(queue)
            await leaves.registry.fleet.flush()
            assert await stays.registry.find("s1", "acme") is None
            queue.extend(batch)
            await leaves.registry.fleet.flush()
            assert await counts(stays, timed_out=1)
            leaves.open("s1")
            await leaves.registry.fleet.flush()
            assert await _listed(stays, "s1")
            leaves.close("s1")
            queue.extend(batch)
        assert await counts(stays, timed_out=1, completed=1)
        assert await ended(stays, "s1", "completed")


async def test_ids_that_are_used_again(server: RedisServer) -> None:
    """What stands for a receipt that was taken away would be taken for the end of the stream that has the id now: it
    would be stopped, its cancellation not be told, or its node's death not be counted."""
    async with Node("stays", server.url) as stays:
        dies = Node("dies", server.url)
        await dies.registry.start()
        for stream_id in ("s1", "s2"):
            dies.open(stream_id)
            dies.close(stream_id, "timed_out")
            await dies.registry.unclaim(stream_id, "acme")
            dies.open(stream_id)
        assert await until(lambda: _listed(stays, "s2"))
        answer = await stays.registry.cancel("s1", "acme", by="client", reason="", wait=5)
        assert (answer.outcome, answer.state) == ("done", "cancelled")
        dies.freeze()
        assert await until(lambda: counts(stays, timed_out=2, cancelled=1, node_lost=1))
        assert await ended(stays, "s2", "node_lost")
        await dies.registry.link.close()
