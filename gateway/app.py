"""The composition root: builds everything once, serves, drains. Nothing else constructs services."""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import signal
import socket
import sys
import time
from importlib.metadata import PackageNotFoundError, version

import uvloop
from aiohttp import web

from backends.contract.errors import BackendError, ErrorCode
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
from gateway.edge.figures import figures_of
from gateway.edge.output import ClientOutput
from gateway.edge.planning import world_of
from gateway.edge.server import public_runner
from gateway.edge.services import Services
from gateway.edge.surviving import Surviving
from gateway.observe.access_log import AccessLog
from gateway.observe.health import Health
from gateway.observe.logging import Logs, get_logger
from gateway.observe.metrics import Metrics, NullMetrics
from gateway.observe.naming import Naming
from gateway.observe.shared_metrics import SharedMetrics
from gateway.ports import blaming, close
from gateway.protocols.catalog import build as build_protocols
from gateway.registry.base import Registry
from gateway.registry.catalog import build as build_registry
from gateway.registry.sharing import share
from gateway.routing.course import Routed
from gateway.routing.models import ModelList
from gateway.routing.probes import Prober
from gateway.routing.router import Router
from gateway.routing.upstreams import Upstreams
from gateway.signals import Place, Signals
from gateway.streams.answers import Answers
from gateway.streams.archive import Archive
from gateway.streams.hub import Hub
from gateway.streams.names import stream_key
from gateway.streams.pacer import Pacer
from gateway.streams.producer import Producer
from gateway.streams.sources import LocalSources
from gateway.streams.stream import Receipt, State
from gateway.streams.watchdog import Watchdog

_LAST_WORDS = 0.4  # seconds for last frames, and for refusing who had connected before the listener was closed


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
        config, loop = self.config, asyncio.get_running_loop()
        archive = Archive(config.registry.replay, config.streams.replay_memory)
        self.hub = Hub(self._finished, archive)
        local = LocalSources(self.hub, archive, loop.time)
        self.sharing = share(config, self.registry, self.hub, local, lambda: self.services.drivers)
        self.metrics = self._metrics()
        self.metrics.breakers = self.upstreams.figures
        view = self._view
        self.services = Services(
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
            control=Control(
                self.node,
                store_for(config, self.registry),
                lambda state: self.changing.apply(state),  # noqa: PLW0108 - made later
                changed=lambda change: self.metrics.changed(change.action),
            ),
            pacer=Pacer(loop, config.streams.mode),
            metrics=self.metrics,
            access_log=AccessLog(self.log),
            sources=self.sharing.sources,
            sharing=self.sharing,
            answers=Answers(config.streams.answers_memory),
            outputs={archive},
        )
        self.registry.attach(lambda: [p.stream.entry() for p in self.hub], self.hub.stop, self.hub.entry)
        await self.registry.start()
        self.sharing.start()
        self.watchdog = Watchdog(self.hub.running.values, lambda: self.services.outputs)
        self.watchdog.start()
        self.health = self._health = Health(
            version=_version(),
            registry=self.registry.health,
            active=lambda: len(self.hub),
            backends=config.backends,
            probe=self._probe,
        )
        await self.health.start()
        models = ModelList(view.router, view.drivers, view.transports, upstreams=self.upstreams)
        self.metrics.naming = Naming(lambda: self.services.config, lambda: models.names)
        self.changing = Changing(self.services, self.health, models, self._router)
        self.reloader = Reloader(
            self._source,
            config,
            self.changing.adopt,
            told=lambda outcome: self.metrics.reloaded(good=not outcome.complaints),
        )
        self.metrics.watch(figures_of(self.services))
        await self.services.control.start()
        await self.reloader.start()
        self.prober = Prober(lambda: self.services.config, lambda: world_of(self.services))
        self.prober.start()
        await self._listen(models)
        self.sharing.heir(Surviving(self.services).accept)
        self.metrics.begin(loop)
        self.health.phase = "serving"

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

    def _finished(self, producer: Producer, receipt: Receipt) -> None:
        """Registry and observers are told, once; all of it is synchronous and none of it waits."""
        identity, course = producer.stream.identity, producer.plan.course
        if isinstance(course, Routed):
            course.close()
        services = self.services
        if producer.moved:
            self._moved(producer, receipt)
            return
        if isinstance(course, Routed):
            self.places.finished(receipt, services.config.backends, course.ask.tokens)
        services.answers.offer(producer.plan.remembered, producer.stream, producer.transcript, self.upstreams.clock())
        services.control.finished(receipt, services.limiter.finished(receipt))
        self.registry.closed(receipt, identity.key_id)
        self.sharing.ended(producer)
        self.metrics.finished(receipt)
        if self._health is not None:
            self._health.finished(receipt)
        services.access_log.finished(receipt)

    def _moved(self, producer: Producer, receipt: Receipt) -> None:
        """Another node goes on with it: no end, no receipt, and what it holds is held there."""
        who = producer.stream.identity
        self.services.limiter.moved(stream_key(who.id, who.owner))
        self.registry.moved(producer.stream.entry())
        self.sharing.moved(producer)
        self.metrics.finished(receipt)
        self.log.info("stream.moved", stream=who.id)

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
        self.services.draining = True
        self.health.phase = "draining"
        self._public.closing()
        self.sharing.leaving()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while len(self.hub) and loop.time() < deadline and not (hurry and hurry.is_set()):  # noqa: ASYNC110 - three ends
            await asyncio.sleep(0.05)
        await close(self._public)  # who connects from now on is refused by the system, and a proxy asks another node
        self.sharing.heir(None)
        surviving = any(one.stream.identity.survives for one in self.hub)
        if surviving and await self.sharing.heirs():
            for producer in [one for one in self.hub if one.stream.identity.survives and one.heard]:
                who = producer.stream.identity  # another node claims it as soon as this one's lease is given back
                self.hub.stop(who.id, who.owner, "gateway", "node_lost")
        rest = list(self.hub)
        error = BackendError(ErrorCode.SHED, "the gateway node is shutting down", retry_after=1)
        for producer in rest:
            producer.stop(State.SHED, by="gateway", reason="drain timeout", finish="error", error=error)
        deadline = loop.time() + _LAST_WORDS
        await asyncio.sleep(0)
        while self._public.busy and loop.time() < deadline:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.02)
        for output in [one for one in self.services.outputs if isinstance(one, ClientOutput)]:
            output.close(False)  # readers of other nodes' streams come back elsewhere
        return len(rest)

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


