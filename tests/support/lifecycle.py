"""Two gateway nodes in this loop on one real Redis, the streams they carry and the clients that read them: the world of
the state machine. A rule does one thing to it; `check` holds what is left against the life-cycle invariants."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from typing import Any

import aiohttp
from msgspec.structs import replace
from support.inprocess import config_for
from support.redis_server import RedisServer
from support.resuming import ends
from support.stage import CANARY, Stage

from config.schema import Config, Key, Registry, Streams
from config.values import Duration
from gateway.access.keys import hash_of
from gateway.app import Gateway
from gateway.registry.redis import RedisRegistry
from gateway.registry.redis_client import Away

LEASE = 1.0
OWNERS = ("alice", "bob")
PROTOCOLS = ("native", "ndjson", "openai")
KIND = {"native": "sse", "ndjson": "ndjson", "openai": "sse"}
POLICIES = ("continue", "grace=200ms", "cancel")
EXPLICIT = (404, 410, 416, 503)  # how a reader may be told that there is nothing (more) for it
PATIENCE = 10.0  # seconds in which any request has its answer


def secret_of(owner: str) -> str:
    """The API key of an owner."""
    return f"hg_{owner}-of-the-state-machine"


def config(upstream: str, redis: str) -> Config:
    """A node's configuration. An upstream connection for each stream: an open one shows a generation that goes on."""
    found = config_for(
        upstream,
        registry=Registry(url=redis, lease=Duration(LEASE), timeout=Duration(0.2)),
        streams=Streams(no_progress=Duration(60)),
        keys=tuple(Key(id=o, owner=o, hash=hash_of(secret_of(o))) for o in OWNERS),
    )
    return replace(found, backends={n: replace(b, keepalive=False) for n, b in found.backends.items()})


class Node:
    """A gateway in this loop that can be killed: cut off from its clients, its backends and Redis at one moment."""

    def __init__(self, settings: Config) -> None:
        self.gateway = Gateway(settings)
        self.receipts: Counter[tuple[str, str]] = Counter()

    async def start(self) -> None:
        await self.gateway.start()
        self.url = f"http://127.0.0.1:{self.gateway.public_port}"
        tell = self.gateway.hub._finished

        def told(producer: Any, receipt: Any) -> None:
            self.receipts[receipt.stream_id, receipt.owner] += 1
            tell(producer, receipt)

        self.gateway.hub._finished = told

    async def kill(self) -> None:
        """As a crash looks from outside: nothing is written, nothing said, every socket is gone."""
        registry = self.gateway.registry
        assert isinstance(registry, RedisRegistry)

        async def never(*_: Any, **__: Any) -> Any:
            raise Away("killed")

        registry.link._guarded = never  # type: ignore[method-assign]
        for runner in self.gateway._runners:
            assert runner.server is not None
            for connection in runner.server.connections:
                if connection.transport is not None:
                    connection.transport.abort()
        for producer in self.gateway.hub:
            who = producer.stream.identity
            self.gateway.hub.stop(who.id, who.owner, "gateway", "shed")
        await self.gateway.close()

    async def stop(self, patience: float = 0.0) -> None:
        """SIGTERM."""
        await self.gateway.drain(patience)
        await self.gateway.close()


class Stream:
    """One stream as its client named it, and all that was ever read of it."""

    def __init__(self, name: str, owner: str, protocol: str, policy: str, canary: str) -> None:
        self.name, self.owner, self.protocol, self.policy, self.canary = name, owner, protocol, policy, canary
        self.readings: list[Reading] = []
        self.faulty = False  # something happened to Redis or a node while it lived
        self.stopped = 0  # how often somebody ended it
        self.refused = False  # its client got an error instead of a stream
        self.state = "unknown"  # its receipt's
        self.home: Node


