"""Redis answers late, not at all, with an error, or with what nobody wrote: the registry's promises hold."""

from __future__ import annotations

import asyncio
import random
import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from support.delay_proxy import DelayProxy
from support.redis_server import BINARY, RedisServer
from support.registry_nodes import Node, until

from backends.contract.errors import BackendError, ErrorCode
from gateway.registry.base import Entry
from gateway.registry.redis_client import Away, Op
from gateway.streams.stream import Receipt

pytestmark = pytest.mark.skipif(BINARY is None, reason="redis-server is not installed")


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer(options=("--enable-debug-command", "yes")) as running:
        yield running


def well(node: Node) -> bool:
    """Connected, and nothing waits."""
    return node.registry.health()["status"] == "healthy" and not node.registry.fleet.pending


async def test_a_lost_answer_is_not_done_twice(server: RedisServer) -> None:
    """A lease, a claim or a receipt whose answer got lost would count twice, or block its own repetition."""
    async with DelayProxy(server.port) as proxy, Node("a", proxy.url) as a:
        for i in range(5):
            name = f"s{i}"
            proxy.losing = 1
            assert (await a.registry.admit("k", 1, name)).allowed
            assert await until(lambda: well(a))
            assert server.command("ZCARD", "headgate:lease:{k}") == ":1\r\n"
            a.open(name)
            await until(lambda: well(a))
            a.close(name)
            proxy.losing = 2  # of the flush and of the probe that follows
            a.registry.release("k", name)
            assert await until(lambda: proxy.losing == 0 and well(a))
        counted = await a.registry.statistics("acme")
        assert (counted["total"], counted["tokens"], proxy.lost) == (5, 35, 15)
        assert server.command("EXISTS", "headgate:lease:{k}") == ":0\r\n"


async def test_a_claim_whose_answer_got_lost_can_be_given_back(server: RedisServer) -> None:
    """A refused request's id would stay taken for an hour, though its client was told to try again with it."""
    async with DelayProxy(server.port) as proxy, Node("a", proxy.url) as a, Node("b", server.url) as b:
        proxy.losing = 1
        assert await a.registry.claim("x", "acme")
        await a.registry.unclaim("x", "acme")
        assert await until(lambda: well(a))
        assert await b.registry.claim("x", "acme")
        await b.registry.unclaim("x", "acme")
        assert await a.registry.claim("x", "acme")  # at once, from any node
        assert not await b.registry.claim("x", "acme")
        assert await b.registry.claim("x", "other")  # ids are each owner's own


async def test_a_claim_given_back_while_it_is_on_its_way(server: RedisServer) -> None:
    """A claim of a time without Redis is told later: given back in that moment, it would be put into the queue again
    when its answer got lost, behind the word that gave it back, and hold the id for an hour."""
    async with DelayProxy(server.port) as proxy, Node("a", proxy.url) as a, Node("b", server.url) as b:
        a.freeze()
        a.registry.link.trip("away for the test")
        assert await a.registry.claim("x", "acme")
        a.registry.link.recovered()
        proxy.losing = 1
        telling = asyncio.create_task(a.registry.fleet.flush())
        await asyncio.sleep(0)
        assert a.registry.fleet.pending == 1
        assert not a.registry.fleet.queue
        await a.registry.unclaim("x", "acme")
        with pytest.raises(Away):
            await telling
        a.thaw()
        assert await until(lambda: well(a))
        assert await b.registry.claim("x", "acme")


async def test_a_cancel_whose_answer_got_lost_is_asked_again(server: RedisServer) -> None:
    """A wish that never reached the stream's node would be called pending, and nobody would stop the stream."""
    async with DelayProxy(server.port) as proxy, Node("a", server.url) as a, Node("b", proxy.url) as b:
        a.open("s1")
        assert await until(lambda: _sees(b, ["s1"]))
        find = b.registry.abroad.find

        async def found(stream_id: str, owner: str | None) -> Any:
            answer = await find(stream_id, owner)
            proxy.losing = 1
            return answer

        b.registry.abroad.find = found  # type: ignore[method-assign]  # the moment between the two questions
        answer = await b.registry.cancel("s1", "acme", by="client", reason="deleted", wait=3)
        assert (proxy.lost, answer.outcome, answer.state) == (1, "done", "cancelled")


