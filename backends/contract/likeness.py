"""Whether a block is the last plain content chunk over again but for its text: the token path's short cut. Pure.

Chunks of one stream mostly differ inside one JSON string only. When head and tail are the bytes of a chunk that decoded
to one piece of text, and between them stands nothing that JSON escapes, the block is one frame whose only meaning is
that text: it need not be framed, searched, decoded or encoded.
"""

from __future__ import annotations

import re

_KEY = re.compile(rb'"(?:content|text|delta|response)"[ \t]*:[ \t]*"\Z')
_TRIES = 32  # blocks learnt from in vain before it gives up: some servers put something new into every chunk


class Likeness:
    """One per stream. Fed with blocks that decoded to exactly one piece of text; `head` and `tail` are learnt."""

    __slots__ = ("_cut", "_size", "head", "tail", "tries")

    def __init__(self) -> None:
        self.head, self.tail = b"\n", b"\n"  # like nothing
        self._size = self._cut = 1
        self.tries = _TRIES

    def text(self, block: bytes) -> str | None:
        """The text of a block like the learnt one; None for any other block. It needs no escape in JSON."""
        if not block.startswith(self.head) or not block.endswith(self.tail):
            return None
        try:
            text = block[self._size : -self._cut].decode()
        except UnicodeDecodeError:
            return None
        return text if text and text.isprintable() and '"' not in text and "\\" not in text else None

    def learn(self, block: bytes, text: str) -> None:
        """`block` is whole frames and decoded to this text and nothing else. Keeps what is around it, if it is one
        frame with the text in one place under a name content has."""
        self.tries -= 1
        raw = text.encode("utf-8", "replace")
        start = block.find(b'"' + raw + b'"') + 1
        if start < 1 or not raw or block.count(b'"' + raw + b'"') != 1 or not _KEY.search(block[:start]):
            return
        head, tail = block[:start], block[start + len(raw) :]
        event = b"\n\n" not in head and tail.endswith(b"\n\n") and tail.count(b"\n") == 2
        line = b"\n" not in head and tail.endswith(b"\n") and tail.count(b"\n") == 1
        if (event or line) and b"\r" not in block:
            self.head, self.tail = head, tail
            self._size, self._cut = len(head), len(tail)
