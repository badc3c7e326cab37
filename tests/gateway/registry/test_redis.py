"""Several nodes on one real Redis, and what happens when either side fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs
from support.redis_server import BINARY, RedisServer
from support.registry_nodes import Node, until

from gateway.registry.base import Entry
from gateway.registry.redis_news import QUIET
from gateway.streams.names import stream_key
from gateway.streams.stream import Receipt

pytestmark = pytest.mark.skipif(BINARY is None, reason="redis-server is not installed")


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


async def ids(node: Node, owner: str | None = None) -> list[str]:
    return [e.stream_id for e in await node.registry.active(owner)]


async def both(first: Node, second: Node) -> None:
    assert await until(lambda: all(len(n.registry.fleet.peers) == 2 for n in (first, second)))


async def test_lists_and_finds_across_nodes(server: RedisServer) -> None:
    """A list that shows only this node's streams would hide the fleet; owners must not see each other."""
    async with Node("a", server.url) as a, Node("b", server.url) as b:
        await both(a, b)
        a.open("s1", "acme")
        b.open("s2", "other")
        assert await until(lambda: _listed(b, ["s1", "s2"]))
        assert await ids(b, "acme") == ["s1"]
        assert isinstance(await b.registry.find("s1", "acme"), Entry)
        assert await b.registry.find("s1", "other") is None
        a.close("s1")
        assert await until(lambda: _listed(b, ["s2"]))
        found = await b.registry.find("s1", None)
        assert isinstance(found, Receipt)
        assert found.state == "completed"


async def _listed(node: Node, want: list[str]) -> bool:
    return sorted(await ids(node)) == want


async def test_cancels_on_another_node(server: RedisServer) -> None:
    """A DELETE that lands on the wrong node must still stop the stream, once, and bring its receipt."""
    async with Node("a", server.url) as a, Node("b", server.url) as b:
        await both(a, b)
        a.open("s1")
        assert await until(lambda: _listed(b, ["s1"]))
        assert (await b.registry.cancel("s1", "other", by="client", reason="x")).outcome == "unknown"
        answer = await b.registry.cancel("s1", "acme", by="client", reason="deleted", wait=2)
        assert (answer.outcome, answer.state) == ("done", "cancelled")
        again = await b.registry.cancel("s1", "acme", by="client", reason="deleted")
        assert again.receipt == answer.receipt
        assert a.stopped == [("s1", "client", "deleted")]


async def test_owners_share_ids_but_not_streams(server: RedisServer) -> None:
    """Two owners' streams of one id would be cancelled, found or accounted for in each other's place."""
    async with Node("a", server.url) as a, Node("b", server.url) as b, Node("c", server.url) as c:
        assert await until(lambda: all(len(n.registry.fleet.peers) == 3 for n in (a, b, c)))
        assert await a.registry.claim("same", "acme")
        assert await b.registry.claim("same", "other")
        assert not await c.registry.claim("same", "acme")
        a.open("same", "acme")
        b.open("same", "other")
        assert await until(lambda: _listed(c, ["same", "same"]))
        answer = await c.registry.cancel("same", "other", by="client", reason="deleted", wait=2)
        assert answer.receipt is not None
        assert answer.receipt.owner == "other"
        assert (a.stopped, len(b.stopped)) == ([], 1)
        for node in (a, b, c):
            assert isinstance(await node.registry.find("same", "acme"), Entry)
            assert isinstance(await node.registry.find("same", "other"), Receipt)
            assert await node.registry.find("same", "third") is None
        a.close("same")
        assert await until(lambda: _buried(c, "same", "acme"))
        found = await c.registry.find("same", "acme")
        assert isinstance(found, Receipt)
        assert (found.owner, found.state) == ("acme", "completed")


