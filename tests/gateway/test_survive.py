"""Streams that survive their node (`survive: node`): real processes on a real Redis, killed, stopped, drained."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest
from msgspec.structs import replace
from support.fleet import client, node
from support.gateway import Gateway
from support.inprocess import client as client_of
from support.inprocess import running
from support.redis_server import BINARY, RedisServer
from support.resuming import END, fleet_config, token
from support.surviving import LEASE, Listener, claims, listed, node_config, prompt, receipt_of, statistics, whole_of
from support.upstream import Upstream, head

from config.schema import Route, Target
from gateway.registry.shared_shipment import Shipment

pytestmark = pytest.mark.skipif(BINARY is None, reason="redis-server is not installed")


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """One Redis per test: what one leaves behind is not another's."""
    with RedisServer() as server:
        yield server


@contextlib.asynccontextmanager
async def fleet(
    redis: RedisServer, count: int, **more: str
) -> AsyncIterator[tuple[aiohttp.ClientSession, list[Gateway]]]:
    """So many nodes, and a client."""
    text = node_config(redis.url, **more)
    async with contextlib.AsyncExitStack() as stack:
        nodes = await asyncio.gather(*(stack.enter_async_context(node("", text=text)) for _ in range(count)))
        yield await stack.enter_async_context(client()), list(nodes)


ENDS = {"openai": b"\n\n", "ndjson": b"\n"}  # of a frame


async def broken_read(session: aiohttp.ClientSession, url: str) -> bytes:
    """What came before the connection broke."""
    data = b""
    with contextlib.suppress(aiohttp.ClientError):
        async with session.get(url) as answer:
            async for piece in answer.content.iter_any():
                data += piece
    return data


async def begun(listeners: list[Listener], frames: int, seconds: float = 10) -> None:
    """Until each has read so many frames."""
    deadline = time.monotonic() + seconds
    while any(len(listener.frames) < frames for listener in listeners):
        assert time.monotonic() < deadline, [listener.frames for listener in listeners]
        await asyncio.sleep(0.005)


async def test_killed_at_several_points(redis: RedisServer) -> None:
    """A node that dies would take its answers with it, two others would both go on with one, or a client would read a
    token twice or never, in some protocol."""
    async with fleet(redis, 3) as (session, (a, b, c)):
        text = (await whole_of(session, b, prompt(24, 0))).text
        rates = {"slow": 6, "mid": 9, "fast": 14, "cold": 0.4}
        ones = {name: Listener(name) for name in rates}
        asked = [asyncio.create_task(one.start(session, a, prompt(24, rates[one.name]))) for one in ones.values()]
        call = Listener("call")
        asked.append(asyncio.create_task(call.start(session, a, prompt(30, 2, " [tool=cut]"))))
        await begun([ones["slow"]], 2)
        elsewhere = Listener("mid")
        asked.append(asyncio.create_task(elsewhere.go_on(session, b)))
        urls = {name: f"/api/streaming/mid?protocol={name}" for name in ENDS}
        parts = {name: asyncio.create_task(broken_read(session, a.url + url)) for name, url in urls.items()}
        await begun([ones["slow"], elsewhere], 4)
        await begun([call], 2)
        a.kill()
        cold = ones.pop("cold")  # nothing was said yet, and nothing will be for as long as this test takes
        await asyncio.gather(call.go_on(session, c), *(one.go_on(session, b) for one in ones.values()), *asked)
        assert cold.frames == []
        assert elsewhere.broken == 0
        assert elsewhere.raw == ones["mid"].raw
        for name, one in ones.items():
            assert (one.text, one.numbered, one.broken) == (text, True, 1), name
            receipt = await receipt_of(session, c, name)
            assert [receipt[key] for key in ("state", "tokenCount", "attempts")] == ["completed", 24, 2]
            assert [lost["outcome"] for lost in receipt["tries"]] == ["node_lost"]
        for name, end in ENDS.items():
            part = await parts[name]
            part = part[: part.rfind(end) + len(end)]
            async with session.get(f"{c.url}{urls[name]}&after={part.count(end)}") as answer:
                rest = await answer.read()
            async with session.get(b.url + urls[name]) as answer:
                assert part + rest == await answer.read()
            assert rest.count(b"content") > 8
        assert (call.frames[-1][1], call.frames[-1][2]["code"]) == ("error", "node_lost")
        assert [one["streamId"] for one in await listed(session, c)] == ["cold"]
        assert {claims(redis, name) for name in (*rates, "call")} == {1}
        states = (await statistics(session, b))["states"]
        assert {name: count for name, count in states.items() if count} == {"completed": 4, "node_lost": 1}


