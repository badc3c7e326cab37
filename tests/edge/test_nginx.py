"""Behind a real nginx with deploy/nginx.conf: tokens come one by one, a client that leaves is noticed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path

import aiohttp
import pytest
from support.gateway import Gateway, start_gateway
from support.nginx import nginx
from support.process import free_port

pytestmark = pytest.mark.edge

CONFIG = """
streams: {on_disconnect: cancel}
backends: {demo: {driver: demo}}
routes: [{model: "*", to: demo}]
"""
BODY = {"model": "demo", "messages": [{"role": "user", "content": "Tell me a story."}]}


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    running = start_gateway(CONFIG)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def front(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """nginx in front of the gateway."""
    with nginx(tmp_path_factory.mktemp("nginx"), gateway.url) as url:
        yield url


async def test_tokens_are_not_held_back(front: str) -> None:
    """A buffering proxy would deliver the whole story at its end; then first and last token come together."""
    marks: list[float] = []
    text = b""
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{front}/api/streaming/chat", json=BODY) as answer,
    ):
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        async for data in answer.content.iter_any():
            marks.append(time.monotonic())
            text += data
    assert text.count(b"event: token") > 10
    assert b"event: done" in text
    assert len(marks) > 10
    assert marks[-1] - marks[0] > 0.3
    assert max(later - sooner for sooner, later in pairwise(marks)) < 0.5 * (marks[-1] - marks[0])


async def test_cancel_through_nginx(front: str, gateway: Gateway) -> None:
    """DELETE must reach the gateway through nginx, and the stream's own answer must end with an honest last event."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{front}/api/streaming/chat", json=BODY) as answer,
    ):
        await answer.content.readuntil(b"event: token")
        url = f"{front}/api/streaming/{answer.headers['X-Stream-Id']}"
        async with session.delete(url) as deleted:
            assert deleted.status == 200
            assert (await deleted.json())["state"] == "cancelled"
        rest = await answer.content.read()
        assert b"cancelled" in rest
        async with session.get(f"{gateway.url}/api/streaming/active") as active:
            assert (await active.json())["count"] == 0


async def test_a_client_that_leaves_nginx_leaves_the_gateway(front: str, gateway: Gateway) -> None:
    """nginx closes its upstream connection when the client goes; the stream must end and not stay in the registry."""
    async with aiohttp.ClientSession() as session:
        answer = await session.post(f"{front}/api/streaming/chat", json=BODY)
        await answer.content.readuntil(b"event: token")
        url = f"{gateway.url}/api/streaming/{answer.headers['X-Stream-Id']}"
        answer.close()
        deadline = time.monotonic() + 3
        state = "streaming"
        while state == "streaming" and time.monotonic() < deadline:
            async with session.get(url, headers={"Accept": "application/json"}) as told:
                state = (await told.json())["state"]
    assert state == "client_gone"


class Stub:
    """A node that reads each request whole, notes it and gives one answer; without one it breaks the connection."""

    def __init__(self, status: str) -> None:
        self.status = status
        self.seen: list[bytes] = []

    async def __aenter__(self) -> Stub:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
        )
        self.seen.append(head.partition(b" ")[0] + b" " + await reader.readexactly(length))
        if self.status:
            text = f"HTTP/1.1 {self.status}\r\nRetry-After: 7\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
            writer.write(text.encode())
            await writer.drain()
        writer.close()


@pytest.mark.parametrize(
    ("method", "first", "statuses", "answered"),
    [
        ("POST", "", {200, 502}, 3),  # died with it: the client decides
        ("GET", "", {200}, 6),
        ("POST", "503 Unavailable", {200}, 6),
        ("GET", "503 Unavailable", {200}, 6),
        ("POST", "down", {200}, 6),
        ("POST", "500 Broken", {200, 500}, 3),
    ],
)
async def test_what_is_asked_again(tmp_path: Path, method: str, first: str, statuses: set[int], answered: int) -> None:
    """A prompt that a node died with would be sent, and paid for, a second time unasked; or a client would be refused
    because one node drains or is down."""
    async with AsyncExitStack() as stack:
        bad, good = Stub(first), await stack.enter_async_context(Stub("200 OK"))
        url = f"http://127.0.0.1:{free_port()}"
        if first != "down":
            url = (await stack.enter_async_context(bad)).url
        front = stack.enter_context(nginx(tmp_path, url, good.url))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        got = []
        for i in range(6):
            async with session.request(
                method, f"{front}/v1/x", data=b"%d" % i * 9000 if method == "POST" else None
            ) as answer:
                got.append(answer.status)
    assert set(got) == statuses
    assert len(good.seen) == answered
    if method == "POST" and not first:
        assert sorted(bad.seen + good.seen) == [b"POST " + b"%d" % i * 9000 for i in range(6)]


async def test_when_all_refuse(tmp_path: Path) -> None:
    """A client would not learn from whom and for how long it is refused."""
    async with Stub("503 Unavailable") as one, Stub("503 Unavailable") as other, aiohttp.ClientSession() as session:
        with nginx(tmp_path, one.url, other.url) as front:
            async with session.post(f"{front}/v1/x", data=b"hi") as answer:
                assert (answer.status, answer.headers["Retry-After"], await answer.text()) == (503, "7", "ok")
