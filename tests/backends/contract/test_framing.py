"""Framing law: cuts between reads change neither the frames nor their number."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.contract.errors import BackendError, ErrorCode
from backends.contract.framing import Framer, NdjsonFramer, SseFramer

_PIECES = st.lists(
    st.sampled_from(["data: é", ": c", "id: 1", "\n", "\n\n", "\r", "\r\n", "\r\n\r\n", "x", "\ufeff"]), max_size=25
)


def _run(framer: Framer, parts: list[bytes]) -> tuple[list[bytes], int, bytes]:
    frames = [f for part in parts for f in framer.split(framer.feed(part))]
    return frames, framer.frames, framer.rest


@settings(max_examples=150, deadline=None)
@given(pieces=_PIECES, cuts=st.lists(st.integers(0, 120), max_size=6), sse=st.booleans())
def test_any_cuts_give_the_same_frames(pieces: list[str], cuts: list[int], sse: bool) -> None:
    """A frame would change with the sizes of TCP reads, and resume would lose its place."""
    data = "".join(pieces).encode() + b"end"
    kind = SseFramer if sse else NdjsonFramer
    marks = [0, *sorted(min(c, len(data)) for c in cuts), len(data)]
    whole = _run(kind(10_000), [data])
    cut = _run(kind(10_000), [data[a:b] for a, b in itertools.pairwise(marks)])
    single = _run(kind(10_000), [data[i : i + 1] for i in range(len(data))])
    assert whole == cut == single
    assert b"".join(whole[0]) + whole[2] == data
    assert whole[1] == len(whole[0])


def test_the_usual_block_is_returned_itself() -> None:
    """Copies on the token path would cost."""
    framer, block = SseFramer(1000), b"data: a\n\ndata: b\n\n"
    assert framer.feed(block) is block
    assert framer.frames == 2


def test_a_crlf_cut_between_reads_is_one_line_end() -> None:
    """A CR taken alone would end an event early and leave an LF as an event of its own."""
    framer = SseFramer(1000)
    assert framer.feed(b"data: a\r\n\r") == b""
    assert framer.feed(b"\ndata") == b"data: a\r\n\r\n"
    assert framer.rest == b"data"


@pytest.mark.parametrize(
    "data", [b"data: " + b"x" * 100, b"data: " + b"x" * 100 + b"\n\n", b"d\n\ndata: " + b"x" * 100 + b"\n\n"]
)
@pytest.mark.parametrize("step", [7, 1000])
def test_a_frame_beyond_the_limit_is_refused(data: bytes, step: int) -> None:
    """One endless line of a backend would fill the memory."""
    framer = SseFramer(64)
    with pytest.raises(BackendError) as caught:  # noqa: PT012 - any of the pieces may be the one too many
        for i in range(0, len(data), step):
            framer.feed(data[i : i + step])
    assert caught.value.code is ErrorCode.EVENT_TOO_LARGE


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_a_3_mb_event_in_small_pieces_is_linear(newline: bytes) -> None:
    """Searching or copying all that is held at each read would take minutes of CPU."""
    framer, began, got = SseFramer(4 << 20), time.process_time(), b""
    data = b"data: " + b"x" * (3 << 20) + newline * 2
    for i in range(0, len(data), 512):
        got += framer.feed(data[i : i + 512])
    assert got == data
    assert time.process_time() - began < 2.0
