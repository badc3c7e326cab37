"""Redis is killed, frozen, emptied, full or busy under running streams: none of them may notice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

import aiohttp
import pytest
from support.fleet import LEASE, client, get, node, stream, until
from support.gateway import Gateway
from support.redis_server import BINARY, RedisServer

pytestmark = pytest.mark.skipif(BINARY is None, reason="redis-server is not installed")

SOAK = (pytest.mark.soak, pytest.mark.timeout(900))
LONG = "[tokens=100000] [rate={rate}]"


class Reader:
    """Reads one stream to the end and keeps the silences between its tokens, by the fault that was on."""

    def __init__(self, answer: aiohttp.ClientResponse, gaps: dict[str, list[float]], fault: Callable[[], str]) -> None:
        self._answer, self._gaps, self._fault = answer, gaps, fault
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        last = time.monotonic()
        while await self._answer.content.readuntil(b"\n\n"):
            now = time.monotonic()
            self._gaps.setdefault(self._fault(), []).append(now - last)
            last = now


class Watch:
    """Many readers of one gateway's streams; `fault` names what is going on."""

    def __init__(self, rate: int = 50) -> None:
        self.rate = rate  # tokens per second of each stream
        self.fault = "none"
        self.gaps: dict[str, list[float]] = {}
        self.noise: dict[str, list[float]] = {}  # of a gateway without Redis: what the machine does to everybody
        self.readers: list[Reader] = []

    async def open(
        self,
        stack: AsyncExitStack,
        session: aiohttp.ClientSession,
        gateway: Gateway,
        count: int,
        *,
        noise: bool = False,
    ) -> None:
        """So many long streams. `noise`: this gateway has no Redis."""
        for _ in range(count):
            answer = await stack.enter_async_context(stream(session, gateway, directives=LONG.format(rate=self.rate)))
            self.readers.append(Reader(answer, self.noise if noise else self.gaps, lambda: self.fault))

    async def during(self, fault: str, seconds: float) -> None:
        """Let it last."""
        self.fault = fault
        await asyncio.sleep(seconds)

    def check(self) -> None:
        """All still run, and none was silent for longer than the machine makes everybody; prints the figures."""
        assert not [r for r in self.readers if r.task.done()]
        for what, kept in (("", self.gaps), (", without Redis", self.noise)):
            for fault, gaps in kept.items():
                gaps.sort()
                p99 = gaps[int(len(gaps) * 0.99)]
                print(f"{fault}{what}: {len(gaps)} gaps, p99 {p99 * 1000:.1f} ms, worst {gaps[-1] * 1000:.1f} ms")
        for fault, gaps in self.gaps.items():
            assert gaps[-1] < 0.6 + max(1 / self.rate, *self.noise.get(fault, [0.0])[-1:]), fault

    async def close(self) -> None:
        """Stop reading."""
        for reader in self.readers:
            reader.task.cancel()
        await asyncio.gather(*(reader.task for reader in self.readers), return_exceptions=True)


async def _well(session: aiohttp.ClientSession, gateway: Gateway, active: int) -> None:
    await until(session, f"{gateway.url}/health/detailed", _healthy, 10)
    await until(session, f"{gateway.url}/api/streaming/active", lambda body: body["count"] == active, 3)


def _healthy(body: dict[str, object]) -> bool:
    checks = body["checks"]
    assert isinstance(checks, dict)
    return bool(checks["registry"]["status"] == "healthy")


