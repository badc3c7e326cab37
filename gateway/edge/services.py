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
from gateway.access.limiter import Limiter
from gateway.access.limits import Demands
from gateway.control.control import Control
from gateway.observe.access_log import AccessLog
from gateway.observe.metrics import NullMetrics
from gateway.protocols.base import ClientProtocol
from gateway.registry.base import Registry
from gateway.registry.sharing import Sharing
from gateway.routing.router import Router
from gateway.routing.upstreams import Upstreams
from gateway.streams.answers import Answers
from gateway.streams.hub import Hub
from gateway.streams.pacer import Pacer, Pacers
from gateway.streams.sources import Sources
from gateway.streams.turns import Turns
from gateway.streams.watchdog import Watched

_COUNTER = itertools.count(1)
_BOOT = os.urandom(4).hex()


def request_id() -> str:
    """A name for one request in errors and logs: unique in this process, meaningless elsewhere."""
    return f"req_{_BOOT}{next(_COUNTER):08x}"


@dataclass(slots=True)
class Services:
    """`draining`: once True, no new stream is admitted. A reload replaces config, keyring, router, drivers and
    transports at once: whoever needs them asks for them here each time. Nothing else changes."""

    config: Config
    node: str
    loop: asyncio.AbstractEventLoop
    keyring: Keyring
    router: Router
    drivers: dict[str, Driver]
    transports: dict[str, Transport]
    upstreams: Upstreams
    protocols: dict[str, ClientProtocol]
    hub: Hub
    registry: Registry
    limiter: Limiter
    control: Control
    pacer: Pacer
    metrics: NullMetrics
    access_log: AccessLog
    sources: Sources
    sharing: Sharing
    answers: Answers
    turns: Turns = field(default_factory=Turns)
    demands: Demands = field(default_factory=Demands)
    outputs: set[Watched] = field(default_factory=set)
    draining: bool = False
    now_ms: Callable[[], int] = lambda: int(time.time() * 1000)
    pacers: Pacers = field(init=False)

    def __post_init__(self) -> None:
        self.pacers = Pacers(self.loop, self.pacer)
