"""A reader for a client that wants the whole answer: folds the events as they come, writes nothing until the end.

Upstream always streams, so a whole answer can be cancelled, timed out and accounted for like any other.
"""

from __future__ import annotations

import asyncio

from msgspec.structs import replace

from backends.base import Decoder
from gateway.protocols.answer import Folding
from gateway.protocols.base import About, ClientProtocol, Ending, Gatherer
from gateway.protocols.repairs import Mender
from gateway.streams.naming import FIRST, name_in
from gateway.streams.pacer import Pacer
from gateway.streams.reader import Reader
from gateway.streams.transcript import Segment, Transcript
from gateway.streams.view import Past, View
from gateway.streams.views import make_mender


class _Nowhere:
    """The output of a reader that writes nothing."""

    blocked = False

    def write(self, data: bytes) -> None:
        """Whole answers are rendered by the edge."""

    def close(self, clean: bool) -> None:
        """Nothing to close."""


class Collecting(View):
    """A view that renders nothing and remembers everything. An answer that came in one piece, in the client's own
    dialect, is put together with all that its backend sent; any other is folded from its events."""

    def __init__(self, protocol: ClientProtocol, about: About) -> None:
        self._protocol = protocol
        self._about = about
        self._folding = Folding()
        self._gatherer: Gatherer | None = None
        self._mender: Mender | None = None
        self._decoder: Decoder | None = None
        self._said = ""  # the model's name in the backend's own words
        self._looks = FIRST
        self.ending: Ending | None = None

    @property
    def frames(self) -> int:
        return 0

    def start(self) -> bytes:
        return b""

    def turn(self, segment: Segment, past: Past) -> View:
        driver = segment.driver
        if self._decoder is None and driver.dialect == self._protocol.dialect:
            self._gatherer = self._protocol.gatherer()
            self._mender = make_mender(driver, self._about) if self._gatherer is not None else None
        elif self._gatherer is not None:
            self._gatherer = None
            self._refold(past)
        if segment.restart:
            self._folding = Folding()
        self._decoder = driver.decoder()
        return self

    def _refold(self, past: Past) -> None:
        for segment, blocks in past():
            decoder = segment.driver.decoder()
            for block in blocks:
                self._folding.feed(decoder.feed(block))

    def render(self, block: bytes) -> bytes:
        if self._gatherer is not None:
            if self._looks and not self._said:
                self._looks -= 1
                self._said = name_in(block)
            self._gatherer.feed(self._mender.mend(block) if self._mender is not None else block)
        elif self._decoder is not None:
            self._folding.feed(self._decoder.feed(block))
        return b""

    def end(self, ending: Ending, completed: bool, past: Past | None = None) -> bytes:
        if ending.partial and self._gatherer is not None and past is not None:
            self._gatherer = None  # it puts together what the backend finished
            self._refold(past)
        elif self._decoder is not None:
            self._folding.feed(self._decoder.eof())
        self.ending = ending
        return b""

    def body(self, about: About, ending: Ending) -> bytes:
        """The whole answer in the client's protocol. It names the model as the stream would, see `naming`."""
        if self._gatherer is not None:
            named = about if about.renamed or not self._said else replace(about, model=self._said)
            return self._gatherer.body(named, ending)
        return self._protocol.whole(about, self._folding.answer(), ending)


def collector(
    transcript: Transcript, protocol: ClientProtocol, about: About, loop: asyncio.AbstractEventLoop
) -> tuple[Reader, Collecting]:
    """A reader whose `done` means that the whole answer, or its failure, is known."""
    view = Collecting(protocol, about)
    return Reader(transcript, view, _Nowhere(), Pacer(loop, "immediate"), polite=True), view
