"""What one client reads of one stream: Passthrough (same dialect, same bytes) or Transcode. Pure.

Law: a view depends on the transcript, the protocol and the ending, on nothing else, so the n-th frame is the same bytes
for every reader. A stream that did not complete never shows its dialect's completion mark.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

from backends.base import Decoder, Driver
from backends.contract.errors import BackendError, ErrorCode
from backends.contract.framing import NdjsonFramer, SseFramer
from gateway.protocols.base import About, ClientProtocol, Ending
from gateway.protocols.repairs import DONE, Mender, mender_of
from gateway.streams.naming import ModelName
from gateway.streams.stream import Identity
from gateway.streams.transcript import Segment

# An error in the backend's own words, at the beginning of a line. Within JSON text a quote or newline is always
# escaped, so a model that writes about such frames does not look like one.
_ERROR = re.compile(
    rb"(?:^|[\r\n])(?:event: ?(?:error|response\.failed)\b"
    rb'|(?:data: ?)?\{\s*(?:"error"\s*:\s*[{"]|"type"\s*:\s*"(?:error|response\.failed)"))'
)
_DONE = re.compile(rb"(?:^|[\r\n])data: ?\[DONE\]\s*$")  # a comment line may stand before it in the frame
_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_NO_CHOICES = re.compile(rb'"choices"\s*:\s*\[\s*\]')


Past = Callable[[], Iterable[tuple[Segment, list[bytes]]]]


class View(ABC):
    """One reader's view; call `start` once, `render` per block, `end` once."""

    __slots__ = ()

    @property
    @abstractmethod
    def frames(self) -> int:
        """Frames rendered so far."""

    @abstractmethod
    def start(self) -> bytes:
        """The frames before the first block."""

    @abstractmethod
    def render(self, block: bytes) -> bytes:
        """The view of a block of complete frames."""

    def plain(self, block: bytes, text: str) -> bytes:
        """As `render(block)`, for one frame that is known to say this text and nothing else."""
        return self.render(block)

    @property
    def exact(self) -> bool:
        """Whether `plain` gives its block back as it is: then it need not be called, if `skip` is."""
        return False

    def skip(self, frames: int) -> None:  # noqa: B027 - only for those that are exact
        """So many frames went out without `plain`."""

    @abstractmethod
    def turn(self, segment: Segment, past: Past) -> View:
        """The view for the blocks that follow: this one, or another that goes on where it stands. `past`: the segments
        so far with their blocks. Raises LookupError when they are gone, BackendError where it cannot be said."""

    @abstractmethod
    def end(self, ending: Ending, completed: bool, past: Past | None = None) -> bytes:
        """The last frames. `completed`: the backend reached its dialect's own end mark; `past` as in `turn`."""


class Passthrough(View):
    """The backend's own bytes, but for a usage chunk nobody asked for, a completion mark not yet earned, and the
    repairs its server needs (`mender`; None: none).

    `split` is the framer's: a block to its frames.
    """

    __slots__ = (
        "_about",
        "_began",
        "_driver",
        "_failed",
        "_frames",
        "_hide_usage",
        "_mark",
        "_mender",
        "_protocol",
        "_split",
        "_sse",
    )

    def __init__(
        self,
        protocol: ClientProtocol,
        about: About,
        hide_usage: bool,
        split: Callable[[bytes], list[bytes]],
        mender: Mender | None = None,
        driver: Driver | None = None,
    ) -> None:
        self._driver = driver
        self._protocol = protocol
        self._about = about
        self._hide_usage = hide_usage
        self._split = split
        self._mender = mender
        self._sse = protocol.framing == "sse"
        self._began = b""  # the first block
        self._mark = b""  # a completion mark held back until the stream is known to have completed
        self._failed = False  # the backend has told of its failure itself
        self._frames = 0

    @property
    def frames(self) -> int:
        return self._frames

    def start(self) -> bytes:
        return b""

    def render(self, block: bytes) -> bytes:
        if self._mender is not None:
            block = self._mender.mend(block)
        self._began = self._began or block
        if b"error" in block and _ERROR.search(block):
            self._failed = True
        if b"[DONE]" in block or (self._hide_usage and b'"usage"' in block and _USAGE.search(block)):
            return self._filtered(block)
        if self._sse and b"\r" not in block:
            self._frames += block.count(b"\n\n")
        else:
            self._frames += self._count(block)
        return block

    def plain(self, block: bytes, text: str) -> bytes:
        if self._mender is not None and not self._mender.idle:
            return self.render(block)
        self._frames += 1
        return block

    @property
    def exact(self) -> bool:
        return self._mender is None or self._mender.idle

    def skip(self, frames: int) -> None:
        self._frames += frames

    def turn(self, segment: Segment, past: Past) -> View:
        """Before anything was rendered: a view of that segment. Later: the rest is written in the same protocol, with
        the ids the client knows."""
        if self.frames == 0 and not self._failed:
            return self if segment.driver is self._driver else owing(segment.driver, self._protocol, self._about)
        return _going_on(self._protocol, self._about, past(), segment, self.frames)

    def _count(self, block: bytes) -> int:
        if not self._sse:
            return block.count(b"\n")
        return len(self._split(block)) if b"\r" in block else block.count(b"\n\n")

    def _filtered(self, block: bytes) -> bytes:
        kept: list[bytes] = []
        for frame in self._split(block):
            if self._sse and _DONE.search(frame):
                self._mark = frame
            elif not (self._hide_usage and _USAGE.search(frame) and _NO_CHOICES.search(frame)):
                kept.append(frame)
        self._frames += len(kept)
        return b"".join(kept)

    def end(self, ending: Ending, completed: bool, past: Past | None = None) -> bytes:
        try:
            cut = list(past()) if past is not None and ending.partial and not self._failed else []
        except LookupError:
            cut = []
        last = self._finished(cut, ending) if cut else self._last(ending, completed)
        self._frames += self._count(last)
        return last

    def _finished(self, cut: list[tuple[Segment, list[bytes]]], ending: Ending) -> bytes:
        """The end of an answer that is given as far as it came: whatever is open is closed, under the ids it has."""
        view = Transcode(self._protocol, self._about, cut[-1][0].driver.decoder())
        view.catch_up(cut, cut[-1][0], self._frames)
        return view.end(ending, False)

    def _last(self, ending: Ending, completed: bool) -> bytes:
        mender = self._mender
        if self._failed:
            return self._mark if mender is not None and mender.keeps_done else b""
        if completed:
            return self._mark or (DONE if mender is not None and mender.adds_done else b"")
        return self._protocol.break_off(self._about, ending, self.frames + 1, self._began)


