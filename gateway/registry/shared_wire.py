"""The wire of what is written ahead: one connection of a worker's own, one batch under way at a time.

Law: a batch has exactly one end: its answers, or its loss, and a lost one may or may not have been done. Nothing is
repeated here. No task and no future for a batch: many of them a second are what streams that survive their node cost.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import hiredis
from redis.exceptions import RedisClusterException, RedisError

from gateway.registry.redis_client import SCRIPTS, Away, Link, Op, is_poison, words_of
from gateway.registry.redis_packed import packed_batch

_PATIENCE = 5.0  # times the time-out

Told = Callable[[list[Any]], None]  # the answers, in order
Lost = Callable[[], None]


class Wire(ABC):
    """`told` or `lost` is called once for each `send`. A fault of the server opens the link's breaker."""

    def __init__(self, link: Link, told: Told, lost: Lost) -> None:
        self._link, self._told, self._lost = link, told, lost
        self._loop = asyncio.get_running_loop()

    @property
    @abstractmethod
    def open(self) -> bool:
        """Whether something can be sent."""

    @abstractmethod
    async def connect(self) -> None:
        """Make it open. Raises Away."""

    @abstractmethod
    def send(self, ops: Sequence[Op]) -> None:
        """One batch, while it is `open` and none is under way."""

    @abstractmethod
    def close(self) -> None:
        """Nothing more is sent. A batch under way has no end any more."""


class BatchWire(Wire):
    """By a task for each batch: on a cluster, whose client knows which node each stream belongs to."""

    def __init__(self, link: Link, told: Told, lost: Lost) -> None:
        super().__init__(link, told, lost)
        self._task: asyncio.Task[None] | None = None

    @property
    def open(self) -> bool:
        return True

    async def connect(self) -> None:
        """Its client connects by itself."""

    def send(self, ops: Sequence[Op]) -> None:
        self._task = self._loop.create_task(self._sent(ops))

    async def _sent(self, ops: Sequence[Op]) -> None:
        try:
            answers = await packed_batch(self._link, ops)
        except Away:
            self._lost()
        else:
            self._told(answers)

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()


class SocketWire(Wire, asyncio.Protocol):
    """By a socket, whose answers are parsed as they come in. Redis's client makes the connection, so that it speaks
    TLS, logs in and asks Sentinels as all others do."""

    def __init__(self, link: Link, told: Told, lost: Lost) -> None:
        super().__init__(link, told, lost)
        self._transport: asyncio.Transport | None = None
        self._writer: object = None  # would close its transport if it went
        self._reader = hiredis.Reader()
        self._wanted = 0  # answers to come
        self._answers: list[Any] = []
        self._late: asyncio.TimerHandle | None = None

    @property
    def open(self) -> bool:
        transport = self._transport
        return transport is not None and not transport.is_closing()

    async def connect(self) -> None:
        self.close()
        connection = self._link.client.connection_pool.make_connection()
        try:
            async with asyncio.timeout(self._link.timeout * _PATIENCE):
                await connection.connect()
                await connection.send_command("SCRIPT", "LOAD", SCRIPTS["ship"])
                await connection.read_response()
        except (RedisError, RedisClusterException, OSError, TimeoutError) as error:
            await connection.disconnect(nowait=True)
            self._link.trip(f"{type(error).__name__}: {error}")
            raise Away(self._link.error) from error
        writer, connection._writer, connection._reader = connection._writer, None, None  # its socket is ours now
        self._writer = writer
        self._reader = hiredis.Reader()
        self._transport = writer.transport
        writer.transport.set_protocol(self)

    def send(self, ops: Sequence[Op]) -> None:
        assert self._transport is not None
        self._wanted, self._answers = len(ops), []
        self._late = self._loop.call_later(self._link.timeout * _PATIENCE, self._fault, "no answer in time")
        packed = [hiredis.pack_command(words_of(op)) for op in ops]  # type: ignore[arg-type]  # its stub: one word
        self._transport.write(packed[0] if len(packed) == 1 else b"".join(packed))

    def close(self) -> None:
        transport, self._transport = self._transport, None
        if self._late is not None:
            self._late.cancel()
        self._wanted = 0
        if transport is not None:
            transport.abort()

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while self._wanted and (answer := self._reader.gets()) is not False:
                self._answers.append(answer)
                self._wanted -= 1
                if not self._wanted:
                    self._complete()
        except hiredis.ProtocolError as error:
            self._fault(str(error))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None and self._wanted:
            self._fault(f"connection lost: {exc}" if exc else "connection lost")
        else:
            self._transport = None

    # ends

    def _complete(self) -> None:
        if self._late is not None:
            self._late.cancel()
        for answer in self._answers:
            if isinstance(answer, Exception) and not is_poison(answer):
                self._refused(str(answer))
                return
        self._told(self._answers)

    def _refused(self, why: str) -> None:
        """Of the server, not of a key. One that does not know the script has done nothing: it is told with the next
        connection."""
        if why.startswith("NOSCRIPT"):
            self.close()
            self._lost()
        else:
            self._fault(why)

    def _fault(self, why: str) -> None:
        self.close()
        self._link.trip(why)
        self._lost()


def wire_of(link: Link, told: Told, lost: Lost) -> Wire:
    """The wire for this link's kind of server."""
    return BatchWire(link, told, lost) if link.cluster else SocketWire(link, told, lost)
