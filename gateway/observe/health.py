"""How this worker is: registry, event loop, memory, disk and each backend, as healthy, degraded or unhealthy.

Law: asking never waits. Backends are probed in the background while somebody asks for details, and judged from what
was last seen, by probes and by the streams themselves. The judgements are plain functions of
figures; `Health` collects the figures.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Literal

from msgspec import Struct, to_builtins

from gateway.observe.machine import memory_limit, memory_used, processor
from gateway.streams.stream import Receipt

Status = Literal["healthy", "degraded", "unhealthy"]
Phase = Literal["starting", "serving", "draining"]
Probe = Callable[[str], Awaitable[bool | str]]

PROBE_EVERY = 15.0
PROBE_TIMEOUT = 3.0
_LAG_EVERY = 0.5
_LAG_MEMORY = 0.8  # how much of the worst recent lag is kept from one sample to the next
_FAILURES = 5  # in a row: as many as open a breaker
_RANK: dict[str, int] = {"healthy": 0, "degraded": 1, "unhealthy": 2}
_FAILED = frozenset({"upstream_error", "upstream_truncated"})


class Check(Struct, frozen=True, omit_defaults=True):
    """One check's result. `figures` are for everybody; `detail` may name addresses and is for operators only."""

    status: Status
    figures: dict[str, Any] = {}
    detail: str = ""


class Seen(Struct):
    """What is known of a backend. `probed`: None before the first probe."""

    probed: bool | None = None
    detail: str = ""
    failures: int = 0  # streams that failed in a row
    at: float | None = None  # monotonic seconds of the last news


def above(value: float, degraded: float, unhealthy: float) -> Status:
    """The status of a figure that is better when small."""
    if value >= unhealthy:
        return "unhealthy"
    return "degraded" if value >= degraded else "healthy"


def of_backend(seen: Seen) -> Status:
    """A failed probe or five failed streams in a row: unhealthy; fewer: degraded; nothing known: healthy."""
    if seen.probed is False or seen.failures >= _FAILURES:
        return "unhealthy"
    return "degraded" if seen.failures else "healthy"


def overall(own: Mapping[str, Check], backends: Mapping[str, Check]) -> Status:
    """The worst of the own checks; lost backends degrade, and only the loss of all of them is unhealthy."""
    ranks = [_RANK[c.status] for c in own.values()]
    bad = [_RANK[c.status] for c in backends.values()]
    if bad:
        ranks.append(2 if min(bad) == 2 else min(max(bad), 1))
    return ("healthy", "degraded", "unhealthy")[max(ranks, default=0)]


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

    phase: Phase

    async def start(self) -> None:
        """Begin sampling and probing; does not wait for the first probe."""
        self._tasks = [asyncio.create_task(self._watch_loop())]
        if self._probe is not None:
            self._tasks += [asyncio.create_task(self._watch_backend(name)) for name in self._seen]

    async def stop(self) -> None:
        """End the background work. Idempotent."""
        tasks, self._tasks = self._tasks, []
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
        """A stream's ending is news of its backend: a completion clears it, a failure counts."""
        seen = self._seen.get(receipt.backend)
        if seen is None:
            return
        if receipt.state == "completed":
            self._seen[receipt.backend] = Seen(probed=True, at=self._clock())
        elif receipt.state in _FAILED:
            seen.failures, seen.at = seen.failures + 1, self._clock()

    def backends(self) -> dict[str, Check]:
        """What is known of each backend, by name."""
        return {name: self._backend(seen) for name, seen in self._seen.items()}

    def own(self) -> dict[str, Check]:
        """The checks of this process and its registry, by name."""
        return {
            "registry": self._check_registry(),
            "event_loop": Check(above(self._lag, 0.25, 2.0), {"lagMs": round(self._lag * 1000, 1)}),
            "memory": self._check_memory(),
            "disk": self._check_disk(),
        }

    def check(self, name: str, *, public: bool = True) -> dict[str, Any] | None:
        """One check by its name in `report` (a backend: `backend:<name>`); None: there is no such check."""
        checks: dict[str, dict[str, Any]] = self.report(public=public)["checks"]
        return checks.get(name)

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
        figures = {"known": seen.at is not None, "failuresInARow": seen.failures, "secondsAgo": age}
        return Check(of_backend(seen), figures, seen.detail)

    def _check_registry(self) -> Check:
        told = self._registry()
        return Check("healthy" if told.get("status") == "healthy" else "degraded", {}, str(dict(told)))

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
        if answer is True:
            seen.failures = min(seen.failures, _FAILURES - 1)


def _shown(check: Check, public: bool) -> dict[str, Any]:
    shown: dict[str, Any] = {"status": check.status, **to_builtins(check.figures)}
    if check.detail and not public:
        shown["detail"] = check.detail
    return shown
