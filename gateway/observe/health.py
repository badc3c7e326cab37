"""How this worker is: registry, event loop, memory, disk and each backend, as healthy, degraded or unhealthy; a backend
nobody has heard of yet is unknown.

Law: asking never waits. Backends are probed in the background while somebody asks for details, and judged from what
was last seen, by probes and by the streams themselves (`judging`).
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Literal

from msgspec import to_builtins

from gateway.observe.judging import FAULTS, Check, Seen, Status, above, blamed, of_backend, overall
from gateway.observe.machine import memory_limit, memory_used, processor
from gateway.streams.stream import Receipt

Phase = Literal["starting", "serving", "draining"]
Probe = Callable[[str], Awaitable[bool | str]]

PROBE_EVERY = 15.0
PROBE_TIMEOUT = 3.0
_LAG_EVERY = 0.5
_MUCH_WORK = 16.0  # of the load average, for each processor
_LAG_MEMORY = 0.8  # how much of the worst recent lag is kept from one sample to the next


class Health:
    """The state of one worker. `start` begins the background work, `stop` ends it.

    `registry`: `Registry.health`; `active`: how many streams run here; `probe(name)`: True, or False, or a sentence
    that says what is wrong; it gets 3 seconds, every 15. `disk`: the folder whose free space counts.
    """

    def __init__(
        self,
        *,
        version: str,
        registry: Callable[[], Mapping[str, Any]],
        active: Callable[[], int],
        backends: Iterable[str] = (),
        probe: Probe | None = None,
        disk: str = ".",
        clock: Callable[[], float] = time.monotonic,
        probe_every: float = PROBE_EVERY,
        probe_timeout: float = PROBE_TIMEOUT,
    ) -> None:
        self.version, self.active, self.phase = version, active, "starting"
        self._registry, self._probe, self._disk, self._clock = registry, probe, disk, clock
        self._every, self._timeout = probe_every, probe_timeout
        self._seen = {name: Seen() for name in backends}
        self._asked = {name: asyncio.Event() for name in self._seen}  # somebody looks: probe when the last one is old
        self._began = clock()
        self._lag = 0.0
        self._limit = memory_limit()
        self._tasks: list[asyncio.Task[None]] = []
        self._watches: dict[str, asyncio.Task[None]] = {}

    phase: Phase

    async def start(self) -> None:
        """Begin sampling and probing; does not wait for the first probe."""
        self._tasks = [asyncio.create_task(self._watch_loop())]
        self.watch(tuple(self._seen))

    def watch(self, backends: Iterable[str]) -> None:
        """These are the backends from now on; what is known of those that stay is kept."""
        names = tuple(backends)
        for name in [name for name in self._seen if name not in names]:
            del self._seen[name], self._asked[name]
            if name in self._watches:
                self._watches.pop(name).cancel()
        for name in names:
            self._seen.setdefault(name, Seen())
            self._asked.setdefault(name, asyncio.Event())
            if self._probe is not None and name not in self._watches:
                self._watches[name] = asyncio.create_task(self._watch_backend(name))

    async def stop(self) -> None:
        """End the background work. Idempotent."""
        tasks, self._tasks = [*self._tasks, *self._watches.values()], []
        self._watches = {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def ready(self) -> bool:
        """Whether new streams are welcome."""
        return self.phase == "serving"

    @property
    def lag(self) -> float:
        """How late the event loop ran lately, in seconds: the worst of the last samples, fading."""
        return self._lag

    @property
    def uptime(self) -> float:
        """Seconds since construction."""
        return self._clock() - self._began

    def finished(self, receipt: Receipt) -> None:
        """A stream's ending is news of its backends: a completion clears the last one, each failed attempt counts."""
        for one in receipt.tries:
            if one.outcome in FAULTS:
                self._failed(one.backend)
        if receipt.state == "completed" and receipt.backend in self._seen:
            self._seen[receipt.backend] = Seen(probed=True, at=self._clock())
        elif blamed(receipt):
            self._failed(receipt.backend)

    def _failed(self, backend: str) -> None:
        seen = self._seen.get(backend)
        if seen is not None:
            seen.failures, seen.answered, seen.at = seen.failures + 1, False, self._clock()

    def backends(self) -> dict[str, Check]:
        """What is known of each backend, by name."""
        return {name: self._backend(seen) for name, seen in self._seen.items()}

    def own(self) -> dict[str, Check]:
        """The checks of this process and its registry, by name."""
        return {
            "registry": self._check_registry(),
            "event_loop": Check(above(self._lag, 0.25, 2.0), {"lagMs": round(self._lag * 1000, 1)}),
            "memory": self._check_memory(),
            "cpu": _check_processor(),
            "disk": self._check_disk(),
        }

    def check(self, name: str, *, public: bool = True) -> dict[str, Any] | None:
        """One check by its name in `report` (a backend: `backend:<name>`, or its bare name); `store`, and `redis` where
        it is one, are the registry. None: there is no such check."""
        checks: dict[str, dict[str, Any]] = self.report(public=public)["checks"]
        if name == "store" or (name == "redis" and self._registry().get("backend") == "redis"):
            name = "registry"
        return checks.get(name) or checks.get(f"backend:{name}")

    def status(self) -> Status:
        """The worker's status in one word."""
        return overall(self.own(), self.backends())

    def report(self, *, public: bool = True) -> dict[str, Any]:
        """Everything. `public` leaves out what may name addresses."""
        for asked in self._asked.values():
            asked.set()
        own, backends = self.own(), self.backends()
        checks = own | {f"backend:{name}": check for name, check in backends.items()}
        return self.summary(overall(own, backends)) | {
            "phase": self.phase,
            "checks": {name: _shown(check, public) for name, check in checks.items()},
        }

    def summary(self, status: Status | None = None) -> dict[str, Any]:
        """Status, version, uptime and the number of running streams."""
        return {
            "status": status or self.status(),
            "version": self.version,
            "uptimeSeconds": round(self.uptime, 1),
            "activeStreams": self.active(),
        }

    def system(self) -> dict[str, Any]:
        """Figures of the process and its machine: bytes, seconds, load averages."""
        return {
            "memory": self._check_memory().figures,
            "disk": self._check_disk().figures,
            "cpu": processor(),
            "eventLoop": {"lagMs": round(self._lag * 1000, 1)},
            "python": sys.version.split()[0],
        }

    def _backend(self, seen: Seen) -> Check:
        age = None if seen.at is None else round(self._clock() - seen.at, 1)
        row = seen.failures + seen.misses
        figures = {"known": seen.at is not None, "failuresInARow": row, "secondsAgo": age}
        return Check(of_backend(seen), figures, seen.detail)

    def _check_registry(self) -> Check:
        told = self._registry()
        return Check("healthy" if told.get("status") == "healthy" else "degraded", {}, dict(told))

    def _check_memory(self) -> Check:
        used = memory_used()
        share = used / self._limit
        figures = {"usedBytes": used, "limitBytes": self._limit, "share": round(share, 4)}
        return Check(above(share, 0.8, 0.95), figures)

    def _check_disk(self) -> Check:
        try:
            disk = shutil.disk_usage(self._disk)
        except OSError as error:
            return Check("degraded", {}, str(error))
        # A full disk stops nothing that streams: it never makes the worker unhealthy.
        status: Status = "degraded" if disk.free < 0.05 * disk.total else "healthy"
        return Check(status, {"freeBytes": disk.free, "totalBytes": disk.total})

    async def _watch_loop(self) -> None:
        while True:
            due = time.monotonic() + _LAG_EVERY
            await asyncio.sleep(_LAG_EVERY)
            self._lag = max(time.monotonic() - due, self._lag * _LAG_MEMORY, 0.0)

    async def _watch_backend(self, name: str) -> None:
        while True:
            await self._asked[name].wait()
            self._asked[name].clear()
            await self._ask(name)
            await asyncio.sleep(self._every)

    async def _ask(self, name: str) -> None:
        """Probe one backend; whatever the probe raises is its answer."""
        assert self._probe is not None
        answer: bool | str
        try:
            async with asyncio.timeout(self._timeout):
                answer = await self._probe(name)
        except TimeoutError:
            answer = f"no answer within {self._timeout:g} s"
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        seen = self._seen[name]
        seen.probed, seen.at = answer is True, self._clock()
        seen.detail = answer if isinstance(answer, str) else ""
        seen.misses = 0 if seen.probed else seen.misses + 1
        seen.answered = seen.answered or seen.probed


def _check_processor() -> Check:
    """Work that waits for a processor. What it costs the streams is the event loop's check."""
    figures = processor()
    waiting = figures["loadAverage"][0] / (figures["count"] or 1)
    return Check("degraded" if waiting > _MUCH_WORK else "healthy", figures)


def _shown(check: Check, public: bool) -> dict[str, Any]:
    shown: dict[str, Any] = {"status": check.status, **to_builtins(check.figures)}
    if check.detail and not public:
        shown["detail"] = check.detail
    return shown
