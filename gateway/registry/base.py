"""Who streams where: the registry contract.

A node's own streams are always known to the node itself, in memory; a shared registry adds the other nodes' view. No
call below the line `await` is on the token path, and no plain method ever blocks, raises or waits for the network.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal

from msgspec import Struct

from gateway.streams.stream import Entry as Entry  # noqa: PLC0414 - registries get it from here
from gateway.streams.stream import Receipt


class Cancelled(Struct, frozen=True):
    """The answer to a cancel: `unknown` (also: another owner's), `done` with the receipt, `pending` elsewhere."""

    outcome: Literal["unknown", "done", "pending"]
    state: str = ""
    receipt: Receipt | None = None


class Admission(Struct, frozen=True):
    """Whether one more stream may start."""

    allowed: bool
    active: int = 0
    limit: int = 0


# Stops a stream of this node: (stream id, by, reason) -> its receipt, or None when it is not running here.
LocalStop = Callable[[str, str, str], Receipt | None]
# The running streams of this node, made anew at each call (the registry asks; nobody pushes per token).
LocalActive = Callable[[], list[Entry]]


class Registry(ABC):
    """One per worker. `attach` first, then `start`; `stop` last."""

    node: str

    def attach(self, active: LocalActive, stop: LocalStop) -> None:
        """The node's own streams: how to list them and how to stop one."""
        self.local_active = active
        self.local_stop = stop

    async def start(self) -> None:  # noqa: B027 - a registry without housekeeping has nothing to do
        """Connect and start housekeeping. Never raises for an absent server: starts degraded."""

    async def stop(self) -> None:  # noqa: B027 - likewise
        """Give back leases and close connections."""

    @abstractmethod
    def opened(self, entry: Entry) -> None:
        """A stream was admitted here. Queued; written at the next tick."""

    @abstractmethod
    def closed(self, receipt: Receipt, key_id: str) -> None:
        """A stream of this node reached its terminal state. Queued; kept for the replay window."""

    @abstractmethod
    async def admit(self, scope: str, limit: int, stream_id: str) -> Admission:
        """Take a concurrency lease of `scope` (a key id or owner) for a stream; 0: no limit. Leases cannot leak: they
        belong to a node's lease and to a stream. When the shared store is away, counts this node only."""

    @abstractmethod
    def release(self, scope: str, stream_id: str) -> None:
        """Give the lease back. Idempotent."""

    @abstractmethod
    async def claim(self, stream_id: str, owner: str) -> bool:
        """Reserve a client-chosen id; False when this owner already used it within the replay window."""

    @abstractmethod
    def unclaim(self, stream_id: str) -> None:
        """Give a granted claim back: its stream was refused after all and may be asked for again."""

    @abstractmethod
    async def active(self, owner: str | None) -> list[Entry]:
        """Running streams of an owner (None: all), on all nodes, newest last."""

    @abstractmethod
    async def find(self, stream_id: str, owner: str | None) -> Entry | Receipt | None:
        """A running stream, or the receipt of an ended one, or None (also when it is another owner's)."""

    @abstractmethod
    async def cancel(self, stream_id: str, owner: str | None, *, by: str, reason: str, wait: float = 1.0) -> Cancelled:
        """Stop a stream wherever it runs; waits up to `wait` seconds for another node to confirm."""

    @abstractmethod
    async def statistics(self, owner: str | None) -> dict[str, Any]:
        """Counts by state, rates, percentiles, tokens, active now and at peak, by backend and model (CONTRACT.md 1)."""

    @abstractmethod
    def health(self) -> dict[str, Any]:
        """`{"status": "healthy" | "degraded", ...}`: at once, from what is known."""