async def test_dead_node_is_buried_once(server: RedisServer) -> None:
    """Streams of a killed node must end as node_lost soon, with their tokens counted exactly once by many reapers."""
    async with Node("a", server.url) as a, Node("b", server.url) as b, Node("c", server.url) as c:
        assert await until(lambda: all(len(n.registry.fleet.peers) == 3 for n in (a, b, c)))
        a.open("s1")
        assert await until(lambda: _listed(b, ["s1"]))
        await asyncio.sleep(1.1)  # nobody buries within a lease of its own start
        died = time.monotonic()
        a.freeze()
        assert await until(lambda: _listed(b, []), 3)
        assert time.monotonic() - died < 1.6
        found = await c.registry.find("s1", None)
        assert isinstance(found, Receipt)
        assert found.state == "node_lost"
        assert found.usage_estimated
        counted = await b.registry.statistics(None)
        assert counted["states"]["node_lost"] == 1
        assert counted["tokens"] == 7
        a.streams.clear()


async def test_stopped_node_fences_itself(server: RedisServer) -> None:
    """A node that comes back after its streams were buried must stop them, or they would run and count twice."""
    async with Node("a", server.url) as a, Node("b", server.url) as b:
        await both(a, b)
        a.open("s1")
        await asyncio.sleep(1.1)
        a.freeze()
        assert await until(lambda: _listed(b, ["s1"]), 0.1)
        assert await until(lambda: _buried(b, "s1"), 3)
        a.thaw()
        assert await until(lambda: a.stopped == [("s1", "gateway", "node_lost")])
        await asyncio.sleep(0.2)
        assert (await b.registry.statistics("acme"))["total"] == 1


async def _buried(node: Node, stream_id: str, owner: str | None = None) -> bool:
    return isinstance(await node.registry.find(stream_id, owner), Receipt)


async def test_limits_are_shared(server: RedisServer) -> None:
    """A limit counted per node would be multiplied by the number of nodes; a killed node must not keep its share."""
    async with Node("a", server.url) as a, Node("b", server.url) as b:
        assert (await a.registry.admit("k", 2, "s1")).allowed
        assert (await b.registry.admit("k", 2, "s2")).allowed
        refused = await b.registry.admit("k", 2, "s3")
        assert (refused.allowed, refused.active, refused.limit) == (False, 2, 2)
        await asyncio.sleep(2.2)  # longer than the lease of a scope: heartbeats prolong it
        assert not (await b.registry.admit("k", 2, "s3")).allowed
        b.registry.release("k", "s2")
        await asyncio.sleep(0.2)
        assert (await b.registry.admit("k", 2, "s3")).allowed
        a.freeze()
        assert await until(lambda: _admits(b, "s4"), 3)


async def _admits(node: Node, stream_id: str) -> bool:
    return (await node.registry.admit("k", 2, stream_id)).allowed


async def test_a_lost_nodes_leases_are_free_at_once(server: RedisServer) -> None:
    """A crashed node's streams would count against their key's limit for twice as long as they existed."""
    lease = 2.0
    async with Node("a", server.url, lease) as a, Node("b", server.url, lease) as b:
        await both(a, b)
        assert (await a.registry.admit("early", 1, stream_key("s1", "acme"))).allowed
        a.open("s1")
        await asyncio.sleep(lease + 0.1)  # nobody buries within a lease of its own start
        assert (await a.registry.admit("late", 1, stream_key("s1", "acme"))).allowed
        a.freeze()
        assert await until(lambda: _buried(b, "s1", "acme"), lease * 2)
        ended = time.monotonic()
        for scope in ("early", "late"):
            assert await until(lambda scope=scope: _free(server, scope), 1)  # type: ignore[misc]
        assert time.monotonic() - ended < 0.5
        a.streams.clear()


def _free(server: RedisServer, scope: str) -> bool:
    return server.command("ZCARD", f"headgate:lease:{{{scope}}}").strip() == ":0"


