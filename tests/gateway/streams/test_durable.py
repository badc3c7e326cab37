"""Durable Streams in words: offsets, cursors, tags, events."""

from __future__ import annotations

import json
from base64 import b64decode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.contract.errors import BackendError
from gateway.streams.durable import (
    NOW,
    Ask,
    Piece,
    body_of,
    control_event,
    cursor_text,
    data_event,
    etag,
    headers_of,
    kind_of,
    offset_text,
    read_ask,
)
from gateway.streams.skipping import SLICE
from gateway.streams.tape import Tape


@given(st.integers(0, 10**15), st.integers(0, 10**15))
def test_offsets_sort_as_text_and_come_back(one: int, two: int) -> None:
    """Clients compare offsets as text, and hand them back."""
    assert (offset_text(one) < offset_text(two)) == (one < two)
    assert read_ask([offset_text(one)], [], []) == Ask(one, "catch-up", "")


def test_what_a_read_asks_for() -> None:
    """The beginning, the end and the modes would be mixed up."""
    assert read_ask([], [], []) == Ask(0, "catch-up", "")
    assert read_ask(["-1"], ["long-poll"], ["12"]) == Ask(0, "long-poll", "12")
    assert read_ask(["now"], ["sse"], ["x"]) == Ask(NOW, "sse", "")


@pytest.mark.parametrize(
    "offset", ["", " ", "-2", "1", "NOW", "0" * 15, "0" * 17, "00000000000000٣3", "0000000000000001\n"]
)
def test_what_is_no_offset(offset: str) -> None:
    """A guess would be served as an offset."""
    with pytest.raises(BackendError):
        read_ask([offset], [], [])


def test_cursors_never_go_back() -> None:
    """A cache between us and a client would answer it the same for ever."""
    now = 1_728_432_000 + 20 * 1000.0
    assert cursor_text(now, "", 5) == "1000"
    assert cursor_text(now, "999", 5) == "1000"
    assert cursor_text(now, "1000", 5) == "1005"
    assert cursor_text(now, "2000", 1) == "2001"


@given(st.binary(max_size=200))
def test_text_and_binary_events_give_the_bytes_back(data: bytes) -> None:
    """A line break or a leading space in a payload would end an event, or be lost."""
    for kind in ("text", "binary"):
        event = data_event(kind, data)
        lines = event.split(b"\n")
        assert (lines[0], lines[-2:]) == (b"event: data", [b"", b""])
        assert event.count(b"\n\n") == 1
        assert b"\r" not in event
        payload = b"\n".join(line.removeprefix(b"data:").removeprefix(b" ") for line in lines[1:-2])
        if kind == "text":
            assert payload == data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        else:
            assert b64decode(payload) == data


def test_messages_and_endings() -> None:
    """JSON streams would be no JSON; a closed stream would be asked again."""
    assert json.loads(body_of("json", b'{"a":1}\n{"b":2}\n')) == [{"a": 1}, {"b": 2}]
    assert body_of("json", b"") == b"[]"
    assert [kind_of(t) for t in ("application/json; charset=utf-8", "Text/Plain", "application/x-ndjson")] == [
        "json",
        "text",
        "binary",
    ]
    part, end = Piece(b"ab", 2, False, False), Piece(b"ab", 2, True, True)
    assert etag("n", 0, part) != etag("n", 0, end)
    assert headers_of(part) == {"Stream-Next-Offset": offset_text(2)}
    assert headers_of(end)["Stream-Closed"] == "true"
    assert b"streamCursor" in control_event(part, "7")
    assert b"streamCursor" not in control_event(end, "7")


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=30), st.integers(0, 300), st.integers(1, 100))
def test_a_tape_gives_every_byte_once(writes: list[bytes], start: int, most: int) -> None:
    """Bytes at the edge of two pieces would be lost or doubled."""
    waiting = list(writes)
    tape = Tape(start, most, later=lambda call: call())

    def go_on() -> None:
        while waiting and not tape.blocked:
            tape.write(waiting.pop(0))

    tape.on_drain = go_on
    go_on()
    got = b""
    for _ in range(len(writes) + 2):
        got += tape.take()
    assert got == b"".join(writes)[start:]
    assert tape.total == sum(map(len, writes))


def test_a_tape_stops_for_others() -> None:
    """A long replay would hold up every other stream's tokens."""
    later: list[object] = []
    tape = Tape(None, 1 << 30, later=later.append)
    tape.write(b"x" * SLICE)
    assert (tape.blocked, len(later), tape.size) == (True, 1, 0)
    later[0]()  # type: ignore[operator]
    assert not tape.blocked
    tape.mark_now()
    tape.write(b"new")
    assert (tape.take(), tape.start) == (b"new", SLICE + 3)
