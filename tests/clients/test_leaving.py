"""Real clients of Node, LangChain and Google leave in the middle of an answer, each in its SDK's way, or are cut off by
a DELETE (`make test-clients`): the server is let go at once and the receipt says who went."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
from support.answers import SERVERS, before
from support.model_server import ModelServer
from support.runner import Runner, node_command, python_command

pytestmark = pytest.mark.clients

NODE = ("openai-node chat", "openai-node responses", "anthropic-node", "ollama-js", "google-genai-node",
        "ai openai (responses)", "ai openai chat", "ai openai-compatible", "ai anthropic")  # fmt: skip
PYTHON = ("langchain-openai", "langchain-anthropic", "langchain-ollama", "google-genai")
SHOW_HEADERS = {"openai-node chat", "openai-node responses", "anthropic-node", "google-genai-node", "langchain-openai",
                "google-genai"}  # fmt: skip


@pytest.fixture(scope="module")
def runners() -> Iterator[dict[str, Runner]]:
    node, python = node_command(), python_command()
    if not (node and python):
        pytest.skip("not set up: make test-clients")
    with Runner(node) as first, Runner(python) as second:
        yield {**dict.fromkeys(NODE, first), **dict.fromkeys(PYTHON, second)}


async def running(http: aiohttp.ClientSession) -> str:
    """The id of the one stream there is."""
    async with http.get("/api/streaming/active") as answer:
        [entry] = (await answer.json())["streams"]
        return str(entry["streamId"])


async def receipt(http: aiohttp.ClientSession, up: ModelServer, gone: int, stream_id: str) -> Any:
    """The receipt, once the server has seen its client go."""
    async with asyncio.timeout(5):
        while len(up.closed_at) == gone:
            await asyncio.sleep(0.005)
        while True:
            async with http.get(f"/api/streaming/{stream_id}") as answer:
                said = await answer.json()
            if said.get("receipt"):
                return said["receipt"]
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("client", [*NODE, *PYTHON])
async def test_leaving_stops_the_server(runners: dict[str, Runner], client: str, server: str) -> None:
    """A user presses stop, and the model would go on at the owner's cost."""
    async with before(server) as (up, base), aiohttp.ClientSession(base) as http:
        up.manner = "hold"
        shown, raised = await runners[client].begin(client, base, until="you")
        assert raised == ""
        stream_id, gone = await running(http), len(up.closed_at)
        assert shown == (stream_id if client in SHOW_HEADERS else "")
        await runners[client].end("leave")
        found = await receipt(http, up, gone, stream_id)
        assert (found["state"], found["endedBy"], found["finishReason"]) == ("client_gone", "client", "cancelled")


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("client", [*NODE, *PYTHON])
async def test_a_delete_stops_the_server_and_is_noticed(runners: dict[str, Runner], client: str, server: str) -> None:
    """Another window presses stop, and this one would take half an answer for the answer."""
    async with before(server) as (up, base), aiohttp.ClientSession(base) as http:
        up.manner = "hold"
        shown, raised = await runners[client].begin(client, base, until="you")
        assert raised == ""
        stream_id, gone = shown or await running(http), len(up.closed_at)
        async with http.delete(f"/api/streaming/{stream_id}") as answer:
            assert (answer.status, (await answer.json())["state"]) == (200, "cancelled")
        assert await runners[client].end("read") != ""
        found = await receipt(http, up, gone, stream_id)
        assert (found["state"], found["endedBy"], found["finishReason"]) == ("cancelled", "client", "cancelled")
