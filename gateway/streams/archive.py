"""Ended streams, kept for those who come back: what a view is made of, for the replay window. Pure; the clock is an
argument (monotonic seconds).

Law: memory is bounded: beyond `memory` bytes the oldest go first. What went leaves a tombstone for a day, so that "it
is gone" can be told from "it never was"; those are bounded by number.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Protocol

import msgspec
from msgspec import Struct

from backends.base import Driver
from backends.contract.framing import SPLIT
from gateway.protocols.base import About, Ending
from gateway.streams.names import stream_key
from gateway.streams.sofar import pieces
from gateway.streams.stream import Identity, State
from gateway.streams.transcript import Transcript

GRAVE = 24 * 3600.0  # seconds a tombstone stands
MAX_GRAVES = 50_000
_PIECE = 1024  # bytes of frames in one block: small blocks cost more than they hold, large ones take long to render
_FEW = 2  # blocks
_FIXED = 2048  # bytes a recording costs besides its blocks, about


class Listener(Protocol):
    """What a recording needs of a reader."""

    def end(self, ending: Ending, completed: bool) -> None:
        """The stream is over: the rest is to be read now."""

    def abandon(self) -> None:
        """Nobody listens any more."""


_size_of = msgspec.msgpack.Encoder().encode


class Gone(Struct, frozen=True):
    """What is left of a stream that can no longer be read. `code` says why: `stream_expired`, `cursor_expired`."""

    state: str
    code: str = "stream_expired"


class Recording:
    """One ended stream: all a view depends on. Readers come and go as at a running one. `turns`: what was asked, as in
    `Asked`."""

    __slots__ = ("_ending", "about", "driver", "ended", "identity", "readers", "size", "state", "transcript", "turns")

    def __init__(
        self,
        identity: Identity,
        driver: Driver,
        about: About,
        transcript: Transcript,
        state: State,
        ending: Ending,
        ended: float,
        turns: bytes = b"",
    ) -> None:
        self.identity = identity
        self.driver = driver
        self.about = about
        self.state = state
        self.ended = ended
        self.transcript = _packed(transcript)
        self.readers: list[Listener] = []
        self.turns = turns
        self.size = self.transcript.memory + _FIXED + len(turns)
        if identity.echo:
            self.size += len(_size_of(identity.echo))
        self._ending = ending

    def ending(self) -> Ending:
        """How it ended."""
        return self._ending

    def begun(self) -> None:
        """Nothing can change any more."""

    def attach(self, reader: Listener) -> None:
        """A reader joins; it reads all there is."""
        self.readers.append(reader)
        reader.end(self._ending, self.state is State.COMPLETED)

    def detach(self, reader: Listener, why: str = "") -> None:
        """A reader leaves; nothing else changes."""
        if reader in self.readers:
            self.readers.remove(reader)
        reader.abandon()

    def relieve(self) -> None:
        """Nothing waits for its readers."""


def _packed(transcript: Transcript) -> Transcript:
    """The same bytes in fewer blocks, segment by segment. The old one is left alone: readers count by it. One that
    holds little else than texts is small as it is, and so is one of a block or two."""
    few = transcript.tip - transcript.base <= _FEW and all(len(block) <= 2 * _PIECE for block in transcript.blocks)
    if few or transcript.memory < transcript.size:
        return transcript
    packed = Transcript(transcript.cap)
    try:
        for segment, blocks in pieces(transcript):
            packed.begin(segment.driver, restart=segment.restart)
            for piece in whole_pieces(blocks, segment.driver):
                packed.append(piece)
    except LookupError:
        packed.skip(transcript.base)  # its beginning is gone: no view can be made of it
    return packed


def whole_pieces(blocks: Iterable[bytes], driver: Driver) -> Iterator[bytes]:
    """Whole frames, about _PIECE bytes at a time: readers render a number of blocks in one go, however large."""
    split = SPLIT[driver.framing]
    piece: list[bytes] = []
    size = 0
    for block in chain.from_iterable(_cut(b, split) if len(b) > 2 * _PIECE else (b,) for b in blocks):
        piece.append(block)
        size += len(block)
        if size >= _PIECE:
            yield b"".join(piece)
            piece, size = [], 0
    if piece:
        yield b"".join(piece)


def _cut(block: bytes, split: Callable[[bytes], list[bytes]]) -> list[bytes]:
    frames = split(block)
    return frames if sum(map(len, frames)) == len(block) else [block]


class Archive:
    """One per worker."""

    def __init__(self, window: float, memory: int, *, max_graves: int = MAX_GRAVES) -> None:
        """`window`: seconds a recording is kept; `memory`: bytes of all of them."""
        self._window = window
        self._memory = memory
        self._max_graves = max_graves
        self._kept: OrderedDict[str, Recording] = OrderedDict()
        self._graves: OrderedDict[str, tuple[float, Gone]] = OrderedDict()
        self.size = 0
        self.look_at = 0.0  # the watchdog is welcome at every round

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[Recording]:
        return iter(list(self._kept.values()))

    def keep(self, recording: Recording, *, whole: bool = True) -> None:
        """Take an ended stream in. `whole` False: its beginning was lost to the cap, so no view can be made of it."""
        who = recording.identity
        key = stream_key(who.id, who.owner)
        self._drop(key)
        self._graves.pop(key, None)
        if whole:
            self._kept[key] = recording
            self.size += recording.size
        else:
            self._bury(key, recording.ended, Gone(recording.state.wire, "cursor_expired"))
        self.sweep(recording.ended)

    def forget(self, stream_id: str, owner: str) -> None:
        """Let a recording go, without a tombstone: its id may be another stream's."""
        self._drop(stream_key(stream_id, owner))

    def find(self, stream_id: str, owner: str, now: float) -> Recording | Gone | None:
        """The recording, its tombstone, or None: never heard of (or another owner's)."""
        self.sweep(now)
        key = stream_key(stream_id, owner)
        grave = self._graves.get(key)
        return self._kept.get(key) or (grave[1] if grave else None)

    def sweep(self, now: float) -> None:
        """Let go what is too old or too much."""
        while self._kept:
            key, oldest = next(iter(self._kept.items()))
            if now - oldest.ended < self._window and self.size <= self._memory:
                break
            self._drop(key)
            self._bury(key, now, Gone(oldest.state.wire))
        while self._graves:
            key, (until, _) = next(iter(self._graves.items()))
            if until > now and len(self._graves) <= self._max_graves:
                break
            del self._graves[key]

    def _bury(self, key: str, now: float, gone: Gone) -> None:
        self._graves[key] = (now + GRAVE, gone)

    def _drop(self, key: str) -> None:
        dropped = self._kept.pop(key, None)
        if dropped is not None:
            self.size -= dropped.size
