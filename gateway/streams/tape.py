"""An output that is read by byte position: what a view has rendered, taken off in pieces. Pure; what waits is told by
callbacks.

Law: bytes come off in order and once. No more than `most` bytes (and the write that went beyond) are held; a reader
that is ahead of its taker waits. Long replays are cut into slices, as in `skipping`.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.streams.skipping import SLICE


class Tape:
    """`start`: the first byte wanted, or None: those after `mark_now`. `later` calls a function on the loop's next
    turn; `changed` is called when there is more, or the end; `on_drain` when the reader may go on."""

    __slots__ = (
        "_held",
        "_later",
        "_most",
        "_size",
        "_spent",
        "blocked",
        "changed",
        "ended",
        "on_drain",
        "slicing",
        "start",
        "total",
    )

    def __init__(self, start: int | None, most: int, *, later: Callable[[Callable[[], None]], object]) -> None:
        self.blocked = False
        self.changed: Callable[[], None] = _nothing
        self.ended = False
        self.on_drain: Callable[[], None] = _nothing
        self.slicing = False
        self.start = start
        self.total = 0  # bytes rendered so far
        self._held: list[bytes] = []
        self._later = later
        self._most = most
        self._size = 0
        self._spent = 0

    @property
    def size(self) -> int:
        """Bytes that can be taken."""
        return self._size

    def write(self, data: bytes) -> None:
        """Whole frames of the view, from its first on."""
        before, self.total = self.total, self.total + len(data)
        if self.start is not None and self.total > self.start:
            kept = data[max(self.start - before, 0) :]
            self._held.append(kept)
            self._size += len(kept)
        self._spent += len(data)
        if self._spent >= SLICE and not self.slicing:
            self.slicing = True
            self._later(self._next_slice)
        self._look()
        self.changed()

    def close(self, clean: bool) -> None:
        """The view is over. How it ended is in its bytes."""
        self.ended = True
        self.changed()

    def mark_now(self) -> None:
        """What there is so far is not wanted."""
        if self.start is None:
            self.start = self.total

    def take(self) -> bytes:
        """All that is held; `start` moves behind it."""
        data = b"".join(self._held)
        self._held.clear()
        self._size = 0
        self.start = (self.start or 0) + len(data)
        self._drained()
        return data

    def _next_slice(self) -> None:
        self.slicing = False
        self._spent = 0
        self._drained()

    def _drained(self) -> None:
        self._look()
        if not self.blocked:
            self.on_drain()

    def _look(self) -> None:
        self.blocked = self.slicing or self._size >= self._most


def _nothing() -> None:
    """Nobody waits."""
