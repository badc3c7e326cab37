"""What all nodes' streams add up to: their counters merged, and the fleet's own peak.

Law: two nodes that are asked at the same time say the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from gateway.registry.base import Entry
from gateway.registry.redis_client import Link, Op
from gateway.registry.redis_layout import Layout
from gateway.registry.statistics import merge, snapshot


async def figures(
    link: Link, layout: Layout, nodes: Sequence[str], owner: str | None, running: Sequence[Entry], peak: int
) -> dict[str, Any]:
    """`Registry.statistics` of the fleet. `running`: its streams; `peak`: this node's. Raises Away."""
    ops = [Op("HGETALL", (layout.stats_key(node, owner),)) for node in nodes]
    answers = await link.batch([layout.peak(owner, max(len(running), peak)), *ops], patience=1)
    most = answers[0] if isinstance(answers[0], int) else len(running)
    return snapshot(
        merge(_numbers(part) for part in answers[1:]),
        active=len(running),
        peak=most,
        backends=Counter(e.backend for e in running),
        models=Counter(e.model for e in running),
    )


def _numbers(raw: Any) -> dict[str, int]:
    if isinstance(raw, BaseException) or not raw:
        return {}
    pairs = raw.items() if isinstance(raw, dict) else zip(raw[::2], raw[1::2], strict=True)
    return {name.decode("utf-8", "replace"): int(value) for name, value in pairs if value.lstrip(b"-").isdigit()}
