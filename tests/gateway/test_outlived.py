"""A node that slept while another one went on with its streams, and has their ends in its sockets as it wakes: real
processes on a real Redis, one server behind both."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from typing import Any

import aiohttp
import pytest
from support.fleet import client, node
from support.gateway import Gateway
from support.redis_server import BINARY, RedisServer
from support.resuming import END, token
from support.surviving import LEASE, Listener, listed, receipt_of, statistics
from support.upstream import Upstream, head

pytestmark = pytest.mark.skipif(BINARY is None, reason="redis-server is not installed")

ENTIRE = (token("w0 "), token("w1 "), END, b"0\r\n\r\n")


def config(redis: str, upstream: str) -> str:
    """A node's gateway.yaml."""
    return f"""
server: {{port: {{port}}, drain_timeout: 0s}}
registry: {{url: "{redis}", lease: {LEASE:g}s}}
backends:
  up: {{driver: openai, url: "{upstream}"}}
routes:
  - {{model: "*", to: up, survive: node}}
"""


def said_of(gateway: Gateway, name: str) -> list[dict[str, Any]]:
    """What its log says of a stream."""
    lines = gateway.log.splitlines()
    found = [json.loads(line) for line in lines if line.startswith("{")]
    return [line for line in found if line.get("stream") == name]


async def shared(redis: RedisServer, name: str) -> None:
    """Until its beginning lies in Redis."""
    deadline = time.monotonic() + 5
    while redis.command("EXISTS", f"headgate:log:{{{name}@anonymous}}") != ":1\r\n":
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("said", [0, 1])
async def test_a_sleeper_that_finds_the_end_writes_no_receipt(said: int) -> None:
    """A stream would be told, logged and counted as completed twice: by the node that slept, and by its heir."""
    before, after = ENTIRE[:said], ENTIRE[said:]
    scripts = [head(), *before, 0.7, *after], [head(), *ENTIRE]
    with RedisServer() as redis:
        async with Upstream(*scripts) as up, client() as session:
            text = config(redis.url, up.url)
            async with node("", text=text) as a, node("", text=text) as b:
                one = Listener("x")
                body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
                asked = asyncio.create_task(one.start(session, a, body))
                await shared(redis, "x")
                await asyncio.sleep(0.3)
                a.process.send_signal(signal.SIGSTOP)
                await asyncio.sleep(2 * LEASE + 0.5)
                receipt = await receipt_of(session, b, "x")
                a.process.send_signal(signal.SIGCONT)
                with contextlib.suppress(AssertionError, aiohttp.ClientError):
                    await asyncio.wait_for(asked, 5)
                await asyncio.sleep(0.3)
                assert not one.over
                assert "w1" not in one.text
                for at in (a, b):
                    assert await receipt_of(session, at, "x") == receipt
                    told = (await statistics(session, at))["states"]
                    assert {state: count for state, count in told.items() if count} == {receipt["state"]: 1}
                    assert await listed(session, at) == []
                ends = [line["state"] for at in (a, b) for line in said_of(at, "x") if line["event"] == "stream"]
                assert ends == [receipt["state"]]
                assert [line["event"] for line in said_of(a, "x")] == ["stream.moved"]
                await one.go_on(session, a)
                assert one.numbered
                if receipt["state"] == "completed":
                    assert one.text == "w0 w1 "
