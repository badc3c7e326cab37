"""Sentinel and Cluster as operators run them: a lost primary costs a moment, never a stream, a lease or a receipt."""

from __future__ import annotations

import time

import pytest
from support.redis_server import BINARY
from support.redis_topology import Cluster, Sentinelled
from support.registry_nodes import Node, until

pytestmark = pytest.mark.skipif(BINARY is None, reason="redis-server is not installed")


def well(*nodes: Node) -> bool:
    """Connected, and nothing waits."""
    return all(n.registry.health()["status"] == "healthy" and not n.registry.fleet.pending for n in nodes)


async def _ids(node: Node) -> list[str]:
    return [e.stream_id for e in await node.registry.active(None)]


async def _sees(node: Node, want: list[str]) -> bool:
    return sorted(await _ids(node)) == want


@pytest.mark.parametrize("how", ["killed", pytest.param("demoted", marks=pytest.mark.soak)])
async def test_a_sentinel_failover_is_followed(how: str) -> None:
    """After a failover nodes would go on asking the old primary: every list, limit and cancel would be lost."""
    with Sentinelled() as redis:
        async with Node("a", redis.url) as a, Node("b", redis.url) as b:
            a.open("s1")
            assert (await a.registry.admit("k", 1, "s1")).allowed
            assert await until(lambda: _sees(b, ["s1"]))
            if how == "killed":
                redis.primary.kill()
            else:
                assert redis.ask("SENTINEL FAILOVER main").startswith(b"+OK")
            fell = time.monotonic()
            assert await until(lambda: "role:master" in redis.replica.command("INFO", "replication"), 15)
            promoted = time.monotonic()
            a.open("s2")
            assert await until(lambda: well(a, b), 10)
            assert await until(lambda: _sees(b, ["s1", "s2"]), 5)
            print(f"\nfailover {promoted - fell:.2f} s, registry whole {time.monotonic() - promoted:.2f} s after it")
            assert not (await b.registry.admit("k", 1, "s3")).allowed
            answer = await b.registry.cancel("s2", "acme", by="client", reason="deleted", wait=10)
            assert (answer.outcome, answer.state) == ("done", "cancelled")
            assert a.stopped == [("s2", "client", "deleted")]
            a.close("s1")
            assert await until(lambda: _counted(b, 2), 5)


async def _counted(node: Node, total: int) -> bool:
    numbers = await node.registry.statistics("acme")
    return bool(numbers["total"] - numbers["active"] == total)


@pytest.mark.soak
async def test_a_cluster_of_three_carries_a_fleet_and_loses_one() -> None:
    """Keys on three primaries: a script over two slots fails, and one lost primary would stop the other two thirds."""
    with Cluster() as redis:
        async with Node("a", redis.url) as a, Node("b", redis.url) as b, Node("c", redis.url) as c:
            assert await until(lambda: all(len(n.registry.fleet.peers) == 3 for n in (a, b, c)))
            for i, node in enumerate((a, b, c)):
                node.open(f"s{i}")
                assert (await node.registry.admit(f"k{i}", 1, f"s{i}")).allowed
                assert not (await c.registry.admit(f"k{i}", 1, "other")).allowed
            assert await until(lambda: _sees(c, ["s0", "s1", "s2"]))
            answer = await c.registry.cancel("s0", "acme", by="client", reason="deleted", wait=2)
            assert answer.outcome == "done"
            assert await until(lambda: _counted(b, 1), 5)
            gone = redis.nodes[2]
            gone.pause()
            for node in (a, b, c):
                began = time.monotonic()
                assert (await node.registry.admit("any", 5, "x")).allowed
                assert time.monotonic() - began < 1
                assert set(await _ids(node)) >= set(node.streams)
            assert a.stopped == [("s0", "client", "deleted")]
            gone.resume()
            assert await until(lambda: well(a, b, c), 15)
            assert await until(lambda: _sees(a, ["s1", "s2"]), 5)
