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
from support.fleet import client, config, get, node, stream
from support.redis_server import BINARY, RedisServer
from support.registry_nodes import Node, until

from gateway.streams.stream import Receipt

LIBRARY = os.environ.get("FAKETIME_LIBRARY") or next(iter(glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")), "")
pytestmark = pytest.mark.skipif(BINARY is None, reason="redis-server is not installed")


class Clock:
    """The wall clock of the processes started with `env`; monotonic clocks stay true."""

    def __init__(self, folder: Path) -> None:
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
