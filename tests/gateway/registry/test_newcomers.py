"""A node that has just joined: the others look who is there only now and then."""

from __future__ import annotations

import asyncio
import math

import pytest
from support.inprocess import client, running
from support.redis_server import BINARY, RedisServer
from support.resuming import CHAT, fleet_config

pytestmark = pytest.mark.skipif(BINARY is None, reason="redis-server is not installed")

LONG = {"model": "m", "messages": [{"role": "user", "content": "hi [tokens=2000]"}]}


async def test_a_stream_of_a_new_node_is_cancelled_from_an_old_one() -> None:
    """For seconds after a deploy a DELETE that a balancer sends to another node would be 404, and the stream go on."""
    with RedisServer() as redis:
        config = fleet_config("", redis.url)
        async with running(config) as old, client(old) as at_old:
            old.registry.fleet._due["check"] = math.inf  # type: ignore[attr-defined]  # it does not look again
            async with (
                running(config) as new,
                client(new) as at_new,
                at_new.post(CHAT, json=LONG, headers={"X-Stream-Id": "x"}) as answer,
            ):
                await answer.content.readuntil(b"\n\n")
                await asyncio.sleep(0.3)
                assert new.node not in old.registry.fleet.peers  # type: ignore[attr-defined]
                async with at_old.delete("/api/streaming/x") as deleted:
                    assert deleted.status in (200, 202)
                assert b'"cancelled"' in await answer.content.read()
