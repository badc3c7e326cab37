"""Prometheus figures of one worker, in a registry of their own: no global state, two workers in a process do not mix.
Those of several processes are added up by `shared_metrics`.

Law: nothing here runs per token; a stream costs one `started` and one `finished`. Label values are bounded: what
clients choose (models) is `other` unless it is known (`naming`), so nobody can grow the memory or the scrape.
"""

from __future__ import annotations

import asyncio
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from gateway.observe.labels import Bounded, Labelled
from gateway.observe.naming import Naming
from gateway.observe.sampled import Figure, Sampled
from gateway.streams.stream import Identity, Receipt, Try

ACTIVE = ("headgate_streams_active", "Running streams.")
DEGRADED = ("headgate_registry_degraded", "1 while the shared registry is away.")
BREAKER = ("headgate_breaker_state", "Circuit breaker of a backend: 0 closed, 1 half open, 2 open.")
LAG = ("headgate_event_loop_lag_seconds", "How late the event loop ran lately.")
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_FIRST_TOKEN = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 20, 30, 60, 120)
_GAP = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 5)
_DURATION = (0.1, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 180, 300, 600)
# Endings that say something about the backend; a timer that ran out was waiting for it.
_BACKEND_STATES = frozenset({"upstream_error", "upstream_truncated", "timed_out"})

disable_created_metrics()  # type: ignore[no-untyped-call]  # several workers have none, and names must not depend on that


class NullMetrics:
    """Metrics switched off; also the interface of `Metrics`."""

    enabled = False
    breakers: Callable[[], Mapping[str, int]] = dict  # backend -> figure of its breaker's state; asked at the scrape
    naming: Naming | None = None  # of models; None: the first 200 names

    def started(self, identity: Identity) -> None:
        """A stream was admitted."""

    def finished(self, receipt: Receipt) -> None:
        """A stream reached its terminal state. Idempotent for the active gauge."""

    def refused(self, code: str, limit: str = "") -> None:
        """A request was refused before it became a stream; `code` is the error's wire code, `limit` the name of the
        limit that refused."""

    def changed(self, action: str) -> None:
        """An operator, or the rollout's own brake, changed the settings at this worker."""

    def reloaded(self, *, good: bool) -> None:
        """gateway.yaml was read again; `good`: it can be used."""

    def watch(self, figures: Iterable[Figure]) -> None:
        """Ask for these, too, whenever somebody looks. Once."""

    def upstream_error(self, backend: str, code: str) -> None:
        """An attempt failed and was tried elsewhere (the last attempt's failure is counted by `finished`)."""

    def request(self, route: str, status: int) -> None:
        """An HTTP request was answered; `route` is the route's template, never the raw path."""

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """The worker serves: look from time to time at what is true now, where that is not asked at the scrape."""

    def end(self) -> None:
        """Look no more. Idempotent."""

    def render(self) -> tuple[bytes, str]:
        """The scrape's body and content type."""
        return b"# metrics are switched off (observe.metrics: false)\n", CONTENT_TYPE


