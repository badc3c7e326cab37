"""One reader of one stream: a cursor into the transcript, a view, and an output. Never blocks the producer.

A reader whose output is full stops reading the transcript; when the output empties it goes on from its own cursor. One
that falls behind what the transcript still holds is ended with an error, and one whose view fails is broken off: it may
come back for the rest, but it is neither given a hole nor left waiting; and nobody else notices.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Protocol

from backends.contract.errors import BackendError, ErrorCode
from backends.contract.events import Usage
from gateway.protocols.base import Ending
from gateway.streams.pacer import Pacer
from gateway.streams.sofar import past
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


class Wired(Protocol):
    """An output with a `wire`: HTTP/1.1 chunks may be written to that without `write`. None: not, or not yet."""

    wire: asyncio.Transport | None
    blocked: bool

    def wrote(self, at: float = 0.0) -> None:
        """Chunks went out by the wire, the last one at this time, where that is known. May set `blocked`."""

    def gather(self) -> None:
        """What is written from now on goes out as one, at `release`; both within the same turn of the loop."""

    def release(self) -> None:
        """Write what was gathered. Idempotent."""


class Shortcut(Protocol):
    """A shorter road of plain blocks to a reader (`lane`)."""

    def close(self) -> None:
        """Take nothing more."""


class Reader:
    """Created by the edge, fed by the producer. `ready` is done when there is something to say, `done` at the end."""

    __slots__ = (
        "_closed",
        "_ending",
        "_rendered",
        "_turned",
        "cursor",
        "dirty",
        "done",
        "fault",
        "first",
        "lane",
        "live",
        "output",
        "pacer",
        "polite",
        "ready",
        "sent",
        "stamp",
        "told",
        "transcript",
        "view",
        "wired",
    )

    def __init__(self, transcript: Transcript, view: View, output: Output, pacer: Pacer, *, polite: bool) -> None:
        loop = asyncio.get_running_loop()
        self.transcript = transcript
        self.view = view
        self.output = output
        self.pacer = pacer
        self.polite = polite  # the protocol's last frame says every ending in so many words: the body ends properly
        self.cursor = 0
        self.sent = 0  # transcript bytes consumed
        self.live = False  # everything so far was rendered: see `take`
        self.lane: Shortcut | None = None
        self.wired: Wired | None = None  # the output, where it is one
        self.dirty = False
        self.first = True
        self.fault = False  # what it reads failed through us, and was broken off
        self.told = False  # how it ended was said
        self.ready: asyncio.Future[None] = loop.create_future()
        self.done: asyncio.Future[None] = loop.create_future()
        self._ending: tuple[Ending, bool] | None = None
        self._closed = False
        self.stamp = -1  # the pacer's window it last wrote in
        self._turned = 0  # segments begun
        self._rendered: list[bytes] = []  # waits for the pacer; never more than a window's worth

    def push(self) -> None:
        """The transcript has grown."""
        self.live = False
        if self.output.blocked:
            self.wake()
        elif self.first:
            self.first = False
            self.flush()
        elif self.pacer.free(self.stamp):
            self.stamp = self.pacer.turn
            self.pacer.wrote()
            self.flush()
        else:
            self.pacer.hold(self)

    def take(self, block: bytes, text: str) -> None:
        """The transcript has grown by this block, which says this text and no more: rendered at once, written when the
        pacer says. While `live`, `cursor` and `sent` are not kept: they are the transcript's end."""
        if not self.live:
            self.push()
            return
        try:
            data = self.view.plain(block, text)
        except Exception as error:
            self.break_off(error)
            return
        pacer = self.pacer
        if self.stamp != pacer.turn or pacer.written < pacer.burst:  # pacer.free
            self.stamp = pacer.turn
            pacer.wrote()
            self.output.write(data)
            if self.output.blocked:
                self.rest()
        else:
            self.later(data)

    def later(self, data: bytes) -> None:
        """Write this when the window ends, behind what waits already."""
        self._rendered.append(data)
        self.pacer.hold(self)

    def rest(self) -> None:
        """Whoever grows the transcript otherwise than by `take` says so before."""
        if self.live:
            self.live = False
            if self.lane is not None:
                self.lane.close()
                self.lane = None
            self.cursor, self.sent = self.transcript.tip, self.transcript.total

    def wake(self) -> None:
        """Let whoever waits for the first frame go on."""
        if not self.ready.done():
            self.ready.set_result(None)

    def flush(self) -> None:
        """Render and write from the cursor to the tip, or until the output is full."""
        transcript = self.transcript
        rendered = self._rendered
        if rendered:
            if not self._closed:
                self.output.write(rendered[0] if len(rendered) == 1 else b"".join(rendered))
            rendered.clear()
        if self.live:
            if self._ending is None and not self.output.blocked:
                return  # all there is was rendered by `take`
            self.rest()
        while not self._closed and not self.output.blocked and self.cursor < transcript.tip:
            try:
                most = _BATCH if self._turned == len(transcript.segments) else self._until_turn()
                blocks = transcript.since(self.cursor, most)
            except LookupError:
                text = "the client read too slowly: what it needs next is gone"
                self._give_up(BackendError(ErrorCode.TRANSCRIPT_FULL, text))
                return
            except BackendError as error:
                self._give_up(error)
                return
            except Exception as error:
                self.break_off(error)
                return
            block = blocks[0] if len(blocks) == 1 else b"".join(blocks)
            self.cursor += len(blocks)
            self.sent += len(block)
            try:
                data = self.view.render(block)
            except Exception as error:
                self.break_off(error)
                return
            if data:
                self.output.write(data)
        if self.cursor >= transcript.tip and not self.output.blocked and not self._closed:
            if self._ending is not None:
                self._close(*self._ending)
            else:
                self.live = not self.first and self._turned == len(transcript.segments)

    def _until_turn(self) -> int:
        """How many blocks may be rendered before the next segment; turns the view where one begins. Raises
        LookupError, and BackendError where the view cannot turn."""
        segments = self.transcript.segments
        while self._turned < len(segments) and segments[self._turned].first <= self.cursor:
            segment = segments[self._turned]
            self.view = self.view.turn(segment, partial(past, self.transcript, self._turned))
            self._turned += 1
        if self._turned == len(segments):
            return _BATCH
        return min(_BATCH, segments[self._turned].first - self.cursor)

    def end(self, ending: Ending, completed: bool) -> None:
        """The stream is over. The last frame goes out behind everything before it, without waiting for a window."""
        self._ending = (ending, completed)
        self.rest()
        if self.output.blocked:
            self.wake()
        elif self.wired is None:
            self.flush()
        else:
            self.wired.gather()
            self.flush()
            self.wired.release()

    def _give_up(self, error: BackendError) -> None:
        ending = Ending(finish="error", usage=Usage(), usage_estimated=True, tokens=0, error=error)
        self._close(ending, False)

    def _close(self, ending: Ending, completed: bool) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            last = self.view.end(ending, completed, partial(past, self.transcript, self._turned))
        except Exception as error:
            self.break_off(error)
            return
        if last:
            self.output.write(last)
        self.told = True
        self.output.close(completed or self.polite or ending.partial)
        self.abandon()

    def break_off(self, error: Exception) -> None:
        """A fault of ours in what this client reads: it is reported, and its connection breaks."""
        asyncio.get_running_loop().call_exception_handler({"message": "a reader's view failed", "exception": error})
        self.fault = True
        self.cut()

    def cut(self) -> None:
        """The connection breaks, and nothing is said: the stream goes on elsewhere."""
        self.output.close(False)
        self.abandon()

    def abandon(self) -> None:
        """Nobody listens any more."""
        self._closed = True
        self.rest()
        self.wake()
        if not self.done.done():
            self.done.set_result(None)
