"""The summary lines of streams that were lost with their node.

Law: a node that is gone logs nothing, and one that was only asleep may be one of many that end its streams: so the line
is written by whoever's receipt the fleet has taken, once, and a node's own receipt waits for that word. What the fleet
never says anything about is written in the end.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from gateway.streams.names import stream_key
from gateway.streams.stream import Receipt, State


class LastLines:
    """`write` logs a line; it is given later than this is made."""

    def __init__(self) -> None:
        self.write: Callable[[Receipt], object] = lambda receipt: None
        self._waiting: dict[str, Receipt] = {}  # of streams that ended here, by their key

    @staticmethod
    def wanted(receipt: Receipt) -> bool:
        """Whether this is a line that waits."""
        return receipt.state == State.NODE_LOST.wire

    @property
    def waiting(self) -> frozenset[str]:
        """The keys of streams nothing was said about yet."""
        return frozenset(self._waiting)

    def ended(self, receipt: Receipt) -> None:
        """A stream of this node ended as lost; whether that is the fleet's word, too, is to be heard."""
        if self.wanted(receipt):
            self._waiting[stream_key(receipt.stream_id, receipt.owner)] = receipt

    def taken(self, key: str) -> None:
        """The fleet took this node's receipt."""
        receipt = self._waiting.pop(key, None)
        if receipt is not None:
            self.write(receipt)

    def there(self, receipt: Receipt) -> None:
        """The fleet has this receipt; another node's line stands for it, unless it is the one that was sent before."""
        key = stream_key(receipt.stream_id, receipt.owner)
        if self._waiting.get(key) == receipt:
            self.taken(key)
        else:
            self._waiting.pop(key, None)

    def wrote(self, receipt: Receipt) -> None:
        """This node wrote the receipt of a stream that was nobody's."""
        self._waiting.pop(stream_key(receipt.stream_id, receipt.owner), None)
        self.write(receipt)

    def rest(self, keys: Collection[str]) -> None:
        """Nothing more will be said of these."""
        for key in keys:
            self.taken(key)
