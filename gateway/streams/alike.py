"""What blocks have in common that differ in a piece of text alone. Pure.

Law: a text between `head` and `tail` is the block it was taken from, byte for byte.
"""

from __future__ import annotations

from msgspec import Struct


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
        return self.around(1) + (len(held) if held.isascii() else len(held.encode()))

    def around(self, count: int) -> int:
        """Bytes around so many texts."""
        return count * (len(self.head) + len(self.tail))


UNLIKE = Alike(0, b"", b"")
