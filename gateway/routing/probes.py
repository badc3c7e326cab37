"""Asking backends how they are, and how busy: only those with `probe:` in the configuration, each at its own pace.

Law: a probe that fails counts for the breaker as a stream that failed; one that succeeds counts only as a trial, since
a server that answers its cheapest call may still be unable to generate. The fleet's permit holds here too.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from backends.contract.errors import BackendError
from config.schema import Config
from gateway.routing.beginning import PERMIT, TRIAL
from gateway.routing.legs import World
from gateway.routing.upstream import Upstream

_LOOK = 0.25  # seconds between looks whose time has come
_PATIENCE = 3.0  # seconds an answer may take
_BY_LOAD = frozenset({"least_busy", "latency", "prefix"})  # policies that go by how busy a backend is


class Prober:
    """One per worker. `config` and `world` are asked anew each time: a reload changes both. `start` and `stop`."""

    def __init__(self, config: Callable[[], Config], world: Callable[[], World]) -> None:
        self._config, self._make_world = config, world
        self._next: dict[str, float] = {}
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, in the running loop."""
        self._loop = asyncio.create_task(self._run(), name="probes")

    async def stop(self) -> None:
        """No more probes."""
        tasks = [*self._under_way.values(), *([self._loop] if self._loop else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            self._begin(asyncio.get_running_loop().time())
            await asyncio.sleep(_LOOK)

    def _begin(self, now: float) -> None:
        """Probe those whose time has come, each beside the others."""
        for name, backend in self._config().backends.items():
            if backend.probe > 0 and now >= self._next.get(name, 0.0) and name not in self._under_way:
                self._next[name] = now + backend.probe
                self._under_way[name] = asyncio.create_task(self._once(name), name=f"probe {name}")

    async def _once(self, name: str) -> None:
        try:
            await self.look(name)
        finally:
            self._under_way.pop(name, None)

    async def look(self, name: str) -> None:
        """Probe one backend once."""
        world = self._make_world()
        upstream = world.upstreams.find(name)
        if upstream is None or name not in world.drivers:
            return
        await self._health(upstream, world)
        if any(t.backend == name for r in self._config().routes if r.policy in _BY_LOAD for t in r.to):
            await self._load(upstream, world)

    async def _health(self, upstream: Upstream, world: World) -> None:
        breaker, clock = upstream.breaker, world.upstreams.clock
        request = world.drivers[upstream.name].probe()
        if request is None:
            return
        if breaker.due(clock()) and await world.upstreams.claim(upstream.name, TRIAL):
            breaker.permit(clock(), PERMIT)
        if not breaker.allows(clock()):
            return
        trial = breaker.begin()
        try:
            status, _headers, _body = await world.transports[upstream.name].fetch(request, _PATIENCE)
            problem = "" if status < 500 else f"status {status}"
        except BackendError as error:
            problem = error.message
        except asyncio.CancelledError:
            if trial:
                breaker.neither()
            raise
        finally:
            if trial:
                world.upstreams.unclaim(upstream.name)
        if problem:
            breaker.failure(clock(), f"probe: {problem}", trial=trial)
        elif trial:
            breaker.success(clock(), trial=True)

    async def _load(self, upstream: Upstream, world: World) -> None:
        driver = world.drivers[upstream.name]
        request = driver.load()
        if request is None:
            return
        with contextlib.suppress(BackendError, ValueError):  # not said this time: the last word stands
            status, _headers, body = await world.transports[upstream.name].fetch(request, _PATIENCE)
            if status == 200:
                upstream.heard(driver.read_load(body))