@pytest.mark.parametrize("limit", ["maxmemory", "min-replicas-to-write"])
async def test_a_refused_wish_is_not_called_pending(server: RedisServer, limit: str) -> None:
    """Who cancels through another node would be told to wait for what nobody has heard of."""
    async with Node("a", server.url) as a, Node("b", server.url) as b:
        a.open("s1")
        assert await until(lambda: _sees(b, ["s1"]))
        server.command("CONFIG", "SET", limit, "1")
        with pytest.raises(BackendError) as refused:
            await b.registry.cancel("s1", "acme", by="client", reason="deleted", wait=0.2)
        assert refused.value.code is ErrorCode.REGISTRY_AWAY
        server.command("CONFIG", "SET", limit, "0")
        assert await until(lambda: well(a) and well(b))
        answer = await b.registry.cancel("s1", "acme", by="client", reason="deleted", wait=3)
        assert answer.outcome == "done"


async def test_a_caller_that_leaves_within_a_claim_leaves_nothing(server: RedisServer) -> None:
    """A client that disconnects while its id is being claimed could not come back with it."""
    async with DelayProxy(server.port) as proxy, Node("a", proxy.url) as a:
        proxy.delay = 0.01
        for i in range(20):
            task = asyncio.create_task(a.registry.claim(f"x{i}", "acme"))
            await asyncio.sleep(random.uniform(0, 0.008))
            if task.done() or not task.cancel():
                continue
            await asyncio.gather(task, return_exceptions=True)
        proxy.delay = 0.0
        assert await until(lambda: well(a))
        await asyncio.sleep(0.1)
        left = [i for i in range(20) if not await a.registry.claim(f"x{i}", "acme")]
        assert len(left) < 20
        granted = server.command("KEYS", "headgate:claim:*").count("x")
        assert granted == 20  # one each: those kept before, and those claimed now


@pytest.mark.parametrize("times", [1000, pytest.param(100_000, marks=(pytest.mark.soak, pytest.mark.timeout(900)))])
async def test_cancelled_commands_never_take_a_foreign_answer(server: RedisServer, times: int) -> None:
    """A task cancelled between command and answer would hand that answer to the next user of its connection."""
    foreign: list[Any] = []
    answered = 0

    async def one(link: Any, i: int) -> None:
        nonlocal answered
        asking = asyncio.create_task(link.one(Op("ECHO", (f"v{i}",))))
        done, _ = await asyncio.wait({asking}, timeout=random.uniform(0, 0.02))
        if not done:
            asking.cancel()
        for answer in await asyncio.gather(asking, return_exceptions=True):
            if isinstance(answer, bytes):
                answered += 1
                foreign.extend([answer] if answer != f"v{i}".encode() else [])
            else:
                assert isinstance(answer, (asyncio.CancelledError, Away)), answer

    async with DelayProxy(server.port) as proxy, Node("a", proxy.url) as a:
        proxy.delay = 0.003
        for start in range(0, times, 20):
            await asyncio.gather(*(one(a.registry.link, i) for i in range(start, start + 20)))
        assert foreign == []
        assert times * 0.05 < answered < times * 0.98, f"only {answered} of {times} were answered: it proves little"
        print(f"\n{times} commands, {times - answered} cancelled, foreign answers: {len(foreign)}")


async def test_a_loading_redis_degrades_and_comes_back(server: RedisServer) -> None:
    """A Redis that restarts with much data refuses everything for a while: nodes must neither give up nor hammer it."""
    async with Node("a", server.url) as a:
        a.open("s1")
        server.command("DEBUG", "POPULATE", "20000")
        server.command("CONFIG", "SET", "loading-process-events-interval-bytes", "1024")
        server.command("CONFIG", "SET", "key-load-delay", "50")
        reloading = asyncio.create_task(asyncio.to_thread(server.command, "DEBUG", "RELOAD"))
        assert await until(lambda: a.registry.health()["status"] == "degraded", 3)
        assert (await a.registry.admit("k", 1, "s1")).allowed
        server.command("CONFIG", "SET", "key-load-delay", "0")
        await reloading
        assert await until(lambda: well(a))
        assert "s1" in server.command("HKEYS", "headgate:streams:{a}")
        assert a.stopped == []


async def test_no_connection_left_degrades_without_a_storm(server: RedisServer) -> None:
    """At maxclients every attempt is refused at once: a retry loop would burn the node and keep the others out."""
    async with Node("a", server.url) as a:
        a.open("s1")
        assert await until(lambda: well(a))
        holders = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3)]
        server.command("CONFIG", "SET", "maxclients", "3")
        _cut_all_but(holders)
        assert await until(lambda: a.registry.health()["status"] == "degraded", 3)
        await asyncio.sleep(0.7)
        for holder in holders:
            holder.close()
        assert await until(lambda: well(a), 5)
        refused = int(server.command("INFO", "stats").split("rejected_connections:")[1].split("\r\n")[0])
        assert refused < 20
        assert "s1" in server.command("HKEYS", "headgate:streams:{a}")
        assert a.stopped == []


