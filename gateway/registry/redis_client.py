"""The wire to Redis: batches of commands, and one small breaker.

Law: a command is sent once, never retried; it runs in a task of its own, so a cancelled caller cannot leave a
connection half read; after a failure every call fails at once until a probe succeeds. The only repeat is a script the
server did not know (NOSCRIPT), because it was not run.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from importlib.resources import files
from typing import Any, NamedTuple, TypeVar

from redis.asyncio import RedisCluster
from redis.exceptions import NoScriptError, RedisClusterException, RedisError

from gateway.registry.redis_url import Client, connect

_AT_ONCE = 16  # commands in flight per node; more wait their turn
_CROWD = 4  # time-outs a command waits for its turn beyond the first
_PAUSE = 0.1  # seconds until the first probe after a failure; doubled up to `longest_pause`

T = TypeVar("T")


def _load() -> dict[str, str]:
    folder = files("gateway.registry") / "lua"
    return {f.name.removesuffix(".lua"): f.read_text("utf-8") for f in folder.iterdir() if f.name.endswith(".lua")}


SCRIPTS = _load()
_DIGESTS = {name: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest() for name, text in SCRIPTS.items()}


class Away(Exception):
    """Redis did not answer, or refuses to work now: use what this node knows."""


class Poisoned(Away):
    """Redis works, but the value under a key is not what it should be."""


class Op(NamedTuple):
    """One idempotent command: a script's name or a Redis command, its keys (of one slot), its other arguments."""

    name: str
    keys: tuple[str, ...]
    args: tuple[str | bytes | int, ...] = ()


def is_poison(error: BaseException) -> bool:
    """Whether the fault lies in one key's value, not in the server: repeating would never help."""
    return "WRONGTYPE" in str(error) or "not an integer" in str(error)


