"""The transcript keeps what it is given, in order, within its cap."""

from __future__ import annotations

import tracemalloc

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


SAYS = st.one_of(
    st.binary(min_size=1, max_size=30).map(lambda block: ("block", block, b"")),
    st.text(min_size=1, max_size=8).filter(str.isprintable).map(lambda text: ("text", text.encode(), b"")),
    st.just(("pack", b"", b"")),
    st.tuples(st.just("alike"), st.binary(max_size=12), st.binary(max_size=12)),
)


@given(st.lists(SAYS, max_size=60), st.integers(1, 300), st.integers(0, 60), st.integers(1, 20))
def test_texts_are_the_blocks_they_stand_for(
    says: list[tuple[str, bytes, bytes]], cap: int, cursor: int, most: int
) -> None:
    """Who resumes, or another node, would read other bytes than the first client, or a hole after trimming."""
    transcript, told = Transcript(cap), []
    around = (b"", b"")
    for kind, first, second in says:
        if kind == "alike":
            around = first, second
            transcript.alike(first, second)
        elif kind == "pack":
            assert transcript.pack() <= cap or transcript.tip == transcript.base + 1
        elif kind == "text":
            transcript.held.append(first.decode())
            told.append(around[0] + first + around[1])
        else:
            transcript.append(first)
            told.append(first)
    base = transcript.base
    assert transcript.blocks == told[base:]
    assert transcript.size == sum(map(len, told[base:]))
    assert transcript.total == sum(map(len, told))
    if base <= cursor <= transcript.tip:
        assert transcript.since(cursor, most) == told[cursor : cursor + most]
    first = len(told) - min(most, len(told) - base)
    said = transcript.said(first, most)
    spoken = [kind == "text" for kind, _, _ in says if kind in ("text", "block")][first:]
    assert said is None or all(spoken)
    assert said is None or [said[0].whole(text) for text in said[1]] == told[first:]
    assert said is not None or not all(spoken) or not spoken or transcript._alikes[-1].first > first
    assert transcript.pack() <= cap or transcript.tip <= transcript.base + 1
    successor = Transcript(cap)
    successor.extend(transcript)
    successor.append(b"x")
    assert successor.blocks[-1:] == [b"x"]
    assert [*told[successor.base :], b"x"] == successor.blocks


@pytest.mark.parametrize("text", [" the", "日本", "😀"])
def test_its_memory_is_that_of_the_process(text: str) -> None:
    """Ended answers in other scripts would take nearly twice the memory operators allow them."""
    tracemalloc.start()
    transcript = Transcript(1 << 20)
    transcript.alike(b"h" * 150, b"t" * 50)
    for _ in range(2000):
        transcript.held.append(text.encode().decode())
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert transcript.memory == pytest.approx(taken, rel=0.15)
