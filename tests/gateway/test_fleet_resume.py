"""Two gateways on one real Redis: a stream that runs on one is read, joined and resumed on the other, byte for byte."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from support.inprocess import client, events, running
from support.redis_server import BINARY, RedisServer
from support.resuming import ASK, CHAT, END, PROTOCOLS, ends, fleet_config, post, read, rest_of, token, two
from support.upstream import CLOSE, HOLD, Upstream, chunk, head

from config.schema import Backend, Route, Target

pytestmark = pytest.mark.skipif(BINARY is None, reason="redis-server is not installed")

RECORDED = Path(__file__).parents[1] / "transcripts"
DRIVERS = {"anthropic": "anthropic", "google": "google", "llamacpp": "llamacpp", "ollama": "ollama", "openai": "openai"}
FILES = sorted(path for folder in DRIVERS for path in (RECORDED / folder).iterdir())


@pytest.fixture(scope="module")
def shared() -> Iterator[RedisServer]:
    """One Redis for the tests that leave it well."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis(shared: RedisServer) -> RedisServer:
    """That one, emptied."""
    shared.command("FLUSHALL")
    return shared


def words(count: int, gap: float = 0.0) -> list[Any]:
    """A script of so many tokens."""
    found: list[Any] = [head()]
    for i in range(count):
        found += [token(f"w{i} "), gap]
    return found


async def shared_entries(redis: RedisServer, name: str, least: int = 2) -> None:
    """Until the copy has so many entries."""
    deadline = time.monotonic() + 3
    while int(redis.command("LLEN", f"headgate:log:{{{name}@anonymous}}")[1:]) < least:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
