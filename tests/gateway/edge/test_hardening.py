"""The public listener against peers that are slow, silent or too many: what they may hold, and for how long."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager

import aiohttp
import pytest
import uvloop
from support.inprocess import client, config_for, running
from support.upstream import HOLD, Upstream, chunk, head

from config.schema import Server, Streams
from config.values import Duration, Size
from gateway.app import Gateway
from gateway.edge.connection import MAX_HEAD, SEND_BUFFER

BODY = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
POST = b"POST /api/streaming/chat HTTP/1.1\r\nHost: gw\r\nContent-Length: %d\r\n\r\n" % len(BODY)
GET = b"GET /health HTTP/1.1\r\nHost: gw\r\n\r\n"


def hasty(**more: object) -> Server:
    """A listener with short deadlines."""
    given = {"header_timeout": Duration(0.4), "body_timeout": Duration(0.4), **more}
    return Server(port=0, **given)  # type: ignore[arg-type]


@asynccontextmanager
async def raw(gateway: Gateway) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A client that speaks for itself."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.public_port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def until_closed(reader: asyncio.StreamReader) -> bytes:
    """Everything up to the end, which must come."""
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionError):
            return await reader.read()
    return b""


async def whole(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body of the next answer with a Content-Length."""
    async with asyncio.timeout(5):
        lines = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(lines.split(b"content-length: ")[1].split(b"\r\n")[0])
        return int(lines.split()[1]), await reader.readexactly(length)


# -- deadlines ---------------------------------------------------------------------------------------------------------


async def test_silent_connections_are_closed() -> None:
    """A few thousand connections that say nothing would take all the files a process may open (C 24)."""
    async with running(config_for(server=hasty())) as gateway:
        peers = [await asyncio.open_connection("127.0.0.1", gateway.public_port) for _ in range(500)]
        began = asyncio.get_running_loop().time()
        async with client(gateway) as session, session.get("/health") as alive:
            assert alive.status == 200
        assert [await until_closed(reader) for reader, _ in peers] == [b""] * 500
        assert asyncio.get_running_loop().time() - began < 3
        for _, writer in peers:
            writer.close()


@pytest.mark.parametrize(
    "sent", [b"G", GET[:-2] + b"X-A: ", POST[:30], GET + GET[:20]], ids=["a byte", "no end", "half", "second"]
)
async def test_a_head_that_does_not_end_is_answered_408(sent: bytes) -> None:
    """slowloris: a byte now and then would hold a connection for ever (C 23 -H)."""
    async with running(config_for(server=hasty())) as gateway, raw(gateway) as (reader, writer):
        writer.write(sent)
        if sent.startswith(GET):
            assert (await whole(reader))[0] == 200
            writer.write(b"\r\nX-A")

        async def drip() -> None:
            while len(sent) > len(GET) - 3:  # where any byte is one more of a header
                await asyncio.sleep(0.05)
                writer.write(b"a")

        dripping = asyncio.create_task(drip())
        text = await until_closed(reader)
        dripping.cancel()
        assert text.startswith(b"HTTP/1.1 408 ")
        assert b"aiohttp" not in text


async def test_a_body_that_does_not_come_is_answered_408() -> None:
    """slow POST: a body of one byte a minute would hold a connection and its buffers (C 23 -B)."""
    async with Upstream([HOLD]) as up, running(config_for(up.url, server=hasty())) as gateway:
        for part in (b"", BODY[:10]):
            async with raw(gateway) as (reader, writer):
                writer.write(POST + part)
                status, body = await whole(reader)
                assert (status, json.loads(body)["error"]["code"]) == (408, "invalid_request")
                assert await until_closed(reader) == b""
        assert up.connections == 0


async def test_deadlines_are_not_for_streams_nor_for_idle_connections() -> None:
    """A stream longer than the deadline, a request behind it or a kept connection would be cut off."""
    ask = BODY.replace(b"hi", b"[tokens=40] [rate=40]")  # one second
    stream = POST.replace(b"%d" % len(BODY), b"%d" % len(ask)) + ask
    async with running(config_for(server=hasty())) as gateway, raw(gateway) as (reader, writer):
        writer.write(stream + GET[:15])
        async with asyncio.timeout(5):
            assert b"event: done" in await reader.readuntil(b"\r\n0\r\n\r\n")
        writer.write(GET[15:])
        assert (await whole(reader))[0] == 200
        await asyncio.sleep(0.8)
        writer.write(GET)
        assert (await whole(reader))[0] == 200


