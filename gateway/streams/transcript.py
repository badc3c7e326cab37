"""What a backend said, as it said it: blocks of complete frames in order. Pure.

The transcript is the buffer between one producer and many readers. Blocks are numbered from 0 for ever; `base` is the
number of the oldest one still held. Memory is bounded: beyond `cap` bytes the oldest blocks go.
"""

from __future__ import annotations

from collections import deque


class Transcript:
    """The blocks of one stream. `size` is in bytes of blocks held, `total` in bytes ever appended."""

    __slots__ = ("base", "blocks", "cap", "size", "total")

    def __init__(self, cap: int) -> None:
        self.cap = cap
        self.base = 0
        self.blocks: deque[bytes] = deque()
        self.size = 0
        self.total = 0

    @property
    def tip(self) -> int:
        """The number the next block will have."""
        return self.base + len(self.blocks)

    def append(self, block: bytes) -> None:
        """Add a block; trim the oldest ones beyond the cap (never the one just added)."""
        self.blocks.append(block)
        self.size += len(block)
        self.total += len(block)
        while self.size > self.cap and len(self.blocks) > 1:
            self.size -= len(self.blocks.popleft())
            self.base += 1

    def since(self, cursor: int, most: int) -> list[bytes]:
        """Up to `most` blocks from number `cursor` on. Raises LookupError when `cursor` was trimmed away."""
        first = cursor - self.base
        if first < 0:
            raise LookupError(cursor)
        if first == len(self.blocks) - 1:
            return [self.blocks[-1]]
        return [self.blocks[i] for i in range(first, min(first + most, len(self.blocks)))]
