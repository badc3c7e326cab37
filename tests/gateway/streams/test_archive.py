"""Ended streams: how long they are kept, how much of them, and what is left afterwards."""

from __future__ import annotations

import asyncio

from backends.catalog import build
from backends.contract.events import Usage
from config.schema import Backend
from gateway.protocols.base import Ending
from gateway.streams.archive import GRAVE, Archive, Gone, Recording
from gateway.streams.skipping import SLICE, Skipping, counting
from gateway.streams.stream import Identity, State
from gateway.streams.transcript import Transcript
from gateway.streams.turns import Turns
from gateway.streams.views import about_of

DRIVER = build("up", Backend(driver="demo"))


def recording(name: str, *, owner: str = "me", size: int = 1000, ended: float = 0.0) -> Recording:
    transcript = Transcript(1 << 20)
    transcript.begin(DRIVER)
    for _ in range(10):
        transcript.append(b"x" * (size // 10))
    who = Identity(name, owner, "native", "m", "up", "m", "n", 1)
    ending = Ending("stop", Usage(), False, 1)
    return Recording(
        who, DRIVER, about_of(who, include_usage=True, dialect="openai"), transcript, State.COMPLETED, ending, ended
    )


def test_kept_for_the_window_then_a_tombstone_then_nothing() -> None:
    """A client that comes back late could not tell an expired stream from a mistyped id."""
    archive = Archive(600, 1 << 20)
    kept = recording("a")
    archive.keep(kept)
    assert archive.find("a", "me", 599) is kept
    assert archive.find("a", "me", 600) == Gone("completed")
    assert (len(archive), archive.size) == (0, 0)
    assert archive.find("a", "me", 600 + GRAVE) is None
    assert archive.find("b", "me", 600) is None


def test_owners_are_told_apart() -> None:
    """Two owners may choose the same id; one would read the other's answer."""
    archive = Archive(600, 1 << 20)
    mine, yours = recording("a"), recording("a", owner="you")
    archive.keep(mine)
    archive.keep(yours)
    assert archive.find("a", "me", 1) is mine
    assert archive.find("a", "you", 1) is yours
    assert archive.find("a", "else", 1) is None


def test_memory_is_bounded_and_the_oldest_goes_first() -> None:
    """A busy hour would fill the machine."""
    archive = Archive(600, 50_000)
    for n in range(100):
        archive.keep(recording(f"s{n}", size=5000, ended=float(n)))
        assert archive.size <= 50_000
    assert archive.find("s99", "me", 99) is not None
    assert archive.find("s0", "me", 99) == Gone("completed")
    assert 3 < len(archive) < 11


def test_tombstones_are_bounded_by_number() -> None:
    """A day of short streams would fill the machine with their graves."""
    archive = Archive(0, 1 << 20, max_graves=5)
    for n in range(20):
        archive.keep(recording(f"s{n}"))
    assert archive.find("s0", "me", 0) is None
    assert archive.find("s19", "me", 0) == Gone("completed")


def test_a_stream_whose_beginning_is_lost_is_not_kept() -> None:
    """A view made of the rest would count its frames wrongly."""
    archive = Archive(600, 1 << 20)
    archive.keep(recording("a"), whole=False)
    assert archive.find("a", "me", 1) == Gone("completed", "cursor_expired")


def test_an_id_used_again_is_the_new_stream() -> None:
    """The bytes of the replaced one would be counted for ever."""
    archive = Archive(600, 1 << 20)
    archive.keep(recording("a"))
    again = recording("a", size=2000)
    archive.keep(again)
    assert archive.find("a", "me", 1) is again
    assert archive.size == again.size


def test_packing_keeps_every_byte() -> None:
    """What is replayed would differ from what was sent."""
    kept = recording("a", size=100_000)
    assert b"".join(kept.transcript.blocks) == b"x" * 100_000


class Sink:
    """An output that remembers."""

    def __init__(self) -> None:
        self.blocked = False
        self.data = b""
        self.closed: bool | None = None

    def write(self, data: bytes) -> None:
        self.data += data

    def close(self, clean: bool) -> None:
        self.closed = clean


def skipping(sink: Sink, skip: int, *, sse: bool = True, envelope: bool = False) -> Skipping:
    return Skipping(sink, skip, sse=sse, later=lambda call: None, envelope=envelope)


def test_frames_are_left_out_whole_and_comments_do_not_count() -> None:
    """A client that counts events would be given one too many or too few."""
    frames = [b"id: 1\ndata: a\n\n", b": note\n\n", b"data: b\r\n\r\n", b"data: c\n\n", b"event: x\n\n"]
    for skip, rest in ((0, frames), (1, frames[1:]), (2, frames[3:]), (3, frames[4:]), (4, [])):
        for cut in range(1, len(frames)):
            sink = Sink()
            out = skipping(sink, skip)
            out.write(b"".join(frames[:cut]))
            out.write(b"".join(frames[cut:]))
            out.open()
            assert sink.data.replace(b"event: x\n\n", b"") == b"".join(rest).replace(b"event: x\n\n", b"")
    for data, sse, count in ((b"".join(frames), True, 3), (b'{"a":1}\n\n{"b":2}\n', False, 2)):
        counter = counting(sse=sse)
        counter.write(data)
        assert counter.seen == count


def test_nothing_leaves_before_the_head_and_the_end_is_remembered() -> None:
    """The status could not be chosen any more."""
    sink = Sink()
    out = skipping(sink, 1)
    out.write(b"data: a\n\n")
    assert (out.blocked, out.settled) == (False, False)
    out.write(b"data: b\n\n")
    assert (out.blocked, out.settled, sink.data) == (True, True, b"")
    out.close(True)
    out.open()
    assert (sink.data, sink.closed) == (b"data: b\n\n", True)


def test_an_envelope_numbers_the_lines() -> None:
    """An NDJSON client without ids of its own could not say where it is."""
    sink = Sink()
    out = skipping(sink, 1, sse=False, envelope=True)
    out.write(b'{"a":1}\n{"b":2}\n')
    out.write(b'{"c":3}\n')
    out.open()
    assert sink.data == b'{"seq":2,"data":{"b":2}}\n{"seq":3,"data":{"c":3}}\n'


def test_a_long_replay_is_cut_into_slices() -> None:
    """One returning client would hold up everybody's tokens."""
    turns = []
    out = Skipping(Sink(), 0, sse=True, later=turns.append, envelope=False)
    out.open()
    out.write(b"data: " + b"x" * SLICE + b"\n\n")
    assert (out.blocked, len(turns)) == (True, 1)
    turns.pop()()
    assert not out.blocked


async def test_one_piece_of_work_per_turn_of_the_loop() -> None:
    """Fifty clients that come back at once would stop everybody's tokens while all of them are served."""
    turns, done, beats = Turns(), [], []
    for n in range(5):
        turns.later(lambda n=n: done.append((n, len(beats))))  # type: ignore[misc]
    assert not done
    for _ in range(8):
        await asyncio.sleep(0)
        beats.append(None)
    assert [n for n, _ in done] == [0, 1, 2, 3, 4]
    assert len({beat for _, beat in done}) == 5


def test_a_large_block_is_cut_between_frames_only() -> None:
    """A fast backend's answer comes in few large blocks; one of them would be rendered in one go."""
    transcript = Transcript(1 << 20)
    transcript.begin(DRIVER)
    frames = [b"data: %d%b\n\n" % (n, b"x" * 100) for n in range(500)]
    transcript.append(b"".join(frames))
    who = Identity("a", "me", "native", "m", "up", "m", "n", 1)
    about = about_of(who, include_usage=True, dialect="openai")
    kept = Recording(who, DRIVER, about, transcript, State.COMPLETED, Ending("stop", Usage(), False, 1), 0.0)
    assert b"".join(kept.transcript.blocks) == b"".join(frames)
    assert all(block.endswith(b"\n\n") and len(block) < 2000 for block in kept.transcript.blocks)


def test_an_answer_of_texts_is_kept_as_light_as_it_came() -> None:
    """Ten minutes of everybody's answers would take five times the memory, and as many would be gone too early."""
    transcript = Transcript(1 << 20)
    transcript.begin(DRIVER)
    transcript.alike(b'data: {"id":"%b","choices":[{"delta":{"content":"' % (b"c" * 150), b'"}}]}\n\n')
    for n in range(500):
        transcript.held.append(f"w{n} ")
    who = Identity("a", "me", "native", "m", "up", "m", "n", 1)
    about = about_of(who, include_usage=True, dialect="openai")
    kept = Recording(who, DRIVER, about, transcript, State.COMPLETED, Ending("stop", Usage(), False, 1), 0.0)
    assert kept.transcript.blocks == transcript.blocks
    assert kept.size < transcript.size / 3
