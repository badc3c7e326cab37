"""The composition root: builds everything once, serves, drains. Nothing else constructs services."""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import signal
import socket
import sys
from importlib.metadata import PackageNotFoundError, version

import uvloop
from aiohttp import web

from backends.base import Driver
from backends.catalog import build as build_driver
from backends.contract.errors import BackendError, ErrorCode
from backends.transport import Transport
from config.schema import Config
from gateway.access.keys import Keyring
from gateway.admin.api import admin_app
from gateway.edge.server import public_runner
from gateway.edge.services import Services
from gateway.observe.access_log import AccessLog
from gateway.observe.health import Health
from gateway.observe.logging import Logs, get_logger
from gateway.observe.metrics import Metrics, NullMetrics
from gateway.protocols.catalog import build as build_protocols
from gateway.registry.base import Registry
from gateway.registry.catalog import build as build_registry
from gateway.routing.models import ModelList
from gateway.routing.router import Router
from gateway.streams.hub import Hub
from gateway.streams.pacer import Pacer
from gateway.streams.producer import Producer
from gateway.streams.stream import Receipt, State
from gateway.streams.watchdog import Watchdog


class Gateway:
    """One worker. `start`, then `drain`, then `close`; tests drive it in their own loop."""

    def __init__(self, config: Config) -> None:
        """Raises ValueError when a backend's options do not suit its driver."""
        self.config = config
        self.log = get_logger()
        self._health: Health | None = None
        self.node = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self.drivers: dict[str, Driver] = {
            name: build_driver(name, backend) for name, backend in config.backends.items()
        }
        limits = config.streams
        self.transports = {
            name: Transport(driver, connect_timeout=driver.backend.connect_timeout or limits.connect_timeout)
            for name, driver in self.drivers.items()
        }
        self.registry: Registry = build_registry(config.registry, self.node)
        self._scopes: dict[str, str] = {}
        self._runners: list[web.AppRunner] = []

    async def start(self) -> None:
        """Build the worker around the running loop and listen. Raises OSError when an address is taken."""
        config, loop = self.config, asyncio.get_running_loop()
        self.hub = Hub(self._finished)
        self.metrics = self._metrics()
        router = Router(config, self._busy)
        self.services = Services(
            config=config,
            node=self.node,
            loop=loop,
            keyring=Keyring(config.keys),
            router=router,
            drivers=self.drivers,
            transports=self.transports,
            protocols=build_protocols(config.server.protocols),
            hub=self.hub,
            registry=self.registry,
            pacer=Pacer(loop, config.streams.mode),
            metrics=self.metrics,
            access_log=AccessLog(self.log),
        )
        self.registry.attach(lambda: [p.stream.entry() for p in self.hub], self.hub.stop)
        await self.registry.start()
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
        await self._listen(ModelList(router, self.drivers, self.transports))
        self.health.phase = "serving"

    def _metrics(self) -> NullMetrics:
        if not self.config.observe.metrics:
            return NullMetrics()
        return Metrics(
            registry_degraded=lambda: self.registry.health().get("status") != "healthy",
            loop_lag=lambda: self._health.lag if self._health else 0.0,
        )

    def _busy(self, backend: str) -> int:
        return sum(1 for producer in self.hub if producer.stream.identity.backend == backend)

    async def _listen(self, models: ModelList) -> None:
        server, admin = self.config.server, self.config.admin
        public = public_runner(self.services, self.health, models)
        app = admin_app(admin, metrics=self.metrics, health=self.health, registry=self.registry)
        operators = web.AppRunner(app, handle_signals=False, access_log=None, shutdown_timeout=1.0)
        for runner, host, port in ((public, server.host, server.port), (operators, admin.host, admin.port)):
            await runner.setup()
            self._runners.append(runner)
            await web.TCPSite(runner, host, port, backlog=4096).start()
        self.public_port = _port(public)
        self.admin_port = _port(operators)

    def _finished(self, producer: Producer, receipt: Receipt) -> None:
        """Registry and observers are told, once; all of it is synchronous and none of it waits."""
        identity = producer.stream.identity
        if producer.scope:
            self.registry.release(producer.scope, identity.id)
        self.registry.closed(receipt, identity.key_id)
        self.metrics.finished(receipt)
        if self._health is not None:
            self._health.finished(receipt)
        self.services.access_log.finished(receipt)

    async def _probe(self, backend: str) -> bool | str:
        request = self.drivers[backend].probe()
        if request is None:
            return True
        try:
            status, _headers, _body = await self.transports[backend].fetch(request, 3.0)
        except BackendError as error:
            return error.message
        return True if status < 500 else f"status {status}"

    async def drain(self, timeout: float, hurry: asyncio.Event | None = None) -> int:  # noqa: ASYNC109 - ends streams, is not ended
        """No new streams; wait up to `timeout` s (or until `hurry`), then end the rest. Returns how many it ended."""
        self.services.draining = True
        self.health.phase = "draining"
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while len(self.hub) and loop.time() < deadline and not (hurry and hurry.is_set()):  # noqa: ASYNC110 - three ends
            await asyncio.sleep(0.05)
        rest = list(self.hub)
        error = BackendError(ErrorCode.SHED, "the gateway node is shutting down", retry_after=1)
        for producer in rest:
            producer.stop(State.SHED, by="gateway", reason="drain timeout", finish="error", error=error)
        if rest:
            await asyncio.sleep(0.2)  # the last frames are on their way
        return len(rest)

    async def close(self) -> None:
        """Give everything back, listeners first. Idempotent."""
        runners, self._runners = self._runners, []
        for runner in runners:
            await runner.cleanup()
        await self.health.stop()
        self.watchdog.stop()
        await self.registry.stop()
        for transport in self.transports.values():
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


async def serve(config: Config, source: str | None) -> int:
    """Serve until SIGTERM or SIGINT, then drain. A second signal hurries. Returns the exit code."""
    try:
        gateway = Gateway(config)
    except ValueError as error:
        print(f"headgate: {error}", file=sys.stderr)
        return 1
    try:
        await gateway.start()
    except OSError as error:
        print(f"headgate: cannot listen: {error}", file=sys.stderr)
        await gateway.close()
        return 1
    _settle_memory()
    loop, stop, hurry = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    base = f"http://{config.server.host}:{gateway.public_port}"
    gateway.log.info(
        "serving",
        url=base,
        admin=f"http://{config.admin.host}:{gateway.admin_port}",
        config=source or "demo",
        node=gateway.node,
    )
    await stop.wait()
    gateway.log.info("draining", active=len(gateway.hub), timeout=float(config.server.drain_timeout))
    ended = await gateway.drain(config.server.drain_timeout, hurry)
    await gateway.close()
    gateway.log.info("stopped", streams_ended=ended)
    return 0


def run(config: Config, source: str | None) -> int:
    """The command `headgate serve`, after configuration was read."""
    logs = Logs(config.observe)
    try:
        return uvloop.run(serve(config, source))
    finally:
        logs.close()
