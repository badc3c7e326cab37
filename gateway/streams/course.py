"""Which backends a stream may be sent to, as its producer asks for them. Declarations, and the course of a single leg.

Law: routing decides, the producer acts. A course belongs to one stream; its calls are synchronous and never wait.
"""

from __future__ import annotations

from typing import Literal, Protocol

from msgspec import Struct

from backends.base import Driver, HttpRequest
from backends.contract.errors import BackendError
from backends.exchange import Exchange, Sink
from gateway.protocols.base import Answer


class Opener(Protocol):
    """Whoever can be asked: the transport of a backend, or an answer that is there already."""

    async def open(self, request: HttpRequest, sink: Sink) -> Exchange:
        """Ask; returns before any callback of the sink. Raises BackendError."""

    def at_once(self, request: HttpRequest, sink: Sink) -> Exchange | None:
        """As `open`, where nothing has to be waited for; None: ask `open`. Raises BackendError."""
        return None  # a shortcut, which not all of them have


class Leg(Struct, frozen=True):
    """One attempt: a backend, the model's name there, and what it is asked. `delay`: seconds to wait first. `kind`: a
    `start` begins the answer, `continue` goes on with it where it broke off, `restart` begins it anew. `degraded`: it
    asks no backend, what it gives stands in for an answer."""

    backend: str
    model: str
    driver: Driver
    request: HttpRequest
    transport: Opener
    delay: float = 0.0
    kind: Literal["start", "continue", "restart"] = "start"
    degraded: Literal["", "cached", "message"] = ""


class Course(Protocol):
    """The way of one stream over its backends."""

    hedge_after: float | None  # seconds without a token until a second backend is asked too; None: never

    def first(self) -> Leg:
        """The first attempt."""

    def more(self) -> bool:
        """Whether a failure before the first token could be answered by another attempt."""

    def next(self, error: BackendError) -> Leg | None:
        """The attempt after one that failed before any token was delivered; None: the failure stands."""

    def hedge(self) -> Leg | None:
        """A second attempt beside the first; None: nobody to ask."""

    def resume(self, error: BackendError, answer: Answer) -> Leg | None:
        """The attempt after a failure in mid-answer; `answer` is what was delivered. None: the failure stands."""

    def began(self, leg: Leg, seconds: float) -> None:
        """An attempt gave its first token, so long after it was made."""

    def failed(self, leg: Leg, error: BackendError) -> None:
        """An attempt failed."""

    def over(self, leg: Leg, *, completed: bool) -> None:
        """An attempt ended otherwise: it completed, or was no longer wanted."""


class Straight:
    """One leg and no other: what a backend answers is the answer."""

    hedge_after: float | None = None

    def __init__(self, leg: Leg) -> None:
        self._leg = leg

    def first(self) -> Leg:
        """The leg."""
        return self._leg

    def more(self) -> bool:
        """Never."""
        return False

    def next(self, error: BackendError) -> Leg | None:
        """None."""

    def hedge(self) -> Leg | None:
        """None."""

    def resume(self, error: BackendError, answer: Answer) -> Leg | None:
        """None."""

    def began(self, leg: Leg, seconds: float) -> None:
        """Nobody counts."""

    def failed(self, leg: Leg, error: BackendError) -> None:
        """Nobody counts."""

    def over(self, leg: Leg, *, completed: bool) -> None:
        """Nobody counts."""
