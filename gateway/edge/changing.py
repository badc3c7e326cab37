"""What a change does to a running worker: operators' settings put into force, another configuration adopted.

Law: running streams keep the configuration they started with, their connections included; only a kill, or the loss of
their key, ends them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from backends.transport import Transport
from config.schema import Config
from gateway.access.keys import Keyring
from gateway.control.flags import ControlState
from gateway.control.kill import end_where, kill
from gateway.control.view import View, build, left
from gateway.edge.services import Services
from gateway.observe.health import Health
from gateway.routing.models import ModelList
from gateway.routing.router import Router
from gateway.streams.producer import Producer

_LOOK = 0.5  # seconds between looks whether an old connection is still needed
_PATIENCE = 5.0  # seconds in which a request may be under way to being a stream, besides `access.queue`


class Changing:
    """One per worker. `router` makes the routes of a configuration."""

    def __init__(
        self, services: Services, health: Health, models: ModelList, router: Callable[[Config], Router]
    ) -> None:
        self._services = services
        self._health = health
        self._models = models
        self._router = router
        self._level = logging.getLogger("headgate").level
        self._leaving: set[asyncio.Task[None]] = set()
        self._mode = services.config.streams.mode
        self._resets: dict[str, int] = {}  # backend -> the version that closed its breaker here

    def apply(self, state: ControlState) -> None:
        """Put operators' settings into force. A stream that was being admitted meanwhile is looked at once more before
        it starts, so none slips by a kill."""
        services = self._services
        self._set_mode(state.mode or services.config.streams.mode)
        self._log_from(logging.DEBUG if state.debug else self._level)
        kill(services.hub, services.limiter.tickets, state.killed)
        self._close_breakers(state.resets)

    def _log_from(self, level: int) -> None:
        if logging.getLogger("headgate").level != level:
            logging.getLogger("headgate").setLevel(level)

    def _close_breakers(self, resets: Mapping[str, int]) -> None:
        for backend, version in resets.items():
            if version > self._resets.get(backend, 0):
                self._resets[backend] = version
                self._services.upstreams.reset(backend)

    def _set_mode(self, mode: str) -> None:
        if mode != self._mode:
            self._mode = mode  # type: ignore[assignment]  # one of schema.Mode
            self._services.pacer.set_mode(mode)

    def adopt(self, config: Config) -> None:
        """Another configuration, at once. Raises ValueError, and nothing has changed then."""
        services = self._services
        old = View(services.config, services.keyring, services.router, services.drivers, services.transports)
        new = build(config, self._router, old)
        services.config, services.keyring, services.router = new.config, new.keyring, new.router
        services.drivers, services.transports = new.drivers, new.transports
        services.upstreams.configure(config.backends)
        self._models.adopt(new.router, new.drivers, new.transports)
        self._health.watch(new.drivers)
        self._set_mode(services.control.state.mode or config.streams.mode)
        self._end_revoked(new.keyring)
        self._let_go(left(old, new))

    def _end_revoked(self, keyring: Keyring) -> None:
        """Streams of keys that are no more. Those of nobody's key had none to lose."""
        valid = keyring.valid()

        def revoked(producer: Producer) -> bool:
            who = producer.stream.identity
            return bool(who.key_id) and (who.key_id, who.owner) not in valid

        end_where(self._services.hub, revoked, "its API key has been revoked")

    def _let_go(self, transports: list[Transport]) -> None:
        if transports:
            task = asyncio.create_task(self._drain(transports, set(self._services.hub.running)))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    async def _drain(self, transports: list[Transport], streams: set[str]) -> None:
        """Close connections nobody needs: the streams that may have use of them have ended, and so has the rest."""
        try:
            await asyncio.sleep(_PATIENCE + self._services.config.access.queue)
            while streams & self._services.hub.running.keys() or any(t.active for t in transports):  # noqa: ASYNC110
                await asyncio.sleep(_LOOK)
        finally:
            for transport in transports:
                await transport.close()

    async def close(self) -> None:
        """Close what is still leaving. The log's level is the process's, and is as it was."""
        self._log_from(self._level)
        tasks = list(self._leaving)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
