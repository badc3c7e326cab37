"""Where a reader goes on: every way of saying it, turned into one number. Pure.

Law: a cursor is the number of frames of its view the client already has, so that any client can count it, with ids or
without. A header goes before the query: an EventSource repeats the address it was first given. Nothing is guessed: what
is no cursor is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from backends.contract.errors import BackendError, ErrorCode

_NUMBER = re.compile(r"[0-9]{1,15}")
# Query parameters in order of precedence, and what is added to their value. A `starting_after` is the number of the
# last event received, counted from 0; `startIndex` and `from` are the number of the first one wanted, counted from 0.
_PARAMS = (("after", 0), ("starting_after", 1), ("startIndex", 0), ("from", 0), ("offset", 0))


def split_event_id(text: str) -> tuple[str, int]:
    """(stream id, frames received) of a `Last-Event-ID`; the id is "" for a bare number. Raises INVALID_REQUEST."""
    stream_id, dot, number = text.strip().rpartition(".")
    if dot and not stream_id:
        raise _wrong("Last-Event-ID", "the id of an event of this stream")
    return stream_id, _number("Last-Event-ID", number)


def names_cursor(last_event_id: str | None, query: Mapping[str, str]) -> bool:
    """Whether a request says where it goes on, rightly or wrongly."""
    return bool(last_event_id) or any(query.get(name) for name, _ in _PARAMS)


def read_cursor(
    stream_id: str, last_event_id: str | None = None, after: str | None = None, query: Mapping[str, str] | None = None
) -> int:
    """Frames received: `Last-Event-ID`, else `X-Stream-After` (`after`), else the query; 0 where nothing is said.

    Raises BackendError INVALID_REQUEST: not a number, or the id of another stream.
    """
    if last_event_id:
        said, number = split_event_id(last_event_id)
        if said not in ("", stream_id):
            raise _wrong("Last-Event-ID", "the id of an event of this stream")
        return number
    if after:
        return _number("X-Stream-After", after.strip())
    for name, more in _PARAMS:
        value = (query or {}).get(name)
        if value:
            return _number(name, value) + more
    return 0


def _number(name: str, text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise _wrong(name, "a number of frames")
    return int(text)


def _wrong(name: str, wanted: str) -> BackendError:
    return BackendError(ErrorCode.INVALID_REQUEST, f"`{name}` must be {wanted}", param=name)
