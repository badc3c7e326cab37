"""A rolling restart as operators do it: two nodes on one Redis behind nginx, one after the other, under load."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from support.fleet import CHAT, ask, client
from support.gateway import Gateway, start_gateway
from support.nginx import nginx
from support.process import free_port
from support.redis_server import BINARY, RedisServer

pytestmark = [pytest.mark.edge, pytest.mark.skipif(BINARY is None, reason="no redis-server on this machine")]

CLIENTS = 50
CONFIG = """
server: {{port: {{port}}, workers: {workers}, drain_timeout: {drain}}}
registry: {{url: "{redis}", lease: 2s}}
backends: {{demo: {{driver: demo}}}}
routes: [{{model: "*", to: demo}}]
"""


class Nodes:
    """Two nodes on ports that stay theirs."""

    def __init__(self, redis: str, drain: str, workers: int) -> None:
        self._text = CONFIG.format(redis=redis, drain=drain, workers=workers)
        self._ports = [(free_port(), free_port()) for _ in range(2)]
        self.running = [self._start(i) for i in range(2)]

    def _start(self, which: int) -> Gateway:
        return start_gateway(self._text, ports=self._ports[which])

    def restart(self, which: int) -> int:
        """SIGTERM, its end, a new one that serves; the old one's exit code."""
        self.running[which].process.send_signal(signal.SIGTERM)
        code = self.running[which].process.wait(20)
        self.running[which] = self._start(which)
        return code


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


async def one(session: aiohttp.ClientSession, url: str, directives: str) -> str:
    """How a stream went for its client: `completed`, an explicit `error` or `refused`, or `lost`."""
    text = ""
    try:
        async with session.post(url + CHAT, json=ask(directives)) as answer:
            if answer.status != 200:
                return f"refused {answer.status}"
            async for part in answer.content.iter_any():
                text += part.decode()
    except aiohttp.ClientError:
        pass  # an honest error is followed by a break
    last = text.rstrip().rpartition("\n\n")[2]
    return "completed" if "event: done" in last else "error" if "event: error" in last else "lost"


async def load(session: aiohttp.ClientSession, url: str, directives: str, rolled: asyncio.Event) -> Counter[str]:
    """One client, who asks again and again until the restart is over."""
    seen: Counter[str] = Counter()
    while not rolled.is_set():
        seen[await one(session, url, directives)] += 1
    return seen


async def roll(nodes: Nodes, url: str, directives: str) -> Counter[str]:
    """Restart both under load; what came of all streams."""
    rolled = asyncio.Event()
    async with client() as session:
        clients = [asyncio.create_task(load(session, url, directives, rolled)) for _ in range(CLIENTS)]
        await asyncio.sleep(0.7)
        for which in range(2):
            assert await asyncio.to_thread(nodes.restart, which) == 0
        rolled.set()
        return sum(await asyncio.gather(*clients), Counter())


@pytest.mark.parametrize("workers", [1, 2])
async def test_no_stream_notices(redis: RedisServer, tmp_path: Path, workers: int) -> None:
    """Breaks when a restart with time enough to drain costs a single answer, or a single refusal."""
    nodes = Nodes(redis.url, "10s", workers)
    try:
        with nginx(tmp_path, *(node.url for node in nodes.running)) as url:
            seen = await roll(nodes, url, "[tokens=30] [rate=30]")
        print(f"rolling restart, {workers} workers a node: {dict(seen)}")
        assert set(seen) == {"completed"}
        assert seen.total() > 2 * CLIENTS
    finally:
        for node in nodes.running:
            node.stop()


async def test_what_outlasts_the_drain_ends_honestly(redis: RedisServer, tmp_path: Path) -> None:
    """Breaks when a stream that is longer than the drain is cut off without a word."""
    nodes = Nodes(redis.url, "300ms", 1)
    try:
        with nginx(tmp_path, *(node.url for node in nodes.running)) as url:
            seen = await roll(nodes, url, "[tokens=60] [rate=30]")
        print(f"rolling restart, drain too short: {dict(seen)}")
        assert set(seen) <= {"completed", "error"}
        assert seen["error"] >= CLIENTS // 4
    finally:
        for node in nodes.running:
            node.stop()
