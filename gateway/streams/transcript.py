"""What a backend said, as it said it: blocks of complete frames in order. Pure.

The transcript is the buffer between one producer and many readers. Blocks are numbered from 0 for ever; `base` is the
number of the oldest one still held. Memory is bounded: beyond `cap` bytes the oldest blocks go.
"""

from __future__ import annotations

from collections import deque
from itertools import islice

from msgspec import Struct

from backends.base import Driver

_SLICE = 64 * 1024  # bytes a reader renders between two looks at its output


class Segment(Struct, frozen=True):
    """One attempt's part: from block number `first` on, in the dialect of `driver`. `restart`: what was said before it
    counts no more."""

    first: int
    driver: Driver
    restart: bool = False


class Transcript:
    """The blocks of one stream. `total` is in bytes ever appended. Few fields change with a token: each is memory."""

    __slots__ = ("base", "blocks", "cap", "segments", "total", "trimmed")

    def __init__(self, cap: int) -> None:
        self.cap = cap
        self.base = 0
        self.blocks: deque[bytes] = deque()
        self.trimmed = 0  # bytes that are gone
        self.total = 0
        self.segments: list[Segment] = []

    def begin(self, driver: Driver, *, restart: bool = False) -> None:
        """What is appended from now on is a new attempt's. One that said nothing leaves no trace."""
        if self.segments and self.segments[-1].first == self.tip:
            restart = restart or self.segments.pop().restart
        self.segments.append(Segment(self.tip, driver, restart and bool(self.segments)))

    def append(self, block: bytes) -> int:
        """Add a block; trim the oldest ones beyond the cap (never the one just added). Returns the bytes now held."""
        self.blocks.append(block)
        self.total = total = self.total + len(block)
        held = total - self.trimmed
        if held <= self.cap:
            return held
        while held > self.cap and len(self.blocks) > 1:
            gone = len(self.blocks.popleft())
            self.trimmed += gone
            held -= gone
            self.base += 1
        return held

    @property
    def size(self) -> int:
        """Bytes of blocks held."""
        return self.total - self.trimmed

    @property
    def tip(self) -> int:
        """The number the next block will have."""
        return self.base + len(self.blocks)

    def since(self, cursor: int, most: int) -> list[bytes]:
        """Up to `most` blocks from number `cursor` on, and not many more than 64 KiB of them. Raises LookupError when
        `cursor` was trimmed away."""
        first = cursor - self.base
        if first < 0:
            raise LookupError(cursor)
        if first == len(self.blocks) - 1:
            return [self.blocks[-1]]
        found: list[bytes] = []
        size = 0
        for block in islice(self.blocks, first, first + most):
            found.append(block)
            size += len(block)
            if size >= _SLICE:
                break
        return found