def _settle_memory() -> None:
    """What is alive now stays alive: keep the cycle collector away from it, and let it run seldom. Streams are freed by
    reference counts; a full collection over thousands of them would hold every token for tens of milliseconds."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


async def serve(config: Config, source: str | None, place: Place | None = None) -> int:
    """Serve until told to stop, then drain, see `Signals`. Returns the exit code; 1: it could not start."""
    told = Signals(place)
    told.listen()
    try:
        gateway = Gateway(config, place, source)
    except ValueError as error:
        print(f"headgate: {error}", file=sys.stderr)
        return 1
    try:
        await gateway.start()
    except OSError as error:
        print(f"headgate: cannot listen: {error.strerror or error}", file=sys.stderr)
        await gateway.close()
        return 1
    _settle_memory()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, gateway.reloader.soon, "SIGHUP")
    base = f"http://{config.server.host}:{gateway.public_port}"
    gateway.log.info(
        "serving",
        url=base,
        admin=f"http://{config.admin.host}:{gateway.admin_port}",
        config=source or "demo",
        node=gateway.node,
    )
    await told.stop.wait()
    patience = gateway.services.config.server.drain_timeout
    gateway.log.info("draining", active=len(gateway.hub), timeout=float(patience))
    ended = await gateway.drain(patience, told.hurry)
    await gateway.close()
    gateway.log.info("stopped", streams_ended=ended)
    return 0


def run(config: Config, source: str | None, place: Place | None = None) -> int:
    """A serving process, from its logs to its exit code."""
    logs, code = Logs(config.observe), 1
    try:
        code = uvloop.run(serve(config, source, place))
    finally:
        if not logs.close():
            os._exit(code)  # a process that is told to end does, whoever does not read its log
    return code
