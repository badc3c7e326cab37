"""Wake-ups: another node says that a stream read here has grown. One connection of its own per worker.

Law: a wake-up is a hint. One that is lost, late or doubled changes nothing but when the next look is taken: while
there is no connection, looks are taken by the clock.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import structlog
from redis.exceptions import RedisError

from gateway.registry.redis_client import Link

log = structlog.get_logger(__name__)

_WAIT = 1.0  # seconds of one wait for a message
_SHARD = 0.05  # the same on a cluster, whose shards are asked in turn
_AGAIN = 1.0  # seconds until another connection is tried


class Wakes:
    """`woken` is called with the channel of each message. On a cluster messages stay within the stream's shard."""

    def __init__(self, link: Link, woken: Callable[[str], None]) -> None:
        self._link = link
        self._woken = woken
        self._channels: set[str] = set()
        self._changed = asyncio.Event()
        self._pubsub: Any = None
        self._listening = False

    @property
    def listening(self) -> bool:
        """Whether messages come."""
        return self._listening

    def listen(self, channel: str) -> None:
        """From now on. Subscribed by the loop."""
        self._channels.add(channel)
        self._changed.set()

    def leave(self, channel: str) -> None:
        """No more."""
        self._channels.discard(channel)
        self._changed.set()

    async def run(self) -> None:
        """The loop; ends by being cancelled."""
        while True:
            try:
                await self._converse()
            except (RedisError, OSError, TimeoutError, RuntimeError) as error:
                log.debug("wakes.away", error=str(error))
            finally:
                self._listening = False
                await self._close()
            await asyncio.sleep(_AGAIN)

    async def _converse(self) -> None:
        """One connection, as long as it lasts or anybody is read."""
        if not self._channels:
            await self._wanted()
        pubsub = self._pubsub = self._link.client.pubsub()
        subscribed: set[str] = set()
        reading: asyncio.Task[None] | None = None
        try:
            while self._channels or subscribed:
                self._changed.clear()
                await self._align(pubsub, subscribed)
                if reading is None:
                    reading = asyncio.create_task(self._read(pubsub))
                self._listening = True
                changed = asyncio.create_task(self._changed.wait())
                try:
                    await asyncio.wait({reading, changed}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    changed.cancel()
                if reading.done():
                    reading.result()
        finally:
            if reading is not None:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)

    async def _wanted(self) -> None:
        while not self._channels:
            self._changed.clear()
            await self._changed.wait()

    async def _align(self, pubsub: Any, subscribed: set[str]) -> None:
        """Make the connection's channels what they should be."""
        new, old = self._channels - subscribed, subscribed - self._channels
        if new:
            await (pubsub.ssubscribe if self._link.cluster else pubsub.subscribe)(*new)
            subscribed |= new
        if old:
            await (pubsub.sunsubscribe if self._link.cluster else pubsub.unsubscribe)(*old)
            subscribed -= old

    async def _read(self, pubsub: Any) -> None:
        cluster = self._link.cluster
        get = pubsub.get_sharded_message if cluster else pubsub.get_message
        while True:
            message = await get(timeout=_SHARD if cluster else _WAIT)
            if message is None:
                await asyncio.sleep(_SHARD if cluster else 0)  # with no shard to ask there was no wait
            else:  # a confirmed subscription too: what came before it was missed
                self._woken(message["channel"].decode("utf-8", "replace"))

    async def _close(self) -> None:
        pubsub, self._pubsub = self._pubsub, None
        if pubsub is not None:
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                await pubsub.aclose()
