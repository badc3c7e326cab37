"""Nodes are killed and frozen, Redis is emptied, killed and frozen, while streams are read on another node: what a
reader gets is the stream's own bytes, and where they end too early it is told so."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator

import pytest
from support.delay_proxy import DelayProxy
from support.fleet import client, node, stream
from support.gateway import Gateway
from support.redis_server import BINARY, RedisServer
from support.resuming import END, ends, fleet_config, post, read, rest_of, token, two
from support.upstream import Upstream, head

from config.schema import Streams
from config.values import Size

pytestmark = pytest.mark.skipif(BINARY is None, reason="redis-server is not installed")

LEASE = 1.0
SLOW = "[tokens=100000] [rate=20]"
ES = {"Accept": "text/event-stream"}


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """A Redis of this test's own."""
    with RedisServer() as server:
        yield server


def at(gateway: Gateway, name: str) -> str:
    return f"{gateway.url}/api/streaming/{name}?protocol=native"


async def shared(redis: RedisServer, name: str, least: int = 2) -> None:
    """Until the copy has so many entries."""
    deadline = time.monotonic() + 5
    while not (count := redis.command("LLEN", f"headgate:log:{{{name}@anonymous}}")[1:].strip()).isdigit() or (
        int(count) < least
    ):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("how", ["kill", pytest.param("freeze", marks=pytest.mark.soak)])
