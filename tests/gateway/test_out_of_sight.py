"""What a client is told of a stream that another node has: one that is not known yet, cannot be asked about now, or
lost its node."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from support.fleet import client, node
from support.redis_server import BINARY, RedisServer
from support.resuming import END, fleet_config, post, read, rest_of, token, two
from support.surviving import LEASE, Listener, node_config, prompt, receipt_of, statistics
from support.upstream import Upstream, chunk, head

pytestmark = pytest.mark.skipif(BINARY is None, reason="redis-server is not installed")

SHORT = [head(), token("w "), END, b"0\r\n\r\n"]


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """One Redis per test."""
    with RedisServer() as server:
        yield server


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
async def test_one_that_was_over_at_once(method: str, redis: RedisServer) -> None:
    """A client that has read all of a short answer would be told on another node that there never was one, and
    never get its receipt."""
    async with Upstream(SHORT) as up, two(fleet_config(up.url, redis.url)) as (_, at_a, _b, at_b):
        for i in range(5):
            await post(at_a, f"x{i}")
            async with at_b.request(method, f"/api/streaming/x{i}", headers={"Accept": "application/json"}) as answer:
                assert answer.status == 200, await answer.text()
                assert method == "HEAD" or (await answer.json())["state"] == "completed"
            async with at_b.request(method, f"/api/streaming/never{i}") as answer:
                assert answer.status == 404


@pytest.mark.parametrize("share", ["off", "auto"])
async def test_whether_it_can_be_read_where_one_asks(share: str, redis: RedisServer) -> None:
    """A client would be sent for a transcript to a node that has none, or give up one it could have."""
    script = [head(), token("a "), 3.0, END, b"0\r\n\r\n"]
    async with (
        Upstream(script) as up,
        two(fleet_config(up.url, redis.url, registry={"share": share})) as (_, at_a, _b, at_b),
    ):
        asked = asyncio.create_task(post(at_a, "x"))
        for _ in range(100):
            async with at_b.get("/api/streaming/active") as answer:
                if (await answer.json())["count"]:
                    break
            await asyncio.sleep(0.03)
        for state in ("streaming", "completed"):
            for session, readable in ((at_a, True), (at_b, share != "off")):
                said = [entry["resumable"] for entry in await _running(session)]
                told = {"state": ""}
                while not told["state"] or (told["state"] == "completed") != (state == "completed"):  # news takes time
                    async with session.get("/api/streaming/x") as answer:
                        told = await answer.json()
                async with session.head("/api/streaming/x") as answer:
                    said.append(answer.headers["X-Stream-Resumable"] == "true")
                assert {*said, told["resumable"]} == {readable}
                if state == "completed":
                    async with session.get("/api/streaming/x?after=0") as answer:
                        assert (answer.status == 200) is readable
            if state == "streaming":
                await asked


async def _running(session: Any) -> list[dict[str, Any]]:
    async with session.get("/api/streaming/active") as answer:
        found: list[dict[str, Any]] = (await answer.json())["streams"]
    return found


async def test_a_conversation_nobody_can_be_asked_about(redis: RedisServer) -> None:
    """204 says that nothing runs, and clients go away for good; while Redis is away nobody knows that."""
    url = "/api/v1/conversations/c/stream"
    async with Upstream(SHORT) as up, two(fleet_config(up.url, redis.url)) as (_, at_a, _b, _at_b):
        async with at_a.get(url) as answer:
            assert answer.status == 204
        redis.kill()
        for _ in range(50):
            async with at_a.get(url) as answer:
                if answer.status != 204:
                    break
            await asyncio.sleep(0.1)
        assert (answer.status, "Retry-After" in answer.headers) == (503, True)
        async with at_a.get(url, headers={"Accept": "text/event-stream"}) as answer:
            assert (answer.status, await answer.read()) == (200, b"retry: 3000\n\n")


async def test_cancelled_while_nobody_has_it(redis: RedisServer) -> None:
    """A cancel that was taken (202) after a node died, before its heir had the stream, would be forgotten, and the
    answer go on to its end at the client's expense."""
    text = node_config(redis.url)
    async with node("", text=text) as a, node("", text=text) as b, client() as session:
        one = Listener("x")
        asked = asyncio.create_task(one.start(session, a, prompt(400, 20), **{"X-Stream-On-Disconnect": "continue"}))
        while len(one.frames) < 4:
            await asyncio.sleep(0.01)
        a.kill()
        await asked
        async with session.delete(f"{b.url}/api/streaming/x") as answer:
            assert answer.status == 202, await answer.text()
        await one.go_on(session, b, 3 * LEASE + 5)
        assert (one.frames[-1][1], one.frames[-1][2]["finishReason"]) == ("done", "cancelled")
        assert (await receipt_of(session, b, "x"))["state"] == "cancelled"
        assert (await statistics(session, b))["states"]["cancelled"] == 1


