"""A stream of another node, as its shared copy tells it: a source like any other. Used from the event loop's thread.

Law: what is read is exactly what was written, in order, or the stream says that it cannot be read: a hole is never read
over. Readers end with the ending its own node wrote, byte for byte.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from backends.base import Driver
from backends.contract.errors import BackendError, ErrorCode
from backends.contract.events import Usage
from gateway.protocols.base import About, Ending
from gateway.registry.shared_layout import (
    FIRST,
    LAST,
    Meta,
    driver_of,
    epoch_of,
    position,
    read_meta,
    read_terminal,
    read_turns,
)
from gateway.streams.archive import whole_pieces
from gateway.streams.reader import Reader
from gateway.streams.stream import Identity, State
from gateway.streams.transcript import Transcript
from gateway.streams.views import about_of

_RUNNING = Ending(finish="stop", usage=Usage(), usage_estimated=True, tokens=0)
Kept = Callable[["SharedStream"], None]
_PIECE = 2048  # bytes beyond which an entry is read in pieces


class SharedStream:
    """`drivers` are this node's backends; `kept` is told of each reader that joins. Feed it pages; `loaded` is set when
    all there was has been read."""

    def __init__(self, key: str, drivers: Callable[[], Mapping[str, Driver]], cap: int, kept: Kept) -> None:
        self.key = key
        self._kept = kept
        self.meta: Meta | None = None
        self.state = State.WAITING
        self.transcript = Transcript(cap)
        self.readers: list[Reader] = []
        self.loaded = asyncio.Event()
        self.beginning_lost = False
        self.turns = b""  # what it was asked with
        self.will = b""  # what another node needs to go on with it
        self.carrier = ""  # the node that goes on with it; "": the one that began it
        self.claimed: list[int] = []  # before which blocks
        self.epoch = 0  # how often it was claimed
        self._last = FIRST
        self.failure: BackendError | None = None  # why it cannot be read on
        self.woken = True
        self.news = 0.0  # when something came last, by the loop's clock
        self.left = 0.0  # when the last reader left
        self.doubted: float | None = None  # since when its node seems to be gone
        self._drivers = drivers
        self._driver: Driver | None = None
        self._about: About | None = None
        self._ending = _RUNNING
        self._loop = asyncio.get_running_loop()
        self.left = self.news = self._loop.time()

    # -- a source ------------------------------------------------------------------------------------------------------

    @property
    def identity(self) -> Identity:
        """Who and what it is. Not before it was found."""
        assert self.meta is not None
        return self.meta.identity

    @property
    def driver(self) -> Driver:
        """The dialect readers begin in."""
        assert self._driver is not None
        return self._driver

    @property
    def about(self) -> About:
        """What encoders may say of it."""
        assert self._about is not None
        return self._about

    def begun(self) -> None:
        """Nothing is shared before it is settled."""

    def attach(self, reader: Reader) -> None:
        """A reader joins, from its own cursor."""
        self.readers.append(reader)
        self._kept(self)
        if self.state.terminal:
            reader.end(self._ending, self.state is State.COMPLETED)
        elif self.transcript.tip > reader.cursor:
            reader.push()

    def detach(self, reader: Reader, why: str = "") -> None:
        """It leaves; its node is told by the watch that ends."""
        if reader in self.readers:
            self.readers.remove(reader)
            self.left = self._loop.time()
        reader.abandon()

    def relieve(self) -> None:
        """Nothing waits for readers of other nodes."""

    def ending(self) -> Ending:
        """How it ended."""
        return self._ending

    # -- its pages -----------------------------------------------------------------------------------------------------

    @property
    def after(self) -> str:
        """The id behind which to read on."""
        return self._last if self.meta is not None else ""

    @property
    def readable(self) -> bool:
        """Whether the next page may tell more: without its beginning it would be the same page again and again."""
        return not (self.state.terminal or self.beginning_lost)

    def take(self, page: Sequence[tuple[bytes, Mapping[bytes, bytes]]]) -> None:
        """Entries as they stand in the log, in order; readers are told once."""
        tip = self.transcript.tip
        for reader in self.readers:
            reader.rest()
        try:
            for entry_id, words in page:
                if self.state.terminal or self.beginning_lost or self.failure is not None:
                    break
                self._entry(position(entry_id), words)
                self._last, self.epoch = entry_id.decode(), max(self.epoch, epoch_of(entry_id))
        except (ValueError, LookupError) as error:
            self.fail(BackendError(ErrorCode.CURSOR_EXPIRED, f"the shared copy of this stream is damaged: {error}"))
        if page:
            self.news = self._loop.time()
            self.doubted = None
        if self.state.terminal:
            self._tell_end()
        elif self.transcript.tip > tip:
            self.state = State.STREAMING
            for reader in list(self.readers):
                reader.push()

    def _entry(self, at: int, words: Mapping[bytes, bytes]) -> None:
        if b"m" in words:
            if self.meta is None:
                self._begin(read_meta(words))
                self.turns, self.will = words.get(b"i", b""), words.get(b"w", b"")
        elif self.meta is None:
            self.beginning_lost = True
            if at >= LAST:
                self.state, _, self._ending = read_terminal(words)
        elif b"c" in words:
            self.carrier = words[b"c"].decode()
            self.claimed.append(self.transcript.tip)
        elif at >= LAST:
            self._over(words)
        else:
            self._data(at, words)

    def _begin(self, meta: Meta | None) -> None:
        if meta is None:
            raise ValueError("unreadable beginning")
        self.meta = meta
        self._driver = self._known(meta.backend, meta.dialect)
        if self._driver is not None:
            self._about = about_of(meta.identity, include_usage=meta.include_usage, dialect=self._driver.dialect)

    def _known(self, backend: str, dialect: str) -> Driver | None:
        driver = driver_of(self._drivers(), backend, dialect)
        if driver is None:
            text = f"this node has no backend {backend!r} that speaks {dialect!r}, which this stream is from"
            self.failure = BackendError(ErrorCode.REGISTRY_AWAY, text, retry_after=2)
        return driver

    def _data(self, at: int, words: Mapping[bytes, bytes]) -> None:
        data = words.get(b"d", b"")
        known = self.transcript.total - (at - len(data))
        if known < 0:
            raise ValueError("a part of it is missing")
        if known >= len(data):
            return  # sent anew: it was read before
        if known == 0:
            self._turn(words)
        new = data[known:]
        pieces = (new,) if len(new) <= _PIECE else whole_pieces((new,), self._speaks())
        for piece in pieces:
            self.transcript.append(piece)

    def _speaks(self) -> Driver:
        segments = self.transcript.segments
        return segments[-1].driver if segments else self.driver

    def _turn(self, words: Mapping[bytes, bytes]) -> None:
        for turn in read_turns(words):
            driver = self._known(turn.backend, turn.dialect)
            if driver is None:
                raise LookupError(f"unknown backend {turn.backend!r}")
            self.transcript.begin(driver, restart=turn.restart)

    def _over(self, words: Mapping[bytes, bytes]) -> None:
        state, total, ending = read_terminal(words)
        if total != self.transcript.total:
            raise ValueError("its end is missing")
        self._turn(words)
        self.state, self._ending = state, ending

    def fail(self, error: BackendError) -> None:
        """It cannot be read on: readers are told, and nobody may join."""
        if self.state.terminal:
            return
        self.failure = self.failure or error
        self.state = State.NODE_LOST
        self._ending = self.lost_ending(0, self.failure)
        self._tell_end()

    def _tell_end(self) -> None:
        for reader in list(self.readers):
            reader.end(self._ending, self.state is State.COMPLETED)

    def lost_ending(self, tokens: int, error: BackendError) -> Ending:
        """The ending of a stream whose node is gone: the deltas in the copy count, or more if more are known of."""
        counted = self._counted()
        usage = Usage(completion=max(tokens, counted))
        return Ending("error", usage, usage_estimated=True, tokens=max(tokens, counted), error=error)

    def _counted(self) -> int:
        transcript, count = self.transcript, 0
        if transcript.base:
            return 0
        ends = [segment.first for segment in transcript.segments[1:]] + [transcript.tip]
        blocks = transcript.blocks
        for segment, end in zip(transcript.segments, ends, strict=False):
            tap = segment.driver.tap()
            for block in blocks[segment.first : end]:
                tap.feed(block)
            count += tap.tokens
        return count
