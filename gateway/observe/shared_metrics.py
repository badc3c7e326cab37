"""The figures of several workers of one node: each writes its own files in one folder, any of them answers for all.

Law: names, labels and help are those of one worker. Counters and histograms add up and outlive a crashed worker (its
successor goes on with the same file); what is true now is summed or, where a sum means nothing, the worst of the living
workers. The files are bounded by the number of workers.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from gateway.observe.metrics import ACTIVE, BREAKER, CONTENT_TYPE, DEGRADED, LAG, Metrics
from gateway.observe.sampled import Copied, Figure
from gateway.streams.stream import Identity, Receipt

_EVERY = 1.0  # seconds between looks at what is true now
_FOLDER = "PROMETHEUS_MULTIPROC_DIR"


def wipe(folder: Path) -> None:
    """Forget all workers' figures: what an earlier start left would be counted again."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("*.db"):
        file.unlink(missing_ok=True)


def bury(folder: Path, slot: int) -> None:
    """A worker has ended: nothing that was true of it is true now."""
    mark_process_dead(slot, str(folder))  # type: ignore[no-untyped-call]


class SharedMetrics(Metrics):
    """One worker's part of the figures. Only one in a process: the library chooses by process where values live."""

    together = 1  # any worker may be asked for the figures of all

    def __init__(self, folder: Path, slot: int, degraded: Callable[[], bool], lag: Callable[[], float]) -> None:
        os.environ[_FOLDER] = str(folder)
        values.ValueClass = values.MultiProcessValue(lambda: slot)  # type: ignore[no-untyped-call]
        self._folder = str(folder)
        self._is_degraded, self._is_late = degraded, lag
        self._timer: asyncio.TimerHandle | None = None
        self._copied: list[Copied] = []
        super().__init__()

    def _now(self) -> None:
        def gauge(figure: tuple[str, str], mode: str, *labels: str) -> Gauge:
            return Gauge(*figure, labels, registry=self.registry, multiprocess_mode=mode)  # type: ignore[arg-type]

        self._active = gauge(ACTIVE, "livesum", "backend")
        self._breaker = gauge(BREAKER, "livemax", "backend")
        self._degraded = gauge(DEGRADED, "livemax")
        self._lag = gauge(LAG, "livemax")

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._sample()
        self._timer = loop.call_later(_EVERY, self.begin, loop)

    def end(self) -> None:
        super().end()
        if self._timer is not None:
            self._timer.cancel()

    def started(self, identity: Identity) -> None:
        known = len(self._open)
        super().started(identity)
        if len(self._open) > known:
            self._active.labels(self._backend(identity.backend)).inc()

    def finished(self, receipt: Receipt) -> None:
        backend = self._open.get((receipt.stream_id, receipt.owner))
        super().finished(receipt)
        if backend is not None:
            self._active.labels(self._backend(backend)).dec()

    def watch(self, figures: Iterable[Figure]) -> None:
        self._copied.append(Copied(figures, self.registry))

    def _sample(self) -> None:
        for copied in self._copied:
            copied.copy()
        for name, figure in self.breakers().items():
            self._breaker.labels(name).set(figure)
            self._active.labels(self._backend(name))
        self._degraded.set(float(self._is_degraded()))
        self._lag.set(self._is_late())

    def render(self) -> tuple[bytes, str]:
        self._sample()
        every = CollectorRegistry()
        MultiProcessCollector(every, self._folder)  # type: ignore[no-untyped-call]
        return generate_latest(every), CONTENT_TYPE