def _cut_all_but(kept: list[socket.socket]) -> None:
    """End all other connections to the server, by one of the kept."""
    own = [":".join(str(part) for part in holder.getsockname()) for holder in kept]
    kept[0].sendall(b"CLIENT LIST\r\n")
    listed = kept[0].recv(65536).decode()
    for address in re.findall(r" addr=(\S+)", listed):
        if address not in own:
            kept[0].sendall(f"CLIENT KILL ADDR {address}\r\n".encode())


async def test_corrupt_values_are_set_aside(server: RedisServer) -> None:
    """One value somebody else wrote would stop the heartbeat, hide streams, or let two nodes own one."""
    async with Node("a", server.url) as a, Node("b", server.url) as b:
        a.open("s1")
        assert await until(lambda: well(a))
        server.command("HSET", "headgate:streams:{a}", "s1@acme", "{", "ghost@acme", "\x01", "s1@other", "[]")
        server.command("SET", "headgate:inbox:{a}", "no hash")
        server.command("SET", "headgate:receipt:{a}:s2", "no hash")
        server.command("HSET", "headgate:stats:{a}", "tokens", "many")
        server.command("SET", "headgate:stats:{a}:o:acme", "no hash")
        server.command("SET", "headgate:lease:{k}", "no set")
        server.command("SET", "headgate:nodes", "no set")
        a.open("s2")
        assert (await a.registry.admit("k", 1, "s2")).allowed
        a.close("s2")
        assert await until(lambda: _set_aside(server), 4)
        assert await until(lambda: _sees(b, ["s1"]), 4)
        found = await b.registry.find("s2", "acme")
        assert isinstance(found, Receipt)
        assert isinstance(await b.registry.find("s1", "acme"), Entry)
        assert (await b.registry.statistics("acme"))["states"]["completed"] == 1
        assert well(a)
        assert a.stopped == []


def _set_aside(server: RedisServer) -> bool:
    kept = server.command("HKEYS", "headgate:corrupt:{a}")
    wrong = ("inbox:{a}", "receipt:{a}:s2", "stats:{a}:o:acme", "lease:{k}", "nodes")
    moved = [server.command("EXISTS", f"headgate:{key}:corrupt") for key in wrong]
    return "ghost@acme" in kept and "s1@other" in kept and moved == [":1\r\n"] * len(wrong)


async def _sees(node: Node, want: list[str]) -> bool:
    return [e.stream_id for e in await node.registry.active(None)] == want


async def test_an_entry_nobody_stands_behind_is_ended(server: RedisServer) -> None:
    """A write that was lost (a full queue, a failover) would leave a stream in the list for ever."""
    async with Node("a", server.url) as a:
        a.open("s1")
        assert await until(lambda: well(a))
        raw = server.command("HGET", "headgate:streams:{a}", "s1@acme").split("\r\n")[1]
        server.command("HSET", "headgate:streams:{a}", "old@acme", raw.replace('"s1"', '"old"'))
        assert await until(lambda: server.command("HKEYS", "headgate:streams:{a}").count("@") == 1, 3)
        found = await a.registry.find("old", "acme")
        assert isinstance(found, Receipt)
        assert found.state == "node_lost"


async def test_writes_of_a_lost_epoch_are_refused(server: RedisServer) -> None:
    """A node that slept past its receipts' life would list streams the fleet ended long ago, and count them again."""
    async with Node("a", server.url) as a:
        a.open("old")
        assert await until(lambda: "old@acme" in server.command("HKEYS", "headgate:streams:{a}"))
        first = a.registry.fleet.epoch
        server.command("HDEL", "headgate:streams:{a}", "old@acme")  # buried, and its receipt has been forgotten
        server.command("SET", "headgate:tomb:{a}", first)
        a.open("new")  # unknown to the fleet when it gave the epoch up: it goes on
        a.open("brief")
        a.close("brief")
        assert await until(lambda: a.stopped == [("old", "gateway", "node_lost")], 2)
        assert await until(lambda: well(a) and "new@acme" in server.command("HKEYS", "headgate:streams:{a}"))
        assert a.registry.fleet.epoch != first
        assert "old" not in server.command("HKEYS", "headgate:streams:{a}")
        counted = await a.registry.statistics("acme")
        assert (counted["states"]["node_lost"], counted["states"]["completed"]) == (0, 1)
        assert len(a.stopped) == 1
