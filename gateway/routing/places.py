"""Places with backends that the whole fleet shares: who counts them, and an attempt that takes one when it is made.

Law: a place is one running stream of `backends.NAME.max_streams`; it is taken before the backend is asked and given
back once. The rates of a backend (`rpm`, `tpm`) are spent by every attempt at it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from backends.base import HttpRequest
from backends.contract.errors import BackendError, ErrorCode
from backends.exchange import Exchange, Sink
from config.schema import Backend
from gateway.streams.course import Opener


class Places(Protocol):
    """Who counts. Leases cannot leak: they end with their worker."""

    async def take(self, backend: str, limit: int) -> str:
        """A lease of one of `limit` places, by its name; "" when all are taken. Raises BackendError where that cannot
        be known, and nothing may be taken then."""

    def give(self, backend: str, lease: str) -> None:
        """Give it back."""

    async def spend(self, backend: str, rules: Backend, tokens: int) -> tuple[str, float] | None:
        """Spend one request and so many tokens of a backend's rates; the limit that refused (by its name) and seconds
        until it would not. Raises BackendError as `take`."""


class NoRoom(BackendError):
    """A refusal by a backend's own limit; `limit` is its name."""

    def __init__(self, limit: str, message: str, retry_after: float, code: ErrorCode) -> None:
        super().__init__(code, message, retry_after=retry_after)
        self.limit = limit


class Room(Protocol):
    """What is said of a backend that has no room."""

    name: str
    backend: Backend
    active: int
    spent_by: str  # the rate that is used up; "": none is

    def left(self) -> float:
        """Seconds until the rate allows another request."""


def carries_all(room: Room, why: str = "") -> NoRoom:
    """All places are taken."""
    limit = f"backends.{room.name}.max_streams"
    here = f"{room.active} of {room.backend.max_streams} streams from this node"
    return NoRoom(limit, f"backend {room.name!r} is full ({limit}; {here}){why}; try again", 1, ErrorCode.SHED)


def busy(room: Room) -> NoRoom:
    """The same for an attempt on the way: another backend may be asked."""
    error = carries_all(room)
    return NoRoom(error.limit, error.message, 1, ErrorCode.RATE_LIMITED)


def is_spent(room: Room) -> NoRoom:
    """A rate is used up: of its kind a 429, so that clients wait as they do for their own."""
    text = f"backend {room.name!r} has had its requests for now ({room.spent_by})"
    return NoRoom(room.spent_by, text, room.left(), ErrorCode.RATE_LIMITED)


def no_room(rooms: Sequence[Room], why: str = "") -> NoRoom:
    """Why nobody of these can be asked: they carry all they may, or (all of them) have spent their rates."""
    full = next((room for room in rooms if not room.left()), None)
    return carries_all(full, why) if full is not None else is_spent(min(rooms, key=lambda room: room.left()))


class Leased(Opener):
    """A transport that is asked only once `confirm` has a place there; it raises BackendError when there is none."""

    def __init__(self, transport: Opener, confirm: Callable[[], Awaitable[None]]) -> None:
        self._transport = transport
        self._confirm = confirm

    async def open(self, request: HttpRequest, sink: Sink) -> Exchange:
        await self._confirm()
        return await self._transport.open(request, sink)


def limited(backend: Backend) -> bool:
    """Whether a backend has limits of its own."""
    return bool(backend.max_streams or backend.rpm or backend.tpm)
