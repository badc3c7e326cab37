"""Finds the streams of all nodes: this worker's own first, then their shared copies.

Law: an owner finds only its own. What cannot be known now is said as such (503), never as "no such stream".
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from backends.contract.errors import BackendError, ErrorCode
from gateway.registry.base import Registry
from gateway.registry.redis_client import Away
from gateway.registry.shared_reading import Reading
from gateway.registry.shared_stream import SharedStream
from gateway.streams.archive import Gone
from gateway.streams.names import split_key, stream_key
from gateway.streams.sources import Source, Sources
from gateway.streams.stream import Receipt, State, born_ms

_PATIENCE = 2.0  # seconds to wait for the first entries of a stream that runs elsewhere
_AGAIN = 0.03
_JUST_NOW = 0.5  # seconds to wait for news of a stream that began or ended elsewhere this moment

Claimed = Callable[[str], Awaitable[bool]]


class FleetSources(Sources):
    """`local`: this worker's own; `reading`: the shared copies; `claimed`: whether a stream's key was reserved by a
    client that chose its id; `now_ms`: Unix milliseconds."""

    def __init__(
        self, local: Sources, registry: Registry, reading: Reading, claimed: Claimed, now_ms: Callable[[], int]
    ) -> None:
        self._local, self._registry, self._reading = local, registry, reading
        self._claimed, self._now_ms = claimed, now_ms

    async def find(self, stream_id: str, owner: str) -> Source | Gone | None:
        here = await self._local.find(stream_id, owner)
        if here is not None and not isinstance(here, Gone):
            return here
        try:
            return await self._abroad(stream_id, owner) or here
        except BackendError:
            if here is not None:
                return here
            raise

    async def _abroad(self, stream_id: str, owner: str) -> Source | Gone | None:
        """A shared copy, what is left of one, or None. Raises REGISTRY_AWAY."""
        clock = asyncio.get_running_loop().time
        began = clock()
        while True:
            stream = await self._opened(stream_key(stream_id, owner))
            if stream.failure is not None and stream.failure.code is ErrorCode.REGISTRY_AWAY:
                raise stream.failure
            if stream.beginning_lost or stream.failure is not None:
                return Gone(await self._state_of(stream), "cursor_expired")
            if stream.meta is not None:
                return await self._alive(stream)
            found = await self._registry.find(stream_id, owner)
            if isinstance(found, Receipt) and (clock() - began >= _JUST_NOW or not self._recent(found.ended_at)):
                return Gone(found.state)
            if found is None and (clock() - began >= _JUST_NOW or not await self._just_begun(stream_id, owner)):
                state = await self._registry.buried(stream_id, owner)
                return Gone(state) if state else None
            if clock() - began >= _PATIENCE:
                text = "this stream runs on another node, which has not shared it yet"
                raise BackendError(ErrorCode.REGISTRY_AWAY, text, retry_after=1)
            await asyncio.sleep(_AGAIN)

    async def _state_of(self, stream: SharedStream) -> str:
        """That of a stream whose copy cannot be read: its node knows better than what is left of the copy, unless that
        is its end. Raises REGISTRY_AWAY."""
        if stream.state.terminal and stream.failure is None:
            return stream.state.wire
        who = split_key(stream.key)
        found = await self._registry.find(*who)
        state = found.state if found is not None else await self._registry.buried(*who) or stream.state.wire
        begun = stream.beginning_lost and state == State.WAITING.wire  # a list is a heartbeat old
        return State.STREAMING.wire if begun else state

    async def _just_begun(self, stream_id: str, owner: str) -> bool:
        """Whether it may be too young to be known here: clients come back faster than news of their streams travels."""
        born = born_ms(stream_id)
        if born is not None:
            return self._recent(born)
        return await self._claimed(stream_key(stream_id, owner))

    def _recent(self, then_ms: int) -> bool:
        return abs(self._now_ms() - then_ms) < 2000

    async def _opened(self, key: str) -> SharedStream:
        try:
            while True:
                try:
                    return await self._reading.open(key)
                except (Away, TimeoutError):
                    if not self._reading.blinking:
                        raise
                await asyncio.sleep(_AGAIN)
        except (Away, TimeoutError):
            text = "the shared registry cannot be reached now; streams of other nodes are out of sight"
            raise BackendError(ErrorCode.REGISTRY_AWAY, text, retry_after=2) from None

    async def _alive(self, stream: SharedStream) -> SharedStream:
        """A copy without an ending, of a node that is gone: it is closed before anybody waits for more."""
        if stream.state.terminal:
            return stream
        who = stream.identity
        found = await self._registry.find(who.id, who.owner)
        if isinstance(found, Receipt) and found.state == State.NODE_LOST.wire:
            await _unless_away(self._reading.close_lost(stream, found, 0.0))
            return await self._opened_again(stream)
        return stream

    async def _opened_again(self, stream: SharedStream) -> SharedStream:
        for _ in range(10):
            if stream.state.terminal:
                break
            await self._opened(stream.key)
            await asyncio.sleep(_AGAIN)
        return stream

    async def forget(self, stream_id: str, owner: str) -> None:
        """Its shared copy goes first: where that fails, the client tries again."""
        await _unless_away(self._reading.forget(stream_key(stream_id, owner)))
        self._registry.unbury(stream_id, owner)
        await self._local.forget(stream_id, owner)

    async def forgotten(self, stream_id: str, owner: str) -> bool:
        """While the registry is away, what this node was asked itself."""
        here = await self._local.forgotten(stream_id, owner)
        return here or await self._reading.forgotten(stream_key(stream_id, owner))

    async def newest(self, owner: str, conversation_id: str) -> Source | None:
        here = await self._local.newest(owner, conversation_id)
        running = await self._registry.active(owner)
        named = [e for e in running if e.conversation_id == conversation_id]
        if here is None and not named and self._registry.partial:
            text = "the shared registry cannot be reached now; conversations of other nodes are out of sight"
            raise BackendError(ErrorCode.REGISTRY_AWAY, text, retry_after=2)
        if not named or (here is not None and named[-1].stream_id == here.identity.id):
            return here
        found = await self.find(named[-1].stream_id, owner)
        return found if found is not None and not isinstance(found, Gone) else here

    def matching(self, owner: str, wanted: Callable[[Source], bool]) -> Source | None:
        return self._local.matching(owner, wanted)


async def _unless_away(doing: Awaitable[object]) -> None:
    try:
        await doing
    except Away:
        text = "the shared registry cannot be reached now"
        raise BackendError(ErrorCode.REGISTRY_AWAY, text, retry_after=2) from None
