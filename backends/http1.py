"""HTTP/1.1 answers, byte by byte: heads and body framing. Pure; what RFC 9112 leaves doubtful is refused.

Heads go through aiohttp's C parser once they are complete; bodies are walked here, because content may look like
framing.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod

from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpResponseParser
from msgspec import Struct

MAX_HEAD = 64 * 1024
_MAX_LINE = 4096  # a chunk-size line with its extensions
_MAX_TRAILERS = 16 * 1024
_SIZE_LINE = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;[^\r\n]*)?\r\n")
_SIZE_START = re.compile(rb"[0-9a-fA-F]{0,15}|[0-9a-fA-F]{1,15}[ \t]*(?:;[^\r\n]*)?\r?")
_LENGTH = re.compile(r"[0-9]{1,18}")
_LAST = b"0\r\n\r\n"  # the chunk that ends a body, and no trailers


# Plain size lines of the chunks that tokens come in -> the length of a read that is exactly one such chunk.
CHUNKS = {line: len(line) + size + 2 for size in range(1, 2048) for line in (b"%x\r\n" % size, b"%X\r\n" % size)}
# As most servers write them, and we: size -> line, and the length of such a read -> line.
_LINES = tuple(b"%x\r\n" % size for size in range(2048))
SIZE_LINES = {CHUNKS[line]: line for line in _LINES[1:]}


def chunk(data: bytes) -> bytes:
    """One chunk of a body (RFC 9112, section 7.1)."""
    size = len(data)
    return (_LINES[size] if size < len(_LINES) else b"%x\r\n" % size) + data + b"\r\n"


class BadResponse(ValueError):
    """The answer breaks the protocol; the text says how, in words of ours."""


class Head(Struct, frozen=True, gc=False):
    """A response head. `length` is None without a Content-Length; `reusable` is what the head says of keep-alive."""

    status: int
    headers: dict[str, str]
    chunked: bool
    length: int | None
    reusable: bool


def parse_head(raw: bytes) -> Head:
    """A complete head, its blank line included. Raises BadResponse (RFC 9112 sections 2.2, 5.2, 6.3; obs-fold, bare
    CR or LF,
    repeated or contradictory lengths and versions other than 1.0 and 1.1 are refused)."""
    check_lines(raw)
    if raw[:8] not in (b"HTTP/1.1", b"HTTP/1.0"):
        raise BadResponse("an answer that is not HTTP/1.0 or HTTP/1.1")
    if b"\r\n " in raw or b"\r\n\t" in raw:
        raise BadResponse("a folded header line")
    parser = HttpResponseParser(
        None,
        None,
        MAX_HEAD,
        max_line_size=MAX_HEAD,
        max_field_size=MAX_HEAD,
        response_with_body=False,
        auto_decompress=False,
    )
    try:
        messages, _, tail = parser.feed_data(raw)
    except HttpProcessingError as error:
        raise BadResponse("a malformed response head") from error
    if len(messages) != 1 or tail:
        raise BadResponse("a malformed response head")
    message = messages[0][0]
    headers = _join(message.raw_headers)
    return Head(message.code, headers, _chunked(headers, raw[7] == 0x31), _length(headers), not message.should_close)


def check_lines(raw: bytes) -> None:
    """Every line of a head ends in CRLF, and no CR stands alone. Raises BadResponse; `raw` may end in the middle."""
    pairs = raw.count(b"\r\n")
    if raw.count(b"\n") != pairs or raw.count(b"\r") != pairs + raw.endswith(b"\r"):
        raise BadResponse("a bare CR or LF in the response head")


def _join(raw: tuple[tuple[bytes, bytes], ...]) -> dict[str, str]:
    """Lower-case names; repeated fields joined by commas. Cookies are nobody's business here and are dropped."""
    headers: dict[str, str] = {}
    for name_bytes, value_bytes in raw:
        name = name_bytes.decode("latin-1").lower()
        value = value_bytes.decode("utf-8", "replace")
        if name == "content-length" and name in headers:
            raise BadResponse("more than one Content-Length")
        if name != "set-cookie":
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _chunked(headers: dict[str, str], version_11: bool) -> bool:
    coding = headers.get("transfer-encoding")
    if coding is None:
        return False
    if "content-length" in headers:
        raise BadResponse("both Content-Length and Transfer-Encoding")
    if coding.lower() != "chunked" or not version_11:
        raise BadResponse("an unknown Transfer-Encoding")
    return True


def _length(headers: dict[str, str]) -> int | None:
    text = headers.get("content-length")
    if text is None:
        return None
    if _LENGTH.fullmatch(text) is None:
        raise BadResponse("a Content-Length that is not a number")
    return int(text)


