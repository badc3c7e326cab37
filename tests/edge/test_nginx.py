"""Behind a real nginx with deploy/nginx.conf: tokens come one by one, a client that leaves is noticed."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import aiohttp
import pytest
from support.gateway import ROOT, Gateway, start_gateway
from support.process import free_port, stop, wait_until

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


def listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 0.5).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def front(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """nginx in front of the gateway: the shipped file, with this test's ports and folder put in."""
    folder: Path = tmp_path_factory.mktemp("nginx")
    port = free_port()
    text = (ROOT / "deploy/nginx.conf").read_text(encoding="utf-8")
    for shipped, ours in (
        ("server gateway:8080;", f"server {gateway.url.removeprefix('http://')};"),
        ("listen 8000;", f"listen 127.0.0.1:{port};"),
        ("/tmp/headgate-nginx", f"{folder}/nginx"),
    ):
        assert shipped in text
        text = text.replace(shipped, ours)
    (folder / "nginx.conf").write_text(text, encoding="utf-8")
    command = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-g", "daemon off;"]
    with (folder / "nginx.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        wait_until(lambda: listening(port), 10, "nginx listens")
        yield f"http://127.0.0.1:{port}"
    finally:
        stop(process)


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
