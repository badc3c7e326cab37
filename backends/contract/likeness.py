"""Whether a block is the previous content chunk over again but for its text: the token path's short cut. Pure.

Chunks of one stream differ only inside one JSON string. When head and tail are the same bytes and no quote stands
between them, the block is one frame with one non-empty piece of content and nothing else: no need to search it.
"""

from __future__ import annotations

_KEY = b'"content":"'


class Likeness:
    """One per stream and user of it. Learns from blocks its owner knows to be plain content."""

    __slots__ = ("_head", "_size", "_tail", "_tail_size")

    def __init__(self) -> None:
        self._head, self._tail = b"\n", b"\n"  # like nothing
        self._size = self._tail_size = 1

    def same(self, block: bytes) -> bool:
        """Whether `block` is like the learnt one."""
        return (
            block.startswith(self._head)
            and self._size < len(block) - self._tail_size == block.find(b'"', self._size)
            and block.endswith(self._tail)
        )

    def learn(self, block: bytes) -> None:
        """`block` is one frame of plain content; the next ones may be like it."""
        start = block.find(_KEY) + len(_KEY)
        end = block.find(b'"', start)
        if start >= len(_KEY) and end > start and block.count(b"\n") == 2 and block[end - 1] != 0x5C:
            self._head, self._tail = block[:start], block[end:]
            self._size, self._tail_size = len(self._head), len(self._tail)
