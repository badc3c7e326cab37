"""A rolling restart as operators do it: two nodes on one Redis behind nginx, one after the other, under load."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.fleet import CHAT, ask, client
from support.gateway import Gateway, start_gateway
from support.nginx import nginx
from support.process import free_port
from support.reconnecting import EventSource
from support.redis_server import BINARY, RedisServer
from support.surviving import receipt_of, statistics

pytestmark = [pytest.mark.edge, pytest.mark.skipif(BINARY is None, reason="no redis-server on this machine")]

CLIENTS = 50
CONFIG = """
server: {{port: {{port}}, workers: {workers}, drain_timeout: {drain}}}
registry: {{url: "{redis}", lease: 2s}}
backends: {{demo: {{driver: demo}}}}
routes: [{{model: "*", to: demo{survive}}}]
"""
STREAMS = 60  # that are to survive, of 9 s and more: longer than a drain, and than the restart of one node
TOKENS = 130


class Nodes:
    """Nodes on ports that stay theirs."""

    def __init__(self, redis: str, drain: str, workers: int, survive: str = "", count: int = 2) -> None:
        self._text = CONFIG.format(redis=redis, drain=drain, workers=workers, survive=survive)
        self._ports = [(free_port(), free_port()) for _ in range(count)]
        self.running = [self._start(i) for i in range(count)]

    def _start(self, which: int) -> Gateway:
        return start_gateway(self._text, ports=self._ports[which])

    def restart(self, which: int, by: signal.Signals = signal.SIGTERM) -> int:
        """The signal, its end, a new one that serves; the old one's exit code."""
        self.running[which].process.send_signal(by)
        code = self.running[which].process.wait(20)
        self.running[which] = self._start(which)
        return code


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


async def one(session: aiohttp.ClientSession, url: str, directives: str) -> str:
    """How a stream went for its client: `completed`, an explicit `error`, `unanswered`, `refused`, or `lost`."""
    text = ""
    try:
        async with session.post(url + CHAT, json=ask(directives)) as answer:
            if answer.status == 502:
                return "unanswered"  # its node ended as it connected: nginx cannot know, so the client asks again
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
    """Breaks when a restart with time enough to drain costs a single answer, or a single refusal. Who connects in the
    very moment in which a listener is closed may have to ask again."""
    nodes = Nodes(redis.url, "10s", workers)
    try:
        with nginx(tmp_path, *(node.url for node in nodes.running)) as url:
            seen = await roll(nodes, url, "[tokens=30] [rate=30]")
        print(f"rolling restart, {workers} workers a node: {dict(seen)}")
        assert set(seen) <= {"completed", "unanswered"}
        assert seen["unanswered"] <= 3
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
        assert set(seen) <= {"completed", "error", "unanswered"}
        assert seen["unanswered"] <= 3
        assert seen["error"] >= CLIENTS // 4
    finally:
        for node in nodes.running:
            node.stop()


async def surviving(nodes: Nodes, url: str, by: signal.Signals) -> None:
    """Restart both while streams run that outlast it all; every one of them is to be whole."""
    async with client() as session:
        whole = EventSource("whole", f"hi, whole [tokens={TOKENS}] [rate=0]")
        await whole.live(session, url, 20)
        ones = [EventSource(f"s{i}", f"hi, s{i} [tokens={TOKENS}] [rate={8 + i % 7}]") for i in range(STREAMS)]
        reading = [asyncio.create_task(one.live(session, url, 55)) for one in ones]
        await asyncio.sleep(1.5)
        for which in range(len(nodes.running)):
            code = await asyncio.to_thread(nodes.restart, which, by)
            assert code == (0 if by is signal.SIGTERM else -by)
        await asyncio.gather(*reading)
        for one in ones:
            text = whole.text.replace("whole", one.name)  # its answer names it: nobody else's will do
            assert (one.fatal, one.frames[-1][1], one.numbered) == (0, "done", True), (one.name, one.frames[-1:])
            assert (one.text, one.frames[-1][2]["fullText"]) == (text, text), one.name
        told = await statistics(session, nodes.running[0])
    print(f"{by.name}: {len(ones)} whole, {sum(one.connections for one in ones)} connections")
    assert sum(one.connections for one in ones) >= 1.5 * STREAMS  # with two nodes, half of them had an owner that lived
    assert {state: n for state, n in told["states"].items() if n} == {"completed": STREAMS + 1}


