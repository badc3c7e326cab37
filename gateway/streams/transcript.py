"""What a backend said, as it said it: blocks of complete frames in order. Pure.

The transcript is the buffer between one producer and many readers. Blocks are numbered from 0 for ever; `base` is the
number of the oldest one still held. Memory is bounded: beyond `cap` bytes the oldest blocks go.

Most blocks differ from the one before in a piece of text alone: of those the text is held, and what stands around it
once (`alike`); of older ones many texts in one (`pack`). That is a twentieth of the memory, and memory that is not
touched is the cheapest part of a token.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from itertools import chain, islice, repeat
from operator import getitem

from msgspec import Struct

from backends.base import Driver
from gateway.streams.alike import UNLIKE, Alike
from gateway.streams.older import Older, joined, memory_of, takes

_SLICE = 64 * 1024  # bytes a reader renders between two looks at its output


class Segment(Struct, frozen=True):
    """One attempt's part: from block number `first` on, in the dialect of `driver`. `restart`: what was said before it
    counts no more."""

    first: int
    driver: Driver
    restart: bool = False


class Transcript:
    """The blocks of one stream. `total` is in bytes ever appended. Few fields change with a token: each is memory.

    `held` are those that came last, from number `_from` on. A lane appends printable texts to it itself, and has them
    put away (`pack`) every few blocks: until then they may be over the cap.
    """

    __slots__ = ("_alikes", "_base", "_bytes", "_from", "_measured", "_older", "cap", "held", "segments", "trimmed")

    def __init__(self, cap: int) -> None:
        self.cap = cap
        self._base = self._from = 0
        self.held: deque[bytes | str] = deque()  # blocks, and texts of blocks
        self._older = Older()  # those before
        self.trimmed = 0  # bytes that are gone
        self._bytes = 0  # of blocks measured, the trimmed ones too
        self._measured = 0  # blocks measured, likewise: all the older ones
        self._alikes = [UNLIKE]  # the first one is that of the oldest block held
        self.segments: list[Segment] = []

    def begin(self, driver: Driver, *, restart: bool = False) -> None:
        """What is appended from now on is a new attempt's. One that said nothing leaves no trace."""
        if self.segments and self.segments[-1].first == self.tip:
            restart = restart or self.segments.pop().restart
        self.segments.append(Segment(self.tip, driver, restart and bool(self.segments)))

    def alike(self, head: bytes, tail: bytes) -> None:
        """A text that is put into `held` from now on stands for a block between these two."""
        self.pack()
        last = self._alikes[-1]
        if last.head == head and last.tail == tail:
            return
        if last.first == self.tip:
            self._alikes.pop()
        self._alikes.append(Alike(self.tip, head, tail))

    def append(self, block: bytes) -> int:
        """Add a block; trim the oldest ones beyond the cap (never the one just added). Returns the bytes now held."""
        if self._measured != self._from + len(self.held):
            self.measure()
        self.held.append(block)
        self._measured += 1
        self._bytes += len(block)
        return self._trimmed()

    def measure(self) -> int:
        """Count what was appended, and trim. Returns the bytes now held."""
        if new := self._from + len(self.held) - self._measured:
            weight = self._alikes[-1].weight  # texts before the last one of `alike` are measured
            self._measured += new
            self._bytes += sum(map(weight, islice(reversed(self.held), new)))
        return self._trimmed()

    def pack(self) -> int:
        """The same, and what was appended since the last time is put away: texts are held in one."""
        if self._measured != self._from:
            self.measure()  # which may trim some of it
        held = self.held
        if not held:
            return self._trimmed()
        run = joined(held)
        if run is None:
            self.measure()
            return self._put_away(held)
        around, more = self._alikes[-1], len(held) - 1
        size = around.weight(run) + around.around(more) - more
        if self._measured == self._from:
            self._measured += len(held)
            self._bytes += size
        # one letter that takes four bytes makes all of them take as many, in one text
        return self._put_away(run if run.isascii() or takes(run) <= size else held)

    def _put_away(self, run: str | deque[bytes | str]) -> int:
        self._older.put(self._from, run)
        self._from += len(self.held)
        self.held.clear()
        return self._trimmed()

    def _trimmed(self) -> int:
        size = self._bytes - self.trimmed
        while size > self.cap and self._from + len(self.held) - self._base > 1:
            if self._base == self._from and isinstance(self.held[0], str):
                break  # a lane's, which has not accounted for it yet
            size -= self._trim()
        return size

    def _trim(self) -> int:
        """The oldest block goes. Returns its bytes."""
        if self._base < self._from:
            gone = self._alikes[0].weight(self._older.pop())
        else:
            gone = self._alikes[0].weight(self.held.popleft())
            self._from += 1
        self.trimmed += gone
        self._base += 1
        if len(self._alikes) > 1 and self._alikes[1].first <= self._base:
            self._alikes.pop(0)
        return gone

    def skip(self, count: int) -> None:
        """The first `count` blocks are gone. Only before anything was appended."""
        self._base = self._from = self._measured = count

    def extend(self, other: Transcript) -> None:
        """Go on from all that another one had. Only before anything was appended."""
        other.pack()
        self._base, self._from, self.trimmed = other.base, other.tip, other.trimmed
        self._older.extend(other._older)
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
        """Bytes of the process it takes to hold them, about."""
        around = sum(len(one.head) + len(one.tail) for one in self._alikes)
        return memory_of(self.held) + self._older.memory + around

    @property
    def tip(self) -> int:
        """The number the next block will have."""
        return self._from + len(self.held)

    @property
    def blocks(self) -> list[bytes]:
        """All blocks held: as many new objects, where only texts are kept."""
        return self._between(self._base, self.tip, sys.maxsize)

    def said(self, first: int, most: int) -> tuple[Alike, list[str]] | None:
        """What all blocks from number `first` on say, and what stands around each; None: of one of them more is held
        than its text, they differ otherwise, or they are none, or more than `most`."""
        around, start, count = self._alikes[-1], first - self._from, self.tip - first
        if first < max(around.first, self._base) or not 0 < count <= most:
            return None
        held = self.held
        found = [held[i] for i in range(start, start + count)] if start >= 0 else list(self._each(first, self.tip))
        texts = [one for one in found if type(one) is str]
        return (around, texts) if len(texts) == count else None

    def since(self, cursor: int, most: int) -> list[bytes]:
        """Up to `most` blocks from number `cursor` on, and not many more than 64 KiB of them. Raises LookupError when
        `cursor` was trimmed away."""
        if cursor < self._base:
            raise LookupError(cursor)
        tip = self._from + len(self.held)
        return self._between(cursor, cursor + most if cursor + most < tip else tip, _SLICE)

    def _between(self, first: int, end: int, most: int) -> list[bytes]:
        """Blocks by their numbers, up to about `most` bytes."""
        found: list[bytes] = []
        alikes = self._alikes
        size, turn, turns = 0, len(alikes), len(alikes)
        while turn > 1 and alikes[turn - 1].first > first:
            turn -= 1
        for at, held in enumerate(self._each(first, end), first):
            while turn < turns and alikes[turn].first <= at:
                turn += 1
            block = alikes[turn - 1].whole(held) if isinstance(held, str) else held
            found.append(block)
            size += len(block)
            if size >= most:
                break
        return found

    def _each(self, first: int, end: int) -> Iterator[bytes | str]:
        """The blocks, or their texts, by their numbers."""
        start, stop = first - self._from, end - self._from
        late = map(getitem, repeat(self.held), range(max(start, 0), stop))  # twice as fast as `__getitem__` of a deque
        return late if start >= 0 else chain(self._older.each(first, end), late)