class Renaming(Passthrough):
    """As Passthrough, where the route asks for another model than the client: frames name the client's."""

    __slots__ = ("_name",)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._name = ModelName(self._about.model, self._split)

    @property
    def exact(self) -> bool:
        return False

    def render(self, block: bytes) -> bytes:
        return super().render(self._name.put(block))

    def plain(self, block: bytes, text: str) -> bytes:
        if self._mender is not None and not self._mender.idle:
            return self.render(block)
        self._frames += 1
        return block.replace(self._name.theirs, self._name.ours, 1)


class Transcode(View):
    """Decoded from the backend's dialect, encoded in the client's."""

    __slots__ = ("_about", "_decode", "_decoder", "_encoder", "_feed", "_owed", "_plain", "_protocol")

    @property
    def frames(self) -> int:
        return self._encoder.frames

    def __init__(self, protocol: ClientProtocol, about: About, decoder: Decoder) -> None:
        self._protocol = protocol
        self._about = about
        self._decoder = decoder
        self._encoder = protocol.encoder(about)
        self._feed = self._encoder.feed
        self._plain = self._encoder.plain
        self._decode = decoder.feed
        self._owed = b""  # goes out before the next block: never a plain one, a segment's first block is not

    def start(self) -> bytes:
        return self._encoder.start()

    def render(self, block: bytes) -> bytes:
        out = self._feed(self._decode(block))
        if self._owed:
            out, self._owed = self._owed + out, b""
        return out

    def plain(self, block: bytes, text: str) -> bytes:
        return self._plain(text)

    def turn(self, segment: Segment, past: Past) -> View:
        """Before anything was rendered: a view of that segment. Later: another decoder before the same encoder."""
        if self.frames == 0:
            return owing(segment.driver, self._protocol, self._about)
        if segment.restart:
            self._owed += self._encoder.reset()
        self._listen(segment.driver)
        return self

    def _listen(self, driver: Driver) -> None:
        self._decoder = driver.decoder()
        self._decode = self._decoder.feed

    def owe(self) -> None:
        """`start` goes out with the first block."""
        self._owed = self.start()

    def catch_up(self, past: Iterable[tuple[Segment, list[bytes]]], segment: Segment, frames: int) -> None:
        """Stand where a reader stands who has read `past` untouched, as so many frames."""
        self._encoder.start()
        known = False
        for piece, blocks in past:
            self._listen(piece.driver)
            name = ModelName(self._about.model, _split(piece.driver)) if self._about.renamed else None
            for block in blocks:
                known = known or self._encoder.adopt(block if name is None else name.put(block))
                self.render(block)
        self._listen(segment.driver)
        self._encoder.frames = frames

    def end(self, ending: Ending, completed: bool, past: Past | None = None) -> bytes:
        rest = self._feed(self._decoder.eof()) if completed else b""
        return self._owed + rest + self._encoder.end(ending)


def owing(driver: Driver, protocol: ClientProtocol, about: About) -> View:
    """A view whose `start` nobody has asked for, and nobody will: it comes with the first block."""
    view = make_view(driver, protocol, about)
    if isinstance(view, Transcode):
        view.owe()
    return view


def _going_on(
    protocol: ClientProtocol, about: About, past: Iterable[tuple[Segment, list[bytes]]], segment: Segment, frames: int
) -> View:
    if segment.restart:
        raise BackendError(ErrorCode.UPSTREAM_FAILED, "the answer was begun anew, which this protocol cannot say")
    view = Transcode(protocol, about, segment.driver.decoder())
    view.catch_up(past, segment, frames)
    return view


def about_of(identity: Identity, *, include_usage: bool, dialect: str) -> About:
    """What encoders may say of a stream: its identity, its backend's dialect, and nothing that could change."""
    return About(
        stream_id=identity.id,
        model=identity.model,
        backend=identity.backend,
        created_ms=identity.started_ms,
        conversation_id=identity.conversation_id,
        include_usage=include_usage,
        dialect=dialect,
        renamed=identity.upstream_model not in ("", identity.model),
        echo=identity.echo,
    )


def make_view(driver: Driver, protocol: ClientProtocol, about: About) -> View:
    """Passthrough where client and backend speak the same dialect, Transcode otherwise."""
    if driver.dialect != protocol.dialect:
        return Transcode(protocol, about, driver.decoder())
    kind = Renaming if about.renamed else Passthrough
    return kind(protocol, about, not about.include_usage, _split(driver), make_mender(driver, about), driver)


def make_mender(driver: Driver, about: About) -> Mender | None:
    """The repairs of one reading of a stream in its backend's own dialect; None: that dialect has none."""
    return mender_of(driver, about, _split(driver))


def _split(driver: Driver) -> Callable[[bytes], list[bytes]]:
    return (SseFramer(0) if driver.framing == "sse" else NdjsonFramer(0)).split
