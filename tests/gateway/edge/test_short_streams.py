"""What a short stream costs beside its tokens: nothing of it is left to the cycle collector, its head is sent once."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from support.inprocess import client, config_for, running
from support.upstream import RESET, Step, Upstream, chunk, head

from gateway.edge.output import ClientOutput, StreamHead
from gateway.streams.hub import Hub
from gateway.streams.producer import Producer

CHAT = "/v1/chat/completions"
ASK = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
SAID = b'data: {"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'
STOP = b'data: {"object":"chat.completion.chunk","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
END = b"data: [DONE]\n\n"


@contextmanager
def collector_off() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "script",
    [
        [head() + chunk(SAID + STOP + END) + b"0\r\n\r\n"],
        [head() + chunk(SAID), 0.02, chunk(SAID), 0.02, chunk(SAID), 0.02, chunk(STOP + END), 0.05, b"0\r\n\r\n"],
        [head() + chunk(SAID), 0.02, chunk(SAID), RESET],
        [head(b"Content-Length: 2\r\n", b"500 Oops") + b"{}"],
    ],
    ids=["at once", "token by token", "broken off", "refused"],
)
async def test_an_ended_stream_is_freed_at_once(script: list[Step], monkeypatch: pytest.MonkeyPatch) -> None:
    """Breaks when the parts of an ended stream hold each other: each would stay in memory until the cycle collector
    runs, which then stops every other stream for the longer."""
    seen: list[weakref.ref[Producer]] = []
    made = Hub.open

    def noted(hub: Hub, *args: object) -> Producer:
        producer = made(hub, *args)  # type: ignore[arg-type]
        seen.append(weakref.ref(producer))
        return producer

    monkeypatch.setattr(Hub, "open", noted)
    async with Upstream(script) as up, running(config_for(up.url)) as gateway, client(gateway) as session:
        with collector_off():
            for _ in range(3):
                async with session.post(CHAT, json=ASK) as answer:
                    with suppress(aiohttp.ClientError):  # of a body that breaks off
                        await answer.read()
            for _ in range(100):
                if not any(ref() for ref in seen):
                    break
                await asyncio.sleep(0.02)
            assert len(seen) == 3
            assert [ref() for ref in seen] == [None, None, None]


async def _heads(headers: dict[str, str], version: str) -> bytes:
    """What a client of such an answer reads up to the blank line."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = StreamHead(status=200, headers=headers)
        await response.prepare(request)
        assert request.transport is not None
        request.transport.write(b"0\r\n\r\n")
        return response

    app = web.Application()
    app.router.add_get("/", answer)
    async with TestClient(TestServer(app)) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(f"GET / HTTP/{version}\r\nHost: x\r\n\r\n".encode())
        found = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        return found


async def test_the_usual_head_says_what_a_client_needs() -> None:
    """Breaks when the head of a stream lacks its framing, date or name, or has a header twice."""
    lines = (await _heads({"Content-Type": "text/event-stream", "X-Stream-Id": "st_a"}, "1.1")).split(b"\r\n")
    assert lines[:4] == [
        b"HTTP/1.1 200 OK",
        b"Content-Type: text/event-stream",
        b"X-Stream-Id: st_a",
        b"Transfer-Encoding: chunked",
    ]
    assert lines[4].startswith(b"Date: ")
    assert lines[4].endswith(b" GMT")
    assert lines[5:] == [b"Server: headgate", b"", b""]


async def test_an_old_client_gets_no_chunks() -> None:
    """Breaks when a client of HTTP/1.0 is told of a transfer coding it does not know."""
    told = await _heads({"Content-Type": "text/plain"}, "1.0")
    assert b"Transfer-Encoding" not in told
    assert told.startswith(b"HTTP/1.0 200 OK\r\n")


async def test_no_header_becomes_two() -> None:
    """Breaks when a line break in a header's value is sent, and what follows it is taken for a header."""
    told = await _heads({"X-Dropped": "a\r\nSet-Cookie: b"}, "1.1")
    assert told.startswith(b"HTTP/1.1 500")
    assert b"Set-Cookie" not in told


async def test_what_is_known_at_once_is_written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Breaks when head, frames and end of a short answer are a write each: each is a system call, and wakes the
    client."""
    writes: list[bytes] = []
    opened = ClientOutput.open

    class Counted:
        def __init__(self, transport: asyncio.Transport) -> None:
            self._transport = transport

        def __getattr__(self, name: str) -> object:
            return getattr(self._transport, name)

        def write(self, data: bytes) -> None:
            writes.append(data)
            self._transport.write(data)

    def noted(output: ClientOutput, request: web.Request, head: bytes = b"") -> None:
        opened(output, request, head)
        assert output._transport is not None
        output._transport = Counted(output._transport)  # type: ignore[assignment]

    monkeypatch.setattr(ClientOutput, "open", noted)
    script = [head() + chunk(SAID) + chunk(SAID + STOP + END) + b"0\r\n\r\n"]
    async with Upstream(script) as up, running(config_for(up.url)) as gateway, aiohttp.ClientSession() as session:
        for _ in range(2):
            async with session.post(f"http://127.0.0.1:{gateway.public_port}{CHAT}", json=ASK) as answer:
                assert await answer.read() == SAID + SAID + STOP + END
    assert len(writes) == 2
    assert all(one.startswith(b"HTTP/1.1 200 OK\r\n") and one.endswith(b"0\r\n\r\n") for one in writes)


async def test_requests_on_one_connection_are_answered_in_order() -> None:
    """Breaks when a connection forgets what it read behind a request, or ends after the first answer."""
    body = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"hi"}]}'
    ask = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (CHAT.encode(), len(body), body)
    script = [head() + chunk(SAID + STOP + END) + b"0\r\n\r\n"]
    async with Upstream(script) as up, running(config_for(up.url)) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.public_port)
        writer.write(ask + ask + ask.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
        async with asyncio.timeout(5):
            told = await reader.read()
        writer.close()
    assert told.count(b"HTTP/1.1 200 OK\r\n") == 3
    assert told.count(b"data: [DONE]\n\n") == 3