def said(event: dict[str, Any]) -> bytes:
    """An event of the Responses API."""
    return chunk(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())


def responses(name: str, *, fail: bool = False) -> list[Any]:
    """A backend's answer under its own id."""
    about = {"id": name, "object": "response", "created_at": 1, "model": "m", "status": "in_progress", "output": []}
    text = {"item_id": "i", "output_index": 0, "content_index": 0}
    item = {"id": "i", "type": "message", "role": "assistant", "content": [], "status": "in_progress"}
    part = {"type": "output_text", "text": "w0 w1 ", "annotations": []}
    done = {**item, "status": "completed", "content": [part]}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": about},
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        *({"type": "response.output_text.delta", "delta": f"w{i} ", **text} for i in range(2)),
    ]
    if fail:
        events.append({"type": "error", "code": "its_own_word", "message": "boom"})
    else:
        events.append({"type": "response.output_item.done", "output_index": 0, "item": done})
        events.append({"type": "response.completed", "response": {**about, "status": "completed", "output": [done]}})
    script: list[Any] = [head()]
    for i, event in enumerate(events):
        script += [said({"sequence_number": i, **event}), 0.2 if i == 3 else 0]
    return [*script, b"0\r\n\r\n"]


async def test_a_response_by_its_backends_id(redis: RedisServer) -> None:
    """A client knows a response by the id its backend gave it, and would be told by every other node that there is
    none: while it runs, and after its end."""
    async with Upstream(responses("resp_up")) as up, two(fleet_config(up.url, redis.url)) as (_, at_a, _b, at_b):
        async with at_a.post("/v1/responses", json={"model": "m", "input": "hi", "stream": True}) as answer:
            live = await answer.content.readuntil(b"w1 ")
            await asyncio.sleep(0.1)
            async with at_b.get("/v1/responses/resp_up") as shown:
                assert (shown.status, (await shown.json())["status"]) == (200, "in_progress")
            live += await rest_of(answer)
        for at in (at_a, at_b):
            async with at.get("/v1/responses/resp_up") as shown:
                found = await shown.json()
                assert (shown.status, found["id"], found["status"]) == (200, "resp_up", "completed")
            rest = await read(at, "/v1/responses/resp_up?stream=true&starting_after=1")
            assert rest
            assert live.endswith(rest)
            async with at.get("/v1/responses/resp_other") as shown:
                assert shown.status == 404


async def test_a_whole_response_by_its_backends_id(redis: RedisServer) -> None:
    """A client that asked for the answer in one piece knows it by the same id, and could go on from it on one node
    only."""
    async with Upstream(responses("resp_up")) as up, two(fleet_config(up.url, redis.url)) as (_, at_a, _b, at_b):
        async with at_a.post("/v1/responses", json={"model": "m", "input": "hi"}) as answer:
            assert (await answer.json())["id"] == "resp_up"
        await asyncio.sleep(0.5)
        async with at_b.get("/v1/responses/resp_up") as shown:
            assert (shown.status, (await shown.json())["status"]) == (200, "completed")


async def test_a_failures_own_word(redis: RedisServer) -> None:
    """A failed answer would be read with another error code on another node, in protocols that keep a backend's."""
    failing = Upstream(responses("resp_up", fail=True))
    async with failing as up, two(fleet_config(up.url, redis.url)) as (_, at_a, _b, at_b):
        body = {"model": "m", "input": "hi", "stream": True}
        async with at_a.post("/v1/responses", json=body, headers={"X-Stream-Id": "x"}) as answer:
            await rest_of(answer)
        url = "/api/streaming/x?protocol=openai"
        here = await read(at_a, url)
        assert b"its_own_word" in here
        assert await read(at_b, url) == here
