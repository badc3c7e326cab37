"""A client that does not read: what it costs, for how long, and whom."""

from __future__ import annotations

import asyncio
import json
import socket

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