async def test_the_same_bytes_on_another_node(path: Path, redis: RedisServer) -> None:
    """A balancer that sends a returning client to another node would change what it reads, in some protocol."""
    data = path.read_bytes()
    cuts = range(0, len(data), max(1, len(data) // 6))
    script = [head()]
    for at in cuts:
        script += [0.01, chunk(data[at : at + cuts.step])]
    async with (
        Upstream([*script, b"0\r\n\r\n"]) as up,
        two(fleet_config(up.url, redis.url, driver=DRIVERS[path.parent.name])) as (_, at_a, _b, at_b),
    ):
        started = asyncio.create_task(post(at_a, "x"))
        await asyncio.sleep(0.03)
        urls = {name: f"/api/streaming/x?protocol={name}" for name in PROTOCOLS}
        live = {name: asyncio.create_task(read(at_b, url)) for name, url in urls.items()}
        assert await live["native"] == await started
        for name, url in urls.items():
            body = await read(at_a, url)
            assert body
            assert await live[name] == body, name
            if not PROTOCOLS[name]:
                continue
            marks = ends(body, PROTOCOLS[name])
            for n in {1, len(marks) // 2, len(marks) - 1, len(marks)} - {0}:
                assert await read(at_b, f"{url}&after={n}") == body[marks[n - 1] :], (name, n)
        assert len(up.requests) == 1


async def test_resumed_at_every_frame(redis: RedisServer) -> None:
    """An off-by-one between an entry's end and a frame's would lose or double a token at some frames only."""
    async with (
        Upstream([*words(30, 0.004), END, b"0\r\n\r\n"]) as up,
        two(fleet_config(up.url, redis.url)) as (_, at_a, _b, at_b),
    ):
        body = await post(at_a, "x")
        for name in ("native", "ndjson", "openai", "anthropic"):
            whole = await read(at_a, f"/api/streaming/x?protocol={name}")
            marks = ends(whole, PROTOCOLS[name])
            urls = [f"/api/streaming/x?protocol={name}&after={n}" for n in range(1, len(marks) + 1)]
            found = await asyncio.gather(*(read(at_b, url) for url in urls))
            assert found == [whole[mark:] for mark in marks], name
        assert b"event: done" in body


async def test_a_continued_answer_on_another_node(redis: RedisServer) -> None:
    """An answer that two backends gave would be read by the wrong dialect from where the second took over."""
    broken = Upstream([*words(5, 0.01), CLOSE])
    whole = Upstream([*words(8, 0.01), END, b"0\r\n\r\n"])
    async with broken as one, whole as other:
        config = replace(
            fleet_config(one.url, redis.url),
            backends={"one": Backend(driver="openai", url=one.url), "other": Backend(driver="vllm", url=other.url)},
            routes=(Route(model="*", to=(Target("one"), Target("other")), policy="ordered", on_failure="restart"),),
        )
        async with two(config) as (_, at_a, _b, at_b):
            started = asyncio.create_task(post(at_a, "x"))
            await asyncio.sleep(0.02)
            live = await read(at_b, "/api/streaming/x?protocol=native")
            assert live == await started
            assert b"event: done" in live
            assert len(other.requests) == 1
            for name in PROTOCOLS:
                url = f"/api/streaming/x?protocol={name}"
                assert await read(at_b, url) == await read(at_a, url), name


async def test_fifty_readers_elsewhere_are_one_hub(redis: RedisServer) -> None:
    """Every watcher of another node would cost Redis its own reading of the stream."""
    async with (
        Upstream([*words(60, 0.02), END, b"0\r\n\r\n"]) as up,
        two(fleet_config(up.url, redis.url)) as (_, at_a, b, at_b),
    ):
        started = asyncio.create_task(post(at_a, "x"))
        await shared_entries(redis, "x")
        redis.command("CONFIG", "RESETSTAT")
        many = [asyncio.create_task(read(at_b, "/api/streaming/x?protocol=native")) for _ in range(50)]
        bodies = set(await asyncio.gather(*many))
        assert bodies == {await started}
        assert len(b.sharing.reading) == 1  # type: ignore[attr-defined]
        assert 0 < calls(redis, "lrange") < 60 * 3


def calls(redis: RedisServer, command: str) -> int:
    """How often a command was called since the last RESETSTAT."""
    lines = redis.command("INFO", "commandstats").splitlines()
    found = [line for line in lines if line.startswith(f"cmdstat_{command}:")]
    return int(found[0].split("calls=")[1].split(",")[0]) if found else 0


async def test_no_command_per_token(redis: RedisServer) -> None:
    """Redis would be on the token path: a command for each token of each stream."""
    many = [*words(1), *(token(f"t{i} ") for i in range(3000)), END, b"0\r\n\r\n"]
    async with Upstream(many) as up, two(fleet_config(up.url, redis.url)) as (_, at_a, _b, at_b):
        redis.command("CONFIG", "RESETSTAT")
        names = [f"x{i}" for i in range(5)]
        await asyncio.gather(*(post(at_a, name) for name in names))
        assert await read(at_b, "/api/streaming/x3?protocol=native") == await read(
            at_a, "/api/streaming/x3?protocol=native"
        )
        assert calls(redis, "rpush") < 5 * 3000 / 10
        assert calls(redis, "evalsha") < 3000


async def test_who_reads_elsewhere_keeps_the_stream(redis: RedisServer) -> None:
    """A client that changed nodes would lose its stream when the grace of the one it left is over."""
    async with (
        Upstream([*words(8, 0.3), END, b"0\r\n\r\n"]) as up,
        two(fleet_config(up.url, redis.url)) as (a, at_a, _, at_b),
    ):
        said = {"X-Stream-Id": "x", "X-Stream-On-Disconnect": "grace=1500ms"}
        async with at_a.post(CHAT, json=ASK, headers=said) as answer:
            await answer.content.readuntil(b"\n\n")
        body = await read(at_b, "/api/streaming/x?protocol=native")
        assert [kind for _, kind, _ in events(body.decode())][-1] == "done"
        assert len(a.hub) == 0


async def test_nobody_anywhere_ends_it(redis: RedisServer) -> None:
    """A stream once read on another node would run on, and be paid for, when nobody reads it any more."""
    async with (
        Upstream([*words(3, 0.05), HOLD]) as up,
        two(fleet_config(up.url, redis.url)) as (a, at_a, _, at_b),
    ):
        said = {"X-Stream-Id": "x", "X-Stream-On-Disconnect": "grace=300ms"}
        async with at_a.post(CHAT, json=ASK, headers=said) as answer:
            await answer.content.readuntil(b"\n\n")
            async with at_b.get("/api/streaming/x?protocol=native") as other:
                await other.content.readuntil(b"\n\n")
                await asyncio.sleep(1.2)
                answer.close()
                await asyncio.sleep(0.6)
                assert len(a.hub) == 1
        deadline = time.monotonic() + 8
        while len(a.hub):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)


async def test_after_its_node_has_gone_in_peace(redis: RedisServer) -> None:
    """A deploy would take every kept answer with it, and the ends of those it cut short."""
    async with Upstream([*words(20), END, b"0\r\n\r\n"], [*words(5, 0.01), HOLD]) as up:
        config = fleet_config(up.url, redis.url)
        async with running(config) as b, client(b) as at_b:
            async with running(config) as a, client(a) as at_a:
                whole = await post(at_a, "whole")
                cut = asyncio.create_task(post(at_a, "cut"))
                await shared_entries(redis, "cut")
                await a.drain(0.0)
                await cut
            assert await read(at_b, "/api/streaming/whole?protocol=native") == whole
            assert await read(at_b, "/api/streaming/cut?protocol=native") == await cut
            assert b'"shed"' in await cut


async def test_the_running_stream_of_a_conversation(redis: RedisServer) -> None:
    """A tab that reloads through a balancer would find no running answer half of the time."""
    async with (
        Upstream([*words(10, 0.05), END, b"0\r\n\r\n"]) as up,
        two(fleet_config(up.url, redis.url)) as (_, at_a, _b, at_b),
    ):
        started = asyncio.create_task(post(at_a, "x", **{"X-Conversation-Id": "c1"}))
        await shared_entries(redis, "x")
        await asyncio.sleep(0.1)
        async with at_b.get("/api/v1/conversations/c1/stream") as answer:
            assert answer.status == 200
            assert await rest_of(answer) == await started
        async with at_b.get("/api/v1/conversations/none/stream") as answer:
            assert answer.status == 204


async def test_owners_and_unknown_ids(redis: RedisServer) -> None:
    """A stranger could tell which ids exist on other nodes, or wait long for one that never was."""
    async with (
        Upstream([*words(3), END, b"0\r\n\r\n"]) as up,
        two(fleet_config(up.url, redis.url)) as (_, at_a, _b, at_b),
    ):
        await post(at_a, "x")
        began = time.monotonic()
        for name in ("never", "st_" + "a" * 32, "X"):
            await read(at_b, f"/api/streaming/{name}?protocol=native", 404)
        assert time.monotonic() - began < 0.3


async def test_a_backend_this_node_does_not_have(redis: RedisServer) -> None:
    """A node of another configuration would read a stream in the wrong dialect instead of leaving it to others."""
    async with Upstream([*words(3), END, b"0\r\n\r\n"]) as up:
        config = fleet_config(up.url, redis.url)
        other = replace(
            config, backends={"else": Backend(driver="demo")}, routes=(Route(model="*", to=(Target("else"),)),)
        )
        async with two(config, other) as (_, at_a, _b, at_b):
            await post(at_a, "x")
            async with at_b.get("/api/streaming/x?protocol=native") as answer:
                assert answer.status == 503
                assert "Retry-After" in answer.headers
                assert (await answer.json())["error"]["code"] == "registry_away"
            async with at_b.get("/api/streaming/x", headers={"Accept": "text/event-stream"}) as answer:
                assert (answer.status, await answer.read()) == (200, b"retry: 3000\n\n")


async def test_share_off_keeps_streams_at_home(redis: RedisServer) -> None:
    """An operator who wants no prompt's answer in Redis would find them there all the same."""
    async with (
        Upstream([*words(3), END, b"0\r\n\r\n"]) as up,
        two(fleet_config(up.url, redis.url, registry={"share": "off"})) as (_, at_a, _b, at_b),
    ):
        assert b"event: done" in await post(at_a, "x")
        assert ":log:" not in redis.command("KEYS", "*")
        assert b"event: done" in await read(at_a, "/api/streaming/x?protocol=native")
        await read(at_b, "/api/streaming/x?protocol=native", 404)
