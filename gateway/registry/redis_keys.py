"""What the whole fleet remembers of requests beyond their streams: Idempotency-Keys, and that a stream once was.

Law: a key that was taken and never decided is free again after a while (its node is gone); while Redis is away each
node has only its own keys. Of streams that were, a number is remembered, the oldest going first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import msgspec

from gateway.registry.base import Keyed
from gateway.registry.redis_client import Away, Link, Op
from gateway.registry.redis_layout import Layout
from gateway.streams.archive import GRAVE, MAX_GRAVES
from gateway.streams.names import stream_key

UNDECIDED = 120.0  # seconds a request may wait for its stream

_encode = msgspec.json.Encoder().encode
_keyed = msgspec.json.Decoder(Keyed)


class RedisKeys:
    """`push` queues a command that is repeated until it arrived."""

    def __init__(self, link: Link, layout: Layout, push: Callable[[Op], None]) -> None:
        self._link, self._prefix, self._push = link, layout.prefix, push
        self._life = layout.claim_ms

    def _key(self, owner: str, key: str) -> tuple[str]:
        digest = hashlib.sha256(f"{owner}\0{key}".encode("utf-8", "surrogatepass")).hexdigest()
        return (f"{self._prefix}:key:{{{digest}}}",)

    async def take(self, owner: str, key: str, mine: Keyed, instead: Keyed | None) -> Keyed | None:
        """As `Registry.take_key`. A caller cancelled in here keeps nothing."""
        at, own = self._key(owner, key), _encode(mine)
        old = b"" if instead is None else _encode(instead)
        try:
            there = await self._link.one(Op("keyed", at, (own, old, round(UNDECIDED * 1000))))
        except Away:
            return None
        except BaseException:
            self._push(Op("unclaim", at, (own,)))
            raise
        try:
            return None if there is None else _keyed.decode(there)
        except msgspec.MsgspecError:  # nobody can make sense of it
            self._push(Op("unclaim", at, (there,)))
            return None

    async def find(self, owner: str, key: str) -> Keyed | None:
        """As `Registry.kept_key`."""
        answers = await self._link.ask([Op("GET", self._key(owner, key))])
        try:
            return _keyed.decode(answers[0]) if answers and isinstance(answers[0], bytes) else None
        except msgspec.MsgspecError:
            return None

    def keep(self, owner: str, key: str, mine: Keyed, stream_id: str) -> None:
        """As `Registry.keep_key`: it lives as a claim does."""
        at, own = self._key(owner, key), _encode(mine)
        if stream_id:
            decided = _encode(Keyed(mine.digest, mine.token, stream_id))
            self._push(Op("keyed", at, (decided, own, self._life)))
        else:
            self._push(Op("unclaim", at, (own,)))


class Graves:
    """Streams that were. `there`: whether anybody wants to know, since their content can be read on any node."""

    def __init__(self, link: Link, layout: Layout, push: Callable[[Op], None], *, there: bool) -> None:
        self._link, self._push, self._there = link, push, there
        self._keys = (f"{layout.prefix}:{{graves}}:states", f"{layout.prefix}:{{graves}}:times")

    def add(self, key: str, state: str) -> None:
        """A stream (by its key) ended."""
        if self._there:
            self._push(Op("grave", self._keys, (key, state, round(GRAVE * 1000), MAX_GRAVES)))

    async def find(self, stream_id: str, owner: str) -> str:
        """As `Registry.buried`."""
        op = Op("HGET", self._keys[:1], (stream_key(stream_id, owner),))
        found = await self._link.ask([op]) if self._there else []
        return found[0].decode("utf-8", "replace") if found and isinstance(found[0], bytes) else ""

    def drop(self, stream_id: str, owner: str) -> None:
        """As `Registry.unbury`."""
        if self._there:
            self._push(Op("HDEL", self._keys[:1], (stream_key(stream_id, owner),)))