async def test_stopped_for_long_and_woken(redis: RedisServer) -> None:
    """An owner that slept through its lease would give a second answer, or a second receipt, or tell its client that
    the stream is lost when it goes on elsewhere."""
    async with fleet(redis, 2) as (session, (a, b)):
        text = (await whole_of(session, b, prompt(40, 0))).text
        one = Listener("x")
        asked = asyncio.create_task(one.start(session, a, prompt(40, 12)))
        await begun([one], 4)
        elsewhere = Listener("x")
        reading = asyncio.create_task(elsewhere.go_on(session, b))
        await begun([one, elsewhere], 8)
        a.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(2 * LEASE)
        assert [entry["streamId"] for entry in await listed(session, b)] == ["x"]
        a.process.send_signal(signal.SIGCONT)
        await asyncio.wait_for(asked, 5)
        assert one.frames[-1][1] == "token"  # cut, not told that it ended
        await one.go_on(session, a)
        await reading
        assert (elsewhere.raw, elsewhere.broken) == (one.raw, 0)
        assert one.text == text
        assert one.numbered
        assert claims(redis, "x") == 1
        for at in (a, b):
            receipt = await receipt_of(session, at, "x")
            assert (receipt["state"], receipt["tokenCount"]) == ("completed", 40)
            told = await statistics(session, at)
            assert told["states"]["completed"] == 2
            assert told["states"]["node_lost"] == 0
            assert await listed(session, at) == []


@pytest.mark.soak
async def test_drained_with_streams_left(redis: RedisServer) -> None:
    """A deploy would cut what is still running when its patience ends."""
    async with fleet(redis, 2) as (session, (a, b)):
        text = (await whole_of(session, b, prompt(40, 0))).text
        one = Listener("x")
        asked = asyncio.create_task(one.start(session, a, prompt(40, 15)))
        await begun([one], 8)
        a.process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(asked, 5)
        await one.go_on(session, b)
        assert one.text == text
        assert one.numbered
        assert (await receipt_of(session, b, "x"))["state"] == "completed"


@pytest.mark.soak
async def test_restarted_where_the_route_says_so(redis: RedisServer) -> None:
    """An answer begun anew would be appended to the half that was there."""
    async with fleet(redis, 2, route="on_failure: restart") as (session, (a, b)):
        text = (await whole_of(session, b, prompt(30, 0))).text
        one = Listener("x")
        asked = asyncio.create_task(one.start(session, a, prompt(30, 15)))
        await begun([one], 5)
        a.kill()
        await asked
        await one.go_on(session, b)
        kinds = [kind for _, kind, _ in one.frames]
        assert kinds.count("reset") == 1
        assert one.text.endswith(text)
        assert one.numbered


async def test_without_redis_readers_here_go_on(redis: RedisServer) -> None:
    """What is written ahead of readers would hold them up for as long as Redis is away."""
    words = [step for i in range(20) for step in (token(f"w{i} "), 0.05)]
    async with Upstream([head(), *words, END, b"0\r\n\r\n"]) as up:
        route = Route(model="*", to=(Target("up"),), survive="node")
        config = replace(fleet_config(up.url, redis.url), routes=(route,))
        async with running(config) as a, client_of(a) as at_a:
            said = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
            secret = {"Authorization": "Bearer sk-of-nobody-else", "X-Stream-Id": "x"}
            async with at_a.post("/api/streaming/chat", json=said, headers=secret) as answer:
                body = await answer.content.readuntil(b"w3 ")
                stored = redis.command("LRANGE", "headgate:log:{x@anonymous}", "0", "-1")
                assert '"content":"hi"' in stored
                assert "sk-of-nobody-else" not in stored
                redis.kill()
                body += await asyncio.wait_for(answer.content.read(), 5)
            assert b"w19" in body
            assert b"event: done" in body


