"""Every client leaves in the middle of an answer, as asyncio applications do it: the task that reads is cancelled."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest
from support.answers import SERVERS, before, client
from support.model_server import ModelServer
from support.plain_clients import CLIENTS


async def at_work(http: aiohttp.ClientSession) -> str:
    """The id of the one stream there is, once it has said something."""
    while True:
        async with http.get("/api/streaming/active") as answer:
            for entry in (await answer.json())["streams"]:
                if entry["tokenCount"]:
                    return str(entry["streamId"])
        await asyncio.sleep(0.002)


async def receipt(http: aiohttp.ClientSession, stream_id: str) -> Any:
    while True:
        async with http.get(f"/api/streaming/{stream_id}") as answer:
            said = await answer.json()
        if said.get("receipt"):
            return said["receipt"]
        await asyncio.sleep(0.002)


async def left(http: aiohttp.ClientSession, server: ModelServer, reading: asyncio.Task[Any]) -> Any:
    """The receipt of what this task reads, once it is cancelled and the server has seen its client go."""
    stream_id, gone = await at_work(http), len(server.closed_at)
    reading.cancel()
    while len(server.closed_at) == gone:
        await asyncio.sleep(0.002)
    return await receipt(http, stream_id)


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("name", CLIENTS)
async def test_the_server_is_let_go(name: str, server: str) -> None:
    """A user presses stop or closes the page, and the model would go on at the owner's cost."""
    headers = {"X-Stream-On-Disconnect": "cancel"}  # what every client but the native ones has anyway
    async with before(server) as (up, base), aiohttp.ClientSession(base) as http, client(name, base) as asking:
        up.manner = "hold"
        asking.headers = {**asking.headers, **headers}
        for stream in (True, False):
            async with asyncio.timeout(10):
                found = await left(http, up, asyncio.ensure_future(asking.ask(stream=stream)))
            said = (found["state"], found["endedBy"], found["finishReason"], found["tokenCount"])
            assert said == ("client_gone", "client", "cancelled", 2), "stream" if stream else "whole"