async def test_all_nodes_say_the_same_peak(server: RedisServer) -> None:
    """Two nodes behind one balancer would answer with different figures, each its own."""
    async with Node("a", server.url) as a, Node("b", server.url) as b:
        await both(a, b)
        for i in range(3):
            a.open(f"a{i}")
        b.open("b0")
        b.open("b1", "other")
        assert await until(lambda: _peaks(a, b, None, 5))
        assert await until(lambda: _peaks(a, b, "acme", 4))
        for node, names in ((a, ("a0", "a1", "a2")), (b, ("b0", "b1"))):
            for name in names:
                node.close(name)
        assert await until(lambda: _listed(b, []))
        assert await _peaks(a, b, None, 5)
        assert await _peaks(a, b, "acme", 4)


async def _peaks(first: Node, second: Node, owner: str | None, peak: int) -> bool:
    return all([(await n.registry.statistics(owner))["peakActive"] == peak for n in (first, second)])


async def test_without_redis_what_is_told_is_marked(server: RedisServer) -> None:
    """One node's streams would pass for those of the fleet while the others are out of sight."""
    async with Node("a", server.url) as a, Node("b", server.url) as b:
        await both(a, b)
        a.open("s1")
        b.open("s2")
        assert await until(lambda: _listed(a, ["s1", "s2"]))
        assert a.registry.told({"count": 2}) == {"count": 2}
        assert "partial" not in await a.registry.statistics(None)
        server.kill()
        assert await until(lambda: a.registry.partial)
        assert await ids(a) == ["s1"]
        assert a.registry.told({"count": 1}) == {"count": 1, "partial": True}
        found = await a.registry.statistics(None)
        assert (found["active"], found["partial"]) == (1, True)


async def test_loss_and_return_are_logged_once(server: RedisServer) -> None:
    """An operator would not learn why the registry is degraded, or drown in lines of a Redis that comes and goes."""
    with capture_logs() as lines:
        async with Node("a", server.url) as a:
            server.kill()
            assert await until(lambda: a.registry.partial)
            await asyncio.sleep(0.5)
            server.restart()
            assert await until(lambda: not a.registry.partial)
            a.registry.fleet.news.look(time.monotonic() + QUIET)
            a.registry.fleet.news.look(time.monotonic() + QUIET)
    told = [(one["log_level"], one["event"]) for one in lines if one["event"].startswith("registry.")]
    assert told == [("info", "registry.connected"), ("warning", "registry.away"), ("info", "registry.back")]
    assert "ConnectionError" in next(one for one in lines if one["event"] == "registry.away")["reason"]


async def test_an_id_given_back_after_the_end_is_free_on_every_node(server: RedisServer) -> None:
    """A client that was refused repeats its request, perhaps at another node; the old receipt must not end it."""
    async with Node("a", server.url) as a, Node("b", server.url) as b:
        await both(a, b)
        assert await a.registry.claim("mine", "acme")
        a.open("mine", "acme")
        a.close("mine", "upstream_error")
        assert not await b.registry.claim("mine", "acme")
        await a.registry.unclaim("mine", "acme")
        assert isinstance(await a.registry.find("mine", "acme"), Receipt)
        assert await b.registry.claim("mine", "acme")
        b.open("mine", "acme")
        assert await until(lambda: _found_running(a, "mine"))
        b.close("mine")
        assert await until(lambda: _ended_as(a, "mine", "completed"))


async def _found_running(node: Node, stream_id: str) -> bool:
    return isinstance(await node.registry.find(stream_id, "acme"), Entry)


async def _ended_as(node: Node, stream_id: str, state: str) -> bool:
    found = await node.registry.find(stream_id, "acme")
    return isinstance(found, Receipt) and found.state == state


async def test_claims_are_shared(server: RedisServer) -> None:
    """A client-chosen id used twice on different nodes would name two streams."""
    async with Node("a", server.url) as a, Node("b", server.url) as b:
        assert await a.registry.claim("mine", "acme")
        assert not await b.registry.claim("mine", "acme")
        assert not await a.registry.claim("mine", "acme")


