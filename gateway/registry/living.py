"""Which other nodes are there, as far as claims are concerned. Pure; the clock is an argument (monotonic seconds).

Law: a heartbeat may be late. Who has just claimed a stream does not lose it to the next for that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


class Living:
    """`holds` tells whether a lease with so much life left (PTTL) is one; `late`: seconds a node may be without."""

    def __init__(self, holds: Callable[[Any], bool], late: float) -> None:
        self._holds, self._late = holds, late
        self._held: dict[str, float] = {}  # when each had one

    def seen(self, lives: Mapping[str, Any], now: float) -> frozenset[str]:
        """Who is there, of nodes whose leases have so much life left now."""
        for name, life in lives.items():
            if self._holds(life):
                self._held[name] = now
            elif isinstance(life, int) and life >= 0:
                self._held.pop(name, None)  # it said farewell
        self._held = {name: at for name, at in self._held.items() if now - at < self._late}
        return frozenset(self._held)
