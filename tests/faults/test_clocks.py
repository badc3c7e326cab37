"""Wall clocks that jump an hour under a running fleet: a gateway's, and Redis's."""

from __future__ import annotations

import asyncio
import contextlib
import glob
import os
import time
from pathlib import Path

import aiohttp
import pytest
from support.fleet import LEASE, client, config, get, node, stream
from support.fleet import until as until_body
from support.redis_server import BINARY, RedisServer
from support.registry_nodes import Node, until

from gateway.streams.stream import Receipt

LIBRARY = os.environ.get("FAKETIME_LIBRARY") or next(iter(glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")), "")
pytestmark = pytest.mark.skipif(BINARY is None, reason="redis-server is not installed")


class Clock:
    """The wall clock of the processes started with `env`; monotonic clocks stay true."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._file = folder / "clock"
        self.set(0)
        self.env = {
            "LD_PRELOAD": LIBRARY,
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, seconds: int) -> None:
        """So far off the true time."""
        self._file.write_text(f"{seconds:+d}")


def _forward(server: RedisServer) -> None:
    """What an hour forward does to Redis: every life runs out."""
    server.command("DEL", "headgate:node:{a}", "headgate:node:{b}")
    server.command("ZADD", "headgate:lease:{k}", "XX", "1", "s1")


def _back(server: RedisServer) -> None:
    """What an hour back does: every life is an hour longer (libfaketime and Redis's allocator do not get on)."""
    for key in ("headgate:node:{a}", "headgate:node:{b}", "headgate:lease:{k}"):
        server.command("PEXPIRE", key, "3600000")
    server.command("ZADD", "headgate:lease:{k}", "XX", str(int(time.time() * 1000) + 3_600_000), "s1")


async def test_redis_clock_jumps_neither_end_nor_keep_a_node() -> None:
    """Set forward, a clock would end every lease and bury living nodes; set back, keep dead ones for an hour."""
    with RedisServer() as server:
        async with Node("a", server.url) as a, Node("b", server.url) as b:
            a.open("s1")
            assert (await a.registry.admit("k", 1, "s1")).allowed
            await asyncio.sleep(1.2)
            for jump in (_forward, _forward, _back):
                jump(server)
                await asyncio.sleep(0.6)
                assert [e.stream_id for e in await b.registry.active(None)] == ["s1"]
                assert not (await b.registry.admit("k", 1, "s2")).allowed
                assert a.stopped == []
            a.freeze()
            _back(server)
            died = time.monotonic()
            assert await until(lambda: _ended(b), 5)
            assert time.monotonic() - died < 2
            assert await until(lambda: _admits(b), 5)
            a.streams.clear()


async def _ended(node: Node) -> bool:
    return isinstance(await node.registry.find("s1", None), Receipt)


async def _admits(node: Node) -> bool:
    return (await node.registry.admit("k", 1, "s2")).allowed


@pytest.mark.soak
@pytest.mark.skipif(not LIBRARY, reason="faketime is not installed")
async def test_a_gateways_clock_jumps_move_no_deadline(tmp_path: Path) -> None:
    """A clock set while streams run (NTP, a resumed machine) would end them all, or let them run for an hour more."""
    clock = Clock(tmp_path)
    with RedisServer() as redis:
        text = config(redis.url) + "\nstreams: {total_timeout: 3s}\n"
        async with client() as session, node(redis.url, text=text, env=clock.env) as a, node(redis.url) as b:
            async with stream(session, a, "s") as answer:
                began = time.monotonic()
                reading = asyncio.create_task(answer.content.read())
                for offset in (3600, -3600, 0, 7200):
                    clock.set(offset)
                    await asyncio.sleep(0.5)
                    assert not reading.done()
                    listed = await get(session, f"{b.url}/api/streaming/active")
                    assert [s["streamId"] for s in listed["streams"]] == ["s"]
                with contextlib.suppress(aiohttp.ClientPayloadError):  # a stream that timed out breaks off
                    await reading
                assert 2.5 < time.monotonic() - began < 4.5
            found = await get(session, f"{a.url}/api/streaming/s")
            assert found["state"] == "timed_out"
            assert 2800 < found["receipt"]["durationMs"] < 4500


@pytest.mark.soak
@pytest.mark.skipif(not LIBRARY, reason="faketime is not installed")
async def test_two_nodes_twenty_minutes_apart_are_one_fleet(tmp_path: Path) -> None:
    """Nodes that compare their wall clocks would bury each other, or keep each other's dead streams (F 52)."""
    clocks = [Clock(tmp_path / name) for name in ("a", "b")]
    for clock, offset in zip(clocks, (600, -600), strict=True):
        clock.set(offset)
    with RedisServer() as redis:
        async with (
            client() as session,
            node(redis.url, env=clocks[0].env) as a,
            node(redis.url, env=clocks[1].env) as b,
            stream(session, a, "one") as one,
            stream(session, a, "two"),
            stream(session, b, "three"),
        ):
            for gateway in (a, b):
                listed = f"{gateway.url}/api/streaming/active"
                await until_body(session, listed, lambda body: body["count"] == 3, 3)
            await asyncio.sleep(LEASE * 2)
            assert (await get(session, f"{b.url}/api/streaming/active"))["count"] == 3
            async with session.get(f"{b.url}/api/streaming/one", headers={"Accept": "text/event-stream"}) as again:
                await again.content.readuntil(b"event: token")
                async with session.delete(f"{b.url}/api/streaming/one") as deleted:
                    assert (deleted.status, (await deleted.json())["state"]) == (200, "cancelled")
                assert b"event: done" in await again.content.read()
            assert b"event: done" in await one.content.read()
            a.kill()
            lost = f"{b.url}/api/streaming/two"
            await until_body(session, lost, lambda body: body["state"] == "node_lost", LEASE + 2)
            assert (await get(session, f"{b.url}/api/streaming/active"))["count"] == 1
            states = (await get(session, f"{b.url}/api/streaming/statistics"))["states"]
            assert (states["cancelled"], states["node_lost"]) == (1, 1)
