"""Who reads a stream, and what becomes of one that nobody reads.

Law: nothing ends a stream for want of readers while it has one. The last to leave sets the disconnect policy to work:
the stream goes on, is given up, or is given up unless somebody comes back in time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from config.schema import OnDisconnect
from gateway.streams.pressure import Pressure
from gateway.streams.reader import Reader
from gateway.streams.stream import Stream
from gateway.streams.transcript import Transcript


class Readership:
    """The readers of one stream. `deserted`: told once why nobody reads it and it is to end. `fed`: those that are told
    of every block as it comes: all of them, but where they are shown only what is safe elsewhere (`visibility`)."""

    __slots__ = ("_deserted", "_grace", "_policy", "_stream", "fed", "pressure", "readers")

    def __init__(
        self, stream: Stream, transcript: Transcript, policy: OnDisconnect, deserted: Callable[[str], object]
    ) -> None:
        self.readers: list[Reader] = []
        self.fed = self.readers
        self.pressure = Pressure(transcript, self.readers, stream)
        self._stream = stream
        self._policy = policy
        self._deserted: Callable[[str], object] | None = deserted
        self._grace: asyncio.TimerHandle | None = None

    def rest(self) -> None:
        """The transcript is about to grow otherwise than by plain blocks, or is looked at: no lane is open behind
        this."""
        for reader in self.readers:
            reader.rest()

    def join(self, reader: Reader) -> None:
        """One reader more. A lane has one reader: it closes."""
        self._stop_waiting()
        self.rest()
        self._stream.read(True)
        self.readers.append(reader)

    def leave(self, reader: Reader, why: str) -> None:
        """A reader leaves, and why."""
        if reader in self.readers:
            self.readers.remove(reader)
        reader.abandon()
        if self.readers or self._stream.state.terminal:
            return
        self._stream.read(False)
        self.pressure.read_on()
        if self._policy.action == "cancel":
            self._desert(why)
        elif self._policy.action == "grace":
            self._wait(self._policy.grace, why)

    def expect(self, seconds: float, why: str) -> None:
        """Nobody reads yet, and somebody is to come within so many seconds, or within the grace of the policy if that
        is longer. A stream that is to go on without readers waits for none."""
        if self._policy.action != "continue":
            self._wait(max(seconds, self._policy.grace), why)

    def close(self) -> None:
        """The stream ended: nobody is waited for."""
        self._stop_waiting()
        self._deserted = None  # the two would keep each other in memory

    def _wait(self, seconds: float, why: str) -> None:
        self._grace = asyncio.get_running_loop().call_later(seconds, self._over, why)

    def _stop_waiting(self) -> None:
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None

    def _over(self, why: str) -> None:
        if not self.readers:
            self._desert(f"{why} and did not come back")

    def _desert(self, why: str) -> None:
        if self._deserted is not None:
            self._deserted(why)