class Body(ABC):
    """One body's framing. `done` turns True at its end; `extra` says whether bytes followed it."""

    __slots__ = ("done", "extra")

    def __init__(self) -> None:
        self.done = False
        self.extra = False

    @abstractmethod
    def feed(self, data: bytes) -> bytes:
        """The content in these bytes, b"" for none. Raises BadResponse."""

    @property
    def resting(self) -> bool:
        """Whether the next byte begins a chunk."""
        return False

    def close(self) -> bool:
        """The peer closed cleanly: is the body complete?"""
        return self.done


class CloseBody(Body):
    """A body that ends where the connection ends."""

    __slots__ = ()

    def feed(self, data: bytes) -> bytes:
        return data

    def close(self) -> bool:
        return True


class Unheard(Body):
    """The rest of one that nobody hears: it has no end."""

    __slots__ = ()

    def feed(self, data: bytes) -> bytes:
        return b""


class LengthBody(Body):
    """A body of so many bytes."""

    __slots__ = ("_left",)

    def __init__(self, length: int) -> None:
        super().__init__()
        self._left = length
        self.done = length == 0

    def feed(self, data: bytes) -> bytes:
        left = self._left
        if len(data) < left:
            self._left = left - len(data)
            return data
        self.done, self.extra, self._left = True, len(data) > left, 0
        return data[:left]


class ChunkedBody(Body):
    """RFC 9112 section 7.1. A read that is exactly one chunk, the usual case of token streams, never enters the
    walk."""

    __slots__ = ("_left", "_rest", "_step", "_trailers")

    _SIZE, _DATA, _END, _TRAILER = range(4)

    def __init__(self) -> None:
        super().__init__()
        self._step = self._SIZE
        self._left = 0  # payload bytes of the present chunk still to come
        self._rest = b""  # an incomplete line
        self._trailers = 0

    @property
    def resting(self) -> bool:
        return self._step == self._SIZE and not self._rest and not self.done

    def feed(self, data: bytes) -> bytes:
        if self._step == 0 and not self._rest:
            start = data.find(b"\n", 0, 8) + 1
            if CHUNKS.get(data[:start]) == len(data) and data.endswith(b"\r\n"):
                return data[start:-2]
        return self._walk(data)

    def _walk(self, data: bytes) -> bytes:
        if self._rest:
            data, self._rest = self._rest + data, b""
        parts: list[bytes] = []
        pos, end = 0, len(data)
        while pos < end and not self.done:
            if self._step == self._SIZE:
                start = data.find(b"\n", pos, pos + 8) + 1
                after = pos + CHUNKS.get(data[pos:start], end + 1)
                if after <= end and data.endswith(b"\r\n", pos, after):  # whole, as most are
                    parts.append(data[start : after - 2])
                    pos = after
                    continue
                if data.startswith(_LAST, pos):
                    self.done = True
                    pos += len(_LAST)
                    break
            elif self._step == self._DATA:
                part = data[pos : pos + self._left]
                parts.append(part)
                pos += len(part)
                self._left -= len(part)
                if self._left == 0:
                    self._step = self._END
                continue
            after = self._line(data, pos)
            if after < 0:
                self._rest = data[pos:]
                break
            pos = after
        self.extra = self.done and pos < end
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _line(self, data: bytes, pos: int) -> int:
        """Take one line of framing at `pos`; the position after it, or -1 when it is not complete yet."""
        if self._step == self._SIZE:
            return self._size(data, pos)
        if self._step == self._END:
            return self._end(data, pos)
        return self._trailer(data, pos)

    def _size(self, data: bytes, pos: int) -> int:
        match = _SIZE_LINE.match(data, pos)
        if match is None:
            if len(data) - pos > _MAX_LINE or _SIZE_START.fullmatch(data, pos) is None:
                raise BadResponse("a bad chunk size")
            return -1
        self._left = int(match[1], 16)
        self._step = self._DATA if self._left else self._TRAILER
        return match.end()

    def _end(self, data: bytes, pos: int) -> int:
        if data.startswith(b"\r\n", pos):
            self._step = self._SIZE
            return pos + 2
        if data[pos:] == b"\r":
            return -1
        raise BadResponse("a chunk longer than its size")

    def _trailer(self, data: bytes, pos: int) -> int:
        after = data.find(b"\n", pos) + 1
        if self._trailers + (after or len(data)) - pos > _MAX_TRAILERS:
            raise BadResponse("too many trailers")
        if not after:
            return -1
        self._trailers += after - pos
        if not data.endswith(b"\r\n", pos, after):
            raise BadResponse("a bare LF in the trailers")
        self.done = after - pos == 2
        return after


def body_of(head: Head, method: str) -> Body:
    """The framing of this answer's body (RFC 9112 section 6.3)."""
    if method == "HEAD" or head.status in (204, 304):
        return LengthBody(0)
    if head.chunked:
        return ChunkedBody()
    return CloseBody() if head.length is None else LengthBody(head.length)
