"""One reader of one stream: a cursor into the transcript, a view, and an output. Never blocks the producer.

A reader whose output is full stops reading the transcript; when the output empties it goes on from its own cursor. One
that falls behind what the transcript still holds is ended with an error, and nobody else notices.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from backends.contract.errors import BackendError, ErrorCode
from backends.contract.events import Usage
from gateway.protocols.base import Ending
from gateway.streams.pacer import Pacer
from gateway.streams.transcript import Transcript
from gateway.streams.view import View

_BATCH = 64  # blocks rendered between two looks at the output's state


class Output(Protocol):
    """Where a reader's bytes go. `blocked` is True before the head is out and while the peer is slow."""

    blocked: bool

    def write(self, data: bytes) -> None:
        """Send whole frames; may set `blocked`."""

    def close(self, clean: bool) -> None:
        """No more bytes: end the body properly, or visibly break it."""


class Reader:
    """Created by the edge, fed by the producer. `ready` is done when there is something to say, `done` at the end."""

    __slots__ = (
        "_closed", "_ending", "cursor", "dirty", "done", "first", "output", "pacer",
        "polite", "ready", "sent", "transcript", "view",
    )

    def __init__(self, transcript: Transcript, view: View, output: Output, pacer: Pacer, *, polite: bool) -> None:
        loop = asyncio.get_running_loop()
        self.transcript = transcript
        self.view = view
        self.output = output
        self.pacer = pacer
        self.polite = polite  # the protocol says `cancelled` in so many words: then the body may end properly
        self.cursor = 0
        self.sent = 0  # transcript bytes consumed
        self.dirty = False
        self.first = True
        self.ready: asyncio.Future[None] = loop.create_future()
        self.done: asyncio.Future[None] = loop.create_future()
        self._ending: tuple[Ending, bool] | None = None
        self._closed = False

    def push(self) -> None:
        """The transcript has grown."""
        if self.output.blocked:
            self.wake()
        elif self.first:
            self.first = False
            self.flush()
        else:
            self.pacer.submit(self)

    def wake(self) -> None:
        """Let whoever waits for the first frame go on."""
        if not self.ready.done():
            self.ready.set_result(None)

    def flush(self) -> None:
        """Render and write from the cursor to the tip, or until the output is full."""
        transcript = self.transcript
        while not self._closed and not self.output.blocked and self.cursor < transcript.tip:
            try:
                blocks = transcript.since(self.cursor, _BATCH)
            except LookupError:
                self._fell_behind()
                return
            block = blocks[0] if len(blocks) == 1 else b"".join(blocks)
            self.cursor += len(blocks)
            self.sent += len(block)
            data = self.view.render(block)
            if data:
                self.output.write(data)
        if self._ending is not None and self.cursor >= transcript.tip and not self.output.blocked:
            self._close(*self._ending)

    def end(self, ending: Ending, completed: bool) -> None:
        """The stream is over. The last frame goes out behind everything before it, without waiting for a window."""
        self._ending = (ending, completed)
        if self.output.blocked:
            self.wake()
        else:
            self.flush()

    def _fell_behind(self) -> None:
        error = BackendError(ErrorCode.TRANSCRIPT_FULL, "the client read too slowly: what it needs next is gone")
        ending = Ending(finish="error", usage=Usage(), usage_estimated=True, tokens=0, error=error)
        self._close(ending, False)

    def _close(self, ending: Ending, completed: bool) -> None:
        if self._closed:
            return
        self._closed = True
        last = self.view.end(ending, completed)
        if last:
            self.output.write(last)
        self.output.close(completed or (self.polite and ending.error is None))
        self.abandon()

    def abandon(self) -> None:
        """Nobody listens any more."""
        self._closed = True
        self.wake()
        if not self.done.done():
            self.done.set_result(None)

