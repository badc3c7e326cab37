"""The request of one attempt, from asking the backend to giving its connection back.

Law: whoever closes it while the backend is still being asked leaves no connection behind, and is told nothing more.
"""

from __future__ import annotations

import asyncio
import contextlib

from backends.contract.errors import BackendError, ErrorCode
from backends.exchange import Exchange, Sink
from gateway.streams.course import Leg


class InFlight:
    """Opened once, closed once. `exchange`: None before the backend was asked, and when nothing more will come of it.
    It holds no sink: the two would keep each other in memory."""

    __slots__ = ("_closed", "_opening", "exchange")

    def __init__(self) -> None:
        self.exchange: Exchange | None = None
        self._opening: asyncio.Task[None] | None = None
        self._closed = False

    def open(self, leg: Leg, sink: Sink) -> None:
        """Ask the backend. Returns at once; what goes wrong, `sink.lost` is told later."""
        with contextlib.suppress(BackendError):
            self.exchange = leg.transport.at_once(leg.request, sink)
        if self.exchange is None:
            self._opening = asyncio.get_running_loop().create_task(self._open(leg, sink))

    async def _open(self, leg: Leg, sink: Sink) -> None:
        try:
            exchange = await leg.transport.open(leg.request, sink)
        except BackendError as error:
            sink.lost(error)
            return
        except Exception:  # a fault of ours: the client is told at once, and the loop's handler logs it
            sink.lost(BackendError(ErrorCode.INTERNAL, "the gateway could not ask the backend"))
            raise
        if self._closed:
            exchange.abort()
        else:
            self.exchange = exchange

    def close(self, *, drain: bool) -> None:
        """Nothing more is wanted. `drain`: it ended well, the connection may be kept."""
        self._closed = True
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            if drain:
                exchange.finish()
            else:
                exchange.abort()
        elif self._opening is not None and not self._opening.done() and self._opening is not asyncio.current_task():
            self._opening.cancel()

    def pause(self) -> bool:
        """Read no more for now; False when there is nothing to pause."""
        if self.exchange is None:
            return False
        self.exchange.pause()
        return True

    def resume(self) -> None:
        """Read on."""
        if self.exchange is not None:
            self.exchange.resume()
