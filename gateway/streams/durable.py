"""The words of the Durable Streams protocol (draft, github.com/durable-streams/durable-streams, PROTOCOL.md, sections 5
to 8 and 10.7): offsets, cursors, tags, and the three ways a piece of a stream is written. Pure; clock and chance are
arguments.

Law: an offset is a number of bytes of one view, in digits of one width, so that offsets sort as text; `-1` and `now`
are never offsets.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec import Struct

from backends.contract.errors import BackendError, ErrorCode

Mode = Literal["catch-up", "long-poll", "sse"]
Kind = Literal["json", "text", "binary"]

NOW = -1  # `offset=now`: behind everything there is
_WIDTH = 16
_OFFSET = re.compile(rf"[0-9]{{{_WIDTH}}}")
_CURSOR = re.compile(r"[0-9]{1,18}")
_LINES = re.compile(rb"\r\n|\r|\n")
_INTERVAL = 20  # seconds of one cursor (section 8.1)
_EPOCH = 1_728_432_000  # 2024-10-09T00:00:00Z, in Unix seconds


class Ask(Struct, frozen=True):
    """What a read wants. `start`: a position in bytes, or NOW."""

    start: int
    mode: Mode
    cursor: str


class Piece(Struct, frozen=True):
    """Some bytes of a stream, and where they leave the reader: at `next`; whether there is no more so far
    (`up_to_date`), or for ever (`closed`)."""

    data: bytes
    next: int
    up_to_date: bool
    closed: bool


def read_ask(offsets: Sequence[str], lives: Sequence[str], cursors: Sequence[str]) -> Ask:
    """From the query's values of `offset`, `live` and `cursor`. Raises BackendError INVALID_REQUEST."""
    if len(offsets) > 1 or len(lives) > 1:
        raise _wrong("offset", "given once")
    live = lives[0] if lives else ""
    if live not in ("", "long-poll", "sse"):
        raise _wrong("live", "`long-poll` or `sse`")
    if live and not offsets:
        raise _wrong("offset", "given with `live`")
    cursor = cursors[0] if cursors and _CURSOR.fullmatch(cursors[0]) else ""
    mode: Mode = "sse" if live == "sse" else "long-poll" if live else "catch-up"
    return Ask(_start(offsets[0] if offsets else "-1"), mode, cursor)


def _start(text: str) -> int:
    if text == "-1":
        return 0
    if text == "now":
        return NOW
    if not _OFFSET.fullmatch(text):
        raise _wrong("offset", "an offset of this stream, `-1` or `now`")
    return int(text)


def offset_text(position: int) -> str:
    """A position as clients see it."""
    return f"{position:0{_WIDTH}d}"


def cursor_text(now: float, said: str, jitter: int) -> str:
    """The cursor of an answer: the number of the 20 s interval `now` (Unix seconds) is in; beyond what the client said
    already by `jitter` (1 or more) intervals, so that no cache ever answers it the same again."""
    interval = int(now - _EPOCH) // _INTERVAL
    return str(interval if not said or int(said) < interval else int(said) + jitter)


def etag(name: str, start: int, piece: Piece) -> str:
    """Changes with the range and with the end of the stream."""
    return f'"{name}:{start}:{piece.next}{":closed" if piece.closed else ""}"'


def kind_of(content_type: str) -> Kind:
    """How a content type's bytes travel: as messages, as text, or as they are (base64 inside SSE)."""
    media = content_type.partition(";")[0].strip().lower()
    if media == "application/json":
        return "json"
    return "text" if media.startswith("text/") else "binary"


def body_of(kind: Kind, data: bytes) -> bytes:
    """A piece as an HTTP body. The bytes of a JSON stream are lines, one message each."""
    return data if kind != "json" else b"[" + b",".join(line for line in data.split(b"\n") if line) + b"]"


def data_event(kind: Kind, data: bytes) -> bytes:
    """A piece as an SSE `data` event."""
    if kind == "text":
        lines = _LINES.split(data)
    else:
        lines = [b64encode(data) if kind == "binary" else body_of(kind, data)]
    # a space after the colon is taken off by readers: only a line that begins with one needs it
    return b"event: data\n" + b"".join(b"data:" + b" " * line.startswith(b" ") + line + b"\n" for line in lines) + b"\n"


def control_event(piece: Piece, cursor: str) -> bytes:
    """The SSE `control` event that goes with a piece. A closed stream has no cursor: nobody comes back."""
    told: dict[str, object] = {"streamNextOffset": offset_text(piece.next)}
    if piece.up_to_date:
        told["upToDate"] = True
    if piece.closed:
        told["streamClosed"] = True
    else:
        told["streamCursor"] = cursor
    return b"event: control\ndata:" + msgspec.json.encode(told) + b"\n\n"


def headers_of(piece: Piece) -> dict[str, str]:
    """What every answer says of where it ends."""
    found = {"Stream-Next-Offset": offset_text(piece.next)}
    if piece.up_to_date:
        found["Stream-Up-To-Date"] = "true"
    if piece.closed:
        found["Stream-Closed"] = "true"
    return found


def _wrong(name: str, wanted: str) -> BackendError:
    return BackendError(ErrorCode.INVALID_REQUEST, f"`{name}` must be {wanted}", param=name)
