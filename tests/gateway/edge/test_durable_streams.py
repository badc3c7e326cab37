"""Streams of a real gateway, read as Durable Streams; the protocol itself is held by `make conformance`."""

from __future__ import annotations

import asyncio
import json
import re
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from support.inprocess import client, config_for, running
from support.upstream import HOLD, RESET, Upstream, chunk, head

from config.schema import Cors, Key, Registry, Server, Streams
from config.values import Duration, Size
from gateway.access.keys import hash_of

ON = Server(port=0, durable_streams=True)
ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
NEXT, CLOSED, UP = "Stream-Next-Offset", "Stream-Closed", "Stream-Up-To-Date"
KEPT = {"X-Stream-Id": "x", "X-Stream-On-Disconnect": "continue"}


def frame(delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return chunk(b"data: " + json.dumps({"id": "c", "model": "m", "choices": [choice]}).encode() + b"\n\n")


DONE = (frame({}, "stop"), chunk(b"data: [DONE]\n\n"), b"0\r\n\r\n")


def script(words: int = 8, gap: float = 0.0) -> list[Any]:
    steps: list[Any] = [head()]
    for n in range(words):
        steps += [frame({"content": f"w{n} é☕ "}), gap]
    return [*steps, *DONE]


@asynccontextmanager
async def world(steps: Any, **rest: Any) -> AsyncIterator[tuple[Upstream, aiohttp.ClientSession]]:
    rest.setdefault("server", ON)
    async with Upstream(steps) as up, running(config_for(up.url, **rest)) as gateway, client(gateway) as session:
        yield up, session


async def get(session: aiohttp.ClientSession, url: str, **headers: str) -> tuple[int, bytes, Any]:
    async with session.get(url, headers=headers) as answer:
        return answer.status, await answer.read(), answer.headers


ROADS = [
    pytest.param("/api/streaming/chat", {}, "text/event-stream", id="native"),
    pytest.param("/v1/chat/completions", {"stream": True}, "text/event-stream", id="openai"),
    pytest.param("/api/v1/conversations/c/stream", {}, "application/x-ndjson", id="ndjson"),
]


@pytest.mark.parametrize(("path", "more", "kind"), ROADS)
async def test_catch_up_is_the_stream_byte_for_byte(path: str, more: Any, kind: str) -> None:
    """What is read by offset would not be what the first client read."""
    async with world(script()) as (_, session):
        async with session.post(path, json=ASK | more, headers={"X-Stream-Id": "x"}) as answer:
            live = await answer.read()
        status, body, headers = await get(session, "/v1/stream/x")
        assert (status, body) == (200, live)
        assert headers["Content-Type"].startswith(kind)
        assert (headers[UP], headers[CLOSED], headers["X-Stream-State"]) == ("true", "true", "completed")
        tail = headers[NEXT]
        for at in (0, 1, len(live) // 2, len(live)):
            _, rest, _ = await get(session, f"/v1/stream/x?offset={at:016d}")
            assert rest == live[at:]
        assert (await get(session, f"/v1/stream/x?offset={tail}"))[2][CLOSED] == "true"
        assert (await get(session, "/v1/stream/x?offset=now"))[1:2] == (b"",)
        status, body, _ = await get(session, "/v1/stream/x", **{"If-None-Match": headers["ETag"]})
        assert (status, body) == (304, b"")
        async with session.head("/v1/stream/x") as seen:
            assert (seen.headers[NEXT], seen.headers[CLOSED]) == (tail, "true")
            assert seen.headers["Cache-Control"] == "no-store"


async def test_long_polls_follow_a_running_stream() -> None:
    """A client that polls would lose bytes between two polls, or never see the end."""
    async with world(script(30, 0.01)) as (_, session):
        live = asyncio.create_task(_post(session))
        await asyncio.sleep(0.1)
        got, offset, polls = b"", "-1", 0
        while True:
            status, body, headers = await get(session, f"/v1/stream/x?offset={offset}&live=long-poll")
            assert status in (200, 204)
            assert headers["Stream-Cursor"].isdigit()
            got, offset, polls = got + body, headers[NEXT], polls + 1
            if headers.get(CLOSED):
                break
        assert got == await live
        assert polls > 2
        status, body, headers = await get(session, f"/v1/stream/x?offset={offset}&live=long-poll")
        assert (status, body, headers[CLOSED]) == (204, b"", "true")


async def _post(session: aiohttp.ClientSession) -> bytes:
    async with session.post("/api/streaming/chat", json=ASK, headers=KEPT) as answer:
        return await answer.read()


@pytest.mark.parametrize("start", ["-1", "now"])
async def test_sse_follows_a_running_stream_to_its_end(start: str) -> None:
    """Live readers would miss what came while they joined, or wait for ever at the end."""
    async with world(script(30, 0.01)) as (_, session):
        live = asyncio.create_task(_post(session))
        await asyncio.sleep(0.15)
        status, body, headers = await get(session, f"/v1/stream/x?offset={start}&live=sse")
        whole = await live
        assert (status, headers["Content-Type"]) == (200, "text/event-stream")
        blocks = [block.split("\n") for block in body.decode().split("\n\n") if block]
        kinds = [block[0] for block in blocks]
        data = "".join(
            "\n".join(line.removeprefix("data:").removeprefix(" ") for line in block[1:])
            for block in blocks
            if block[0] == "event: data"
        ).encode()
        assert whole.endswith(data)
        assert (len(data) == len(whole)) == (start == "-1")
        last = json.loads(blocks[-1][1].removeprefix("data:"))
        assert last == {"streamNextOffset": f"{len(whole):016d}", "upToDate": True, "streamClosed": True}
        for at, kind in enumerate(kinds):
            assert kind != "event: data" or kinds[at + 1] == "event: control"


async def test_large_streams_come_in_pieces() -> None:
    """One answer would hold a whole transcript in memory, and hold up the others."""
    steps: list[Any] = [head(), *(frame({"content": f"{n} " + "x" * 900}) for n in range(400)), *DONE]
    async with world(steps) as (_, session):
        whole = await _post(session)
        got, offset, pieces = b"", "-1", 0
        while True:
            _, body, headers = await get(session, f"/v1/stream/x?offset={offset}")
            got, offset, pieces = got + body, headers[NEXT], pieces + 1
            if UP in headers:
                break
            assert CLOSED not in headers
        assert got == whole
        assert pieces > 2


async def test_other_views_and_messages() -> None:
    """Clients that read JSON messages, or another protocol than the stream was started in, would get none."""
    async with world(script()) as (_, session):
        await _post(session)
        _, lines, headers = await get(session, "/v1/stream/x?protocol=ndjson")
        assert headers["Content-Type"].startswith("application/x-ndjson")
        messages = [json.loads(line) for line in lines.splitlines()]
        assert messages[-1]["type"] == "complete_state"
        _, body, headers = await get(session, "/v1/stream/x?protocol=ndjson&messages=1")
        assert headers["Content-Type"] == "application/json"
        assert json.loads(body) == messages
        assert (await get(session, "/v1/stream/x?protocol=ndjson&messages=1&offset=now"))[1] == b"[]"
        _, body, headers = await get(session, "/v1/stream/x?protocol=ndjson&offset=-1&live=sse")
        assert headers["Stream-SSE-Data-Encoding"] == "base64"
        told = re.findall(rb"event: data\ndata:(\S+)\n", body)
        assert b"".join(map(b64decode, told)) == lines
        assert (await get(session, "/v1/stream/x?messages=1"))[0] == 400
        assert (await get(session, "/v1/stream/x?protocol=nonsense"))[0] == 400


async def test_a_failed_stream_says_so_and_is_closed() -> None:
    """A truncated answer would look like a whole one."""
    async with world([head(), frame({"content": "a"}), RESET]) as (_, session):
        async with session.post("/api/streaming/chat", json=ASK, headers=KEPT) as answer:
            live = await answer.content.read()
        _, body, headers = await get(session, "/v1/stream/x")
        assert headers["X-Stream-State"] in ("upstream_error", "upstream_truncated")
        assert headers[CLOSED] == "true"
        assert body == live


@pytest.mark.parametrize(
    "query", ["offset=", "offset=7", "offset=0,1", "offset=a&offset=b", "live=sse", "offset=-1&live=x"]
)
async def test_what_is_no_read_is_refused(query: str) -> None:
    """A mistaken client would get bytes it did not mean."""
    async with world(script()) as (_, session):
        await _post(session)
        assert (await get(session, f"/v1/stream/x?{query}"))[0] == 400


async def test_who_may_read_what() -> None:
    """Streams would be read by others than their owner, or written; what is gone would look as if it never was."""
    keys = (Key(id="k", owner="o", hash=hash_of("hg_one")), Key(id="l", owner="p", hash=hash_of("hg_two")))
    mine, other = {"Authorization": "Bearer hg_one"}, {"Authorization": "Bearer hg_two"}
    server = Server(port=0, durable_streams=True, cors=Cors(("https://a.example",)))
    async with world(script(), keys=keys, server=server) as (_, session):
        async with session.post("/api/streaming/chat", json=ASK, headers={**KEPT, **mine}) as answer:
            await answer.read()
        assert (await get(session, "/v1/stream/x", **mine))[0] == 200
        assert (await get(session, "/v1/stream/x", **other))[0] == 404
        assert (await get(session, "/v1/stream/x"))[0] == 401
        status, _, headers = await get(session, "/v1/stream/y", **mine)
        assert (status, headers["X-Content-Type-Options"]) == (404, "nosniff")
        for method in ("PUT", "POST", "DELETE", "PATCH"):
            async with session.request(method, "/v1/stream/x", headers=mine) as refused:
                assert refused.status == 405
                assert set(re.findall(r"\w+", refused.headers["Allow"])) == {"GET", "HEAD"}
        for query in ("", "?offset=-1&live=sse"):
            _, _, headers = await get(session, "/v1/stream/x" + query, Origin="https://a.example", **mine)
            assert headers["Access-Control-Allow-Origin"] == "https://a.example"
            assert "Stream-Cursor" in headers["Access-Control-Expose-Headers"]
    async with world(script(), registry=Registry(replay=Duration(0.2))) as (_, session):
        await _post(session)
        await asyncio.sleep(1.5)
        assert (await get(session, "/v1/stream/x"))[0] == 410
    async with world(script(400), streams=Streams(transcript_cap=Size(4000))) as (_, session):
        await _post(session)
        assert (await get(session, "/v1/stream/x"))[0] == 410
    async with world(script(), server=Server(port=0)) as (_, session):
        await _post(session)
        assert (await get(session, "/v1/stream/x"))[0] == 404


async def test_a_reader_ahead_of_the_stream_and_one_too_many() -> None:
    """An offset of another node would silently skip bytes; readers would be without limit."""
    steps = [head(), frame({"content": "a"}), HOLD]
    async with world(steps, streams=Streams(max_readers=2)) as (_, session):
        answer = await session.post("/api/streaming/chat", json=ASK, headers=KEPT)
        await answer.content.readuntil(b"event: token")
        assert (await get(session, f"/v1/stream/x?offset={10**9:016d}"))[0] == 416
        waiting = asyncio.create_task(get(session, "/v1/stream/x?offset=now&live=long-poll"))
        await asyncio.sleep(0.1)
        assert (await get(session, "/v1/stream/x"))[0] == 429
        waiting.cancel()
        async with session.delete("/api/streaming/x") as gone:
            assert gone.status == 200
        answer.close()
