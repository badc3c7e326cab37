"""Many streams on a fleet of three processes while everything around them is hurt, one thing after the other. What was
lost is counted: nothing, or a client was told so. Prints the table of docs/resume.md.

`python -m pytest -s -m soak tests/soak` runs it with 1,000 streams a fault and with 60.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from support.fleet import client, config
from support.gateway import Gateway, start_gateway
from support.process import stop
from support.redis_server import BINARY, RedisServer
from support.surviving import Listener

pytestmark = [
    pytest.mark.skipif(BINARY is None, reason="redis-server is not installed"),
    pytest.mark.soak,
    pytest.mark.timeout(1500),
]

LEASE = 2.0
CHAT = "/api/streaming/chat"


class Phone(Listener):
    """A client that comes back, to any node, until it has the end or is told that there is none."""

    def __init__(self, name: str, fleet: Fleet, home: int) -> None:
        super().__init__(name)
        self.fleet, self.home = fleet, home
        self.refused: Counter[str] = Counter()
        self.outcome = "silent"

    async def live(self, session: aiohttp.ClientSession, tokens: int, rate: float, deadline: float) -> None:
        """From the question to the outcome; "silent" if there is none at the deadline."""
        said = f"hi {self.name} [tokens={tokens}] [rate={rate:g}]"
        body: dict[str, Any] = {"model": "demo", "messages": [{"role": "user", "content": said}]}
        headers = {"X-Stream-Id": self.name, "X-Stream-On-Disconnect": "continue"}
        await self._try(session.post(self.fleet.nodes[self.home].url + CHAT, json=body, headers=headers))
        at = self.home
        while not self.over and self.outcome == "silent" and time.monotonic() < deadline:
            at = (at + 1) % len(self.fleet.nodes)
            last = {"Last-Event-ID": self.frames[-1][0]} if self.frames else {}
            url = f"{self.fleet.nodes[at].url}/api/streaming/{self.name}"
            await self._try(session.get(url, headers={"Accept": "text/event-stream, */*", **last}))
            await asyncio.sleep(0.2)
        if self.over:
            self.outcome = self._ending()

    def _ending(self) -> str:
        _, kind, data = self.frames[-1]
        return "whole" if kind == "done" else f"error {data['code']}"

    async def _try(self, asking: Any) -> None:
        self.rest = b""
        try:
            async with asking as answer:
                if answer.status == 200:
                    async for data in answer.content.iter_any():
                        self.take(data)
                    return
                self.refused[str(answer.status)] += 1
                if answer.status in (404, 410):  # 404 too: a Redis that forgot does not know what it had
                    self.outcome = f"{answer.status} {json.loads(await answer.text())['error']['code']}"
        except (aiohttp.ClientError, OSError):
            self.broken += 1

    def faultless(self, whole: str) -> bool:
        """No token missing or doubled among those it has; and a whole answer is whole."""
        return self.numbered and whole.startswith(self.text) and (self.outcome != "whole" or self.text == whole)


class Fleet:
    """Three processes and what can be done to them."""

    def __init__(self, redis: RedisServer, *, survive: bool = False) -> None:
        self.redis = redis
        self.nodes: list[Gateway] = []
        self.text = config(redis.url, lease=LEASE, drain="2s")
        if survive:
            self.text = self.text.replace("to: demo}", "to: demo, survive: node}")

    async def start(self, at: int | None = None) -> None:
        found = await asyncio.to_thread(start_gateway, self.text)
        if at is None:
            self.nodes.append(found)
        else:
            self.nodes[at] = found

    async def kill_node(self) -> None:
        """One of three, and a new one for it."""
        self.nodes[0].kill()
        await self.start(0)

    async def freeze_redis(self) -> None:
        self.redis.pause()
        await asyncio.sleep(5)
        self.redis.resume()

    async def demote_redis(self) -> None:
        self.redis.command("REPLICAOF", "127.0.0.1", "1")
        await asyncio.sleep(3)
        self.redis.command("REPLICAOF", "NO", "ONE")

    async def flush_redis(self) -> None:
        self.redis.command("FLUSHALL")

    async def kill_redis(self) -> None:
        await asyncio.to_thread(self.redis.restart)

    async def roll(self) -> None:
        """Each node in turn: SIGTERM, its drain, a new one."""
        for at, old in enumerate(list(self.nodes)):
            old.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(stop, old.process, 15)
            await self.start(at)

    async def nothing(self) -> None:
        await asyncio.sleep(0)

    def close(self) -> None:
        for node in self.nodes:
            node.kill()


FAULTS: dict[str, Callable[[Fleet], Awaitable[None]]] = {
    "none": Fleet.nothing,
    "kill -9 of a node of three": Fleet.kill_node,
    "SIGSTOP of Redis, 5 s": Fleet.freeze_redis,
    "REPLICAOF, 3 s": Fleet.demote_redis,
    "FLUSHALL": Fleet.flush_redis,
    "kill -9 of Redis, back empty": Fleet.kill_redis,
    "rolling restart, drain 2 s": Fleet.roll,
}

NODES = ["kill -9 of a node of three", "rolling restart, drain 2 s"]


async def one(fleet: Fleet, fault: str, count: int, number: int, seconds: float) -> list[Phone]:
    """So many streams, and in the midst of them the fault."""
    rate = 4.0 if count > 200 else 10.0
    tokens = int(rate * seconds)
    async with client() as session:
        whole = Phone(f"whole-{number}", fleet, 0)
        await whole.live(session, tokens, 0, time.monotonic() + 20)
        assert whole.frames[-1][2].get("tokenCount") == tokens, whole.frames[-1:]
        phones = [Phone(f"c{number}-{i}", fleet, i % 3) for i in range(count)]
        deadline = time.monotonic() + seconds * 3 + 40
        asked = []
        for i, phone in enumerate(phones):
            asked.append(asyncio.create_task(phone.live(session, tokens, rate, deadline)))
            if i % 50 == 49:
                await asyncio.sleep(0.2)
        await asyncio.sleep(seconds / 3)
        await FAULTS[fault](fleet)
        await asyncio.gather(*asked)
    for phone in phones:
        own = whole.text.replace(whole.name, phone.name)  # its answer names it: nobody else's will do
        assert phone.faultless(own), (fault, phone.name, phone.outcome, phone.frames[-3:])
    return phones


@pytest.mark.parametrize("count", [60, 1000])
async def test_nothing_is_lost_in_silence(count: int) -> None:
    """A crash, a deploy or a Redis gone wrong would leave clients with half an answer and no word about it."""
    rows: list[str] = []
    for survive, faults in ((False, list(FAULTS)), (True, NODES)):
        with RedisServer() as redis:
            fleet = Fleet(redis, survive=survive)
            try:
                await asyncio.gather(*(fleet.start() for _ in range(3)))
                for number, fault in enumerate(faults):
                    phones = await one(fleet, fault, count, number, 9.0 if count <= 200 else 20.0)
                    rows.append(row(fault + ", `survive: node`" * survive, phones))
            finally:
                fleet.close()
    print("\n| Fault | Streams | Whole | Told that it is lost | Silent | Broken connections | Refusals on the way |")
    print("|---|---|---|---|---|---|---|")
    print("\n".join(rows))


def row(fault: str, phones: list[Phone]) -> str:
    """One line of the table. Asserts that nothing is silent."""
    found = Counter(phone.outcome for phone in phones)
    refused = sum((phone.refused for phone in phones), Counter[str]())
    whole, silent = found.pop("whole", 0), found.pop("silent", 0)
    lost = ", ".join(f"{n} {what}" for what, n in sorted(found.items())) or "0"
    on_the_way = ", ".join(f"{n} x {status}" for status, n in sorted(refused.items())) or "0"
    assert not silent, (fault, [(p.name, p.frames[-1:], p.refused) for p in phones if p.outcome == "silent"][:5])
    if fault == "none":
        assert whole == len(phones), found
    broken = sum(phone.broken for phone in phones)
    return f"| {fault} | {len(phones)} | {whole} | {lost} | {silent} | {broken} | {on_the_way} |"
