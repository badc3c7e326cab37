"""Receipts this node wrote for streams of others when Redis was lost: whether they were taken is seen later.

Law: a receipt that is there was written once, so its line is; one that is not there may still come, for a while.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from gateway.registry.redis_layout import read_receipt
from gateway.streams.stream import Receipt


class Unanswered:
    """Bounded by time: each is asked for until it is known, and no longer than said."""

    def __init__(self) -> None:
        self._sent: list[tuple[str, Receipt, float]] = []  # whose streams, and until when it is asked

    def __bool__(self) -> bool:
        return bool(self._sent)

    def add(self, node: str, receipts: Iterable[Receipt], until: float) -> None:
        """Sent for streams of a node."""
        self._sent += [(node, receipt, until) for receipt in receipts]

    async def there(
        self, read: Callable[[list[tuple[str, Receipt]]], Awaitable[list[Any]]], now: float
    ) -> list[tuple[str, Receipt]]:
        """Those that were taken after all. `read` asks for what the fleet has of each."""
        asked = list(self._sent)
        answers = await read([(node, receipt) for node, receipt, _ in asked])
        found: list[tuple[str, Receipt]] = []
        for one, raw in zip(asked, answers, strict=True):
            node, receipt, until = one
            if isinstance(raw, bytes) and read_receipt(raw) == receipt:
                found.append((node, receipt))
            elif raw is None and now < until:
                continue
            self._sent.remove(one)
        return found
