"""What is logged of a Redis that goes away and comes back.

Law: one line each way. A server that comes and goes is reported at most every ten seconds, and the state it is left in
always is, sooner or later.
"""

from __future__ import annotations

import math

import structlog

from gateway.registry.redis_client import Link

log = structlog.get_logger(__name__)

QUIET = 10.0  # seconds after a change that was told in which no other one is


class News:
    """Looks at a link; what changed since it last said something is logged."""

    def __init__(self, link: Link, node: str) -> None:
        self._link, self._node = link, node
        self._told: bool | None = None  # the state that was told last
        self._since = self._at = -math.inf

    def look(self, now: float) -> None:
        """To be called often; `now`: monotonic seconds."""
        healthy = self._link.healthy
        if healthy is self._told or now - self._at < QUIET:
            return
        if not healthy:
            self._at = self._since = now
            log.warning("registry.away", node=self._node, reason=self._link.error)
        elif self._told is None:
            log.info("registry.connected", node=self._node)
        else:
            log.info("registry.back", node=self._node, away=round(now - self._since, 1))
        self._told = healthy
