"""Labels of figures: how many values one may have, and the figure of given labels.

Law: what a label's values are bounded by bounds what is remembered here.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from prometheus_client import Counter, Histogram

from gateway.observe.naming import MAX_LENGTH, OTHER, clean

MAX_VALUES = 200
M = TypeVar("M", Counter, Histogram)


class Bounded:
    """A label's values: the first `limit` different ones (printable, at most 100 characters), then `other`."""

    def __init__(self, limit: int = MAX_VALUES) -> None:
        self._limit = limit
        self._known: dict[str, str] = {}

    def __call__(self, value: str) -> str:
        value = value[:MAX_LENGTH]
        known = self._known.get(value)
        if known is not None:
            return known
        if len(self._known) >= self._limit:
            return OTHER
        self._known[value] = clean(value)
        return self._known[value]


class Labelled(Generic[M]):
    """A metric's children by their labels, without the library's checks at every look; it keeps all of them itself."""

    def __init__(self, metric: M) -> None:
        self._metric: M = metric
        self._children: dict[tuple[str, ...], M] = {}

    def of(self, *labels: str) -> M:
        """The child of these labels, made where there is none yet."""
        child = self._children.get(labels)
        if child is None:
            child = self._children[labels] = self._metric.labels(*labels)
        return child
