"""Gateway nodes in the test's own loop that can crash; and a quicker world for them.

Law: how often somebody looks is quicker here than it is by default, and so is what waits for an outage to pass. What
a request, a stream or a client is given as time is not.
"""

from __future__ import annotations

import asyncio
import importlib
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from msgspec.structs import replace
from support.inprocess import config_for

from config.schema import Breaker, Config, Key, Registry, Streams
from config.values import Duration
from gateway.access.keys import hash_of
from gateway.app import Gateway
from gateway.registry.redis import RedisRegistry
from gateway.registry.redis_client import Away

LEASE = 0.6
QUICK = {  # seconds, by module and name
    "edge.draining._LAST_WORDS": 0.05,
    "control.control.LOOK": 0.5,
    "registry.redis_abroad._BLINK": 0.25,
    "registry.redis_abroad._POLL": 0.005,
    "registry.redis_client._PAUSE": 0.03,
    "registry.redis_fleet.INBOX": 0.02,
    "registry.redis_fleet.TICK": 0.01,
    "registry.shared_log.GONE_AFTER": 0.5,
    "registry.shared_reading.BLINK": 0.25,
    "registry.shared_reading.DEAF": 0.02,
    "registry.shared_reading.LINGER": 0.5,
    "registry.shared_reading.POLL": 0.25,
    "registry.shared_wakes._AGAIN": 0.1,
    "registry.shared_shipment.LOOK": 0.25,
    "registry.sharing._FLUSH": 0.5,
    "registry.sharing._STUMBLE": 0.25,
    "streams.watchdog.SWEEP": 0.02,
}


def quicken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every node made from now on lives in the quicker world."""
    for path, seconds in QUICK.items():
        module, _, name = path.rpartition(".")
        monkeypatch.setattr(importlib.import_module(f"gateway.{module}"), name, seconds)


def secret_of(owner: str) -> str:
    """The API key of an owner."""
    return f"hg_{owner}-of-the-state-machine"


def config(upstream: str, redis: str, owners: Iterable[str]) -> Config:
    """A node's configuration. An upstream connection for each stream: an open one shows a generation that goes on. No
    breaker: one run's failures are no reason to refuse the next."""
    found = config_for(
        upstream,
        registry=Registry(url=redis, lease=Duration(LEASE), timeout=Duration(0.2)),
        streams=Streams(no_progress=Duration(60)),
        keys=tuple(Key(id=o, owner=o, hash=hash_of(secret_of(o))) for o in owners),
    )
    return replace(
        found, backends={n: replace(b, keepalive=False, breaker=Breaker(failures=0)) for n, b in found.backends.items()}
    )


class Node:
    """A gateway in this loop that can be killed: cut off from its clients, its backends and Redis at one moment.
    `stumbled` is called when it gives Redis up."""

    def __init__(self, settings: Config, stumbled: Callable[[], None]) -> None:
        self.gateway = Gateway(settings)
        self.receipts: Counter[tuple[str, str]] = Counter()
        self._stumbled = stumbled

    @property
    def registry(self) -> RedisRegistry:
        assert isinstance(self.gateway.registry, RedisRegistry)
        return self.gateway.registry

    async def start(self) -> None:
        await self.gateway.start()
        self.url = f"http://127.0.0.1:{self.gateway.public_port}"
        tell = self.gateway.hub._finished

        def told(producer: Any, receipt: Any) -> None:
            self.receipts[receipt.stream_id, receipt.owner] += 1
            tell(producer, receipt)

        self.gateway.hub._finished = told
        link = self.registry.link
        trip = link.trip

        def tripped(error: str) -> None:
            if link.healthy:
                self._stumbled()
            trip(error)

        link.trip = tripped  # type: ignore[method-assign]

    async def kill(self) -> None:
        """As a crash looks from outside: nothing is written, nothing said, every socket is gone."""
        link, sharing = self.registry.link, self.gateway.sharing

        async def never(*_: Any, **__: Any) -> Any:
            raise Away("killed")

        async def nothing(_seconds: float) -> None:
            """A crash leaves copies as they are."""

        link._guarded = never  # type: ignore[method-assign]
        sharing.shipper.flush = nothing  # type: ignore[attr-defined]
        sharing.shipper._ahead.close()  # type: ignore[attr-defined]
        for task in list(link._tasks):
            task.cancel()
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

    @property
    def settled(self) -> bool:
        """Whether it knows that Redis is well."""
        return self.registry.health()["status"] == "healthy"

    def look(self) -> None:
        """Its next probe of Redis is due now."""
        self.registry.link.retry_at = 0.0


async def stop_all(nodes: Iterable[Node]) -> None:
    """Every one, at once."""
    await asyncio.gather(*(node.stop() for node in nodes))
