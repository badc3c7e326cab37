"""An output that keeps back the frames a returning client already has. Pure: what waits is told by
callbacks.

Law: frames are left out whole, from the front, and never changed. A frame counts when a client can count it: an SSE
event with data, an NDJSON line that is not blank; comments ride along. Long replays are cut into slices, so that
returning clients do not hold up the others' tokens. Until `open` nothing is sent: what comes first decides the status.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Protocol

from backends.contract.framing import SPLIT

SLICE = 16 * 1024  # bytes rendered between two turns of the loop, about
_DATA = re.compile(rb"(?:^|[\r\n])(?:\xef\xbb\xbf)?data")  # a byte order mark may stand before the first line


class Outlet(Protocol):
    """Where the rest goes: a reader's output."""

    @property
    def blocked(self) -> bool:
        """Whether it takes no more just now."""

    def write(self, data: bytes) -> None:
        """Send whole frames; `blocked` may be true from then on."""

    def close(self, clean: bool) -> None:
        """No more bytes."""


class Skipping:
    """Between a reader and its client. `later` calls a function when it is this one's turn; `changed` is called when
    there is something to decide by; `on_drain` when the reader may go on."""

    __slots__ = (
        "_held",
        "_inner",
        "_last",
        "_later",
        "_opened",
        "_spent",
        "_split",
        "_sse",
        "blocked",
        "changed",
        "ended",
        "envelope",
        "on_drain",
        "seen",
        "skip",
        "slicing",
    )

    def __init__(
        self, inner: Outlet, skip: int, *, sse: bool, later: Callable[[Callable[[], None]], object], envelope: bool
    ) -> None:
        self.blocked = False
        self.skip = skip
        self.seen = 0  # frames counted so far
        self.ended: bool | None = None  # closed before it was opened, and how
        self.slicing = False  # pauses until its turn
        self.envelope = envelope  # NDJSON lines as {"seq": N, "data": line}
        self.changed: Callable[[], None] = _nothing
        self.on_drain: Callable[[], None] = _nothing
        self._inner = inner
        self._held: list[bytes] = []
        self._last = b""  # the last frame left out
        self._later = later
        self._opened = False
        self._spent = 0
        self._sse = sse
        self._split = SPLIT["sse" if sse else "ndjson"]

    @property
    def settled(self) -> bool:
        """Whether something is to be sent, or everything is over."""
        return bool(self._held) or self.ended is not None

    @property
    def empty(self) -> bool:
        """Whether nothing is to be sent so far."""
        return not self._held

    def write(self, data: bytes) -> None:
        """Whole frames of the view, from its first on."""
        self._spent += len(data)
        if self._spent >= SLICE:
            self.pause()
        rest = self._skipped(data) if self.seen < self.skip else data
        if rest:
            self._send(self._wrapped(rest) if self.envelope else rest)
        self._look()

    def pause(self) -> None:
        """Take no more until it is this one's turn."""
        if not self.slicing:
            self.slicing = self.blocked = True
            self._later(self._next_slice)

    def _skipped(self, data: bytes) -> bytes:
        frames = self._split(data)
        for i, frame in enumerate(frames):
            if self.seen == self.skip:
                return b"".join(frames[i:])
            self.seen += self._counts(frame)
            self._last = frame
        if self.seen == self.skip:
            self.changed()
        return b""

    def _counts(self, frame: bytes) -> bool:
        return bool(_DATA.search(frame) if self._sse else frame.strip())

    def _wrapped(self, data: bytes) -> bytes:
        lines = []
        for line in self._split(data):
            if line.strip():
                self.seen += 1
                self.skip = self.seen
                lines.append(b'{"seq":%d,"data":%b}\n' % (self.seen, line.strip()))
        return b"".join(lines)

    def _send(self, data: bytes) -> None:
        if self._opened:
            self._inner.write(data)
        else:
            self._held.append(data)
            self.changed()

    def close(self, clean: bool) -> None:
        """The view is over. Before `open`: remembered."""
        if self._opened:
            self._inner.close(clean)
            return
        self.ended = clean
        self.changed()

    def recall(self) -> None:
        """Over and nothing to send: send the last frame after all. The client is ahead of an answer that failed."""
        if self.ended is not None and self.empty and self._last:
            self._send(self._last)

    def open(self) -> None:
        """The head is out and the inner output open: what was held goes first."""
        self._opened = True
        held, self._held = self._held, []
        if held:
            self._inner.write(b"".join(held))
        if self.ended is not None:
            self._inner.close(self.ended)
        self._look()

    def drained(self) -> None:
        """The inner output takes more."""
        self._look()
        if not self.blocked:
            self.on_drain()

    def _next_slice(self) -> None:
        self.slicing = False
        self._spent = 0
        self.drained()
        if not self.slicing:
            self.changed()

    def _look(self) -> None:
        self.blocked = self.slicing or (self._inner.blocked if self._opened else bool(self._held))


def counting(*, sse: bool) -> Skipping:
    """An output that sends nothing and only counts (`seen`), in one go."""
    return Skipping(_Nowhere(), 1 << 60, sse=sse, later=lambda call: call(), envelope=False)


class _Nowhere:
    blocked = False

    def write(self, data: bytes) -> None:
        """Nothing is sent."""

    def close(self, clean: bool) -> None:
        """Nothing to close."""


def _nothing() -> None:
    """Nobody waits."""
