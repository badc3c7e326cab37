"""Gateway processes are killed, frozen and told to end at bad moments: every stream is accounted for, once."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.fleet import LEASE, client, config, get, node, stream, until
from support.gateway import ROOT, Gateway
from support.process import free_port
from support.redis_server import BINARY, RedisServer

pytestmark = pytest.mark.skipif(BINARY is None, reason="redis-server is not installed")

LONG = "[tokens=100000] [rate=3]"


def summaries(gateway: Gateway) -> list[dict[str, Any]]:
    """The lines of ended streams in a node's log."""
    found = [json.loads(line) for line in gateway.log.splitlines() if line.startswith("{")]
    return [line for line in found if line["event"] == "stream"]


async def _rest(answer: aiohttp.ClientResponse) -> str:
    """What still comes, whether the body ends or breaks off."""
    found = b""
    try:
        async for block in answer.content.iter_any():
            found += block
    except aiohttp.ClientError:
        pass
    return found.decode()


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=(pytest.mark.soak, pytest.mark.timeout(300)))])
async def test_a_killed_nodes_streams_all_get_a_receipt(count: int) -> None:
    """Tokens that were delivered by a node that crashed would never be accounted for."""
    with RedisServer() as redis:
        async with client() as session, node(redis.url) as b, AsyncExitStack() as streams, node(redis.url) as a:
            names = [f"lost-{i}" for i in range(count)]
            for name in names:
                await streams.enter_async_context(stream(session, a, name, directives=LONG))
            await asyncio.sleep(LEASE / 3 + 0.5)  # a heartbeat that knows of their tokens
            a.kill()
            died = time.monotonic()
            listed = f"{b.url}/api/streaming/active"
            await until(session, listed, lambda body: body["count"] == 0, LEASE + 3)
            took = time.monotonic() - died
            found = []
            for start in range(0, count, 50):
                urls = [f"{b.url}/api/streaming/{name}" for name in names[start : start + 50]]
                found += await asyncio.gather(*(get(session, url) for url in urls))
            receipts = [body["receipt"] for body in found]
            assert {r["state"] for r in receipts} == {"node_lost"}
            assert all(r["usageEstimated"] and r["completionTokens"] > 0 for r in receipts)
            numbers = await get(session, f"{b.url}/api/streaming/statistics")
            assert numbers["states"]["node_lost"] == count
            assert numbers["tokens"] == sum(r["completionTokens"] for r in receipts)
            assert Counter(line["stream"] for at in (a, b) for line in summaries(at)) == dict.fromkeys(names, 1)
            print(f"\n{count} streams node_lost {took:.2f} s after kill -9 (lease {LEASE:g} s), one receipt each")
            assert took < LEASE + 1.5


async def test_a_frozen_node_comes_back_and_finds_itself_replaced() -> None:
    """A node that slept through its lease would write over what the fleet decided, or go on with lost streams."""
    with RedisServer() as redis:
        async with (
            client() as session,
            node(redis.url, lease=1.0) as b,
            node(redis.url, lease=1.0, drain="100ms") as a,
            AsyncExitStack() as streams,
        ):
            answers = [
                await streams.enter_async_context(stream(session, a, f"f{i}", directives=LONG)) for i in range(20)
            ]
            listed = f"{b.url}/api/streaming/active"
            await until(session, listed, lambda body: body["count"] == 20, 3)
            a.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(2.0)  # two leases
            buried = [(await get(session, f"{b.url}/api/streaming/f{i}"))["receipt"] for i in range(20)]
            assert {receipt["state"] for receipt in buried} == {"node_lost"}
            a.process.send_signal(signal.SIGCONT)
            for text in await asyncio.gather(*(_rest(answer) for answer in answers)):
                last = text.strip().rsplit("\n\n", 1)[-1]
                assert "event: error" in last
                assert '"node_lost"' in last
            await asyncio.sleep(1.0)
            for gateway in (a, b):
                numbers = await get(session, f"{gateway.url}/api/streaming/statistics")
                assert (numbers["states"]["node_lost"], numbers["total"]) == (20, 20)
                for i in range(20):
                    found = await get(session, f"{gateway.url}/api/streaming/f{i}")
                    assert found["receipt"] == buried[i]
            ends = Counter(line["stream"] for at in (a, b) for line in summaries(at))
            assert ends == {f"f{i}": 1 for i in range(20)}
            async with stream(session, a, "again", directives="[tokens=3]") as again:
                assert "event: done" in (await again.content.read()).decode()
            await until(session, f"{b.url}/api/streaming/again", lambda body: body.get("receipt", {}).get("endedAt"), 3)


async def test_told_to_end_while_starting_it_ends(tmp_path: Path) -> None:
    """A pod that is deleted while it starts would hang until it is killed, or leave a traceback for its last words."""

    async def one(i: int, moment: float, *, twice: bool) -> tuple[int, str]:
        path = tmp_path / f"{i}.yaml"
        text = config(redis.url).replace("{port}", str(free_port())) + f"\nadmin: {{port: {free_port()}}}\n"
        path.write_text(text)
        command = [sys.executable, "-m", "gateway", "serve", "--config", str(path)]
        with (tmp_path / f"{i}.log").open("wb") as log:
            process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        try:
            await asyncio.sleep(moment)
            process.send_signal(signal.SIGTERM)
            if twice:
                await asyncio.sleep(0.02)
                process.send_signal(signal.SIGTERM)
            code = await asyncio.to_thread(process.wait, 10)
        finally:
            process.kill()
        return code, (tmp_path / f"{i}.log").read_text()

    with RedisServer() as redis:
        moments = (0.0, 0.3, 0.5, 0.7, 1.0)
        for code, log in [await one(i, moment, twice=i % 2 == 0) for i, moment in enumerate(moments)]:
            assert code in (0, -signal.SIGTERM), log
            assert "Traceback" not in log
