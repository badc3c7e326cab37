"""The wire to Redis: URL to client, batches of commands, and one small breaker.

Law: a command is sent once, never retried; it runs in a task of its own, so a cancelled caller cannot leave a
connection half read; after a failure every call fails at once until a probe succeeds. The only repeat is a script the
server did not know (NOSCRIPT), because it was not run.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from importlib.resources import files
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit

from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisClusterException, RedisError

SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")
_AT_ONCE = 16  # commands in flight per node; more wait their turn within their own time-out
_PAUSE = 0.1  # seconds until the first probe after a failure; doubled up to `longest_pause`

T = TypeVar("T")
Client = Any  # redis.asyncio's clients share their methods but no base class


def _load() -> dict[str, str]:
    folder = files("gateway.registry") / "lua"
    return {f.name.removesuffix(".lua"): f.read_text("utf-8") for f in folder.iterdir() if f.name.endswith(".lua")}


SCRIPTS = _load()
_DIGESTS = {name: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest() for name, text in SCRIPTS.items()}


class Away(Exception):
    """Redis did not answer, or refuses to work now: use what this node knows."""


class Op(NamedTuple):
    """One idempotent command: a script's name or a Redis command, its keys (of one slot), its other arguments."""

    name: str
    keys: tuple[str, ...]
    args: tuple[str | bytes | int, ...] = ()


def connect(url: str, timeout: float) -> Client:
    """A client for any of SCHEMES; nothing is sent yet. Raises ValueError for a URL it cannot read."""
    scheme = urlsplit(url).scheme
    if scheme not in SCHEMES:
        raise ValueError(f"registry.url: unknown scheme {scheme!r}; known: memory, {', '.join(SCHEMES)}")
    options: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }
    if scheme.endswith("+sentinel"):
        return _sentinel(url, options)
    if scheme.endswith("+cluster"):
        user, hosts, _ = _authority(url)
        nodes = [ClusterNode(host, port) for host, port in _hosts(hosts, 6379)]
        return RedisCluster(startup_nodes=nodes, ssl=scheme.startswith("rediss"), **user, **options)
    return Redis.from_url(url, **options)


def _sentinel(url: str, options: dict[str, Any]) -> Client:
    user, hosts, path = _authority(url)
    service, _, db = path.partition("/")
    if not service:
        raise ValueError("registry.url: redis+sentinel:// needs a service name: redis+sentinel://host:26379/mymaster")
    secure = {"ssl": True} if url.startswith("rediss") else {}
    sentinel = Sentinel(  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        _hosts(hosts, 26379), sentinel_kwargs=options | secure, **options, **secure, **user
    )
    return sentinel.master_for(service, db=int(db or 0))


def _authority(url: str) -> tuple[dict[str, Any], str, str]:
    rest = url.split("://", 1)[1].split("?", 1)[0]
    authority, _, path = rest.partition("/")
    login, _, hosts = authority.rpartition("@")
    name, _, password = login.partition(":")
    user = {"username": unquote(name), "password": unquote(password)}
    return {key: value for key, value in user.items() if value}, hosts, path


def _hosts(text: str, port: int) -> list[tuple[str, int]]:
    found = []
    for item in text.split(","):
        parts = urlsplit("//" + item)
        if not parts.hostname:
            raise ValueError(f"registry.url: {item!r} is not host:port")
        found.append((parts.hostname, parts.port or port))
    return found


def is_poison(error: BaseException) -> bool:
    """Whether the fault lies in one key's value, not in the server: repeating would never help."""
    return "WRONGTYPE" in str(error)


class Link:
    """The node's connections and their breaker."""

    def __init__(self, url: str, timeout: float, longest_pause: float = 2.0) -> None:
        self.client = connect(url, timeout)
        self.cluster = isinstance(self.client, RedisCluster)
        self.timeout = timeout
        self.healthy = False
        self.since = time.time()  # Unix seconds of the last change
        self.up_since = 0.0  # monotonic seconds
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
        task = asyncio.create_task(self._guarded(command, probe))
        self._tasks.add(task)
        task.add_done_callback(self._done)
        finished, _ = await asyncio.wait({task}, timeout=self.timeout * patience)
        if not finished:
            self.trip("no answer in time")
            raise Away(self.error)
        return task.result()

    async def batch(self, ops: Sequence[Op], *, probe: bool = False) -> list[Any]:
        """Send all in one pipeline (on a cluster: at once, each to its node). The answers, in order; an answer to a
        poisoned key is its exception. Raises Away: then each may or may not have been done."""
        answers = await self.run(lambda client: self._send(client, ops), probe=probe, patience=5)
        if any(isinstance(a, NoScriptError) for a in answers):
            answers = await self.run(lambda client: self._again(client, ops, answers), probe=probe, patience=5)
        for answer in answers:
            if isinstance(answer, BaseException) and not is_poison(answer):
                self.trip(str(answer))
                raise Away(self.error)
        return answers

    async def one(self, op: Op) -> Any:
        """One command, within the time-out. Raises Away."""

        async def send(client: Client) -> list[Any]:
            answers = await self._send(client, (op,))
            return await self._again(client, (op,), answers) if isinstance(answers[0], NoScriptError) else answers

        answer = (await self.run(send))[0]
        if isinstance(answer, BaseException):
            if not is_poison(answer):
                self.trip(str(answer))
            raise Away(str(answer))
        return answer

    async def ask(self, ops: Sequence[Op]) -> list[Any]:
        """Plain reads, within one time-out: their answers (or exceptions), or an empty list while Redis is away."""
        if not ops:
            return []
        try:
            return await self.run(lambda client: self._send(client, ops))
        except Away:
            return []

    def trip(self, error: str) -> None:
        """Open the breaker; the next probe is due after a jittered, growing pause."""
        now = time.monotonic()
        if self.healthy:
            self.healthy, self.since, self._pause = False, time.time(), _PAUSE
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

    async def _guarded(self, command: Callable[[Client], Awaitable[T]], probe: bool) -> T:
        async with self._turn:
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
            return await asyncio.gather(*(client.execute_command(*_words(op)) for op in ops), return_exceptions=True)
        pipe = client.pipeline(transaction=False)
        for op in ops:
            pipe.execute_command(*_words(op))
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


def _words(op: Op) -> tuple[str | bytes | int, ...]:
    if op.name in _DIGESTS:
        return ("EVALSHA", _DIGESTS[op.name], len(op.keys), *op.keys, *op.args)
    return (op.name, *op.keys, *op.args)