# -- sizes -------------------------------------------------------------------------------------------------------------


async def test_a_request_in_single_bytes_works() -> None:
    """A slow but honest client, or one whose network cuts small, would be refused (A 4)."""
    async with running(config_for()) as gateway, raw(gateway) as (reader, writer):
        for byte in POST + BODY:
            writer.write(bytes((byte,)))
            await writer.drain()
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            assert b"event: done" in await reader.readuntil(b"\r\n0\r\n\r\n")


LINES = {
    "headers in all": b"".join(b"X-%d: %s\r\n" % (i, b"a" * 1000) for i in range(40)),
    "one header": b"X-A: " + b"a" * 9000 + b"\r\n",
    "headers by number": b"".join(b"X-%d: v\r\n" % i for i in range(100)),
}


@pytest.mark.parametrize("what", LINES)
@pytest.mark.parametrize("size", [70_000, 500, 7])
@pytest.mark.parametrize("complete", [True, False])
async def test_large_heads_are_answered_431(what: str, size: int, complete: bool) -> None:
    """A head cut into small segments would get around the limits, and be kept in memory as far as it grows (A 4)."""
    async with running(config_for()) as gateway, raw(gateway) as (reader, writer):
        request = GET[:-2] + LINES[what] + (b"\r\n" if complete else b"")
        for start in range(0, len(request), size):
            writer.write(request[start : start + size])
            await asyncio.sleep(0)
        if not complete and what == "headers by number":
            writer.write(b"X-End: 1\r\n\r\n")
        status, body = await whole(reader)
        assert status == 431
        assert json.loads(body)["error"]["code"] == "invalid_request"
        assert b"aaa" not in body
        assert await until_closed(reader) == b""


async def test_heads_of_pipelined_requests_are_counted_apart() -> None:
    """Many small requests in one read would be taken for one large head."""
    fat = b"X-A: " + b"a" * 6000 + b"\r\n"
    one = GET[:-2] + fat * 4 + b"\r\n"
    assert 2 * len(one) > MAX_HEAD > len(one)
    async with running(config_for()) as gateway, raw(gateway) as (reader, writer):
        writer.write(one * 3 + GET[:-2] + fat * 6 + b"\r\n")
        assert [(await whole(reader))[0] for _ in range(4)] == [200, 200, 200, 431]


async def test_no_more_connections_than_allowed() -> None:
    """Every file would go to clients, and none be left for backends and Redis."""
    async with running(config_for(server=hasty(max_connections=3))) as gateway:
        async with raw(gateway), raw(gateway), raw(gateway) as (reader, writer):
            writer.write(GET)
            assert (await whole(reader))[0] == 200
            async with raw(gateway) as (fourth, _):
                told = await until_closed(fourth)
                assert told.startswith(b"HTTP/1.1 503 ")
                assert b"Retry-After: 1\r\n" in told
                assert json.loads(told.partition(b"\r\n\r\n")[2])["error"]["code"] == "shed"
        async with asyncio.timeout(3):
            while True:
                async with raw(gateway) as (reader, writer):
                    writer.write(GET)
                    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                        if (await whole(reader))[0] == 200:
                            return
                await asyncio.sleep(0.02)


async def test_1000_pipelined_requests_are_bounded_and_in_order() -> None:
    """One connection would queue work without end, or mix up its answers (A 8)."""
    async with running(config_for()) as gateway, raw(gateway) as (reader, writer):
        paths = [b"/api/monitoring/health/%s" % (b"memory" if i % 3 else b"no-such") for i in range(1000)]
        writer.write(b"".join(b"GET %s HTTP/1.1\r\nHost: gw\r\n\r\n" % path for path in paths))
        most, found = 0, []
        for _ in range(1000):
            found.append((await whole(reader))[0])
            peers = gateway._runners[0].server.connections  # type: ignore[union-attr]
            most = max([most, *(len(peer._messages) for peer in peers)])
        assert found == [200 if i % 3 else 404 for i in range(1000)]
        assert most <= 64


