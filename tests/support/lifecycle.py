"""Two gateway nodes in this loop on one real Redis, the streams they carry and the clients that read them: the world of
the state machine. A rule does one thing to it; `check` holds what is left against the life-cycle invariants.

Nodes, Redis and backend stay from one run to the next, as they would; whose streams they are does not: every run has
two owners of its own.
"""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import aiohttp
from support.awake import Awake
from support.fetch import fetch
from support.mortal import LEASE, Node, config, secret_of, stop_all
from support.redis_server import RedisServer
from support.resuming import ends
from support.stage import CANARY, Stage

from gateway.streams.names import split_key

OWNERS = ("alice", "bob")
PROTOCOLS = ("native", "ndjson", "openai")
KIND = {"native": "sse", "ndjson": "ndjson", "openai": "sse"}
POLICIES = ("continue", "grace=50ms", "cancel")
EXPLICIT = (404, 410, 416, 503)  # how a reader may be told that there is nothing (more) for it
PATIENCE = 10.0  # seconds in which any request has its answer
RUNS = 100  # of one world


class Stream:
    """One stream as its client named it, and all that was ever read of it."""

    def __init__(self, world: World, name: str, owner: str, protocol: str, policy: str, canary: str) -> None:
        self.world, self.name, self.owner = world, name, owner
        self.protocol, self.policy, self.canary = protocol, policy, canary
        self.readings: list[Reading] = []
        self.hurt = False  # something happened to Redis or a node while it lived
        self.stopped = 0  # how often somebody ended it
        self.refused = False  # its client got an error instead of a stream
        self.unsure = False  # its client left before it knew whether it gets one
        self.heard = False  # somebody got one
        self.state = "unknown"  # its receipt's
        self.home: Node

    @property
    def faulty(self) -> bool:
        """Whether it may be refused, explicitly."""
        return self.hurt or self.world.disturbed

    @property
    def missing(self) -> bool:
        """Whether it may never have been: its client was refused, or would have been, had it stayed to hear it."""
        silent = not self.world.stage.act(self.canary).words
        return self.refused or (self.unsure and (silent or not self.heard))


