"""Behind a real nginx with deploy/nginx.conf: tokens come one by one, a client that leaves is noticed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise

import aiohttp
import pytest
from support.gateway import Gateway, start_gateway
from support.nginx import nginx

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
