"""The files that take longest begin first: with the last of them on one worker the other would stand idle."""

from __future__ import annotations

import pytest

_LONG = (
    "statemachine/",
    "test_workers",
    "test_degradation",
    "faults/",
    "registry/test_redis",
    "test_survive",
    "test_fleet",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Otherwise in the order they were found in."""
    items.sort(key=lambda item: not any(part in item.nodeid for part in _LONG))