# -- what the peer is told, and the socket ----------------------------------------------------------------------------


async def test_no_answer_names_the_library() -> None:
    """Versions of Python and aiohttp in every answer would tell an attacker which holes to try."""
    asks: dict[str, bytes] = {
        "an answer": GET,
        "a stream": POST + BODY,
        "a refusal": POST.replace(b"chat", b"nowhere") + BODY,
        "a parser's refusal": b"nonsense\r\n\r\n",
        "the page": b"GET / HTTP/1.1\r\nHost: gw\r\n\r\n",
        "a wrong method": b"PUT /health HTTP/1.1\r\nHost: gw\r\nContent-Length: 0\r\n\r\n",
        "events": b"GET /health/stream HTTP/1.1\r\nHost: gw\r\n\r\n",
    }
    async with running(config_for()) as gateway:
        for name, ask in asks.items():
            async with raw(gateway) as (reader, writer):
                writer.write(ask)
                async with asyncio.timeout(5):
                    text = (await reader.readuntil(b"\r\n\r\n")).lower()
                assert b"\r\nserver: headgate\r\n" in text, name
                assert b"aiohttp" not in text, name
                assert b"python" not in text, name
        async with aiohttp.ClientSession() as session:
            for path in ("/metrics", "/health", "/no-such"):
                async with session.get(f"http://127.0.0.1:{gateway.admin_port}{path}") as answer:
                    assert answer.headers["Server"] == "headgate", path


async def test_client_sockets_are_tuned() -> None:
    """A dead peer would be kept for hours, and megabytes of kernel memory with it."""
    async with running(config_for()) as gateway, raw(gateway) as (reader, writer):
        writer.write(GET)
        await whole(reader)
        peer = gateway._runners[0].server.connections[0]  # type: ignore[union-attr]
        sock = peer.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) <= 2 * SEND_BUFFER
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 55_000


def resident() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="no /proc here")
async def test_a_flood_does_not_go_to_memory() -> None:
    """A backend faster than its client would fill the gateway's memory with the difference (B 15)."""
    data = {"id": "c", "choices": [{"index": 0, "delta": {"content": "x" * 60_000}, "finish_reason": None}]}
    event = chunk(b"data: " + json.dumps(data).encode() + b"\n\n")
    cap = 1 << 20
    streams = Streams(transcript_cap=Size(cap), write_timeout=Duration(20))
    async with (
        Upstream([head(), *[event] * (64 * 1024 * 1024 // len(event)), b"0\r\n\r\n"]) as up,
        running(config_for(up.url, streams=streams)) as gateway,
        raw(gateway) as (reader, writer),
    ):
        writer.write(POST.replace(b"Host:", b"X-Stream-On-Disconnect: cancel\r\nHost:") + BODY)
        before, most, read = resident(), 0, 0
        for _ in range(60):
            await asyncio.sleep(0.01)
            read += len(await reader.read(16_384))
            most = max(most, resident())
        assert read < up.sent < 20_000_000
        assert most - before < cap + 12 * 1024 * 1024
        writer.transport.abort()
        await _until(lambda: bool(up.closed_at))


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(3):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "check",
    [
        test_no_more_connections_than_allowed,
        test_silent_connections_are_closed,
        test_a_body_that_does_not_come_is_answered_408,
        test_client_sockets_are_tuned,
        test_no_answer_names_the_library,
    ],
)
def test_the_same_on_the_loop_of_production(check: Callable[[], Coroutine[None, None, None]]) -> None:
    """uvloop's transports are other classes than asyncio's, with other manners."""
    uvloop.run(check())


@pytest.mark.parametrize("complete", [True, False])
def test_large_heads_on_the_loop_of_production(complete: bool) -> None:
    """The same."""
    uvloop.run(test_large_heads_are_answered_431("one header", 500, complete))
