"""Requests that ask for a stream which exists already: a reconnecting EventSource, a repeated Idempotency-Key.

Law: who comes back gets the stream it left; nothing is asked of a backend, and paid for, twice, on whichever nodes the
requests arrive.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial

from aiohttp import web

from backends.contract.errors import BackendError, ErrorCode
from gateway.edge.admission import headers_of
from gateway.edge.attach import Attach
from gateway.edge.guards import read_body
from gateway.edge.services import Services
from gateway.protocols.base import ClientProtocol
from gateway.registry.base import Entry, Keyed
from gateway.streams.archive import Gone
from gateway.streams.cursor import read_cursor, split_event_id
from gateway.streams.sources import Source
from gateway.streams.stream import ID_PATTERN, State

MAX_KEYS = 10_000
_LONGEST = 255
_UNDECIDED = 10.0  # seconds a repeated request waits for another node to decide about the first one
_AGAIN = 0.1
_REPLAYED = {"X-Stream-Replayed": "true"}
# Endings nobody wants again: the client had left, or the gateway gave it up.
_LOST = frozenset({State.CLIENT_GONE, State.SHED, State.NODE_LOST})


class Held:
    """One Idempotency-Key: the request it came with, and the stream that answers it ("": none after all)."""

    def __init__(self, digest: str, loop: asyncio.AbstractEventLoop) -> None:
        self.digest = digest
        self.stream_id: asyncio.Future[str] = loop.create_future()
        self.decided: Callable[[str], None] = lambda stream_id: None  # tells the other nodes

    def settle(self, stream_id: str) -> None:
        """The request has its stream, or was refused ("")."""
        if not self.stream_id.done():
            self.stream_id.set_result(stream_id)
            self.decided(stream_id)


class Returns:
    """One per worker."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._attach = Attach(services)
        self._keys: OrderedDict[tuple[str, str], Held] = OrderedDict()

    async def look(
        self, request: web.Request, protocol: ClientProtocol, params: Mapping[str, str], owner: str
    ) -> Source | Held | None:
        """The stream to go on with; a new key's place, to be settled by the caller; None for an ordinary request."""
        headers = request.headers
        last = headers.get("Last-Event-ID")
        if last and protocol.family == "native":
            return await self._left(last, headers_of(request).get("X-Stream-Id", ""), owner)
        if request.method == "GET":
            return await self._chosen(headers_of(request).get("X-Stream-Id", ""), owner)
        key = headers.get("Idempotency-Key")
        if key:
            return await self._repeated(request, protocol, params, owner, key)
        return None

    async def _left(self, last: str, chosen: str, owner: str) -> Source:
        """The stream whose event a client names. Unknown, foreign and forgotten ones are 410: an EventSource stops."""
        found = await self._chosen(split_event_id(last)[0] or chosen, owner)
        if found is None:
            raise _expired()
        return found

    async def _chosen(self, stream_id: str, owner: str) -> Source | None:
        if not ID_PATTERN.fullmatch(stream_id):
            return None
        found = await self._services.sources.find(stream_id, owner)
        if isinstance(found, Gone):
            raise _expired()
        return found

    async def _repeated(
        self, request: web.Request, protocol: ClientProtocol, params: Mapping[str, str], owner: str, key: str
    ) -> Source | Held:
        if len(key) > _LONGEST:
            text = f"an Idempotency-Key has at most {_LONGEST} characters"
            raise BackendError(ErrorCode.INVALID_REQUEST, text, param="Idempotency-Key")
        body = await read_body(request, self._services.config.server.max_body)
        digest = hashlib.sha256(f"{protocol.name} {sorted(params.items())} ".encode() + body).hexdigest()
        name = (owner, key)
        while (held := self._keys.get(name)) is not None:
            _same(held.digest, digest)
            found = await self._answer(await asyncio.shield(held.stream_id), owner)
            if found is not None:
                return found
            if self._keys.get(name) is held:
                del self._keys[name]
        held = self._keys[name] = Held(digest, self._services.loop)
        if len(self._keys) > MAX_KEYS:
            self._keys.popitem(last=False)
        try:
            found = await self._elsewhere(owner, key, held)
        except BaseException:
            held.settle("")
            raise
        if found is not None:
            held.settle(found.identity.id)
        return found or held

    async def _answer(self, stream_id: str, owner: str) -> Source | None:
        """The stream a key stands for, if a repeated request should get it."""
        found = await self._services.sources.find(stream_id, owner) if stream_id else None
        return found if found is not None and not isinstance(found, Gone) and _worth(found) else None

    async def _elsewhere(self, owner: str, key: str, held: Held) -> Source | None:
        """What the key stands for on another node; None: nothing, and it is this request's now on all of them."""
        registry, loop = self._services.registry, self._services.loop
        mine, instead = Keyed(held.digest, secrets.token_hex(8)), None
        until = loop.time() + _UNDECIDED
        while (there := await registry.take_key(owner, key, mine, instead)) is not None:
            if there.stream_id:
                _same(there.digest, held.digest)
                found = await self._answer(there.stream_id, owner)
                if found is not None:
                    return found
                if not isinstance(await registry.find(there.stream_id, owner), Entry):
                    instead = there  # of no use to anybody any more
                    continue
            if loop.time() >= until:
                text = "an earlier request with this Idempotency-Key is still being answered on another node"
                raise BackendError(ErrorCode.CONFLICT, text, retry_after=1)
            await asyncio.sleep(_AGAIN)
        held.decided = partial(registry.keep_key, owner, key, mine)
        return None

    def later(self, request: web.Request, error: BackendError) -> web.Response | None:
        """What a browser's EventSource is told when the stream it comes back for cannot be looked for now; None for
        other errors and other clients."""
        if error.code is not ErrorCode.REGISTRY_AWAY or request.method != "GET":
            return None
        try:
            return self._attach.later(request, error)
        except BackendError:
            return None

    async def answer(
        self, request: web.Request, protocol: ClientProtocol, params: Mapping[str, str], source: Source
    ) -> web.StreamResponse:
        """Go on with a stream, in the request's protocol. Raises BackendError."""
        last = request.headers.get("Last-Event-ID") if protocol.family == "native" else None
        after = read_cursor(source.identity.id, last, request.headers.get("X-Stream-After"))
        extra = {} if last or request.method == "GET" else _REPLAYED
        if extra:
            body = await read_body(request, self._services.config.server.max_body)
            if not protocol.parse(body, params).stream:
                return await self._attach.whole(request, protocol, source, extra)
        return await self._attach.read(request, source, protocol, after, extra=extra)


def _same(digest: str, other: str) -> None:
    """Raises KEY_REUSED."""
    if digest != other:
        text = "this Idempotency-Key came with another request before"
        raise BackendError(ErrorCode.KEY_REUSED, text, param="Idempotency-Key")


def _worth(source: Source) -> bool:
    """Whether a repeated request should get this answer. One that failed before it said anything should not: its client
    was refused, and tries again."""
    state = source.state
    return not state.terminal or state is State.COMPLETED or (state not in _LOST and source.ending().tokens > 0)


def _expired() -> BackendError:
    return BackendError(ErrorCode.STREAM_EXPIRED, "this stream is no longer kept, or never was; start a new one")