async def test_the_owner_is_gone(redis: RedisServer, how: str) -> None:
    """Readers elsewhere would wait for ever for the rest, or take what there is for the whole answer."""
    async with (
        client() as session,
        node(redis.url, lease=LEASE) as b,
        node(redis.url, lease=LEASE) as a,
        stream(session, a, "x", directives=SLOW) as own,
    ):
        await shared(redis, "x", 5)
        got = bytearray()
        async with session.get(at(b, "x")) as elsewhere:
            await elsewhere.content.readuntil(b'"tokenCount":5}\n\n')
            if how == "kill":
                a.kill()
            else:
                a.process.send_signal(signal.SIGSTOP)
            gone = time.monotonic()
            got += await rest_of(elsewhere)
        assert time.monotonic() - gone < LEASE + 3
        last = got.decode().strip().rsplit("\n\n", 1)[-1]
        assert "event: error" in last
        assert '"node_lost"' in last
        assert '"retryable":true' in last
        again = await read(session, at(b, "x"))
        assert again.endswith(bytes(got))
        seen = len(ends(again, "sse"))  # the last is the error; of a client that was ahead it is a token that is lost
        async with session.get(at(b, "x") + f"&after={seen}") as answer:
            assert (answer.status, (await answer.json())["tailSeq"]) == (410, seen)
        if how == "freeze":
            a.process.send_signal(signal.SIGCONT)
            assert b'"node_lost"' in await rest_of(own)
            await asyncio.sleep(0.3)
            assert await read(session, at(b, "x")) == again
        else:
            known = await rest_of(own)
            assert known[: len(again) // 2] in again + b"event: start"


@pytest.mark.soak
async def test_nobody_looked_when_it_died(redis: RedisServer) -> None:
    """A client that comes back a minute after its node died would be left hanging, or told that nothing ever was."""
    async with (
        client() as session,
        node(redis.url, lease=LEASE) as b,
        node(redis.url, lease=LEASE) as a,
        stream(session, a, "x", directives=SLOW),
    ):
        await shared(redis, "x", 5)
        a.kill()
        await asyncio.sleep(LEASE + 1.5)
        first = await read(session, at(b, "x"))
        assert b'"node_lost"' in first
        assert first.count(b"event: token") >= 3
        assert await read(session, at(b, "x")) == first


async def test_redis_is_emptied(redis: RedisServer) -> None:
    """FLUSHALL by mistake: readers elsewhere would hang, or read a stream with a hole in it."""
    script = [head(), *(part for i in range(40) for part in (token(f"w{i} "), 0.05)), END, b"0\r\n\r\n"]
    async with Upstream(script) as up, two(fleet_config(up.url, redis.url)) as (_, at_a, _b, at_b):
        started = asyncio.create_task(post(at_a, "x"))
        await shared(redis, "x")
        early = asyncio.create_task(read(at_b, "/api/streaming/x?protocol=native"))
        await asyncio.sleep(0.4)
        redis.command("FLUSHALL")
        await asyncio.sleep(0.4)
        late = asyncio.create_task(read(at_b, "/api/streaming/x?protocol=native"))
        redis.command("FLUSHALL")
        body = await started
        assert await early == body
        assert await late == body
        assert await read(at_b, "/api/streaming/x?protocol=native") == body


async def test_redis_comes_back_empty(redis: RedisServer) -> None:
    """A Redis that died under running streams: readers here would notice, readers elsewhere would never go on."""
    script = [head(), *(part for i in range(60) for part in (token(f"w{i} "), 0.05)), END, b"0\r\n\r\n"]
    async with Upstream(script) as up, two(fleet_config(up.url, redis.url)) as (_, at_a, _b, at_b):
        started = asyncio.create_task(post(at_a, "x"))
        await shared(redis, "x")
        elsewhere = asyncio.create_task(read(at_b, "/api/streaming/x?protocol=native"))
        await asyncio.sleep(0.3)
        redis.kill()
        await asyncio.sleep(0.3)
        async with at_b.get("/api/streaming/y?protocol=native") as answer:
            assert answer.status == 503
            assert "Retry-After" in answer.headers
        query = "/api/v1/chat/stream?message=hi&stream_id=y"
        for url in ("/api/streaming/y", query):
            async with at_b.get(url, headers={**ES, "Last-Event-ID": "y.3"}) as answer:
                assert (answer.status, await answer.read()) == (200, b"retry: 3000\n\n")
        async with at_b.get("/api/streaming/y", headers=ES) as answer:
            assert (answer.status, await answer.read()) == (200, b"retry: 3000\n\n")
        async with at_a.get("/api/streaming/x?protocol=native") as answer:
            assert answer.status == 200
        redis.start()
        body = await started
        assert b"event: done" in body
        assert await elsewhere == body


async def test_redis_hangs(redis: RedisServer) -> None:
    """A frozen Redis would stop the readers of the owner, or let those elsewhere miss what was said meanwhile."""
    script = [head(), *(part for i in range(60) for part in (token(f"w{i} "), 0.05)), END, b"0\r\n\r\n"]
    async with Upstream(script) as up, two(fleet_config(up.url, redis.url, lease=6.0)) as (_, at_a, _b, at_b):
        started = asyncio.create_task(post(at_a, "x"))
        await shared(redis, "x")
        elsewhere = asyncio.create_task(read(at_b, "/api/streaming/x?protocol=native"))
        await asyncio.sleep(0.3)
        redis.pause()
        await asyncio.sleep(1.5)
        redis.resume()
        body = await started
        assert b"event: done" in body
        assert await elsewhere == body


async def test_answers_of_redis_are_lost(redis: RedisServer) -> None:
    """A batch that was carried out but not confirmed would be written twice, or leave a hole."""
    script = [head(), *(part for i in range(50) for part in (token(f"w{i} "), 0.03)), END, b"0\r\n\r\n"]
    async with DelayProxy(redis.port) as proxy, Upstream(script) as up:
        config = fleet_config(up.url, proxy.url, lease=6.0)
        async with two(config, fleet_config(up.url, redis.url, lease=6.0)) as (_, at_a, _b, at_b):
            started = asyncio.create_task(post(at_a, "x"))
            await shared(redis, "x")
            elsewhere = asyncio.create_task(read(at_b, "/api/streaming/x?protocol=native"))
            for _ in range(4):
                await asyncio.sleep(0.3)
                proxy.losing = 1
            body = await started
            assert proxy.lost >= 2
            assert await elsewhere == body
            assert await read(at_b, "/api/streaming/x?protocol=native") == body


async def test_a_failover_that_lost_writes(redis: RedisServer) -> None:
    """A new primary without the last entries: what is appended then would leave a hole nobody sees."""
    script = [head(), *(part for i in range(40) for part in (token(f"w{i} "), 0.05)), END, b"0\r\n\r\n"]
    async with Upstream(script) as up, two(fleet_config(up.url, redis.url)) as (_, at_a, _b, at_b):
        started = asyncio.create_task(post(at_a, "x"))
        await shared(redis, "x", 8)
        elsewhere = asyncio.create_task(read(at_b, "/api/streaming/x?protocol=native"))
        key = "headgate:log:{x@anonymous}"
        redis.command("DEL", key)
        await asyncio.sleep(0.3)
        redis.command("RPOP", key)
        body = await started
        assert await elsewhere == body
        assert await read(at_b, "/api/streaming/x?protocol=native") == body


async def test_the_shared_copy_is_damaged(redis: RedisServer) -> None:
    """A copy with a hole, or of another kind, would be read as if it were whole."""
    script = [head(), *(part for i in range(20) for part in (token(f"w{i} "), 0.01)), END, b"0\r\n\r\n"]
    async with Upstream(script) as up, two(fleet_config(up.url, redis.url)) as (_, at_a, _b, at_b):
        await post(at_a, "x")
        await post(at_a, "y")
        await asyncio.sleep(0.3)
        key = "headgate:log:{x@anonymous}"
        redis.command("LSET", key, "1", "gone")
        redis.command("LREM", key, "1", "gone")
        async with at_b.get("/api/streaming/x?protocol=native") as answer:
            assert (answer.status, (await answer.json())["state"]) == (410, "completed")
        other = "headgate:log:{y@anonymous}"
        redis.command("DEL", other)
        redis.command("SET", other, "what is this")
        await read(at_b, "/api/streaming/y?protocol=native", 410)
        assert b"event: done" in await read(at_a, "/api/streaming/x?protocol=native")


async def test_a_copy_without_its_beginning(redis: RedisServer) -> None:
    """Of a stream that is in full swing, or has ended well, a client elsewhere would be told that it had not begun."""
    script = [head(), *(part for i in range(40) for part in (token("w" * 200), 0.02)), 1.5, END, b"0\r\n\r\n"]
    async with Upstream(script) as up:
        config = fleet_config(up.url, redis.url, streams=Streams(transcript_cap=Size(2000)))
        async with two(config) as (_, at_a, _b, at_b):
            started = asyncio.create_task(post(at_a, "x"))
            await shared(redis, "x")
            first = "headgate:log:{x@anonymous}", "0"
            deadline = time.monotonic() + 5
            while " m" in redis.command("LINDEX", *first).split("\n")[1]:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
            for state in ("streaming", "completed"):
                async with at_b.get("/api/streaming/x?protocol=native") as answer:
                    body = await answer.json()
                assert (answer.status, body["error"]["code"], body["state"]) == (410, "cursor_expired", state)
                await started
                await asyncio.sleep(0.3)


async def test_no_redis_at_the_start() -> None:
    """A node that starts without Redis would refuse to resume its own streams, or never share them afterwards."""
    with RedisServer(started=False) as redis:
        script = [head(), *(part for i in range(50) for part in (token(f"w{i} "), 0.05)), END, b"0\r\n\r\n"]
        async with Upstream(script) as up, two(fleet_config(up.url, redis.url)) as (_, at_a, _b, at_b):
            headers = {"X-Stream-Id": "x", "X-Stream-On-Disconnect": "continue"}
            body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
            async with at_a.post("/api/streaming/chat", json=body, headers=headers) as answer:
                assert answer.headers["X-Stream-Resumable"] == "true"
                own = asyncio.create_task(rest_of(answer))
                here = asyncio.create_task(read(at_a, "/api/streaming/x?protocol=native"))
                await asyncio.sleep(0.2)
                redis.start()
                await shared(redis, "x")
                while True:  # the other node has yet to notice
                    async with at_b.get("/api/streaming/x?protocol=native") as other:
                        elsewhere = await rest_of(other)
                    if other.status == 200:
                        break
                    await asyncio.sleep(0.1)
                assert elsewhere == await here == await own


async def test_a_key_dropped_by_a_full_redis(redis: RedisServer) -> None:
    """Without room in Redis a stream must go on for its own readers, and be shared when there is room again."""
    script = [head(), *(part for i in range(40) for part in (token("w" * 200), 0.05)), END, b"0\r\n\r\n"]
    async with Upstream(script) as up, two(fleet_config(up.url, redis.url)) as (_, at_a, _b, at_b):
        started = asyncio.create_task(post(at_a, "x"))
        await shared(redis, "x")
        redis.command("CONFIG", "SET", "maxmemory", "1")
        await asyncio.sleep(0.7)
        redis.command("CONFIG", "SET", "maxmemory", "0")
        body = await started
        assert b"event: done" in body
        deadline = time.monotonic() + 5
        while True:
            async with at_b.get("/api/streaming/x?protocol=native") as answer:
                found = await rest_of(answer)
            if answer.status == 200 and found == body:
                break
            assert time.monotonic() < deadline, (answer.status, found[-200:])
            await asyncio.sleep(0.1)


async def test_a_connection_for_wake_ups_is_cut(redis: RedisServer) -> None:
    """Readers elsewhere would stand still when the connection that wakes them is lost."""
    script = [head(), *(part for i in range(30) for part in (token(f"w{i} "), 0.1)), END, b"0\r\n\r\n"]
    async with Upstream(script) as up, two(fleet_config(up.url, redis.url)) as (_, at_a, _b, at_b):
        started = asyncio.create_task(post(at_a, "x"))
        await shared(redis, "x")
        async with at_b.get("/api/streaming/x?protocol=native") as answer:
            await answer.content.readuntil(b'"tokenCount":5}\n\n')
            redis.command("CLIENT", "KILL", "TYPE", "pubsub")
            began = time.monotonic()
            await answer.content.readuntil(b'"tokenCount":12}\n\n')
            assert time.monotonic() - began < 2.5
            assert (await started).endswith(await rest_of(answer))
