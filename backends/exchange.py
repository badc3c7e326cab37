"""What a request to a backend looks like from above: a sink that is called back, a handle that steers.

Declarations only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Protocol

from backends.contract.errors import BackendError
from backends.intake import Intake, Road


class Sink(Protocol):
    """Where an answer goes. Every call is synchronous, on the event loop, and exactly one of `eof` and `lost` is the
    last."""

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        """The status and the headers (lower-case names), once, before any data."""

    def data(self, data: bytes) -> None:
        """Body bytes, transfer-decoded; never empty."""

    def eof(self) -> None:
        """The body ended by its framing: last chunk, Content-Length reached, or clean close of a close-delimited
        body."""

    def lost(self, error: BackendError) -> None:
        """Anything else: UPSTREAM_TRUNCATED once the head was seen, UPSTREAM_FAILED (or TIMED_OUT) before."""


class Express(Road, Protocol):
    """A shorter road for whole chunks (`Exchange.express`). `intake`: what is read for it may be kept there first."""

    @property
    def intake(self) -> Intake:
        """Its worker's."""

    def take(self, data: bytes) -> bool:
        """One read of the socket. True: it was one whole chunk, framing and all, and is dealt with."""


class Exchange(ABC):
    """One request under way. Every method may be called at any time, in a sink's callback too, and after the end."""

    @abstractmethod
    def pause(self) -> None:
        """Read no more from the backend. A call or two of `data` may still come."""

    @abstractmethod
    def resume(self) -> None:
        """Read on."""

    def express(self, road: Express) -> bool:
        """Offer it every read from now on, transfer coding and all, until it refuses one; that and what follows goes
        the ordinary road. To be called in the sink's `data`. False: it will not be offered any."""
        return False  # a shortcut, which not all transports have

    @abstractmethod
    def abort(self) -> None:
        """Close the upstream socket at once. No callback comes after."""

    @abstractmethod
    def finish(self) -> None:
        """Nothing more is wanted; the connection may be kept if the body ends within 1 s and 64 KiB. No callback comes
        after."""
