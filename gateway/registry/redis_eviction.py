"""Whether the server may throw keys away when its memory is full: then streams may be forgotten, and we say so.

Law: a note and one warning; nothing depends on it. A server that does not let us ask is taken to keep what it has.
"""

from __future__ import annotations

from typing import Any

import structlog
from redis.exceptions import ResponseError

from gateway.registry.redis_client import Link
from gateway.registry.redis_url import Client

log = structlog.get_logger(__name__)


class Eviction:
    """`note`: what is wrong with the policy of any primary, empty while nothing is."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.note = ""

    async def look(self) -> None:
        """Ask. Raises Away."""
        policies = await self._link.run(_policies)
        evicting = next((policy for policy in policies if policy != "noeviction"), "")
        note = f"maxmemory-policy {evicting} may evict streams; set noeviction" if evicting else ""
        if note and note != self.note:
            log.warning("registry.evicting_policy", policy=evicting)
        self.note = note


async def _policies(client: Client) -> list[str]:
    """The eviction policy of every primary; none where INFO is not permitted to us."""
    try:
        info: dict[str, Any] = await client.info("memory")
    except ResponseError:
        return []
    parts = [info] if "maxmemory_policy" in info else [part for part in info.values() if isinstance(part, dict)]
    return [str(part.get("maxmemory_policy", "noeviction")) for part in parts]