class Link:
    """The node's connections and their breaker."""

    def __init__(self, url: str, timeout: float, longest_pause: float = 2.0) -> None:
        self.client = connect(url, timeout)
        self.cluster = isinstance(self.client, RedisCluster)
        self.timeout = timeout
        self.healthy = False
        self.since = time.time()  # Unix seconds of the last change
        self.up_since = 0.0  # monotonic seconds
        self.down_since = -math.inf  # likewise
        self.error = "not connected yet"
        self.retry_at = 0.0
        self._pause = _PAUSE
        self._longest = longest_pause
        self._turn = asyncio.Semaphore(_AT_ONCE)
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, command: Callable[[Client], Awaitable[T]], *, probe: bool = False, patience: float = 1.0) -> T:
        """Run one command within `patience` x the time-out. Raises Away, at once while the breaker is open."""
        if not (self.healthy or probe):
            raise Away(self.error)
        began: list[float] = []
        task = asyncio.create_task(self._guarded(command, probe, began))
        self._tasks.add(task)
        task.add_done_callback(self._done)
        limit = self.timeout * patience
        finished, _ = await asyncio.wait({task}, timeout=limit)
        if not finished and not began:
            finished, _ = await asyncio.wait({task}, timeout=limit * _CROWD)
        if finished:
            return task.result()
        if began and time.monotonic() - began[0] >= limit * 0.9:
            self.trip("no answer in time")  # waiting for a turn is no fault of Redis
        raise Away(self.error or "too many commands at once")

    async def batch(self, ops: Sequence[Op], *, probe: bool = False, patience: float = 5.0) -> list[Any]:
        """Send all in one pipeline (on a cluster: at once, each to its node). The answers, in order; an answer to a
        poisoned key is its exception. Raises Away: then each may or may not have been done."""
        answers = await self.run(lambda client: self._send(client, ops), probe=probe, patience=patience)
        if any(isinstance(a, NoScriptError) for a in answers):
            answers = await self.run(lambda client: self._again(client, ops, answers), probe=probe, patience=patience)
        for answer in answers:
            if isinstance(answer, BaseException) and not is_poison(answer):
                self.trip(str(answer))
                raise Away(self.error)
        return answers

    async def one(self, op: Op) -> Any:
        """One command, within the time-out. Raises Away, or Poisoned for a value of the wrong kind."""

        async def send(client: Client) -> list[Any]:
            answers = await self._send(client, (op,))
            return await self._again(client, (op,), answers) if isinstance(answers[0], NoScriptError) else answers

        answer = (await self.run(send))[0]
        if isinstance(answer, BaseException):
            if is_poison(answer):
                raise Poisoned(str(answer))
            self.trip(str(answer))
            raise Away(str(answer))
        return answer

    async def ask(self, ops: Sequence[Op], *, again: float = 0.0) -> list[Any]:
        """Plain reads, within one time-out: their answers (or exceptions), or an empty list while Redis is away.
        `again`: once more if Redis is back within so many seconds of its loss (a burst here may look like one)."""
        if not ops:
            return []
        try:
            return await self.run(lambda client: self._send(client, ops))
        except Away:
            pass
        while not self.healthy and time.monotonic() - self.down_since < again:  # noqa: ASYNC110 - two ends
            await asyncio.sleep(0.05)
        return await self.ask(ops) if again and self.healthy else []

    async def refresh(self) -> None:
        """Drop idle connections before a probe: after a failover the same name may mean another server."""
        pool = getattr(self.client, "connection_pool", None)  # a cluster client has one per node and sees to it itself
        if pool is not None:
            await pool.disconnect(inuse_connections=False)

    def trip(self, error: str) -> None:
        """Open the breaker; the next probe is due after a jittered, growing pause."""
        now = time.monotonic()
        if self.healthy:
            self.healthy, self.since, self.down_since, self._pause = False, time.time(), now, _PAUSE
        elif now >= self.retry_at:
            self._pause = min(self._longest, self._pause * 2)
        self.error = error or "no connection"
        self.retry_at = now + self._pause * random.uniform(0.5, 1.0)

    def recovered(self) -> None:
        """Close the breaker."""
        if not self.healthy:
            self.healthy, self.since, self.up_since, self.error = True, time.time(), time.monotonic(), ""

    async def close(self) -> None:
        """Let running commands end (their time-outs see to it), then close the connections."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self.timeout * 5)
        try:
            await asyncio.wait_for(self.client.aclose(), self.timeout * 5)
        except (RedisError, OSError, TimeoutError) as error:
            self.error = f"closing: {error}"

    async def _guarded(self, command: Callable[[Client], Awaitable[T]], probe: bool, began: list[float]) -> T:
        async with self._turn:
            began.append(time.monotonic())
            if not (self.healthy or probe):
                raise Away(self.error)
            try:
                return await command(self.client)
            except (RedisError, RedisClusterException, OSError, TimeoutError) as error:
                self.trip(f"{type(error).__name__}: {error}")
                raise Away(self.error) from error

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # seen: the caller may have left

    async def _send(self, client: Client, ops: Sequence[Op]) -> list[Any]:
        if self.cluster:  # its pipeline refuses scripts
            return await asyncio.gather(*(client.execute_command(*words_of(op)) for op in ops), return_exceptions=True)
        pipe = client.pipeline(transaction=False)
        for op in ops:
            pipe.execute_command(*words_of(op))
        answers: list[Any] = await pipe.execute(raise_on_error=False)
        return answers

    async def _again(self, client: Client, ops: Sequence[Op], answers: list[Any]) -> list[Any]:
        for text in SCRIPTS.values():
            await client.script_load(text)
        missing = [i for i, a in enumerate(answers) if isinstance(a, NoScriptError)]
        repeated = await self._send(client, [ops[i] for i in missing])
        found = list(answers)
        for i, answer in zip(missing, repeated, strict=True):
            found[i] = answer
        return found


def words_of(op: Op) -> tuple[str | bytes | int, ...]:
    """A command as it is sent."""
    if op.name in _DIGESTS:
        return ("EVALSHA", _DIGESTS[op.name], len(op.keys), *op.keys, *op.args)
    return (op.name, *op.keys, *op.args)
