"""Whatever comes in between, a transcript is the list of blocks it was given, less the oldest ones."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.streams.transcript import Transcript

TEXTS = st.text(st.sampled_from("aé日😀 ") | st.characters(codec="utf-8"), max_size=9).map(
    lambda text: "".join(filter(str.isprintable, text))
)
AROUND = st.sampled_from([b"", b"\n", b"head ", b"h" * 30])


class Machine(RuleBasedStateMachine):
    """A lane, or a road without one, writes; `told` is all that was ever said, and `base` grows as the cap says."""

    def __init__(self) -> None:
        super().__init__()
        self.transcript = Transcript(60)
        self.around = b"", b""
        self.told: list[bytes] = []
        self.base = self.measured = 0
        self.lane = -1  # the first text a lane has not settled
        self.old: list[tuple[Transcript, list[bytes]]] = []

    def trim(self) -> None:
        """What the cap says, at a moment when the transcript looks. A lane's texts stay until it settles."""
        self.measured = len(self.told)
        while sum(map(len, self.told[self.base :])) > self.transcript.cap and len(self.told) - self.base > 1:
            if self.base == self.lane:
                break
            self.base += 1

    @rule(texts=st.lists(TEXTS, min_size=1, max_size=12))
    def say(self, texts: list[str]) -> None:
        """As a lane does it."""
        self.lane = len(self.told) if self.lane < 0 else self.lane
        self.transcript.held.extend(texts)
        self.told += [self.around[0] + text.encode() + self.around[1] for text in texts]

    @rule(block=st.binary(max_size=60))
    def append(self, block: bytes) -> None:
        """As the ordinary road does it."""
        self.told.append(block)
        self.trim()
        assert self.transcript.append(block) == sum(map(len, self.told[self.base :]))

    @rule(head=AROUND, tail=AROUND)
    def open(self, head: bytes, tail: bytes) -> None:
        """A lane opens."""
        self.lane = -1
        self.around = head, tail
        self.transcript.alike(head, tail)
        self.trim()

    @rule()
    def look(self) -> None:
        """Somebody asks."""
        self.trim()
        assert self.transcript.base == self.base

    @rule()
    def pack(self) -> None:
        """A lane settles."""
        self.lane = -1
        self.trim()
        self.transcript.pack()

    @rule(cap=st.sampled_from([1, 20, 60, 200, 5000]))
    def bound(self, cap: int) -> None:
        """Other bounds, from the next look on."""
        self.transcript.cap = cap

    @rule(cap=st.sampled_from([1, 20, 200, 5000]))
    def inherit(self, cap: int) -> None:
        """Another one goes on from it; it stays as it is."""
        self.lane = -1
        self.trim()
        successor = Transcript(cap)
        successor.extend(self.transcript)
        self.old.append((self.transcript, self.told[self.base :]))
        self.transcript = successor
        self.around = b"", b"!"
        successor.alike(*self.around)
        self.trim()

    @invariant()
    def reads_the_same_from_everywhere(self) -> None:
        """Any cursor, any step; nothing is measured by reading."""
        transcript, tip = self.transcript, len(self.told)
        assert transcript.tip == tip
        assert transcript.blocks == self.told[self.base :]
        for cursor in range(self.base, tip + 2):
            for most in (0, 1, 3, 64):
                assert transcript.since(cursor, most) == self.told[cursor : cursor + most]
        for cursor in range(self.base):
            with pytest.raises(LookupError):
                transcript.since(cursor, 1)
        for other, held in self.old:
            assert other.blocks == held

    @invariant()
    def says_what_it_says(self) -> None:
        """Texts that are given with what is around them are the blocks."""
        for first in range(self.base, len(self.told)):
            said = self.transcript.said(first, 16)
            assert said is None or [said[0].whole(text) for text in said[1]] == self.told[first:]

    @invariant()
    def counts_what_was_measured(self) -> None:
        """The counts are those of the last look: nothing is measured twice, and nothing forgotten."""
        transcript = self.transcript
        assert transcript.trimmed == sum(map(len, self.told[: self.base]))
        assert transcript._bytes == sum(map(len, self.told[: self.measured]))


Machine.TestCase.settings = settings(max_examples=200, stateful_step_count=25, deadline=None)
TestMachine = Machine.TestCase


def test_what_was_measured_is_put_away_as_it_is() -> None:
    """Who resumes would read old texts again instead of the newest, or the view of a lane's reader would never hear of
    some: a look at a lane's transcript had trimmed them."""
    transcript = Transcript(10)
    said = [f"a{i}a" for i in range(10)]
    transcript.held.extend(said[:5])
    assert transcript.size == 15
    assert transcript.base == 0
    transcript.held.extend(said[5:])
    transcript.pack()
    assert transcript.base == 7
    assert transcript.blocks == [text.encode() for text in said[7:]]


def test_one_letter_does_not_make_all_of_them_as_large() -> None:
    """Four times the memory the cap allows would be taken by long texts with an emoji now and then."""
    tracemalloc.start()
    transcript = Transcript(1 << 20)
    transcript.alike(b"h" * 100, b"t" * 50)
    for i in range(640):
        transcript.held.append(("a" * 1500 + "😀" * (i % 32 == 5)).encode().decode())
        if i % 32 == 31:
            transcript.pack()
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert taken < transcript.size * 1.2
    assert transcript.memory == pytest.approx(taken, rel=0.15)


@pytest.mark.parametrize("every", [1, 2, 5, 32])
def test_its_memory_is_that_of_the_process_where_roads_change(every: int) -> None:
    """Answers with many quotes leave the lane again and again: what is put away a block at a time is counted, too."""
    tracemalloc.start()
    transcript = Transcript(1 << 20)
    for i in range(2000):
        if i % every == 0:
            transcript.append(b"q" * 199 + b"%d" % (i % 10))
            transcript.alike(b"h" * 150, b"t" * 50)
        transcript.held.append(f" the{i % 10}".encode().decode())
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert transcript.memory == pytest.approx(taken, rel=0.15)
