"""A reader for a client that wants the whole answer: folds the events as they come, writes nothing until the end.

Upstream always streams, so a whole answer can be cancelled, timed out and accounted for like any other.
"""

from __future__ import annotations

import asyncio

from backends.base import Decoder
from gateway.protocols.answer import Folding
from gateway.protocols.base import Ending
from gateway.streams.pacer import Pacer
from gateway.streams.reader import Reader
from gateway.streams.transcript import Transcript
from gateway.streams.view import View


class _Nowhere:
    """The output of a reader that writes nothing."""

    blocked = False

    def write(self, data: bytes) -> None:
        """Whole answers are rendered by the edge."""

    def close(self, clean: bool) -> None:
        """Nothing to close."""


class Collecting(View):
    """A view that renders nothing and remembers everything."""

    def __init__(self, decoder: Decoder) -> None:
        self.folding = Folding()
        self.ending: Ending | None = None
        self._decoder = decoder

    def start(self) -> bytes:
        return b""

    def render(self, block: bytes) -> bytes:
        self.folding.feed(self._decoder.feed(block))
        return b""

    def end(self, ending: Ending, completed: bool) -> bytes:
        self.folding.feed(self._decoder.eof())
        self.ending = ending
        return b""


def collector(transcript: Transcript, decoder: Decoder, loop: asyncio.AbstractEventLoop) -> tuple[Reader, Collecting]:
    """A reader whose `done` means that the whole answer, or its failure, is known."""
    view = Collecting(decoder)
    return Reader(transcript, view, _Nowhere(), Pacer(loop, "immediate"), polite=True), view
