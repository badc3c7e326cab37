"""Incremental framers: bytes in, blocks of complete frames out. Pure; nothing is ever split or merged.

A *frame* is an SSE event with its blank line (WHATWG HTML, section 9.2.6; CR, LF and CRLF all end lines) or an NDJSON
line with its newline. A *block* is one or more complete frames, exactly the bytes that came. Incomplete rests are held
back. Law: however the bytes are cut into reads, the frames and their number are the same, and the work is linear in the
bytes. A byte order mark stays in its block (decoders skip it); a CR at the end of a read waits for the next byte, which
may be its LF.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

from backends.contract.errors import BackendError, ErrorCode

# The end of one line, then an empty line. Atomic: the two halves of a CRLF are never taken for two line ends.
_BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")

_ENDED = re.compile(_BLANK_LINE.pattern + rb"\Z")


class Framer(ABC):
    """One body's framer. `frames` counts the frames returned so far; `rest` is what is held back."""

    __slots__ = ("_held", "frames", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.frames = 0
        self._held = bytearray()

    @property
    def rest(self) -> bytes:
        """The beginning of a frame that is not complete yet."""
        return bytes(self._held)

    @property
    def holding(self) -> bool:
        """Whether something is held back."""
        return bool(self._held)

    @abstractmethod
    def feed(self, data: bytes) -> bytes:
        """The complete frames now available, b"" for none. Raises BackendError EVENT_TOO_LARGE when a frame grows
        beyond the limit (bytes)."""

    @abstractmethod
    def last(self) -> bytes:
        """The body has ended: the frame that only waited for that, b"" for none. Raises as `feed`."""

    @abstractmethod
    def split(self, block: bytes) -> list[bytes]:
        """The frames of a block that `feed` or `last` returned."""

    def _take(self, end: int) -> bytes:
        """Cut the first `end` bytes off what is held: a block. The only place that counts frames of a held block."""
        held = self._held
        block = bytes(held[:end])
        del held[:end]
        if len(held) > self.limit:
            raise self._too_large()
        self._check(block)
        self.frames += len(self.split(block)) if block else 0
        return block

    def _check(self, block: bytes) -> None:
        if len(block) > self.limit and any(len(frame) > self.limit for frame in self.split(block)):
            raise self._too_large()

    def _too_large(self) -> BackendError:
        return BackendError(ErrorCode.EVENT_TOO_LARGE, f"the backend sent an event larger than {self.limit} bytes")


class NdjsonFramer(Framer):
    """Lines ended by LF."""

    __slots__ = ()

    def feed(self, data: bytes) -> bytes:
        if not self._held and data.endswith(b"\n"):
            self._check(data)
            self.frames += data.count(b"\n")
            return data
        before = len(self._held)
        self._held += data
        return self._take(max(0, self._held.rfind(b"\n", before) + 1))

    def last(self) -> bytes:
        """A last line may lack its newline."""
        return self.feed(b"\n") if self._held.strip() else b""

    def split(self, block: bytes) -> list[bytes]:
        lines = block.split(b"\n")
        lines.pop()
        return [line + b"\n" for line in lines]


class SseFramer(Framer):
    """Events ended by a blank line. Bodies that only use LF take a path that never looks at single lines."""

    __slots__ = ("_any_cr",)

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self._any_cr = False

    def feed(self, data: bytes) -> bytes:
        if not self._held and data.endswith(b"\n\n") and b"\r" not in data and not data.endswith(b"\n\n\n"):
            if len(data) > self.limit:
                self._check(data)
            self.frames += data.count(b"\n\n")
            return data
        before = len(self._held)
        self._held += data
        if not self._any_cr:
            self._any_cr = b"\r" in data
        return self._take((_last_cr_boundary if self._any_cr else _last_lf_boundary)(self._held, before))

    def last(self) -> bytes:
        """An event that ends with CR is complete now; an unfinished one is discarded (WHATWG HTML 9.2.6)."""
        return self._take(len(self._held)) if _ENDED.search(self._held) else b""

    def split(self, block: bytes) -> list[bytes]:
        if b"\r" in block:
            return _split_cr(block)
        parts = block.split(b"\n\n")
        parts.pop()
        return [part + b"\n\n" for part in parts]


def _last_lf_boundary(held: bytearray, before: int) -> int:
    """The end of the last complete event; the first `before` bytes of `held` are known to have none."""
    start = max(0, before - 1)
    at = held.rfind(b"\n\n", start)
    if at < 0:
        return 0
    run = at
    while run > 0 and held[run - 1] == 0x0A:
        run -= 1
    return run + (at + 2 - run) // 2 * 2  # of an odd run of newlines the last belongs to the next event


def _last_cr_boundary(held: bytearray, before: int) -> int:
    """As `_last_lf_boundary`, for bodies with CR: a boundary that ends with the last byte, a CR, is not certain yet."""
    start = max(0, before - 3)  # the longest beginning of a boundary is CR LF CR
    if start and held[start] == 0x0A and held[start - 1] == 0x0D:
        start -= 1
    end = 0
    for match in _BLANK_LINE.finditer(held, start):
        if match.end() < len(held) or held[-1] != 0x0D:
            end = match.end()
    return end


def _split_cr(block: bytes) -> list[bytes]:
    frames, start = [], 0
    for match in _BLANK_LINE.finditer(block):
        frames.append(block[start : match.end()])
        start = match.end()
    return frames


# A framing's way to split a block into its frames: the same for every stream.
SPLIT: Mapping[str, Callable[[bytes], list[bytes]]] = {"sse": SseFramer(0).split, "ndjson": NdjsonFramer(0).split}