class Metrics(NullMetrics):
    """The figures. `registry_degraded` and `loop_lag` (seconds) are asked when a scrape comes."""

    enabled = True
    together = 16  # ended streams are counted at once: that takes half the time, and the next scrape is far away

    def __init__(
        self,
        *,
        registry_degraded: Callable[[], bool] | None = None,
        loop_lag: Callable[[], float] | None = None,
    ) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self._open: dict[tuple[str, str], str] = {}  # id and owner -> backend
        self._ended: list[Receipt] = []  # not counted yet
        self._model, self._route, self._backend = Bounded(), Bounded(), Bounded()
        self._code, self._protocol, self._limit = Bounded(), Bounded(), Bounded()
        self._counters()
        self._histograms()
        self._asked = registry_degraded, loop_lag
        self._now()

    def _now(self) -> None:
        self.registry.register(_Moment(self._open, self._backend, self._states, *self._asked))

    def _states(self) -> Mapping[str, int]:
        return self.breakers()  # given after this was made

    def _counters(self) -> None:
        def counter(name: str, text: str, *labels: str) -> Labelled[Counter]:
            return Labelled(Counter("headgate_" + name, text, labels, registry=self.registry))

        self._streams = counter(
            "streams", "Streams that ended, by terminal state.", "state", "backend", "model", "protocol"
        )
        self._tokens = counter(
            "tokens", "Tokens by kind: prompt, completion, reasoning, cached.", "kind", "backend", "model"
        )
        self._upstream = counter("upstream_errors", "Failures of backends.", "backend", "code")
        self._requests = counter("http_requests", "HTTP requests answered.", "route", "status")
        self._refused = counter("refused", "Requests refused before they became a stream.", "code")
        self._limited = counter("limit_refused", "Requests refused by a limit, by its name.", "limit")
        self._changes = counter("control_changes", "Changes of the operators' settings made here.", "action")
        self._reloads = counter("reloads", "Times gateway.yaml was read again: ok, failed.", "outcome")
        for outcome in ("ok", "failed"):
            self._reloads.of(outcome)
        self._attempts = counter("attempts", "Attempts at backends, by kind and outcome.", "backend", "kind", "outcome")
        self._instead = counter(
            "degraded", "Answers given in place of whole ones: cached, message, partial.", "kind", "model"
        )
        self._received = counter("upstream_bytes", "Bytes received from backends.", "backend")

    def _histograms(self) -> None:
        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Labelled[Histogram]:
            name, labels = f"headgate_{name}_seconds", ("backend", "model")
            return Labelled(Histogram(name, text, labels, buckets=buckets, registry=self.registry))

        self._first = histogram("first_token", "From admission to the first token.", _FIRST_TOKEN)
        self._gap = histogram("inter_token", "Average gap between tokens of a stream, once per stream.", _GAP)
        self._duration = histogram("stream_duration", "From admission to the terminal state.", _DURATION)

    def started(self, identity: Identity) -> None:
        self._open[identity.id, identity.owner] = identity.backend

    def finished(self, receipt: Receipt) -> None:
        self._open.pop((receipt.stream_id, receipt.owner), None)
        self._ended.append(receipt)
        if len(self._ended) >= self.together:
            self.settle()

    def settle(self) -> None:
        """Count the streams that ended since the last time."""
        ended, self._ended = self._ended, []
        for receipt in ended:
            self._add(receipt)

    def _add(self, receipt: Receipt) -> None:
        backend, model = self._backend(receipt.backend), self._named(receipt)
        self._streams.of(receipt.state, backend, model, self._protocol(receipt.protocol)).inc()
        self._received.of(backend).inc(receipt.bytes_in)
        if receipt.degraded:
            self._instead.of(receipt.degraded, model).inc()
        last = receipt.last or Try(receipt.backend, "", "start", receipt.error_code or receipt.state, 0)
        for one in (*receipt.tries, last):
            self._attempts.of(self._backend(one.backend), one.kind, self._code(one.outcome)).inc()
        self._times(receipt, backend, model)
        self._count(receipt, backend, model)
        if receipt.state in _BACKEND_STATES:
            self._upstream.of(backend, self._code(receipt.error_code or receipt.state)).inc()

    def _named(self, receipt: Receipt) -> str:
        if self.naming is None:
            return self._model(receipt.model)
        return self.naming(receipt.model, completed=receipt.state == "completed")

    def _times(self, receipt: Receipt, backend: str, model: str) -> None:
        self._duration.of(backend, model).observe(receipt.duration_ms / 1000)
        if receipt.first_token_ms is not None:
            self._first.of(backend, model).observe(receipt.first_token_ms / 1000)
        if receipt.average_gap_ms is not None:
            self._gap.of(backend, model).observe(receipt.average_gap_ms / 1000)

    def _count(self, receipt: Receipt, backend: str, model: str) -> None:
        for kind, tokens in (
            ("prompt", receipt.prompt_tokens),
            ("completion", receipt.completion_tokens),
            ("reasoning", receipt.reasoning_tokens),
            ("cached", receipt.cached_tokens),
        ):
            if tokens > 0:
                self._tokens.of(kind, backend, model).inc(tokens)

    def refused(self, code: str, limit: str = "") -> None:
        self._refused.of(self._code(code)).inc()
        if limit:
            self._limited.of(self._limit(limit)).inc()

    def changed(self, action: str) -> None:
        self._changes.of(action).inc()

    def reloaded(self, *, good: bool) -> None:
        self._reloads.of("ok" if good else "failed").inc()

    def watch(self, figures: Iterable[Figure]) -> None:
        self.registry.register(Sampled(figures))

    def upstream_error(self, backend: str, code: str) -> None:
        self._upstream.of(self._backend(backend), self._code(code)).inc()

    def request(self, route: str, status: int) -> None:
        self._requests.of(self._route(route), str(status)).inc()

    def end(self) -> None:
        self.settle()

    def render(self) -> tuple[bytes, str]:
        self.settle()
        return generate_latest(self.registry), CONTENT_TYPE


class _Moment(Collector):
    """What is true now, asked at the scrape."""

    def __init__(
        self,
        streams: dict[tuple[str, str], str],
        label: Bounded,
        breakers: Callable[[], Mapping[str, int]],
        degraded: Callable[[], bool] | None,
        lag: Callable[[], float] | None,
    ) -> None:
        self._streams, self._label, self._degraded, self._lag = streams, label, degraded, lag
        self._breakers = breakers

    def collect(self) -> Iterator[GaugeMetricFamily]:
        active = GaugeMetricFamily(*ACTIVE, labels=["backend"])
        known = dict.fromkeys(map(self._label, self._breakers()), 0)  # a rate of nothing is none, a zero is one
        for backend, count in (known | Tally(map(self._label, self._streams.values()))).items():
            active.add_metric([backend], count)
        yield active
        states = GaugeMetricFamily(*BREAKER, labels=["backend"])
        for backend, figure in self._breakers().items():
            states.add_metric([backend], figure)
        yield states
        if self._degraded is not None:
            yield GaugeMetricFamily(*DEGRADED, value=float(self._degraded()))
        if self._lag is not None:
            yield GaugeMetricFamily(*LAG, value=self._lag())
