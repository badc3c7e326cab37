"""A client that does not read: what it costs, for how long, and whom."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket

import pytest
from support.inprocess import client, config_for, running
from support.upstream import Upstream, chunk, head

from config.schema import Streams
from config.values import Duration, Size

BODY = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
ASK = (
    b"POST /api/streaming/chat HTTP/1.1\r\nHost: gw\r\nX-Stream-Id: slow\r\nX-Stream-On-Disconnect: cancel\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
)


def _flood(count: int) -> list[bytes]:
    data = {"id": "c", "choices": [{"index": 0, "delta": {"content": "x" * 16_000}, "finish_reason": None}]}
    return [chunk(b"data: " + json.dumps(data).encode() + b"\n\n")] * count


_TICK = chunk(b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"t"},"finish_reason":null}]}\n\n')


async def test_a_client_that_never_reads_is_ended_and_nobody_else_notices() -> None:
    """One stalled client would hold memory and a backend for ever, or delay its neighbours."""
    streams = Streams(write_timeout=Duration(1), transcript_cap=Size(1024 * 1024))
    ticking = [step for _ in range(1000) for step in (_TICK, 0.02)]
    async with (
        Upstream([head(), *_flood(4000), b"0\r\n\r\n"], [head(), *ticking]) as up,
        running(config_for(up.url, streams=streams)) as gateway,
        client(gateway) as session,
    ):
        slow = socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        slow.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(slow, ("127.0.0.1", gateway.public_port))
        began = loop.time()
        await loop.sock_sendall(slow, ASK)
        while not gateway.hub.running:
            await asyncio.sleep(0.01)
        producer = gateway.hub.find("slow", None)
        assert producer is not None
        most, worst = 0, 0.0
        async with session.post("/api/streaming/chat", data=BODY) as neighbour:
            await neighbour.content.readuntil(b"event: token")
            last = loop.time()
            while gateway.hub.find("slow", None) and loop.time() - began < 8:
                await neighbour.content.readuntil(b"event: token")
                now = loop.time()
                worst, last = max(worst, now - last), now
                most = max(most, producer.transcript.size)
            for _ in range(10):
                await neighbour.content.readuntil(b"event: token")  # and it goes on afterwards
        slow.close()
        assert 0.9 < loop.time() - began < 4, f"ended after {loop.time() - began:.1f} s"
        assert producer.stream.receipt is not None
        assert producer.stream.receipt.state == "client_gone"
        assert most <= 1024 * 1024 + 256 * 1024
        assert up.sent < 60_000_000
        assert worst < 0.3, f"the neighbour heard nothing for {worst:.2f} s"


@pytest.mark.soak
@pytest.mark.timeout(120)
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="no /proc here")
async def test_five_hundred_clients_that_never_read_are_ended() -> None:
    """A phone network that goes away takes hundreds of readers at once: memory would go with them (C 25)."""
    cap, count = 256 * 1024, 500
    streams = Streams(write_timeout=Duration(3), transcript_cap=Size(cap))
    async with (
        Upstream([head(), *_flood(200), b"0\r\n\r\n"]) as up,
        running(config_for(up.url, streams=streams)) as gateway,
        client(gateway) as session,
    ):
        loop = asyncio.get_running_loop()
        before, began = _resident(), loop.time()
        with contextlib.ExitStack() as stack:
            for number in range(count):
                slow = stack.enter_context(socket.socket())
                slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
                slow.setblocking(False)
                await loop.sock_connect(slow, ("127.0.0.1", gateway.public_port))
                await loop.sock_sendall(slow, ASK.replace(b"slow", b"s%d" % number))
            most = slowest = 0.0
            while len(gateway.hub) or loop.time() - began < 2:
                asked = loop.time()
                async with session.get("/health") as alive:
                    assert alive.status == 200
                slowest = max(slowest, loop.time() - asked)
                most = max(most, _resident() - before)
                assert loop.time() - began < 60, f"{len(gateway.hub)} streams are left"
                await asyncio.sleep(0.05)
        assert not gateway.hub.running
        figures = await session.get("/api/streaming/statistics")
        assert (await figures.json())["states"]["client_gone"] == count
        took, each = loop.time() - began, most / count / 1024
        print(f"\n{count} ended after {took:.1f} s, {each:.0f} KiB each, /health {slowest:.2f} s")
        assert most < count * (2 * cap + 512 * 1024)  # this test's half of the connections is in it


def _resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
