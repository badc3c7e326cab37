"""The composition root: one worker, built once, and taken apart again. Nothing else constructs services."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from importlib.metadata import PackageNotFoundError, version

from aiohttp import web

from backends.contract.errors import BackendError
from config.schema import Config
from gateway.access.limiter import Limiter
from gateway.access.places import BackendPlaces
from gateway.admin.api import admin_app
from gateway.admin.control_api import control_routes
from gateway.admin.routing_api import routing_routes
from gateway.control.control import Control
from gateway.control.gate import paused_backends
from gateway.control.reload import Reloader
from gateway.control.store import store_for
from gateway.control.view import build as build_view
from gateway.edge.changing import Changing
from gateway.edge.draining import drain
from gateway.edge.ended import Ended
from gateway.edge.figures import figures_of
from gateway.edge.planning import world_of
from gateway.edge.server import public_runner
from gateway.edge.services import Services
from gateway.edge.surviving import Surviving
from gateway.observe.access_log import AccessLog
from gateway.observe.health import Health
from gateway.observe.lines import Lines
from gateway.observe.logging import get_logger
from gateway.observe.metrics import Metrics, NullMetrics
from gateway.observe.naming import Naming
from gateway.observe.shared_metrics import SharedMetrics
from gateway.ports import blaming
from gateway.protocols.catalog import build as build_protocols
from gateway.registry.base import Registry
from gateway.registry.catalog import build as build_registry
from gateway.registry.sharing import share
from gateway.routing.models import ModelList
from gateway.routing.probes import Prober
from gateway.routing.router import Router
from gateway.routing.upstreams import Upstreams
from gateway.signals import Place
from gateway.streams.answers import Answers
from gateway.streams.archive import Archive
from gateway.streams.hub import Hub
from gateway.streams.pacer import Pacer
from gateway.streams.sources import LocalSources
from gateway.streams.watchdog import Watchdog


class Gateway:
    """One worker. `start`, then `drain`, then `close`; tests drive it in their own loop."""

    def __init__(self, config: Config, place: Place | None = None, source: str | None = None) -> None:
        """`place`: beside other workers, on the same addresses; `source`: the file it came from. Raises ValueError when
        a backend's options do not suit its driver."""
        self.config = config
        self._place = place
        self.log = get_logger()
        self._health: Health | None = None
        self.node = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._source = source
        self._view = build_view(config, self._router)
        self.registry: Registry = build_registry(config.registry, self.node)
        self.places = BackendPlaces(self.registry, lambda: self.services.config.access)
        self.upstreams = Upstreams(
            config.backends,
            time.monotonic,
            self.registry.claim_probe,
            self.registry.unclaim_probe,
            self._paused,
            self.places,
        )
        self._runners: list[web.AppRunner] = []

    async def start(self) -> None:
        """Build the worker around the running loop and listen. Raises OSError when an address is taken."""
        loop = asyncio.get_running_loop()
        self._hold_streams(loop)
        self.metrics = self._metrics()
        self.metrics.breakers = self.upstreams.figures
        self.services = self._shared(loop)
        await self._join_fleet()
        await self._watch()
        models = await self._obey()
        await self._listen(models)
        self.sharing.heir(Surviving(self.services).accept)
        self.metrics.begin(loop)
        self.health.phase = "serving"

    def _hold_streams(self, loop: asyncio.AbstractEventLoop) -> None:
        """Running streams, ended ones that can still be read, and the copy of both that other nodes read."""
        config = self.config
        self._archive = Archive(config.registry.replay, config.streams.replay_memory)
        self.hub = Hub(Ended(self.places, lambda: self.services, lambda: self._health), self._archive)
        local = LocalSources(self.hub, self._archive, loop.time)
        self.sharing = share(config, self.registry, self.hub, local, lambda: self.services.drivers)

    def _shared(self, loop: asyncio.AbstractEventLoop) -> Services:
        """What the handlers share."""
        config, view = self.config, self._view
        return Services(
            config=config,
            node=self.node,
            loop=loop,
            keyring=view.keyring,
            router=view.router,
            drivers=view.drivers,
            transports=view.transports,
            upstreams=self.upstreams,
            protocols=build_protocols(config.server.protocols),
            hub=self.hub,
            registry=self.registry,
            limiter=Limiter(self.registry, lambda: self.services.config.access),
            control=self._control(),
            pacer=Pacer(loop, config.streams.mode),
            metrics=self.metrics,
            access_log=AccessLog(Lines()),
            sources=self.sharing.sources,
            sharing=self.sharing,
            answers=Answers(config.streams.answers_memory),
            outputs={self._archive},
        )

    def _control(self) -> Control:
        return Control(
            self.node,
            store_for(self.config, self.registry),
            lambda state: self.changing.apply(state),  # noqa: PLW0108 - made later
            changed=lambda change: self.metrics.changed(change.action),
        )

    async def _join_fleet(self) -> None:
        """From now on other nodes know of this one, and of its streams."""
        self.registry.attach(lambda: [p.stream.entry() for p in self.hub], self.hub.stop, self.hub.entry)
        self.hub.hold = self.registry.holds
        self.registry.last_lines(self.services.access_log.finished)
        await self.registry.start()
        self.sharing.start()

    async def _watch(self) -> None:
        """Over streams that stand still, and over the health of all they need."""
        self.watchdog = Watchdog(self.hub.running.values, lambda: self.services.outputs)
        self.watchdog.start()
        self.health = self._health = Health(
            version=_version(),
            registry=self.registry.health,
            active=lambda: len(self.hub),
            backends=self.config.backends,
            probe=self._probe,
        )
        await self.health.start()

    async def _obey(self) -> ModelList:
        """Operators' wishes and another gateway.yaml are put into force from now on; what changes with them."""
        view, services = self._view, self.services
        models = ModelList(view.router, view.drivers, view.transports, upstreams=self.upstreams)
        self.metrics.naming = Naming(lambda: services.config, lambda: models.names)
        self.changing = Changing(services, self.health, models, self._router)
        self.reloader = Reloader(
            self._source,
            self.config,
            self.changing.adopt,
            told=lambda outcome: self.metrics.reloaded(good=not outcome.complaints),
        )
        self.metrics.watch(figures_of(services))
        await services.control.start()
        await self.reloader.start()
        self.prober = Prober(lambda: services.config, lambda: world_of(services))
        self.prober.start()
        return models

    def _router(self, config: Config) -> Router:
        return Router(config, lambda: self.upstreams.seen())  # noqa: PLW0108 - made later

    def _metrics(self) -> NullMetrics:
        if not self.config.observe.metrics:
            return NullMetrics()
        if self._place is not None:
            return SharedMetrics(self._place.figures, self._place.slot, self._away, self._lag)
        return Metrics(registry_degraded=self._away, loop_lag=self._lag)

    def _paused(self) -> frozenset[str]:
        return paused_backends(self.services.control.state, self.services.control.now)

    def _away(self) -> bool:
        return self.registry.health().get("status") != "healthy"

    def _lag(self) -> float:
        return self._health.lag if self._health else 0.0

    async def _listen(self, models: ModelList) -> None:
        server, admin = self.config.server, self.config.admin
        public = public_runner(self.services, self.health, models)
        app = admin_app(
            admin,
            metrics=self.metrics,
            health=self.health,
            registry=self.registry,
            more=[
                *control_routes(self.services.control, self.reloader),
                *routing_routes(self.upstreams, lambda: self.services.router, self.services.control),
            ],
        )
        operators = web.AppRunner(app, handle_signals=False, access_log=None, shutdown_timeout=1.0)
        for runner, section, at in ((public, "server", server), (operators, "admin", admin)):
            await runner.setup()
            self._runners.append(runner)
            with blaming(section, at.host, at.port):
                await web.TCPSite(runner, at.host, at.port, backlog=4096, reuse_port=self._place is not None).start()
        self._public = public
        self.public_port = _port(public)
        self.admin_port = _port(operators)

    async def _probe(self, backend: str) -> bool | str:
        services = self.services
        request = services.drivers[backend].probe()
        if request is None:
            return True
        try:
            status, _headers, _body = await services.transports[backend].fetch(request, 3.0)
        except BackendError as error:
            return error.message
        return True if status < 500 else f"status {status}"

    async def drain(self, timeout: float, hurry: asyncio.Event | None = None) -> int:  # noqa: ASYNC109 - ends streams, is not ended
        """No new streams; wait up to `timeout` s (or until `hurry`), then end the rest. Returns how many it ended."""
        self.health.phase = "draining"
        return await drain(self.services, self._public, timeout, hurry)

    async def close(self) -> None:
        """Give everything back, listeners first. Idempotent."""
        runners, self._runners = self._runners, []
        for runner in runners:
            await runner.cleanup()
        self.metrics.end()
        await self.reloader.stop()
        await self.services.control.stop()
        await self.prober.stop()
        await self.health.stop()
        self.watchdog.stop()
        await self.sharing.stop()
        await self.registry.stop()
        await self.changing.close()
        for transport in self.services.transports.values():
            await transport.close()


def _port(runner: web.AppRunner) -> int:
    address = runner.addresses[0]
    return int(address[1])


def _version() -> str:
    try:
        return version("headgate")
    except PackageNotFoundError:
        return "0+source"
