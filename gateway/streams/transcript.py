"""What a backend said, as it said it: blocks of complete frames in order. Pure.

The transcript is the buffer between one producer and many readers. Blocks are numbered from 0 for ever; `base` is the
number of the oldest one still held. Memory is bounded: beyond `cap` bytes the oldest blocks go.

Most blocks differ from the one before in a piece of text alone: of those the text is held, and what stands around it
once (`alike`). That is a fifth of the memory, and memory not touched is the cheapest part of a token.
"""

from __future__ import annotations

import sys
from collections import deque
from itertools import islice
from operator import methodcaller

from msgspec import Struct

from backends.base import Driver

_SLICE = 64 * 1024  # bytes a reader renders between two looks at its output
_SLOT = 8  # bytes of a reference
_takes = methodcaller("__sizeof__")


class Segment(Struct, frozen=True):
    """One attempt's part: from block number `first` on, in the dialect of `driver`. `restart`: what was said before it
    counts no more."""

    first: int
    driver: Driver
    restart: bool = False


class Alike(Struct, frozen=True):
    """What stands around the texts held from block number `first` on, as far as there are texts and not blocks."""

    first: int
    head: bytes
    tail: bytes

    def whole(self, held: bytes | str) -> bytes:
        """The block that is held as this."""
        return self.head + held.encode() + self.tail if isinstance(held, str) else held

    def weight(self, held: bytes | str) -> int:
        """Bytes of that block."""
        if not isinstance(held, str):
            return len(held)
        return len(self.head) + len(self.tail) + (len(held) if held.isascii() else len(held.encode()))


_UNLIKE = Alike(0, b"", b"")


class Transcript:
    """The blocks of one stream. `total` is in bytes ever appended. Few fields change with a token: each is memory.

    A lane appends texts to `held` itself, and `measure` is called every few blocks: until then they are over the cap.
    """

    __slots__ = ("_alikes", "_base", "_bytes", "_measured", "cap", "held", "segments", "trimmed")

    def __init__(self, cap: int) -> None:
        self.cap = cap
        self._base = 0
        self.held: deque[bytes | str] = deque()  # blocks, and texts of blocks
        self.trimmed = 0  # bytes that are gone
        self._bytes = 0  # of blocks measured, the trimmed ones too
        self._measured = 0  # blocks measured, likewise
        self._alikes = [_UNLIKE]  # the first one is that of the oldest block held
        self.segments: list[Segment] = []

    def begin(self, driver: Driver, *, restart: bool = False) -> None:
        """What is appended from now on is a new attempt's. One that said nothing leaves no trace."""
        if self.segments and self.segments[-1].first == self.tip:
            restart = restart or self.segments.pop().restart
        self.segments.append(Segment(self.tip, driver, restart and bool(self.segments)))

    def alike(self, head: bytes, tail: bytes) -> None:
        """A text that is put into `held` from now on stands for a block between these two."""
        self.measure()
        last = self._alikes[-1]
        if last.head == head and last.tail == tail:
            return
        if last.first == self.tip:
            self._alikes.pop()
        self._alikes.append(Alike(self.tip, head, tail))

    def append(self, block: bytes) -> int:
        """Add a block; trim the oldest ones beyond the cap (never the one just added). Returns the bytes now held."""
        self.held.append(block)
        return self.measure()

    def measure(self) -> int:
        """Count what was appended, and trim. Returns the bytes now held."""
        held = self.held
        tip = self._base + len(held)
        weight = self._alikes[-1].weight  # texts before the last one of `alike` are measured
        if new := tip - self._measured:
            self._measured = tip
            self._bytes += sum(map(weight, islice(reversed(held), new)))
        size = self._bytes - self.trimmed
        while size > self.cap and len(held) > 1:
            gone = self._trim()
            size -= gone
        return size

    def _trim(self) -> int:
        """The oldest block goes. Returns its bytes."""
        gone = self._alikes[0].weight(self.held.popleft())
        self.trimmed += gone
        self._base += 1
        if len(self._alikes) > 1 and self._alikes[1].first <= self._base:
            self._alikes.pop(0)
        return gone

    def skip(self, count: int) -> None:
        """The first `count` blocks are gone. Only before anything was appended."""
        self._base = self._measured = count

    def extend(self, other: Transcript) -> None:
        """Go on from all that another one had. Only before anything was appended."""
        self._base, self.trimmed = other.base, other.trimmed
        self.held.extend(other.held)
        self.segments.extend(other.segments)
        self._alikes = list(other._alikes)
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
    def memory(self) -> int:
        """Bytes of the process it takes to hold them, about: a text of two letters takes sixty, or eighty."""
        taken: int = sum(map(_takes, self.held))
        return taken + _SLOT * len(self.held) + sum(len(one.head) + len(one.tail) for one in self._alikes)

    @property
    def tip(self) -> int:
        """The number the next block will have."""
        return self._base + len(self.held)

    @property
    def blocks(self) -> list[bytes]:
        """All blocks held: as many new objects, where only texts are kept."""
        return self._between(0, len(self.held), sys.maxsize)

    def texts(self, count: int) -> list[str] | None:
        """What the last blocks say, where only their texts are held; None: of one of them, more is."""
        held = self.held
        found = [held[at] for at in range(-count, 0)]
        return [one for one in found if isinstance(one, str)] if all(type(one) is str for one in found) else None

    def since(self, cursor: int, most: int) -> list[bytes]:
        """Up to `most` blocks from number `cursor` on, and not many more than 64 KiB of them. Raises LookupError when
        `cursor` was trimmed away."""
        first = cursor - self._base
        if first < 0:
            raise LookupError(cursor)
        return self._between(first, min(first + most, len(self.held)), _SLICE)

    def _between(self, first: int, end: int, most: int) -> list[bytes]:
        """Blocks by their places in `held`, up to about `most` bytes."""
        found: list[bytes] = []
        size, held, turn = 0, self.held, len(self._alikes)
        while turn > 1 and self._alikes[turn - 1].first > self._base + first:
            turn -= 1
        for at in range(first, end):  # not `islice`: that walks past all those before
            while turn < len(self._alikes) and self._alikes[turn].first <= self._base + at:
                turn += 1
            block = held[at]
            if isinstance(block, str):
                block = self._alikes[turn - 1].whole(block)
            found.append(block)
            size += len(block)
            if size >= most:
                break
        return found