async def test_hung_redis_never_holds_up_a_stream(server: RedisServer) -> None:
    """A Redis that accepts and does not answer must cost one time-out, then nothing, and be used again after."""
    async with Node("a", server.url) as a:
        a.open("s1")
        server.pause()
        began = time.monotonic()
        assert await a.registry.claim("x", "acme")
        assert (await a.registry.admit("k", 1, "s1")).allowed
        assert not (await a.registry.admit("k", 1, "s2")).allowed
        assert time.monotonic() - began < 0.6
        began = time.monotonic()
        a.open("s2")
        a.close("s1")
        assert await ids(a) == ["s2"]
        assert (await a.registry.statistics(None))["total"] == 2
        assert time.monotonic() - began < 0.3
        assert a.registry.health()["status"] == "degraded"
        server.resume()
        assert await until(lambda: a.registry.health()["status"] == "healthy" and not a.registry.fleet.pending)
        assert "s2" in server.command("HKEYS", "headgate:streams:{a}")
        assert (await a.registry.statistics(None))["states"]["completed"] == 1


async def test_down_at_start_and_empty_after_restart(server: RedisServer) -> None:
    """A gateway must start without Redis, connect when it comes, and fill it again after it lost everything."""
    server.kill()
    async with Node("a", server.url) as a:
        assert a.registry.health()["status"] == "degraded"
        a.open("s1")
        assert await ids(a) == ["s1"]
        for _ in range(2):
            server.restart()
            assert await until(lambda: _written(server, a))
        assert a.stopped == []


async def _written(server: RedisServer, node: Node) -> bool:
    return node.registry.health()["status"] == "healthy" and "s1" in server.command("HKEYS", "headgate:streams:{a}")


async def test_flush_and_lost_scripts_heal(server: RedisServer) -> None:
    """FLUSHALL must not hide running streams for longer than a heartbeat, nor SCRIPT FLUSH stop anything."""
    async with Node("a", server.url) as a, Node("b", server.url) as b:
        await both(a, b)
        a.open("s1")
        server.command("FLUSHALL")
        server.command("SCRIPT", "FLUSH")
        assert (await a.registry.admit("k", 1, "s1")).allowed
        assert await until(lambda: _listed(b, ["s1"]), 2)
        assert a.registry.health()["status"] == "healthy"
        assert a.stopped == []


@pytest.mark.parametrize(
    ("hurt", "heal"),
    [
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
        (("CONFIG", "SET", "min-replicas-to-write", "1"), ("CONFIG", "SET", "min-replicas-to-write", "0")),
    ],
    ids=["readonly", "oom", "noreplicas"],
)
async def test_refusing_redis_degrades(server: RedisServer, hurt: tuple[str, ...], heal: tuple[str, ...]) -> None:
    """A Redis that answers but refuses writes must degrade the registry, lose no receipt and count none twice."""
    async with Node("a", server.url) as a:
        server.command(*hurt)
        a.open("s1")
        a.close("s1")
        assert await until(lambda: a.registry.health()["status"] == "degraded")
        assert (await a.registry.admit("k", 1, "s2")).allowed
        server.command(*heal)
        assert await until(lambda: a.registry.health()["status"] == "healthy" and not a.registry.fleet.pending)
        assert (await a.registry.statistics(None))["states"]["completed"] == 1


async def test_eviction_and_corruption_are_noticed(server: RedisServer) -> None:
    """An evicting server may forget streams, a corrupt key must not stop the others: both are seen and survived."""
    server.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    server.command("SET", "headgate:lease:{k}", "not a set")
    server.command("HSET", "headgate:streams:{b}", "bad", "{")
    async with Node("a", server.url) as a:
        assert await until(lambda: "allkeys-lru" in a.registry.health().get("error", ""))
        assert (await a.registry.admit("k", 1, "s1")).allowed
        a.open("s1")
        await asyncio.sleep(0.5)
        assert await ids(a) == ["s1"]
        assert "s1" in server.command("HKEYS", "headgate:streams:{a}")


