"""What the chunks of a request's body say they will hold (RFC 9112, 7.1): too much is known before it comes. Pure.

Law: it only counts. The parser judges the framing; from the first line that is no size on nothing is said any more.
"""

from __future__ import annotations

import re

_SIZE = re.compile(rb"([0-9a-fA-F]{1,32})[ \t]*(?:;.*)?\r?", re.DOTALL)
_LINE = 64  # bytes of a line that are kept: extensions are nobody's


class ChunkSizes:
    """One body. `limit`: bytes it may have."""

    __slots__ = ("_left", "_line", "_skip")

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._line = b""  # the beginning of a line that is incomplete
        self._skip = 0  # bytes to come of a chunk and its line end; negative: nothing is followed any more

    def beyond(self, data: bytes) -> bool:
        """Whether, by these bytes of the framed body, it is to have more than its limit."""
        at, end = 0, len(data)
        while self._skip >= 0 and at < end:
            if self._skip:
                step = min(self._skip, end - at)
                self._skip -= step
                at += step
                continue
            stop = data.find(b"\n", at)
            self._line += data[at : min(stop if stop >= 0 else end, at + _LINE - len(self._line))]
            if stop < 0:
                return False
            at = stop + 1
            self._next()
            if self._left < 0:
                return True
        return False

    def _next(self) -> None:
        """A line is complete."""
        found = _SIZE.fullmatch(self._line)
        size = int(found[1], 16) if found else 0
        self._line = b""
        self._left -= size
        self._skip = size + 2 if size else -1
