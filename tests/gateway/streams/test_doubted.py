"""Streams whose ending waits, since nobody knows yet whose they are: what does not wait for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from support.inprocess import client, config_for, running
from support.resuming import END, token
from support.upstream import HOLD, Upstream, head

BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}


async def test_the_backend_is_left_at_once() -> None:
    """A client that has gone would go on costing money while the fleet is asked; asked twice, it would end twice."""
    async with (
        Upstream([head(), token("w0 "), HOLD]) as up,
        running(config_for(up.url)) as gateway,
        client(gateway) as session,
    ):
        held: list[Callable[[], object]] = []
        gateway.hub.hold = lambda act: waits and not held.append(act)
        waits = True
        headers = {"X-Stream-Id": "x", "X-Stream-On-Disconnect": "cancel"}
        async with session.post("/api/streaming/chat", json=BODY, headers=headers) as answer:
            await answer.content.readuntil(b"w0")
            left = time.monotonic()
        async with asyncio.timeout(5):
            while not up.closed_at:
                await asyncio.sleep(0.01)
        assert up.closed_at[0] - left < 2
        assert len(gateway.hub) == 1
        waits = False
        for act in held * 2:
            act()
        found = await gateway.registry.find("x", "anonymous")
        assert found is not None
        assert found.state == "client_gone"
        assert found.token_count == 1


async def test_the_fleets_word_comes_after() -> None:
    """An answer that is complete, and then was lost: its attempt would be told of both."""
    async with (
        Upstream([head(), token("w0 "), END, b"0\r\n\r\n"]) as up,
        running(config_for(up.url)) as gateway,
        client(gateway) as session,
    ):
        held: list[Callable[[], object]] = []
        waits = True
        gateway.hub.hold = lambda act: waits and not held.append(act)
        async with session.post("/api/streaming/chat", json=BODY, headers={"X-Stream-Id": "x"}) as answer:
            async with asyncio.timeout(5):
                while not held:
                    await asyncio.sleep(0.01)
            waits = False
            gateway.hub.stop("x", "anonymous", "gateway", "node_lost")
            for act in held:
                act()
            said = await answer.text()
        assert "node_lost" in said
        assert "event: done" not in said
        found = await gateway.registry.find("x", "anonymous")
        assert found is not None
        assert found.state == "node_lost"
