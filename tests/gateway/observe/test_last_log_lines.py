"""The log of a real process, to its last line."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import Any

import pytest
from support.fleet import client, config, node, stream
from support.redis_server import BINARY, RedisServer

pytestmark = pytest.mark.skipif(BINARY is None, reason="redis-server is not installed")


def events(log: str) -> list[dict[str, Any]]:
    """Its lines."""
    return [json.loads(line) for line in log.splitlines() if line.startswith("{")]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("signals", [1, 2])
async def test_what_waits_is_written_before_the_end(workers: int, signals: int) -> None:
    """Lines wait up to 20 ms for company: those of the streams that end with the process would be in no log."""
    with RedisServer() as redis:
        text = config(redis.url, drain="400ms" if signals == 1 else "30s")
        text = text.replace("drain_timeout", f"workers: {workers}, drain_timeout")
        async with client() as session, node("", text=text) as gateway:
            names = [f"s{i}" for i in range(3)]
            opened = [stream(session, gateway, name, directives="[tokens=100000] [rate=20] ä") for name in names]
            for one in opened:
                await one.__aenter__()
            for _ in range(signals):
                gateway.process.send_signal(signal.SIGTERM)
                await asyncio.sleep(0.3)
            await asyncio.to_thread(gateway.process.wait, 10)
            log = gateway.log
            assert log.endswith("\n")
            said = events(log)
            ended = sorted(line["stream"] for line in said if line["event"] == "stream")
            assert ended == names
            assert [line["event"] for line in said].count("stopped") == workers
            assert gateway.process.returncode == 0
            for one in opened:
                await one.__aexit__(None, None, None)
