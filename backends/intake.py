"""What a busy worker's sockets have read in one turn of the loop, dealt with together at its end.

A token costs most where it meets a cold cache: between two of them the kernel runs, and takes the cache. So they go in
three passes instead of one after the other: all are read, then all are worked on, then all are written.

Law: to every connection it is as if it had not read yet; whoever ends one (`Connection`) lets it drain before. Nothing
stays here for longer than a turn, and never much.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

_MOST = 64  # reads kept: more save no more, and the last one would wait for all


class Wire(Protocol):
    """A socket, as far as it is written to: see `asyncio.WriteTransport`."""

    def write(self, data: bytes) -> None:
        """Send this."""

    def is_closing(self) -> bool:
        """Nothing can be sent any more."""


class Road(Protocol):
    """Where reads go that are one whole chunk each, to a client's `wire`."""

    @property
    def wire(self) -> Wire:
        """The client's socket."""

    def fit(self, data: bytes, now: float) -> bytes | None:
        """Deal with one read, but for the writing: what is to be written to `wire` for it, b"" for nothing. None: it is
        not for this road, and untouched."""


class Reading(Protocol):
    """A connection that keeps its reads here."""

    @property
    def road(self) -> Road | None:
        """None once it has refused a read."""

    def feed(self, data: bytes) -> None:
        """One read, by the ordinary road."""

    def fault(self, error: Exception) -> None:
        """That failed through us: nothing more is read for whoever it was."""


class Intake:
    """One per pacer. While `busy`, reads are kept (`keep`). `soon` and `time` are the loop's `call_soon` and clock;
    `after` is told how many short ones went out, when they did."""

    __slots__ = ("_after", "_armed", "_out", "_soon", "_time", "busy", "late")

    def __init__(
        self,
        soon: Callable[[Callable[[], None]], object],
        time: Callable[[], float],
        after: Callable[[int], None],
    ) -> None:
        self._soon = soon
        self._time = time
        self._after = after
        self._armed = False
        self._out = 0  # of this turn
        self.busy = False
        self.late: list[tuple[Reading, bytes]] = []

    def keep(self, connection: Reading, data: bytes) -> None:
        """Until the end of this turn, or until there are many."""
        if not self._armed:
            self._armed = True
            self._soon(self._turn)
        late = self.late
        late.append((connection, data))
        if len(late) >= _MOST:
            self.drain()

    def _turn(self) -> None:
        self._armed = False
        self.drain()
        out, self._out = self._out, 0
        self._after(out)

    def drain(self) -> None:
        """Deal with all that is kept, in its order for every connection."""
        late, self.late = self.late, []
        now = self._time()
        out: list[tuple[Wire, bytes]] = []
        for connection, data in late:
            try:
                road = connection.road
                if road is not None:
                    said = road.fit(data, now)
                    if said:
                        out.append((road.wire, said))
                    if said is not None:
                        continue
                self._write(out)  # the ordinary road may write to the same client
                connection.feed(data)
            except Exception as error:  # of one stream: the others' tokens are here too
                connection.fault(error)
        self._write(out)

    def _write(self, out: list[tuple[Wire, bytes]]) -> None:
        for wire, data in out:
            if not wire.is_closing():
                wire.write(data)
        self._out += len(out)
        out.clear()
