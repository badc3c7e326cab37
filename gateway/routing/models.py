"""Which models there are: names of routes, and what backends behind a glob have.

Law: listing never fails for a backend that is away: its last answer stands, or else the names its configuration gives;
one whose breaker is open is not asked.
Answers are kept for a minute; whoever comes while they are fetched waits for the same ones.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection

import msgspec

from backends.base import Driver, HttpRequest
from backends.contract.errors import BackendError
from backends.transport import Transport
from config.values import glob_matches
from gateway.routing.asides import ask_small
from gateway.routing.router import Router
from gateway.routing.upstreams import Upstreams

_FRESH = 60.0  # seconds a list is kept
_PATIENCE = 3.0  # seconds a backend may take to answer


class ModelList:
    """Model name -> backend. One per worker."""

    def __init__(
        self,
        router: Router,
        drivers: dict[str, Driver],
        transports: dict[str, Transport],
        clock: Callable[[], float] = time.monotonic,
        upstreams: Upstreams | None = None,
    ) -> None:
        self._router = router
        self._drivers = drivers
        self._transports = transports
        self._clock = clock
        self._upstreams = upstreams
        self._known: dict[str, str] = {}
        self._last: dict[str, list[str]] = {}  # what each backend answered when it last did
        self._until = -1.0
        self._lock = asyncio.Lock()

    def adopt(self, router: Router, drivers: dict[str, Driver], transports: dict[str, Transport]) -> None:
        """Another configuration: what is known of models is asked anew."""
        self._router, self._drivers, self._transports = router, drivers, transports
        self._until = -1.0

    @property
    def names(self) -> Collection[str]:
        """What `get` answered last."""
        return self._known

    async def get(self) -> dict[str, str]:
        """All names, routes' first. Never raises for a backend that is away."""
        async with self._lock:
            if self._clock() >= self._until:
                router = self._router
                self._known = await self._ask()
                if router is self._router:  # else another configuration came meanwhile
                    self._until = self._clock() + _FRESH
        return self._known

    async def _ask(self) -> dict[str, str]:
        found = {name: self._router.choose(name).backend for name in self._router.models()}
        names = self._router.open_backends()
        for backend, models in zip(names, await asyncio.gather(*(self._of(n) for n in names)), strict=True):
            globs = self._router.glob_for(backend)
            for model in models:
                if any(glob_matches(glob, model) for glob in globs):
                    found.setdefault(model, backend)
        return found

    async def _of(self, backend: str) -> list[str]:
        driver = self._drivers[backend]
        request = driver.list_models()
        if request is None:
            return list(driver.read_models(b""))
        try:
            status, body = await self._fetched(backend, request)
            if status == 200:
                self._last[backend] = list(driver.read_models(body))
        except (BackendError, msgspec.DecodeError, ValueError, KeyError, TypeError):
            pass  # it is away or talks nonsense: health checks tell of that, a list of names need not
        return self._last.get(backend) or list(driver.backend.models)

    async def _fetched(self, backend: str, request: HttpRequest) -> tuple[int, bytes]:
        transport = self._transports[backend]
        if self._upstreams is None:
            status, _headers, body = await transport.fetch(request, _PATIENCE)
        else:
            status, _headers, body = await ask_small(self._upstreams, transport, backend, request, _PATIENCE)
        return status, body