class Reading:
    """One client: the frames it has kept, and its connection if it has one."""

    def __init__(self, world: World, stream: Stream, protocol: str) -> None:
        self.world, self.stream, self.protocol = world, stream, protocol
        self.body = b""
        self.told = 0  # the last status but 200
        self.broken = self.clean = False
        self.task: asyncio.Task[None] | None = None
        self.at = -1

    @property
    def marks(self) -> list[int]:
        return ends(self.body, KIND[self.protocol])

    @property
    def frames(self) -> list[bytes]:
        marks = self.marks
        return [self.body[a:b] for a, b in zip([0, *marks], marks, strict=False)]

    @property
    def over(self) -> bool:
        return bool(self.frames) and is_last(self.frames[-1], self.protocol)

    def start(self, at: int) -> None:
        """Ask for the answer."""
        stream = self.stream
        said = {"X-Stream-Id": stream.name, "X-Stream-On-Disconnect": stream.policy}
        body = {"model": "m", "messages": [{"role": "user", "content": stream.canary}], "stream": True}
        path = {"native": "/api/streaming/chat", "openai": "/v1/chat/completions"}.get(self.protocol)
        if path is None:
            path, said["Accept"] = f"/api/v1/conversations/{stream.name}/stream", "application/x-ndjson"
        self._go("POST", at, path, said, body)

    def resume(self, at: int) -> None:
        """Come back with what was kept, to any node."""
        self.drop(len(self.marks))
        kept = len(self.marks)
        said = {"Accept": "text/event-stream, application/x-ndjson"}
        path = f"/api/streaming/{self.stream.name}?protocol={self.protocol}"
        if self.protocol == "native" and kept:
            said["Last-Event-ID"] = f"{self.stream.name}.{kept}"
        elif kept:
            path += f"&after={kept}"
        self._go("GET", at, path, said, None)

    def drop(self, keep: int) -> None:
        """The connection is gone; `keep` frames had been dealt with."""
        if self.task is not None:
            self.task.cancel()
            self.task = None
        marks = self.marks
        self.body = self.body[: marks[min(keep, len(marks)) - 1]] if keep and marks else b""

    def _go(self, method: str, at: int, path: str, said: dict[str, str], body: Any) -> None:
        self.broken = self.clean = False
        self.told, self.at = 0, at
        node = self.world.nodes[at]
        self.task = asyncio.create_task(self._run(node, method, path, said, body))

    async def _run(self, node: Node, method: str, path: str, said: dict[str, str], body: Any) -> None:
        said = {**said, "Authorization": f"Bearer {secret_of(self.stream.owner)}"}
        try:
            async with self.world.session.request(method, node.url + path, json=body, headers=said) as answer:
                if answer.status != 200:
                    self.told = answer.status
                    self.stream.refused |= method == "POST"
                    text = await answer.text()
                    known = answer.status == 204 or answer.status in EXPLICIT
                    assert known or (method == "POST" and '"error"' in text), (answer.status, text)
                    return
                async for data in answer.content.iter_any():
                    self.body += data
            self.clean = True
        except aiohttp.ClientError:
            self.broken = True


def is_last(frame: bytes, protocol: str) -> bool:
    """Whether a frame says that nothing follows it."""
    if protocol == "native":
        return b"event: done" in frame or b"event: error" in frame
    if protocol == "ndjson":
        return json.loads(frame)["type"] in ("complete_state", "error")
    return b"data: [DONE]" in frame or b'"error":' in frame


class World:
    """Everything, in one event loop."""

    def __init__(self, redis: RedisServer) -> None:
        self.redis = redis
        self.state = "well"  # of Redis: well, frozen, dead
        self.streams: list[Stream] = []
        self.nodes: list[Node] = []
        self.buried: list[Node] = []
        self.counted = True  # whether nothing has been lost that the fleet counts with
        self.hurt = 0  # how often Redis was

    async def open(self) -> None:
        """Two nodes, empty Redis."""
        self.redis.command("FLUSHALL")
        self.tasks = len(asyncio.all_tasks())
        self.stage = await Stage().__aenter__()
        self.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True, limit=0))
        self.settings = config(self.stage.url, self.redis.url)
        self.nodes = [Node(self.settings), Node(self.settings)]
        await asyncio.gather(*(node.start() for node in self.nodes))

    def fault(self) -> None:
        """From here on, streams that live may be refused, explicitly."""
        for stream in self.streams:
            stream.faulty = True

    async def heal(self) -> None:
        """Redis answers again, and every node knows."""
        if self.state == "frozen":
            self.redis.resume()
        elif self.state == "dead":
            await asyncio.to_thread(self.redis.start)
        self.state = "well"
        await self.until(lambda: all(node.gateway.registry.health()["status"] == "healthy" for node in self.nodes), 5)

    async def until(self, holds: Any, seconds: float) -> None:
        """Wait for something that must come."""
        async with asyncio.timeout(seconds):
            while not holds():
                await asyncio.sleep(0.01)

    async def restart(self, at: int, how: str) -> None:
        """A node goes, by `kill` or in peace, and a new one comes."""
        old = self.nodes[at]
        self.fault()
        if how == "kill":
            self.counted = False
            await old.kill()
        else:
            await old.stop(0.05)
        self.buried.append(old)
        self.nodes[at] = Node(self.settings)
        await self.nodes[at].start()

    async def ask(
        self, method: str, at: int, path: str, owner: str, accept: str = "application/json"
    ) -> tuple[int, Any]:
        """Status and body of a request; it has its answer in time, whatever is going on (13)."""
        said = {"Accept": accept, **({"Authorization": f"Bearer {secret_of(owner)}"} if owner else {})}
        async with asyncio.timeout(PATIENCE):
            async with self.session.request(method, self.nodes[at].url + path, headers=said) as answer:
                raw = b""
                with contextlib.suppress(aiohttp.ClientError):
                    async for data in answer.content.iter_any():
                        raw += data
                return answer.status, json.loads(raw) if raw and accept == "application/json" else raw

    async def close(self) -> None:
        """9: tasks, sockets and Redis keys back to where they were."""
        for stream in self.streams:
            for reading in stream.readings:
                reading.drop(0)
        await self.session.close()
        await asyncio.gather(*(node.stop() for node in self.nodes))
        await self.stage.__aexit__()
        left = 0
        for _ in range(100):
            left = len(asyncio.all_tasks()) - self.tasks
            if left <= 0:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"9: {left} tasks are left: {asyncio.all_tasks()}")


def foreign(body: bytes, canary: str) -> set[str]:
    """Canaries of other streams."""
    return set(CANARY.findall(body.decode())) - {canary}
