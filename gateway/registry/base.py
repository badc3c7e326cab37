"""Who streams where: the registry contract.

A node's own streams are always known to the node itself, in memory; a shared registry adds the other nodes' view. No
call below the line `await` is on the token path, and no plain method ever blocks, raises or waits for the network. A
stream is named by its id and its owner: two owners may use the same id.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
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


class Quota(Struct, frozen=True, gc=False):
    """At most `limit` streams at once in a scope (`key:web`, `owner:acme`, ...)."""

    scope: str
    limit: int


class Rate(Struct, frozen=True, gc=False):
    """At most `per_minute` units a minute in a scope, of which `cost` are wanted now."""

    scope: str
    per_minute: int
    cost: int


class Taken(Struct, frozen=True, gc=False):
    """What came of a `take`. `refused`: the scope that had no room, "" when all was granted; `active` of `limit` are in
    use there (or in the first scope that was asked for); `retry_after` in seconds, for rates. `shared` False: the
    shared store is away, this is one node's word."""

    refused: str = ""
    active: int = 0
    limit: int = 0
    retry_after: float = 0.0
    shared: bool = True


class Keyed(Struct, frozen=True):
    """What an Idempotency-Key stands for: the digest of the request it came with, who took it, and the stream that
    answers it ("": not decided yet)."""

    digest: str
    token: str
    stream_id: str = ""


# Stops a stream of this node: (stream id, owner, by, reason) -> its receipt, or None when it is not running here.
LocalStop = Callable[[str, str, str, str], Receipt | None]
# The running streams of this node, made anew at each call (the registry asks; nobody pushes per token).
LocalActive = Callable[[], list[Entry]]
# One of them, by id and owner; None when it is not running here.
LocalOne = Callable[[str, str], Entry | None]


class Registry(ABC):
    """One per worker. `attach` first, then `start`; `stop` last."""

    node: str

    def attach(self, active: LocalActive, stop: LocalStop, one: LocalOne | None = None) -> None:
        """The node's own streams: how to list them, how to stop one, and how to see one (else: from the list)."""
        self.local_active = active
        self.local_stop = stop
        self.local_one = one

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

    def last_lines(self, write: Callable[[Receipt], object]) -> None:  # noqa: B027 - likewise
        """Who writes the summary lines of streams that are lost with their node."""

    def logs(self, receipt: Receipt) -> bool:
        """Whether the summary line of a stream that ended here is the registry's to write, or another node's."""
        return False

    def holds(self, act: Callable[[], object]) -> bool:
        """A stream of this node is about to end. True: it is not certain that it still is this node's; `act` is called
        when it is, or cannot be known."""
        return False

    def moved(self, entry: Entry) -> None:  # noqa: B027 - a registry of one worker has nowhere to move it to
        """Another node goes on with a stream of this one: here it has neither an end nor a receipt."""

    def hold(self, scope: str, stream_id: str) -> None:  # noqa: B027 - likewise
        """A lease of a stream that another node held: it is this one's now, whatever the limit."""

    def let_go(self, scope: str, stream_id: str) -> None:  # noqa: B027 - likewise
        """A lease is another node's now: it is renewed here no longer."""

    @abstractmethod
    async def take(
        self, stream_id: str, quotas: Sequence[Quota], rates: Sequence[Rate] = (), *, alone: bool = True
    ) -> Taken:
        """A stream's leases and rates: all of them, or nothing. Leases cannot leak: they belong to a node's lease and
        to a stream. While the shared store is away this node's own count decides; with `alone` False nothing is
        taken then."""

    @abstractmethod
    def charge(self, rates: Sequence[Rate]) -> None:
        """Costs that were known only afterwards; negative ones are given back. A scope may go into debt by it."""

    async def admit(self, scope: str, limit: int, stream_id: str) -> Admission:
        """One concurrency lease; 0: no limit."""
        if not limit:
            return Admission(True)
        taken = await self.take(stream_id, (Quota(scope, limit),))
        return Admission(not taken.refused, taken.active, limit)

    @abstractmethod
    def release(self, scope: str, stream_id: str) -> None:
        """Give the lease back. Idempotent."""

    @abstractmethod
    async def claim(self, stream_id: str, owner: str) -> bool:
        """Reserve a client-chosen id; False while this owner has a running stream of this id, or had one within the
        replay window. A caller cancelled in here keeps nothing."""

    @abstractmethod
    async def unclaim(self, stream_id: str, owner: str) -> None:
        """Give a granted claim back, at once and on all nodes: its stream was refused and may be asked for again."""

    async def buried(self, stream_id: str, owner: str) -> str:
        """The state in which a stream ended that no node has any more; "": it never was, or nobody remembers, or they
        cannot be asked now."""
        return ""

    def unbury(self, stream_id: str, owner: str) -> None:  # noqa: B027 - who has one node remembers by itself
        """Forget that it was."""

    async def take_key(self, owner: str, key: str, mine: Keyed, instead: Keyed | None = None) -> Keyed | None:
        """Take an owner's Idempotency-Key; what it stands for already, unless that is `instead`; None: it is taken now,
        or there are no other nodes (or none in sight) that might have it."""
        return None

    async def kept_key(self, owner: str, key: str) -> Keyed | None:
        """What a key stands for; None: nothing, or nobody can be asked now."""
        return None

    def keep_key(self, owner: str, key: str, mine: Keyed, stream_id: str) -> None:  # noqa: B027 - others have none
        """The stream of a key that was taken; "": it is free again."""

    @abstractmethod
    async def claim_probe(self, backend: str, seconds: float) -> bool:
        """Whether this worker may try a backend whose breaker is open: one in the fleet at a time, for so many seconds.
        Without the shared store: one in this worker. Never raises."""

    @abstractmethod
    def unclaim_probe(self, backend: str) -> None:
        """The trial is over: another may follow. Idempotent."""

    @abstractmethod
    async def active(self, owner: str | None) -> list[Entry]:
        """Running streams of an owner (None: all), on all nodes, newest last."""

    @abstractmethod
    async def find(self, stream_id: str, owner: str | None) -> Entry | Receipt | None:
        """A running stream, or the receipt of an ended one, or None (also when it is another owner's). Without an
        owner (operators): anybody's; of several that share the id a running one."""

    @abstractmethod
    async def cancel(self, stream_id: str, owner: str | None, *, by: str, reason: str, wait: float = 1.0) -> Cancelled:
        """Stop a stream wherever it runs; waits up to `wait` seconds for another node to confirm. Owner: as `find`."""

    @abstractmethod
    async def statistics(self, owner: str | None) -> dict[str, Any]:
        """Counts by state, rates, percentiles, tokens, active now and at peak, by backend and model (CONTRACT.md 1);
        `partial` where they are this node's own."""

    @property
    def partial(self) -> bool:
        """Whether other nodes' streams are out of sight: what is listed and counted is this node's own."""
        return False

    def told(self, answer: dict[str, Any]) -> dict[str, Any]:
        """An answer about all nodes, marked where it is not about all of them."""
        return answer | {"partial": True} if self.partial else answer

    @abstractmethod
    def health(self) -> dict[str, Any]:
        """`{"status": "healthy" | "degraded", ...}`: at once, from what is known."""