@pytest.mark.parametrize(("count", "seconds"), [(40, 0.7), pytest.param(200, 30.0, marks=SOAK)])
async def test_a_redis_that_does_not_answer_adds_no_silence(count: int, seconds: float) -> None:
    """Tokens that wait for Redis would stop for everybody whenever it pauses, sleeps or hangs."""
    watch, long = Watch(), str(int(seconds * 1000))
    with RedisServer(options=("--enable-debug-command", "yes")) as redis:
        async with (
            client() as session,
            node(redis.url, drain="100ms") as a,
            node("memory://", drain="100ms") as alone,
            AsyncExitStack() as stack,
        ):
            await watch.open(stack, session, a, count)
            await watch.open(stack, session, alone, 10, noise=True)
            await watch.during("none", min(seconds, 5.0))
            for fault, command in (
                ("CLIENT PAUSE ALL", ("CLIENT", "PAUSE", long, "ALL")),
                ("CLIENT PAUSE WRITE", ("CLIENT", "PAUSE", long, "WRITE")),
            ):
                redis.command(*command)
                await watch.during(fault, seconds)
                await _well(session, a, count)
            sleeping = asyncio.create_task(asyncio.to_thread(redis.slow_command, "DEBUG", "SLEEP", str(seconds)))
            await watch.during("DEBUG SLEEP", seconds)
            await sleeping
            await _well(session, a, count)
            redis.pause()
            await watch.during("SIGSTOP", seconds)
            redis.resume()
            await _well(session, a, count)
            watch.check()
            await watch.close()


@pytest.mark.parametrize(("count", "rate"), [(40, 50), pytest.param(1000, 2, marks=SOAK)])
async def test_a_redis_that_forgets_everything_is_filled_again(count: int, rate: int) -> None:
    """After a crash of an unsaved Redis, or FLUSHALL, running streams would stay invisible and uncancellable."""
    watch = Watch(rate)
    with RedisServer() as redis:
        async with (
            client() as session,
            node(redis.url, drain="100ms") as a,
            node(redis.url) as b,
            node("memory://", drain="100ms") as alone,
            AsyncExitStack() as stack,
        ):
            await watch.open(stack, session, a, count)
            await watch.open(stack, session, alone, 10, noise=True)
            await until(session, f"{b.url}/api/streaming/active", lambda body: body["count"] == count, 3)
            for fault, hurt in (("kill -9", redis.restart), ("FLUSHALL", lambda: redis.command("FLUSHALL"))):
                watch.fault = fault
                hurt()
                back = time.monotonic()
                listed = f"{b.url}/api/streaming/active"
                await until(session, listed, lambda body: body["count"] == count, LEASE + 3)
                print(f"\nall {count} listed {time.monotonic() - back:.2f} s after {fault} (lease {LEASE:g} s)")
            watch.check()
            await watch.close()
            name = (await get(session, f"{b.url}/api/streaming/active"))["streams"][0]["streamId"]
            async with session.delete(f"{b.url}/api/streaming/{name}") as deleted:
                assert (deleted.status, (await deleted.json())["state"]) == (200, "cancelled")


async def test_a_full_or_evicting_redis_is_reported_and_survived() -> None:
    """A Redis out of memory would stop streams; one that evicts would silently forget them and nobody would know."""
    watch = Watch()
    with RedisServer() as redis:
        redis.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        async with client() as session, node(redis.url, drain="100ms") as a, AsyncExitStack() as stack:
            assert "allkeys-lru" in a.log
            ready = await get(session, f"{a.url}/health/ready")
            assert (ready["ready"], ready["degraded"]) == (True, ["registry"])
            await watch.open(stack, session, a, 10)
            redis.command("CONFIG", "SET", "maxmemory", "2mb")
            await watch.during("maxmemory 2mb, allkeys-lru", 0.5)
            redis.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
            redis.command("CONFIG", "SET", "maxmemory", "1")
            await watch.during("out of memory, noeviction", 0.7)
            async with stream(session, a, "new", directives="[tokens=3]") as new:
                assert "event: done" in (await new.content.read()).decode()
            redis.command("CONFIG", "SET", "maxmemory", "2mb")
            await until(session, f"{a.url}/api/streaming/new", lambda body: body.get("receipt", {}).get("endedAt"), 3)
            watch.check()
            await watch.close()
