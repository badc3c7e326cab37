"""The transcript keeps what it is given, in order, within its cap."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.streams.transcript import Transcript


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=60), st.integers(1, 400))
def test_bounded_and_a_suffix_of_what_was_appended(blocks: list[bytes], cap: int) -> None:
    """Memory would grow with the answer, or a reader would get bytes that were never sent."""
    transcript = Transcript(cap)
    for block in blocks:
        transcript.append(block)
    held = list(transcript.blocks)
    assert held == blocks[len(blocks) - len(held) :]
    assert transcript.size == sum(map(len, held))
    assert transcript.size <= cap or len(held) == 1
    assert transcript.tip == len(blocks)
    assert transcript.total == sum(map(len, blocks))


def test_a_trimmed_cursor_is_an_error_not_a_gap() -> None:
    """A reader that fell behind would silently miss tokens."""
    transcript = Transcript(10)
    for _ in range(5):
        transcript.append(b"12345")
    assert transcript.base == 3
    assert transcript.since(3, 10) == [b"12345", b"12345"]
    with pytest.raises(LookupError):
        transcript.since(2, 10)


def test_batches_are_bounded() -> None:
    """One slow reader catching up would hold the loop for the whole transcript."""
    transcript = Transcript(1000)
    for i in range(10):
        transcript.append(b"%d" % i)
    assert transcript.since(2, 3) == [b"2", b"3", b"4"]
