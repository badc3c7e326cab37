"""Both ends of a stream as the standards allow them, and as few peers use them: SSE's rare forms (B 10), clients that
close by halves or reset (D 30), timeouts that come while the gateway waits for somebody (D 32)."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from support.inprocess import client, config_for, events, running
from support.upstream import HOLD, Step, Upstream, chunk, head

from config.schema import Streams
from config.values import Duration, Size
from gateway.app import Gateway

CHAT = "/api/streaming/chat"
ASKED = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def delta(text: str) -> bytes:
    return b'{"id":"c","choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":null}]}' % text.encode()


FINISH = b'{"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}'
OK = b"data: " + delta("ok") + b"\n\n"
ENDING = b"data: " + FINISH + b"\n\ndata: [DONE]\n\n"

# What stands on the wire for "ab", and then "ok".
FORMS = {
    "lone CR": b"data: " + delta("ab") + b"\r\r",
    "CRLF": b"data: " + delta("ab") + b"\r\n\r\n",
    "mixed ends": b"event: message\rdata: " + delta("ab") + b"\r\n\n",
    "no space": b"data:" + delta("ab") + b"\n\n",
    "unknown fields": b"foo: bar\nbaz\ndata: " + delta("ab") + b"\nx: y\n\n",
    "NUL in the id": b"id: 7\x00\ndata: " + delta("ab") + b"\n\n",
    "a huge retry": b"retry: 99999999999999999999999999\ndata: " + delta("ab") + b"\n\n",
    "a retry that is none": b"retry: soon\n\ndata: " + delta("ab") + b"\n\n",
    "comments": b": a\n:b\n\n: c\ndata: " + delta("ab") + b"\n: d\n\n",
    "a byte order mark": b"\xef\xbb\xbfdata: " + delta("ab") + b"\n\n",
    "several data lines": b"data: " + delta("ab").replace(b",", b",\ndata: ") + b"\n\n",
    "blank lines": b"\n\n\n\ndata: " + delta("ab") + b"\n\n\n\n",
    "an empty event": b"event: ping\n\ndata: " + delta("ab") + b"\n\n",
}


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "in bytes"])
@pytest.mark.parametrize("form", [pytest.param(raw, id=name) for name, raw in FORMS.items()])
async def test_every_form_of_an_event_is_read(form: bytes, cut: bool) -> None:
    """A server that uses a rarer form of SSE would lose tokens, or end as broken (B 10)."""
    sent = form + OK + ENDING
    pieces = [chunk(sent[i : i + 1]) for i in range(len(sent))] if cut else [chunk(sent)]
    script: list[Step] = [head(), *pieces, b"0\r\n\r\n"]
    async with Upstream(script) as up, running(config_for(up.url)) as gateway, client(gateway) as session:
        async with session.post(CHAT, json=ASKED) as answer:
            told = events(await answer.text())
        assert [json.loads(data)["content"] for _, kind, data in told if kind == "token"] == ["ab", "ok"]
        assert (told[-1][1], json.loads(told[-1][2])["finishReason"]) == ("done", "stop")
        async with session.post("/v1/chat/completions", json={**ASKED, "stream": True}) as answer:
            assert await answer.read() == sent  # unknown fields survive


@pytest.mark.parametrize("last", [b"data: [DONE]", b"data: [DONE]\n", b"data: {}"])
async def test_an_event_without_its_blank_line_is_none(last: bytes) -> None:
    """Half an end mark would be taken for an end (B 10; WHATWG discards an event that is not finished)."""
    script: list[Step] = [head(), chunk(OK + last), b"0\r\n\r\n"]
    async with Upstream(script) as up, running(config_for(up.url)) as gateway, client(gateway) as session:
        async with session.post(CHAT, json=ASKED) as answer:
            told = events(await answer.text())
        assert (told[-1][1], json.loads(told[-1][2])["code"]) == ("error", "upstream_truncated")


# -- clients that go in an unusual way ---------------------------------------------------------------------------------


@asynccontextmanager
async def asking(gateway: Gateway, **more: str) -> AsyncIterator[socket.socket]:
    """A raw socket that has asked."""
    body = json.dumps(ASKED).encode()
    headers = "".join(f"{name}: {value}\r\n" for name, value in more.items())
    raw = f"POST {CHAT} HTTP/1.1\r\nHost: gw\r\nX-Stream-Id: mine\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    with socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        peer.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(peer, ("127.0.0.1", gateway.public_port))
        await loop.sock_sendall(peer, raw.encode() + body)
        yield peer


async def ended(gateway: Gateway) -> str:
    """The state of the stream, when it is over."""
    async with asyncio.timeout(8):
        while len(gateway.hub) or (found := await gateway.registry.find("mine", "anonymous")) is None:
            await asyncio.sleep(0.01)
    return found.state


async def closed(up: Upstream, count: int = 1) -> None:
    async with asyncio.timeout(3):
        while len(up.closed_at) < count:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("how", ["half", "reset"])
@pytest.mark.parametrize("when", ["before the first token", "in the middle"])
async def test_a_client_that_half_closes_or_resets_is_gone(how: str, when: str) -> None:
    """A generation would go on for a client that cannot or will not read it (D 30)."""
    script: list[Step] = [HOLD] if when.startswith("before") else [head(), chunk(OK), HOLD]
    async with Upstream(script) as up, running(config_for(up.url)) as gateway:
        async with asking(gateway, **{"X-Stream-On-Disconnect": "cancel"}) as peer:
            async with asyncio.timeout(3):
                while not up.requests:
                    await asyncio.sleep(0.01)
            if len(script) > 1:
                await asyncio.get_running_loop().sock_recv(peer, 100)
            if how == "half":
                peer.shutdown(socket.SHUT_WR)
            else:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                peer.close()
            assert await ended(gateway) == "client_gone"
        await closed(up)


# -- the total timeout, whatever the gateway waits for -----------------------------------------------------------------

TOTAL = Duration(0.6)


async def test_the_total_timeout_while_a_client_does_not_read() -> None:
    """A client that stalls would stretch its stream, and its backend's, beyond every limit (D 32)."""
    flood = [chunk(b"data: " + delta("x" * 16_000) + b"\n\n")] * 4000
    streams = Streams(total_timeout=TOTAL, transcript_cap=Size(1 << 20))
    async with (
        Upstream([head(), *flood, HOLD]) as up,
        running(config_for(up.url, streams=streams)) as gateway,
        asking(gateway),
    ):
        assert await ended(gateway) == "timed_out"
        await closed(up)


async def test_the_total_timeout_while_a_backend_does_not_accept() -> None:
    """A backend that is unreachable would hold its clients for longer than a stream may last (D 32)."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        config = config_for(f"http://127.0.0.1:{address[1]}", streams=Streams(total_timeout=TOTAL))
        async with running(config) as gateway, client(gateway) as session:
            async with asyncio.timeout(4), session.post(CHAT, json=ASKED) as answer:
                assert (answer.status, (await answer.json())["error"]["code"]) == (504, "timeout")
            assert sum(transport.connections for transport in gateway.services.transports.values()) == 0
        for filler in fillers:
            filler.close()
