"""All backends of a worker as it knows them, the retry budget, and places: had, waited for, given to others.

Law: a place is had in this worker and in the fleet, or not at all. Who waits is served by priority, then in order of
arrival; between nodes by luck.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping

from config.schema import Backend
from gateway.routing.places import Leased, Places, busy, is_spent, limited, no_room
from gateway.routing.policies import Seen
from gateway.routing.retries import Budget
from gateway.routing.upstream import Upstream, Waiter
from gateway.streams.course import Opener

_LOOK = 0.25  # seconds between looks whether another node's stream has ended


class Upstreams:
    """All of them, and the retry budget. `clock`: monotonic seconds; `claim` asks for the fleet's permit for a trial
    (the backend, for how many seconds), `unclaim` gives it back; `paused`: backends operators have switched off;
    `places`: who counts the fleet's places, None: this worker is alone and has no rates."""

    def __init__(
        self,
        backends: Mapping[str, Backend],
        clock: Callable[[], float],
        claim: Callable[[str, float], Awaitable[bool]],
        unclaim: Callable[[str], None],
        paused: Callable[[], Collection[str]] = tuple,
        places: Places | None = None,
    ) -> None:
        self._places = places
        self.clock, self.claim, self.unclaim, self.paused = clock, claim, unclaim, paused
        self.budget = Budget()
        self._known: dict[str, Upstream] = {}
        self.configure(backends)

    def configure(self, backends: Mapping[str, Backend]) -> None:
        """A new configuration: rules change, what was learnt stays; backends that are gone are forgotten, when
        nobody is there any more."""
        for name, backend in backends.items():
            known = self._known.get(name)
            if known is None:
                self._known[name] = Upstream(name, backend, self.clock, self._places)
            else:
                known.backend, known.breaker.rules = backend, backend.breaker
        gone = [up for name, up in self._known.items() if name not in backends]
        for upstream in gone:
            if not upstream.active and not upstream.waiting:
                del self._known[upstream.name]

    def __getitem__(self, name: str) -> Upstream:
        """Raises KeyError."""
        return self._known[name]

    def __iter__(self) -> Iterator[Upstream]:
        return iter(list(self._known.values()))

    def find(self, name: str) -> Upstream | None:
        """One backend, or None."""
        return self._known.get(name)

    def seen(self) -> dict[str, Seen]:
        """As policies see them now."""
        now = self.clock()
        return {name: upstream.seen(now) for name, upstream in self._known.items()}

    def figures(self) -> dict[str, int]:
        """The breakers, for metrics."""
        return {name: upstream.breaker.state.figure for name, upstream in self._known.items()}

    def reset(self, name: str) -> bool:
        """Close a breaker by hand. False: no such backend."""
        upstream = self._known.get(name)
        if upstream is not None:
            upstream.breaker.reset(self.clock())
            upstream.spared = 0.0
        return upstream is not None

    # -- places --------------------------------------------------------------------------------------------------------

    async def occupy(self, name: str) -> bool:
        """Take a place; False when other workers have them all. Raises BackendError; then none is taken."""
        upstream = self._known[name]
        upstream.take()
        if self._places is None or not upstream.backend.max_streams:
            return True
        lease = ""
        try:
            lease = await self._places.take(name, upstream.backend.max_streams)
        finally:
            if not lease:
                upstream.leave()
        if lease:
            upstream.keep(lease)
        else:
            upstream.crowded = self.clock() + _LOOK
        return bool(lease)

    async def spend(self, name: str, tokens: int) -> bool:
        """Spend of a backend's rates; False when they are used up. Raises BackendError."""
        upstream = self._known[name]
        if self._places is None or not (upstream.backend.rpm or upstream.backend.tpm):
            return True
        refused = await self._places.spend(name, upstream.backend, tokens)
        if refused is not None:
            upstream.spent(*refused)
        return refused is None

    async def confirm(self, upstream: Upstream, tokens: int) -> None:
        """The lease and the rates of a place that was taken in this worker. Raises BackendError when they are not to be
        had."""
        if self._places is None or self._known.get(upstream.name) is not upstream:
            return
        most = upstream.backend.max_streams
        if most:
            lease = await self._places.take(upstream.name, most)
            if not lease:
                upstream.crowded = self.clock() + _LOOK
                raise busy(upstream)
            upstream.keep(lease)
        if not await self.spend(upstream.name, tokens):
            raise is_spent(upstream)

    def leased(self, upstream: Upstream, transport: Opener, tokens: int) -> Opener:
        """The transport of an attempt for which nobody waited: it takes its lease when it is made."""
        if self._places is None or not limited(upstream.backend):
            return transport
        return Leased(transport, lambda: self.confirm(upstream, tokens))

    async def place(self, names: Iterable[str], priority: int) -> str:
        """Wait for a place with one of these full backends: its name, the place taken. Raises BackendError SHED."""
        waiter = Waiter(asyncio.get_running_loop().create_future())
        queues = [self._known[name] for name in names]
        entered = [upstream for upstream in queues if upstream.enqueue(waiter, priority)]
        if not entered:
            raise no_room(queues, " and its queue, too")
        longest = max(float(upstream.backend.queue.timeout) for upstream in entered)
        taken = ""
        try:
            async with asyncio.timeout(longest):
                while not taken:
                    taken = await self._served(waiter, entered)
        except TimeoutError:
            raise no_room(entered, f" and none of its streams ended within {longest:g} s") from None
        finally:
            if not taken:
                _declined(waiter, entered)
        return taken

    async def _served(self, waiter: Waiter, entered: Iterable[Upstream]) -> str:
        """A place somebody left here, or (looked for now and then) one that came free on another node; "": none yet."""
        await asyncio.wait({waiter.place}, timeout=_LOOK)
        for upstream in entered if self._places is not None else ():
            if waiter.place.done():
                break
            if upstream.first(waiter) and await self.occupy(upstream.name):
                if not waiter.place.done():
                    waiter.place.cancel()  # it waits nowhere else any more
                    return upstream.name
                upstream.give()
        return waiter.place.result() if waiter.place.done() else ""


def _declined(waiter: Waiter, entered: Iterable[Upstream]) -> None:
    """Nobody waits any more. A place that was given at the very moment goes to the next one."""
    place = waiter.place
    if place.done() and not place.cancelled():
        next(upstream for upstream in entered if upstream.name == place.result()).give()
    else:
        place.cancel()
