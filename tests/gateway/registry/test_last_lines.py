"""The summary lines of streams that were lost with their node, on a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from support.redis_server import BINARY, RedisServer
from support.registry_nodes import Node, until

from gateway.registry.redis_client import Away, Link, Op
from gateway.streams.names import stream_key
from gateway.streams.stream import Receipt

pytestmark = pytest.mark.skipif(BINARY is None, reason="redis-server is not installed")


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


def lines_of(node: Node) -> list[Receipt]:
    """What a node writes from now on."""
    found: list[Receipt] = []
    node.registry.last_lines(found.append)
    return found


async def together(*nodes: Node) -> None:
    """Until they know each other, and are old enough to judge."""
    assert await until(lambda: all(len(node.registry.fleet.peers) == len(nodes) for node in nodes))
    await asyncio.sleep(1.1)


async def test_one_line_for_each_stream_of_a_dead_node(server: RedisServer) -> None:
    """A stream whose node was killed would have no line in any log, or one in each of those that bury it."""
    async with Node("a", server.url) as a, Node("b", server.url) as b, Node("c", server.url) as c:
        lines = [lines_of(b), lines_of(c)]
        names = [f"s{i}" for i in range(5)]
        for name in names:
            a.open(name)
        await together(a, b, c)
        a.freeze()
        assert await until(lambda: sum(map(len, lines)) >= 5)
        await asyncio.sleep(0.5)
        told = {receipt.stream_id: receipt for receipt in [*lines[0], *lines[1]]}
        assert sum(map(len, lines)) == 5
        assert sorted(told) == names
        for name in names:
            assert await c.registry.find(name, "acme") == told[name]
        a.streams.clear()


async def test_a_sleeper_leaves_the_line_to_who_buried_it(server: RedisServer) -> None:
    """A node that comes back and ends its streams itself would log each a second time."""
    async with Node("a", server.url) as a, Node("b", server.url) as b:
        mine, others = lines_of(a), lines_of(b)
        a.open("s1")
        await together(a, b)
        a.freeze()
        assert await until(lambda: others)
        a.thaw()
        assert await until(lambda: not a.streams)
        assert await until(lambda: a.registry.local.ended(stream_key("s1", "acme")) == others[0])
        await asyncio.sleep(1.2)
        assert (len(mine), len(others)) == (0, 1)


async def test_nobody_else_ended_it(server: RedisServer) -> None:
    """Streams of a node that was fenced, and then came back before they were buried, would have no line at all; so
    would those that end as lost on the node that has them, and those of an earlier life."""
    async with Node("a", server.url) as a:
        mine = lines_of(a)
        for name in ("s1", "s2", "s3"):
            a.open(name)
        assert await until(lambda: not a.registry.fleet.pending)
        a.close("s1", "node_lost")
        assert await until(lambda: [line.stream_id for line in mine] == ["s1"])
        a.streams.pop("s2")
        del a.registry.local.running[stream_key("s2", "acme")]
        assert await until(lambda: [line.stream_id for line in mine] == ["s1", "s2"])
        a.freeze()
        await asyncio.sleep(1.0)  # without a lease
        await a.registry.link.batch([a.registry.layout.depose("a")])
        a.thaw()
        assert await until(lambda: len(mine) == 3)
        assert [(line.stream_id, line.state) for line in mine] == [(f"s{i}", "node_lost") for i in (1, 2, 3)]
        a.open("s4")
        a.close("s4")
        await asyncio.sleep(1.2)
        assert len(mine) == 3


async def test_at_the_end_nothing_is_left_unsaid(server: RedisServer) -> None:
    """What a node could not tell Redis any more would be in no log either."""
    async with Node("a", server.url) as a:
        mine = lines_of(a)
        a.open("s1")
        assert await until(lambda: not a.registry.fleet.pending)
        server.kill()
        a.close("s1", "node_lost")
        await asyncio.sleep(0.2)
        assert mine == []
    assert [line.stream_id for line in mine] == ["s1"]


@pytest.mark.parametrize("arrived", [True, False])
async def test_a_burial_whose_answer_was_lost(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, arrived: bool
) -> None:
    """Redis goes away, or answers too late, as streams are buried: they would have a receipt and no line."""
    batch, lost = Link.batch, 0

    async def losing(self: Link, ops: Sequence[Op], **more: Any) -> list[Any]:
        nonlocal lost
        if lost or not any(op.name == "bury" for op in ops):
            return await batch(self, ops, **more)
        lost += 1
        if arrived:
            await batch(self, ops, **more)
        raise Away("no answer in time")

    async with Node("a", server.url) as a, Node("b", server.url) as b:
        lines = lines_of(b)
        a.open("s1")
        a.open("s2")
        await together(a, b)
        monkeypatch.setattr(Link, "batch", losing)
        a.freeze()
        assert await until(lambda: len(lines) == 2)
        await asyncio.sleep(0.6)
        assert lost == 1
        assert sorted(line.stream_id for line in lines) == ["s1", "s2"]
        for line in lines:
            assert await b.registry.find(line.stream_id, "acme") == line
        a.streams.clear()