class Reading:
    """One client: the frames it has kept, and its connection if it has one."""

    def __init__(self, world: World, stream: Stream, protocol: str) -> None:
        self.world, self.stream, self.protocol = world, stream, protocol
        self.body = b""
        self.told = 0  # the last status but 200
        self.broken = self.clean = False
        self.asking = False  # for a new stream, without an answer so far
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
            self.stream.unsure |= self.asking
            self.asking = False
            self.task.cancel()
            self.task = None
        marks = self.marks
        if self.over and self.stream.faulty:
            marks.pop()  # who knows the end does not come back: a node may have been lost that alone knew it
        self.body = self.body[: marks[min(keep, len(marks)) - 1]] if keep and marks else b""

    def _go(self, method: str, at: int, path: str, said: dict[str, str], body: Any) -> None:
        self.broken = self.clean = False
        self.told, self.at, self.asking = 0, at, method == "POST"
        node = self.world.nodes[at]
        self.task = asyncio.create_task(self._run(node, method, path, said, body))

    async def _run(self, node: Node, method: str, path: str, said: dict[str, str], body: Any) -> None:
        said = {**said, "Authorization": f"Bearer {secret_of(self.stream.owner)}"}
        try:
            async with self.world.session.request(method, node.url + path, json=body, headers=said) as answer:
                self.asking = False
                if answer.status != 200:
                    self.told = answer.status
                    self.stream.refused |= method == "POST"
                    text = await answer.text()
                    known = answer.status == 204 or answer.status in EXPLICIT
                    assert known or (method == "POST" and '"error"' in text), (answer.status, text)
                    return
                self.stream.heard = True
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

    def __init__(self, redis: RedisServer, awake: Awake) -> None:
        self.redis, self.awake = redis, awake
        self.until = awake.until
        self.state = "well"  # of Redis: well, frozen, dead
        self.stumbles = 0  # how often a node gave Redis up that was well: the machine had no time for it
        self.nodes: list[Node] = []
        self.runs = 0
        self.emptied = -math.inf  # when Redis last was
        self.begin()

    def begin(self) -> None:
        """A run: other owners, and nothing has happened yet."""
        self.runs += 1
        self.streams: list[Stream] = []
        self.buried: list[Node] = []
        self.uncounted: set[tuple[str, str]] = set()  # who ended, and may be missing from what the fleet counts
        self.hurt = 0  # how often Redis was
        self._before = self._odd()

    def _odd(self) -> tuple[int, int]:
        return self.awake.gaps, self.stumbles

    @property
    def disturbed(self) -> bool:
        """Whether this process, or Redis, had no time to run in this run."""
        return self._odd() != self._before

    def owner(self, who: str) -> str:
        """One of `OWNERS`, in this run."""
        return f"{who}{self.runs}"

    async def open(self) -> None:
        """Two nodes, empty Redis."""
        self.redis.command("FLUSHALL")
        self.tasks = len(asyncio.all_tasks())
        self.stage = await Stage().__aenter__()
        self.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True, limit=0))
        owners = [f"{who}{run}" for who in OWNERS for run in range(1, RUNS + 1)]
        self.settings = config(self.stage.url, self.redis.url, owners)
        self.nodes = [self.node(), self.node()]
        await asyncio.gather(*(node.start() for node in self.nodes))
        await asyncio.sleep(0.1)
        self.idle = len(asyncio.all_tasks())

    def node(self) -> Node:
        """One more; whoever loses a Redis that nobody has hurt stumbled."""

        def stumbled() -> None:
            self.stumbles += self.state == "well"

        return Node(self.settings, stumbled)

    def fault(self) -> None:
        """From here on, streams that live may be refused, explicitly."""
        for stream in self.streams:
            stream.hurt = True

    def empty(self) -> None:
        """Redis forgets all it has: what it had counted, and who its nodes are until their next heartbeat."""
        self.emptied = self.awake.now()
        self.uncounted |= {who for node in [*self.nodes, *self.buried] for who in node.receipts}

    async def heal(self) -> None:
        """Redis answers again, and every node knows."""
        if self.state == "frozen":
            self.redis.resume()
        elif self.state == "dead":
            await asyncio.to_thread(self.redis.start)
        if self.state != "well":
            for node in self.nodes:
                node.look()
        self.state = "well"
        await self.until(lambda: all(node.settled for node in self.nodes), 5)

    async def restart(self, at: int, how: str) -> None:
        """A node goes, by `kill` or in peace, and a new one comes."""
        old = self.nodes[at]
        self.fault()
        if how == "kill":
            await old.kill()
            if self.awake.now() - self.emptied < LEASE:
                self.uncounted |= set(old.receipts)  # nobody tells its name any more
        else:
            await old.stop(0.05)
            told = not old.registry.fleet.untold
            assert told or self.state != "well" or self.disturbed, f"6: not told: {old.registry.fleet.untold}"
        self.uncounted |= {split_key(key) for key in old.registry.fleet.untold}  # what Redis was not told is its log's
        self.buried.append(old)
        self.nodes[at] = self.node()
        await self.nodes[at].start()

    async def ask(
        self, method: str, at: int, path: str, owner: str, accept: str = "application/json"
    ) -> tuple[int, Any]:
        """Status and body of a request; it has its answer in time, whatever is going on (13)."""
        said = {"Accept": accept, **({"Authorization": f"Bearer {secret_of(owner)}"} if owner else {})}
        status, raw = await self.awake.within(PATIENCE, fetch(method, self.nodes[at].url, path, said))
        return status, json.loads(raw) if raw and accept == "application/json" else raw

    async def leave(self) -> None:
        """The run is over; 9: no task is left of the last ten."""
        for stream in self.streams:
            for reading in stream.readings:
                reading.drop(0)
        if self.runs % 10:
            return  # what is left is there later, too
        try:
            await self.until(lambda: len(asyncio.all_tasks()) <= self.idle + 1, 5)
        except TimeoutError:
            raise AssertionError(f"9: more than {self.idle} tasks: {asyncio.all_tasks()}") from None

    async def close(self) -> None:
        """9: tasks and sockets back to where they were."""
        await self.session.close()
        await stop_all(self.nodes)
        await self.stage.__aexit__()
        try:
            await self.until(lambda: len(asyncio.all_tasks()) <= self.tasks, 2)
        except TimeoutError:
            raise AssertionError(f"9: tasks are left: {asyncio.all_tasks()}") from None


def foreign(body: bytes, canary: str) -> set[str]:
    """Canaries of other streams."""
    return set(CANARY.findall(body.decode())) - {canary}
