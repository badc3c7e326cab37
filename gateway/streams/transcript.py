"""What a backend said, as it said it: blocks of complete frames in order. Pure.

The transcript is the buffer between one producer and many readers. Blocks are numbered from 0 for ever; `base` is the
number of the oldest one still held. Memory is bounded: beyond `cap` bytes the oldest blocks go.
"""

from __future__ import annotations

from collections import deque

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
    """The blocks of one stream. `total` is in bytes ever appended. Few fields change with a token: each is memory.

    A lane appends to `blocks` itself, and `measure` is called every few blocks: until then they are over the cap.
    """

    __slots__ = ("_base", "_bytes", "_measured", "blocks", "cap", "segments", "trimmed")

    def __init__(self, cap: int) -> None:
        self.cap = cap
        self._base = 0
        self.blocks: deque[bytes] = deque()
        self.trimmed = 0  # bytes that are gone
        self._bytes = 0  # of blocks measured, the trimmed ones too
        self._measured = 0  # blocks measured, likewise
        self.segments: list[Segment] = []

    def begin(self, driver: Driver, *, restart: bool = False) -> None:
        """What is appended from now on is a new attempt's. One that said nothing leaves no trace."""
        if self.segments and self.segments[-1].first == self.tip:
            restart = restart or self.segments.pop().restart
        self.segments.append(Segment(self.tip, driver, restart and bool(self.segments)))

    def append(self, block: bytes) -> int:
        """Add a block; trim the oldest ones beyond the cap (never the one just added). Returns the bytes now held."""
        self.blocks.append(block)
        return self.measure()

    def measure(self) -> int:
        """Count what was appended, and trim. Returns the bytes now held."""
        blocks = self.blocks
        tip = self._base + len(blocks)
        while self._measured < tip:
            self._measured += 1
            self._bytes += len(blocks[self._measured - 1 - tip])
        held = self._bytes - self.trimmed
        while held > self.cap and len(blocks) > 1:
            gone = len(blocks.popleft())
            self.trimmed += gone
            held -= gone
            self._base += 1
        return held

    def skip(self, count: int) -> None:
        """The first `count` blocks are gone. Only before anything was appended."""
        self._base = self._measured = count

    def extend(self, other: Transcript) -> None:
        """Go on from all that another one had. Only before anything was appended."""
        self._base, self.trimmed = other.base, other.trimmed
        self.blocks.extend(other.blocks)
        self.segments.extend(other.segments)
        self._bytes, self._measured = other.total, other.tip

    @property
    def base(self) -> int:
        """The number of the oldest block still held."""
        self.measure()
        return self._base

    @property
    def total(self) -> int:
        """Bytes ever appended."""
        self.measure()
        return self._bytes

    @property
    def size(self) -> int:
        """Bytes of blocks held."""
        return self.measure()

    @property
    def tip(self) -> int:
        """The number the next block will have."""
        return self._base + len(self.blocks)

    def since(self, cursor: int, most: int) -> list[bytes]:
        """Up to `most` blocks from number `cursor` on, and not many more than 64 KiB of them. Raises LookupError when
        `cursor` was trimmed away."""
        first = cursor - self._base
        if first < 0:
            raise LookupError(cursor)
        if first == len(self.blocks) - 1:
            return [self.blocks[-1]]
        found: list[bytes] = []
        size = 0
        blocks = self.blocks
        for at in range(first, min(first + most, len(blocks))):  # not `islice`: that walks past all those before
            block = blocks[at]
            found.append(block)
            size += len(block)
            if size >= _SLICE:
                break
        return found
