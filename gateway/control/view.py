"""What a worker makes of one configuration: drivers, transports, keys, routes. A reload makes the next view.

Law: a backend whose settings are the same keeps its driver, its connections and its pool; nothing of the old view is
touched while the new one is made, so a failure leaves all as it was.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from backends.base import Driver
from backends.catalog import build as build_driver
from backends.transport import Transport
from config.schema import Config
from gateway.access.keys import Keyring
from gateway.routing.router import Router


class View(Struct, frozen=True):
    """One configuration at work."""

    config: Config
    keyring: Keyring
    router: Router
    drivers: dict[str, Driver]
    transports: dict[str, Transport]


def build(config: Config, router: Callable[[Config], Router], old: View | None = None) -> View:
    """The view of a configuration. Raises ValueError when a backend's options do not suit its driver."""
    kept = set() if old is None else {name for name in config.backends if _same(old.config, config, name)}
    drivers: dict[str, Driver] = {}
    transports: dict[str, Transport] = {}
    for name, backend in config.backends.items():
        if old is not None and name in kept:
            drivers[name], transports[name] = old.drivers[name], old.transports[name]
            continue
        drivers[name] = build_driver(name, backend)
        wait = backend.connect_timeout or config.streams.connect_timeout
        transports[name] = Transport(drivers[name], connect_timeout=wait)
    return View(config, Keyring(config.keys), router(config), drivers, transports)


def _same(old: Config, new: Config, name: str) -> bool:
    before, after = old.backends.get(name), new.backends[name]
    waits = old.streams.connect_timeout == new.streams.connect_timeout
    return before == after and (waits or after.connect_timeout is not None)


def left(old: View, new: View) -> list[Transport]:
    """The transports nobody is sent to any more."""
    kept = set(map(id, new.transports.values()))
    return [transport for transport in old.transports.values() if id(transport) not in kept]
