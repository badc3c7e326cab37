"""What stands where a reader would, with an attempt whose stream is written ahead: it shows nothing, and says that
something has come.

Law: it takes every block at any time, also by a lane (`streams/lane.py`), and keeps none: they are found in the
transcript. It is never behind, never full, and never waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from gateway.protocols.base import Ending
from gateway.registry.shared_shipment import Shipment
from gateway.streams.pacer import Pacer
from gateway.streams.reader import Reader
from gateway.streams.transcript import Segment
from gateway.streams.view import Past, View


class Herald(Reader):
    """`grew` is called with it, once until `due` is False again. `gone`: nothing more of the stream is shipped;
    `keys`: where it is."""

    __slots__ = ("_grew", "due", "gone", "keys", "ship")

    def __init__(self, ship: Shipment, pacer: Pacer, keys: tuple[str, str], grew: Callable[[Herald], None]) -> None:
        nowhere = _Nowhere(self.push)
        super().__init__(ship.transcript, _Nothing(), nowhere, pacer, polite=False)
        self.wired = nowhere
        self.live = True
        self.first = False
        self.ship, self.keys = ship, keys
        self.due = self.gone = False
        self._grew = grew

    def push(self) -> None:
        if not self.due:
            self.due = True
            self._grew(self)

    def take(self, block: bytes, text: str) -> None:
        self.push()

    def later(self, data: bytes) -> None:
        self.push()

    def rest(self) -> None:
        lane, self.lane = self.lane, None
        if lane is not None:
            lane.close()


class _Nowhere:
    """An output and its wire: blocks that came by a lane are in the transcript."""

    blocked = False

    def __init__(self, told: Callable[[], None]) -> None:
        self.wire: asyncio.Transport | None = cast(asyncio.Transport, self)
        self._told = told

    def write(self, _data: bytes) -> None:
        """Something has come."""
        self._told()

    def is_closing(self) -> bool:
        """It takes whatever comes."""
        return False

    def wrote(self, at: float = 0.0) -> None:
        """It is never full."""

    def gather(self) -> None:
        """It is written nothing."""

    def release(self) -> None:
        """Likewise."""

    def close(self, clean: bool) -> None:
        """Nobody is there."""


class _Nothing(View):
    """Shows nothing, and changes nothing."""

    __slots__ = ()

    @property
    def frames(self) -> int:
        return 0

    @property
    def exact(self) -> bool:
        return True

    def start(self) -> bytes:
        return b""

    def render(self, block: bytes) -> bytes:
        return b""

    def turn(self, segment: Segment, past: Past) -> View:
        return self

    def end(self, ending: Ending, completed: bool, past: Past | None = None) -> bytes:
        return b""