async def test_cancelled_callers_poison_no_connection(server: RedisServer) -> None:
    """A caller cancelled inside a command must not leave its answer to the next one."""
    async with Node("a", server.url) as a:
        for i in range(200):
            task = asyncio.create_task(a.registry.admit(f"k{i}", 5, "s"))
            await asyncio.sleep(0 if i % 2 else 0.0005)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert (await a.registry.admit(f"own{i}", 3, "s")).active == 1
        assert a.registry.health()["status"] == "healthy"


async def test_restart_under_the_same_name_buries_the_earlier_life(server: RedisServer) -> None:
    """Streams of a crashed process whose name comes back at once would else be listed for ever."""
    async with Node("a", server.url) as old:
        old.open("s1")
        assert await until(lambda: "s1" in server.command("HKEYS", "headgate:streams:{a}"))
        old.freeze()
        async with Node("a", server.url) as new:
            assert await until(lambda: _buried(new, "s1"))
            found = await new.registry.find("s1", None)
            assert isinstance(found, Receipt)
            assert found.state == "node_lost"
            assert await ids(new) == []
        old.streams.clear()


async def test_works_on_a_cluster() -> None:
    """Scripts whose keys lie in different slots fail only on a cluster: every call must keep to one."""
    with RedisServer(cluster=True) as server:
        async with Node("a", server.url) as a, Node("b", server.url) as b:
            await both(a, b)
            a.open("s1")
            assert await b.registry.claim("mine", "acme")
            assert (await a.registry.admit("k", 1, "s1")).allowed
            assert not (await b.registry.admit("k", 1, "s2")).allowed
            assert await until(lambda: _listed(b, ["s1"]))
            answer = await b.registry.cancel("s1", "acme", by="client", reason="deleted", wait=2)
            assert answer.outcome == "done"
            assert (await b.registry.statistics(None))["states"]["cancelled"] == 1
            assert b.registry.health()["status"] == "healthy"


async def test_one_trial_in_the_fleet(server: RedisServer) -> None:
    """A backend that has just come back would be met by every node at once, or by none."""
    async with Node("a", server.url) as a, Node("b", server.url) as b:
        await both(a, b)
        assert await a.registry.claim_probe("up", 30)
        assert not await b.registry.claim_probe("up", 30)
        b.registry.unclaim_probe("up")  # not its own
        await asyncio.sleep(0.1)
        assert not await b.registry.claim_probe("up", 30)
        a.registry.unclaim_probe("up")
        assert await until(lambda: b.registry.claim_probe("up", 0.1))
        assert await until(lambda: a.registry.claim_probe("up", 30))


async def test_counters_of_a_node_that_dies_after_redis_was_emptied(server: RedisServer) -> None:
    """What it had counted since would be in nobody's statistics, and its streams in nobody's list."""
    async with Node("a", server.url, lease=6.0) as a, Node("b", server.url, lease=6.0) as b:
        await both(a, b)
        a.open("s1")
        a.open("s2")
        assert await until(lambda: _listed(b, ["s1", "s2"]))
        await a.registry.fleet.beat()  # so that the next one is far
        server.command("FLUSHALL")
        a.close("s1")
        await a.registry.fleet.flush()
        a.freeze()
        await asyncio.sleep(1.0)  # the other one has looked who is there
        assert await until(lambda: _counted(b, "completed", 1), 3)
        a.streams.clear()


async def _counted(node: Node, state: str, count: int) -> bool:
    return bool((await node.registry.statistics(None))["states"][state] == count)


async def test_an_emptied_redis_is_noticed_soon(server: RedisServer) -> None:
    """Running streams would be in nobody's list, and lost without a receipt, for a third of a lease."""
    async with Node("a", server.url, lease=12.0) as a:
        a.open("s1")
        listed = "headgate:streams:{a}"
        assert await until(lambda: server.command("HLEN", listed) == ":1\r\n")
        await a.registry.fleet.look()
        await a.registry.fleet.beat()
        server.command("FLUSHALL")
        assert await until(lambda: server.command("HLEN", listed) == ":1\r\n", 2.5)
