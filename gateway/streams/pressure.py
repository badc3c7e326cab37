"""Back-pressure of one stream: the backend is paused only when even the fastest reader is half a transcript behind.

Law: with nobody reading, nothing is paused: the transcript's cap bounds memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from gateway.streams.stream import Stream
from gateway.streams.transcript import Transcript


class Behind(Protocol):
    """What is asked of a reader: `sent` is the bytes of transcript it has consumed; all of them while `live`."""

    sent: int
    live: bool


class Source(Protocol):
    """What can be paused."""

    def pause(self) -> bool:
        """Read no more for now; False when there is nothing to pause."""

    def resume(self) -> None:
        """Read on."""


class Pressure:
    """Used from the event loop's thread. `source` is the attempt that leads, once there is one."""

    def __init__(self, transcript: Transcript, readers: Sequence[Behind], stream: Stream) -> None:
        self.paused = False
        self.source: Source | None = None
        self._transcript = transcript
        self._readers = readers
        self._stream = stream

    def press(self) -> None:
        """The transcript holds much: is anybody reading?"""
        if not self._readers:
            return
        cap = self._transcript.cap
        total = self._transcript.total
        unread = total - max(total if reader.live else reader.sent for reader in self._readers)
        if not self.paused and unread > cap // 2 and self.source is not None:
            self.paused = self.source.pause()
        elif self.paused and unread < cap // 4:
            self.read_on()

    def relieve(self) -> None:
        """A reader has caught up, or left."""
        if self.paused:
            if self._readers:
                self.press()
            else:
                self.read_on()

    def read_on(self) -> None:
        """No more holding back; the silence so far was not the backend's."""
        if self.paused and self.source is not None:
            self.source.resume()
            self._stream.last_progress = asyncio.get_running_loop().time()
        self.paused = False
