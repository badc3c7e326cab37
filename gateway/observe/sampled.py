"""Figures that are true now and are asked for when somebody looks: at a scrape, or (of several workers) every second.

Law: nobody pushes them, so nothing of a stream's life pays for them. Label values are few and come from the
configuration, never from clients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

Values = Mapping[tuple[str, ...], float]  # by the labels' values


class Figure(NamedTuple):
    """One of them. `kind`: `count` only grows; of several workers a `sum` adds up, a `state` is the same for all (the
    highest is shown while they differ). `ask` gives all its values."""

    name: str
    text: str
    labels: tuple[str, ...]
    kind: Literal["count", "sum", "state"]
    ask: Callable[[], Values]


class Sampled(Collector):
    """The figures of one worker, asked at the scrape."""

    def __init__(self, figures: Iterable[Figure]) -> None:
        self._figures = list(figures)

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Nothing is asked before the first scrape."""
        return iter(())

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """All of them, now."""
        for figure in self._figures:
            family = CounterMetricFamily if figure.kind == "count" else GaugeMetricFamily
            found = family(figure.name, figure.text, labels=figure.labels)
            for labels, value in figure.ask().items():
                found.add_metric(labels, value)
            yield found


class Copied:
    """The figures of one of several workers, copied into its files when it is told to."""

    def __init__(self, figures: Iterable[Figure], registry: CollectorRegistry) -> None:
        self._made = [(figure, _metric(figure, registry), dict[tuple[str, ...], float]()) for figure in figures]

    def copy(self) -> None:
        """Write what is true now; what is no more is 0."""
        for figure, metric, last in self._made:
            values = figure.ask()
            for labels in last.keys() | values.keys():
                value = values.get(labels, 0.0)
                one = metric.labels(*labels) if labels else metric
                if isinstance(one, Gauge):
                    one.set(value)
                else:
                    one.inc(max(0.0, value - last.get(labels, 0.0)))
                last[labels] = value


def _metric(figure: Figure, registry: CollectorRegistry) -> Gauge | Counter:
    if figure.kind == "count":
        return Counter(figure.name, figure.text, figure.labels, registry=registry)
    mode: Literal["livesum", "livemax"] = "livesum" if figure.kind == "sum" else "livemax"
    return Gauge(figure.name, figure.text, figure.labels, registry=registry, multiprocess_mode=mode)
