"""What the handlers of one worker share. Built once by the composition root; holds no state of its own."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from backends.base import Driver
from backends.transport import Transport
from config.schema import Config
from gateway.access.keys import Keyring
from gateway.observe.access_log import AccessLog
from gateway.observe.metrics import NullMetrics
from gateway.protocols.base import ClientProtocol
from gateway.registry.base import Registry
from gateway.routing.router import Router
from gateway.streams.hub import Hub
from gateway.streams.pacer import Pacer
from gateway.streams.watchdog import Watched

_COUNTER = itertools.count(1)
_BOOT = os.urandom(4).hex()


def request_id() -> str:
    """A name for one request in errors and logs: unique in this process, meaningless elsewhere."""
    return f"req_{_BOOT}{next(_COUNTER):08x}"


@dataclass(slots=True)
class Services:
    """`draining` is the one value that changes: once True, no new stream is admitted."""

    config: Config
    node: str
    loop: asyncio.AbstractEventLoop
    keyring: Keyring
    router: Router
    drivers: dict[str, Driver]
    transports: dict[str, Transport]
    protocols: dict[str, ClientProtocol]
    hub: Hub
    registry: Registry
    pacer: Pacer
    metrics: NullMetrics
    access_log: AccessLog
    outputs: set[Watched] = field(default_factory=set)
    draining: bool = False
    now_ms: Callable[[], int] = lambda: int(time.time() * 1000)