@pytest.mark.parametrize(
    ("by", "workers"), [(signal.SIGTERM, 1), (signal.SIGTERM, 2), (signal.SIGKILL, 1)], ids=["term", "workers", "kill"]
)
@pytest.mark.timeout(120)
async def test_every_stream_survives(redis: RedisServer, tmp_path: Path, by: signal.Signals, workers: int) -> None:
    """Breaks when a deploy, or a crash of one node after the other, costs a stream of a route that survives its node a
    single token, shows it one twice, or asks for an answer again."""
    nodes = Nodes(redis.url, "1s", workers, ", survive: node")
    try:
        with nginx(tmp_path, *(node.url for node in nodes.running)) as url:
            await surviving(nodes, url, by)
    finally:
        for node in nodes.running:
            node.kill()


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_node_that_is_alone(redis: RedisServer, workers: int) -> None:
    """Breaks when the restart of an only node, or of workers that see nobody but each other, ends its streams."""
    nodes = Nodes(redis.url, "0s", workers, ", survive: node", count=1)
    try:
        await surviving(nodes, nodes.running[0].url, signal.SIGTERM)
    finally:
        nodes.running[0].kill()


def carriers(listed: list[dict[str, Any]]) -> dict[str, int]:
    """The process that carries each stream: a node's name has its id."""
    return {one["streamId"]: int(one["node"].split("-")[-2]) for one in listed}


async def seen(session: aiohttp.ClientSession, url: str) -> dict[str, int]:
    """The same, as the gateway lists them; nothing while a worker dies with the question."""
    try:
        async with session.get(f"{url}/api/streaming/active") as answer:
            return carriers((await answer.json())["streams"])
    except aiohttp.ClientError:
        return {}


@pytest.mark.timeout(90)
async def test_an_heir_that_dies(redis: RedisServer) -> None:
    """Breaks when a stream is lost, or read twice, because the worker that has just taken it over dies as well."""
    nodes = Nodes(redis.url, "1s", 2, ", survive: node", count=1)
    url = nodes.running[0].url
    try:
        async with client() as session:
            whole = EventSource("whole", f"hi, whole [tokens={TOKENS}] [rate=0]")
            await whole.live(session, url, 20)
            ones = [EventSource(f"s{i}", f"hi, s{i} [tokens={TOKENS}] [rate={9 + i % 5}]") for i in range(20)]
            reading = [asyncio.create_task(one.live(session, url, 60)) for one in ones]
            while len(at := await seen(session, url)) < len(ones):
                await asyncio.sleep(0.05)
            dead = Counter(at.values()).most_common(1)[0][0]
            theirs = {name for name, pid in at.items() if pid == dead}
            os.kill(dead, signal.SIGKILL)
            while not (heirs := {pid for name, pid in (await seen(session, url)).items() if name in theirs} - {dead}):
                await asyncio.sleep(0.01)
            heir = heirs.pop()
            taken = {name for name, pid in (await seen(session, url)).items() if pid == heir} & theirs
            at_claim = {one.name: len(one.frames) for one in ones if one.name in taken}
            assert taken
            while all(len(one.frames) <= at_claim.get(one.name, 1 << 30) + 2 for one in ones):
                await asyncio.sleep(0.01)  # it has gone on with one of them: what follows is a third attempt
            os.kill(heir, signal.SIGKILL)
            await asyncio.gather(*reading)
            for one in ones:
                text = whole.text.replace("whole", one.name)
                assert (one.text, one.numbered, one.fatal) == (text, True, 0), one.name
            receipts = [await receipt_of(session, nodes.running[0], name) for name in theirs]
            assert max(receipt["attempts"] for receipt in receipts) == 3
            assert {lost["outcome"] for receipt in receipts for lost in receipt["tries"]} == {"node_lost"}
    finally:
        nodes.running[0].kill()