async def test_a_fault_in_one_copy_holds_nobody_else_up(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """All surviving streams of a worker go by one batch: what fails in one of them would stop them all for good."""
    entries, plain = Shipment.entries, Shipment.plain_entry

    def failing(do: Any) -> Any:
        def asked(self: Shipment, *args: Any) -> Any:
            if self.producer.stream.identity.id == "bad" and self.transcript.tip > 3:
                raise RuntimeError("of this stream")
            return do(self, *args)

        return asked

    monkeypatch.setattr(Shipment, "entries", failing(entries))
    monkeypatch.setattr(Shipment, "plain_entry", failing(plain))
    words = [step for i in range(20) for step in (token(f"w{i} "), 0.02)]
    async with Upstream([head(), *words, END, b"0\r\n\r\n"]) as up:
        route = Route(model="*", to=(Target("up"),), survive="node")
        config = replace(fleet_config(up.url, redis.url), routes=(route,))
        async with running(config) as a, client_of(a) as session:

            async def whole(name: str) -> str:
                said = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
                headers = {"X-Stream-Id": name}
                async with session.post("/api/streaming/chat", json=said, headers=headers) as answer:
                    return await asyncio.wait_for(answer.text(), 10)

            for text in await asyncio.gather(whole("bad"), whole("good")):
                assert "w19" in text
                assert "event: done" in text


async def test_ended_when_it_had_gone_on_elsewhere(redis: RedisServer) -> None:
    """A node that slept, and finds the whole rest of an answer waiting as it wakes, would show it all: other frames
    under the same numbers than the node that went on with the stream."""
    first, rest = token("w0 "), b"".join((token("w1 "), END, b"0\r\n\r\n"))
    async with Upstream([head(), first, 0.6, rest]) as up:
        route = Route(model="*", to=(Target("up"),), survive="node")
        config = replace(fleet_config(up.url, redis.url), routes=(route,))
        async with running(config) as a, client_of(a) as at_a:
            said = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
            async with at_a.post("/api/streaming/chat", json=said, headers={"X-Stream-Id": "x"}) as answer:
                body = await answer.content.readuntil(b"w0 ")
                log = "headgate:log:{x@anonymous}"
                sent = redis.command("LINDEX", log, "-1").split("\r\n")[1].split("-")[0]
                redis.command("RPUSH", log, f"{sent}-2 c\nanother")
                with pytest.raises(aiohttp.ClientPayloadError):
                    body += await asyncio.wait_for(answer.content.read(), 5)
            assert b"w1" not in body
            assert b"event: done" not in body
            part = b""
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1), at_a.get("/v1/streams/x?protocol=openai") as again:
                    async for piece in again.content.iter_any():
                        part += piece
            assert b"w1" not in part


@pytest.mark.soak
@pytest.mark.timeout(120)
async def test_two_hundred_streams_and_two_deaths(redis: RedisServer) -> None:
    """Under load some stream would be claimed twice, forgotten, or go on from the wrong place."""
    async with fleet(redis, 3) as (session, (a, b, c)):
        text = (await whole_of(session, c, prompt(80, 0))).text
        ones = [Listener(f"s{i}") for i in range(200)]
        asked = [
            asyncio.create_task(one.start(session, a, prompt(80, 4 + i % 13), **{"X-Stream-On-Disconnect": "continue"}))
            for i, one in enumerate(ones)
        ]
        await begun(ones, 2, 30)
        await asyncio.sleep(1)
        a.kill()
        await asyncio.gather(*asked)
        await asyncio.sleep(2 * LEASE + 1)
        b.kill()
        await asyncio.gather(*(one.go_on(session, c, 60) for one in ones))
        for one in ones:
            assert (one.text, one.numbered) == (text, True), one.name
            assert 1 <= claims(redis, one.name) <= 2, one.name
        assert await listed(session, c) == []
        states = (await statistics(session, c))["states"]
        assert {name: count for name, count in states.items() if count} == {"completed": 201}
