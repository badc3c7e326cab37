"""Whether and how a worker's streams can be read on other nodes. Law: this is the only place that decides it.

Without a shared registry, or with `registry.share: off`, streams are read where they run, and none of this exists.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from backends.base import Driver
from config import schema
from config.schema import Config
from gateway.registry.base import Registry
from gateway.streams.hub import Hub
from gateway.streams.names import stream_key
from gateway.streams.pacer import Pacer
from gateway.streams.producer import Producer
from gateway.streams.sources import Sources

if TYPE_CHECKING:
    from gateway.registry.inheriting import Legacy

Accept = Callable[["Legacy"], bool]
_STUMBLE = 1.0  # seconds a worker that ends waits for a Redis that is away
_FLUSH = 3.0  # seconds a worker that ends takes to complete the copies of its streams


def shared(settings: schema.Registry) -> bool:
    """Whether other nodes can see the transcripts of this one's streams."""
    return settings.share != "off" and settings.url.split(":", 1)[0] != "memory"


class Sharing:
    """Nobody else reads this worker's streams."""

    def __init__(self, sources: Sources) -> None:
        self.sources = sources

    def start(self) -> None:
        """Begin to share."""

    def ahead(self, producer: Producer, pacer: Pacer) -> None:
        """A stream that survives this node begins: before its first reader. `pacer`: the worker's own."""

    def inherited(self, producer: Producer, pacer: Pacer, legacy: Legacy) -> None:
        """One of another node goes on here."""

    def moved(self, producer: Producer) -> None:
        """One of this worker goes on on another node."""

    def heir(self, accept: Accept | None) -> None:
        """Who goes on with streams of nodes that are lost; None: this node does no longer."""

    def leaving(self) -> None:
        """This node ends soon: what other nodes lose it leaves to those that stay."""

    async def heirs(self) -> bool:
        """Whether streams can be left to other nodes, or to the one that comes next. A Redis that stumbles is waited
        for."""
        return False

    def ended(self, producer: Producer) -> None:
        """A stream of this worker is over."""

    async def stop(self) -> None:
        """Complete what is under way, then share no more. Before the registry stops."""


def share(
    config: Config, registry: Registry, hub: Hub, local: Sources, drivers: Callable[[], Mapping[str, Driver]]
) -> Sharing:
    """The sharing of one worker; call it within the event loop."""
    settings = config.registry
    if not shared(settings):
        return Sharing(local)
    from gateway.registry.redis import RedisRegistry  # one worker needs no Redis client

    if not isinstance(registry, RedisRegistry):
        return Sharing(local)
    return _Shared(config, registry, hub, local, drivers)


class _Shared(Sharing):
    def __init__(
        self, config: Config, registry: Registry, hub: Hub, local: Sources, drivers: Callable[[], Mapping[str, Driver]]
    ) -> None:
        from gateway.registry.fleet_sources import FleetSources
        from gateway.registry.inheriting import Heirs
        from gateway.registry.redis import RedisRegistry
        from gateway.registry.redis_client import Op
        from gateway.registry.shared_layout import SharedLayout
        from gateway.registry.shared_log import Shipper
        from gateway.registry.shared_reading import Reading

        assert isinstance(registry, RedisRegistry)
        settings, streams, link = config.registry, config.streams, registry.link
        lease = float(settings.lease)
        layout = SharedLayout(settings.prefix, settings.replay, lease, cluster=link.cluster)
        self.shipper = Shipper(
            link,
            layout,
            hub.running,
            hub.stop,
            tick=settings.tick,
            renew=lease / 3,
            memory=streams.replay_memory,
        )
        self.shipper.forget = hub.forget
        hub.ending = self.shipper.ended
        self.reading = Reading(link, layout, drivers, registry.find, cap=streams.transcript_cap, lease=lease)
        self._reaper = registry.fleet.reaper
        self._reaper.heirs = self._heirs = Heirs(
            registry.node,
            link,
            registry.layout,
            layout,
            drivers,
            streams.transcript_cap,
            lambda: self._reaper.alive,
            hub.running.__contains__,
            registry.fleet.push,
            registry.fleet.inbox.heir,
        )
        self.reading.adopt = self._heirs.adopt
        self._link = link
        self._tasks: list[asyncio.Task[None]] = []

        async def claimed(key: str) -> bool:
            return (await link.ask([Op("EXISTS", (registry.layout.claim_key(key),))])) == [1]

        super().__init__(FleetSources(local, registry, self.reading, claimed, lambda: int(time.time() * 1000)))

    def start(self) -> None:
        for name, loop in (
            ("shared log", self.shipper.run()),
            ("shared reading", self.reading.run()),
            ("wakes", self.reading.wakes.run()),
        ):
            self._tasks.append(asyncio.create_task(loop, name=name))

    def heir(self, accept: Accept | None) -> None:
        self._heirs.accept = accept

    def leaving(self) -> None:
        self._heirs.leaving = True

    async def heirs(self) -> bool:
        deadline = time.monotonic() + _STUMBLE
        while not self._link.healthy and time.monotonic() < deadline:  # noqa: ASYNC110 - two ends
            await asyncio.sleep(0.05)
        return self._link.healthy

    def ahead(self, producer: Producer, pacer: Pacer) -> None:
        self.shipper.ahead(producer, pacer)

    def inherited(self, producer: Producer, pacer: Pacer, legacy: Legacy) -> None:
        from gateway.registry.shared_mark import Mark
        from gateway.registry.shared_shipment import Shipment

        kept = producer.transcript
        mark = Mark(legacy.count, kept.tip, kept.total, len(kept.segments))
        self.shipper.ahead(producer, pacer, Shipment(producer, mark, legacy.stream.epoch))

    def moved(self, producer: Producer) -> None:
        who = producer.stream.identity
        self.shipper.moved(producer)
        self._reaper.moved(stream_key(who.id, who.owner))

    def ended(self, producer: Producer) -> None:
        if not producer.ahead:
            self.shipper.ended(producer)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        await self.shipper.flush(_FLUSH)
