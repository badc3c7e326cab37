"""Requests of one connection, one after the other, without tasks of their own."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
from typing import Any

import pytest
from support.inprocess import config_for, running
from support.upstream import CLOSE, HOLD, Upstream, chunk, head

from config.schema import Key
from gateway.access.keys import create
from gateway.app import Gateway

BODY = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"hi"}]}'
SAID = b'data: {"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'
LONG = SAID.replace(b'"x"', b'"' + b"y" * 4000 + b'"')
STOP = b'data: {"object":"chat.completion.chunk","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
END = STOP + b"data: [DONE]\n\n"


def request(extra: bytes = b"", body: bytes = BODY, path: bytes = b"/v1/chat/completions") -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: gw\r\n%bContent-Length: %d\r\n\r\n%b" % (path, extra, len(body), body)


async def _soon(fits: Any) -> None:
    async with asyncio.timeout(5):
        while not fits():
            await asyncio.sleep(0.01)


async def _read_on(slow: socket.socket) -> int:
    loop, size = asyncio.get_running_loop(), 0
    while data := await asyncio.wait_for(loop.sock_recv(slow, 65536), 5):
        size += len(data)
    return size


async def test_nothing_is_begun_behind_an_answer_that_broke_off() -> None:
    """A model would be paid for an answer to a pipelined request that no client can read any more."""
    script = [head() + chunk(LONG * 600) + b"5\r\nab", CLOSE]
    async with Upstream(script) as up, running(config_for(up.url)) as gateway:
        loop, slow = asyncio.get_running_loop(), socket.socket()
        with slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.setblocking(False)
            await loop.sock_connect(slow, ("127.0.0.1", gateway.public_port))
            await loop.sock_sendall(slow, request() * 2)
            await _soon(lambda: up.closed_at)
            await asyncio.sleep(0.1)
            assert await _read_on(slow) > 2_400_000
        await asyncio.sleep(0.1)
        assert len(up.requests) == 1


async def test_requests_of_one_connection_are_strangers() -> None:
    """What is remembered of one request's caller, path, model or headers would be taken for the next one's."""
    made = [create(name, f"owner-{name}") for name in "abc"]
    keys: tuple[Key, ...] = tuple(key for _, key in made)
    asks = [(i % 3, f"model-{i % 4}", ("/v1/chat/completions", "/api/streaming/chat")[i % 2]) for i in range(24)]
    raw = b""
    for n, (who, model, path) in enumerate(asks):
        last = b"Connection: close\r\n" if n == len(asks) - 1 else b""
        user = b"X-User-Id: u%d\r\n" % n if n % 5 == 0 else b""
        body = json.dumps({"model": model, "stream": True, "messages": [{"role": "user", "content": str(n)}]})
        bearer = b"Authorization: Bearer " + made[who][0].encode() + b"\r\n"
        raw += request(bearer + user + last, body.encode(), path.encode())
    script = [head() + chunk(SAID + END) + b"0\r\n\r\n"]
    async with Upstream(script) as up, running(config_for(up.url, keys=keys)) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.public_port)
        writer.write(raw)
        text = (await asyncio.wait_for(reader.read(), 20)).decode()
        writer.close()
        ids = re.findall(r"(?i)x-stream-id: (\S+)", text)
        assert len(set(ids)) == len(asks)
        sent = [json.loads(body) for _, body in up.requests]
        for n, (who, model, path) in enumerate(asks):
            found = await gateway.registry.find(ids[n], f"owner-{'abc'[who]}")
            assert found is not None
            assert (found.model, found.user_id) == (model, f"u{n}" if n % 5 == 0 else "")
            assert (found.protocol == "native") is path.startswith("/api")
            assert (sent[n]["model"], sent[n]["messages"][0]["content"]) == (model, str(n))


@pytest.mark.parametrize("abort", [False, True], ids=["FIN", "RST"])
async def test_a_client_may_leave_at_any_moment(abort: bool, caplog: pytest.LogCaptureFixture) -> None:
    """A request without a task of its own whose client leaves would go on for nobody, keep its place, or be reported
    as a fault of the gateway."""
    faults: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    script = [0.01, head() + chunk(SAID), 0.02, chunk(SAID), HOLD]
    whole = request()
    cuts = (1, 40, len(whole) - len(BODY), len(whole) - 3, len(whole))
    with caplog.at_level(logging.ERROR):
        async with Upstream(script) as up, running(config_for(up.url)) as gateway:
            for cut in cuts:
                for wait in (0.0, 0.001, 0.005, 0.012, 0.03, 0.05):
                    _, writer = await asyncio.open_connection("127.0.0.1", gateway.public_port)
                    writer.write(whole[:cut])
                    await asyncio.sleep(wait)
                    if abort:
                        writer.transport.abort()
                    else:
                        writer.close()
            await _soon(lambda: not gateway.hub.running)
            await _soon(lambda: not gateway.services.limiter.tickets and len(gateway.services.outputs) == 1)
            await _soon(lambda: not _handlers())
            assert len(gateway.services.transports["up"]._live) == 0
    assert not faults
    assert not caplog.records


def _handlers() -> list[str]:
    names = [task.get_coro().__qualname__ for task in asyncio.all_tasks()]  # type: ignore[union-attr]
    return [name for name in names if name.startswith("OneByOne")]


async def _fetch(gateway: Gateway, raw: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.public_port)
    writer.write(raw)
    data = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    return data


async def test_a_failure_in_the_first_burst_is_told_behind_what_was_said() -> None:
    """What is gathered for one write would be lost with the connection that then breaks, or end as if it were whole."""
    for tail in (b"0\r\n\r\n", b"5\r\nab"):
        script = [head() + chunk(SAID * 3) + tail, CLOSE]
        for version in (b"1.1", b"1.0"):
            async with Upstream(script) as up, running(config_for(up.url)) as gateway:
                said = await _fetch(gateway, request().replace(b"HTTP/1.1", b"HTTP/" + version))
                assert said.count(b'"content":"x"') == 3
                assert b"upstream_truncated" in said
                assert b"[DONE]" not in said
                assert not said.endswith(b"0\r\n\r\n")
