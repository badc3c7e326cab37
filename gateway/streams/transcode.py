"""A view of a stream whose backend speaks another dialect than its reader: decoded, and encoded again. Pure.

Law: encoders are deterministic, so the n-th frame is the same bytes whenever it is rendered, also where the answer went
on at another backend: another decoder then stands before the same encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from backends.base import Decoder, Driver
from backends.contract.errors import BackendError, ErrorCode
from gateway.protocols.base import About, ClientProtocol, Ending
from gateway.streams.naming import ModelName
from gateway.streams.transcript import Segment
from gateway.streams.view import Anew, Past, View, split_of


class Transcode(View):
    """Decoded from the backend's dialect, encoded in the client's."""

    __slots__ = ("_about", "_anew", "_decode", "_decoder", "_encoder", "_feed", "_owed", "_plain")

    @property
    def frames(self) -> int:
        return self._encoder.frames

    def __init__(self, protocol: ClientProtocol, about: About, decoder: Decoder, anew: Anew) -> None:
        self._about = about
        self._anew = anew
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

    def between(self, head: bytes, tail: bytes) -> Callable[[str, int], bytes]:
        plain = self._plain
        return self._encoder.nth() or (lambda text, n: plain(text))

    def said(self, texts: Sequence[str]) -> None:
        self._encoder.said(texts)

    def turn(self, segment: Segment, past: Past) -> View:
        """Before anything was rendered: a view of that segment. Later: another decoder before the same encoder."""
        if self.frames == 0:
            return self._anew(segment.driver)
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
            name = ModelName(self._about.model, split_of(piece.driver)) if self._about.renamed else None
            for block in blocks:
                known = known or self._encoder.adopt(block if name is None else name.put(block))
                self.render(block)
        self._listen(segment.driver)
        self._encoder.frames = frames

    def end(self, ending: Ending, completed: bool, past: Past | None = None) -> bytes:
        rest = self._feed(self._decoder.eof()) if completed else b""
        return self._owed + rest + self._encoder.end(ending)


def going_on(
    protocol: ClientProtocol,
    about: About,
    past: Iterable[tuple[Segment, list[bytes]]],
    segment: Segment,
    frames: int,
    anew: Anew,
) -> Transcode:
    """The rest of an answer of which a reader has had `past` untouched, as so many frames. Raises BackendError where
    that cannot be said."""
    if segment.restart:
        raise BackendError(ErrorCode.UPSTREAM_FAILED, "the answer was begun anew, which this protocol cannot say")
    view = Transcode(protocol, about, segment.driver.decoder(), anew)
    view.catch_up(past, segment, frames)
    return view
