"""Answers far beyond the usual: one line of megabytes, arguments without end, a hundred thousand deltas (B 16)."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import aiohttp
import pytest
from support.answers import before
from support.answers import client as speaking
from support.dialects import Said, Step
from support.inprocess import client, config_for, running
from support.plain_clients import CLIENTS
from support.upstream import HOLD, Upstream, chunk, head

from config.schema import Streams
from config.values import Size

CHAT = "/api/streaming/chat"
ASKED = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, "stream": True}
MB = 1024 * 1024
END = chunk(b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n')
LAST = b"0\r\n\r\n"


def frame(delta: dict[str, Any]) -> bytes:
    data = {"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    return chunk(b"data: " + json.dumps(data).encode() + b"\n\n")


def argument(text: str, **more: Any) -> bytes:
    return frame({"tool_calls": [{"index": 0, **more, "function": {"arguments": text}}]})


@pytest.mark.parametrize("kind", ["vllm", "ollama"])
@pytest.mark.parametrize("name", CLIENTS)
async def test_a_line_of_3_mb_passes(name: str, kind: str) -> None:
    """A picture or a document in a model's answer would break the stream, in some API only."""
    async with before(kind) as (server, base), speaking(name, base) as asking:
        server.answer = Said((Step("text", "Hello "), Step("text", "é☕x" * (MB // 2))))
        heard = await asking.ask(stream=True)
        assert heard.error == ""
        assert len(heard.text) == 6 + 3 * (MB // 2)


@pytest.mark.parametrize("path", [CHAT, "/v1/chat/completions", "/v1/messages", "/api/chat"])
async def test_a_line_beyond_the_cap_is_an_error(path: str) -> None:
    """A backend could have all the gateway's memory by never ending a line."""
    endless = [chunk(b"x" * 65_536)] * 160
    async with (
        Upstream([head(), frame({"content": "a"}), chunk(b"data: "), *endless, HOLD]) as up,
        running(config_for(up.url)) as gateway,
        client(gateway) as session,
        session.post(path, json=ASKED, headers={"X-Stream-Id": "mine"}) as answer,
    ):
        text = await said(answer)
        assert "event_too_large" in text or "larger than" in text
        assert "x" * 100 not in text
        entry = await gateway.registry.find("mine", "anonymous")
        assert entry is not None
        assert (entry.state, entry.error_code) == ("upstream_error", "event_too_large")
        assert up.sent < 9 * MB  # the cap, and what was in sockets when it was met


async def said(answer: aiohttp.ClientResponse) -> str:
    """All that comes, up to where it breaks off."""
    data = b""
    try:
        async for piece in answer.content.iter_any():
            data += piece
    except aiohttp.ClientError:
        pass  # behind its error frame
    return data.decode()


async def lag(worst: list[float]) -> None:
    """How long this worker's loop was busy with one thing."""
    while True:
        last = time.monotonic()
        await asyncio.sleep(0.005)
        worst.append(time.monotonic() - last - 0.005)


@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", CLIENTS)
async def test_a_hundred_thousand_deltas(name: str) -> None:
    """What grows with each delta would make a long answer slower and slower, or hold up everybody else's."""
    async with before("vllm") as (server, base), speaking(name, base) as asking:
        server.answer = Said(tuple(Step("text", f"{i} ") for i in range(100_000)))
        watching = asyncio.create_task(lag(worst := []))
        began = time.process_time()
        heard = await asking.ask(stream=True)
        watching.cancel()
        assert heard.error == ""
        assert heard.text == "".join(f"{i} " for i in range(100_000))
        print(f"\n{name}: {time.process_time() - began:.1f} s of CPU, loop busy {max(worst) * 1000:.0f} ms at most")
        assert time.process_time() - began < 120


@pytest.mark.parametrize("path", [CHAT, "/v1/chat/completions", "/v1/messages", "/api/chat"])
async def test_arguments_of_50_mb(path: str) -> None:
    """A model that never closes its call would fill its client's memory, and ours."""
    many = [argument("x" * 512)] * 2_000
    streams = Streams(max_tool_arguments=Size(MB))
    first = argument("", id="call_1", type="function")
    async with (
        Upstream([head(), first, *(many * 50), END, LAST]) as up,
        running(config_for(up.url, streams=streams)) as gateway,
        client(gateway) as session,
        session.post(path, json=ASKED, headers={"X-Stream-Id": "mine"}) as answer,
    ):
        text = await said(answer)
        assert len(text) < 8 * MB
        entry = await gateway.registry.find("mine", "anonymous")
        assert entry is not None
        assert entry.error_code == "event_too_large"
        assert up.sent < 16 * MB
