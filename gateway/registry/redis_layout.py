"""Where everything lies in Redis, and the commands that put it there.

Law: pure. All keys of one node carry its name as hash tag, so that a script finds them in one slot of a cluster; every
command built here may be repeated without harm. Streams go by their `stream_key`; receipts: one hash per id, by owner.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from gateway.registry.base import Entry
from gateway.registry.redis_client import Op
from gateway.streams.names import stream_key
from gateway.streams.stream import Receipt

REMEMBER_MS = 25 * 3_600_000  # statistics and names of nodes unseen for so long are forgotten
CLAIM_SECONDS = 3600.0  # a claim of a stream that never ended is kept the replay window and this much longer

STALE = b"stale"  # a script's answer to an epoch that was declared lost
LOST = b"lost"  # the heartbeat's
FAREWELL = b"left"  # in place of a lease: its node has ended as told, and gave up what it has
_TYPES = {  # of a key, by its kind
    "node": "string", "epoch": "string", "tomb": "string", "claim": "string", "rate": "string", "nodes": "zset",
    "lease": "zset", "streams": "hash", "receipt": "hash", "stats": "hash", "inbox": "hash", "corrupt": "hash",
    "scopes": "set", "peak": "string", "key": "string",
}  # fmt: skip

T = TypeVar("T", Entry, Receipt)

_encode = msgspec.json.Encoder().encode
_entry = msgspec.json.Decoder(Entry)
_receipt = msgspec.json.Decoder(Receipt)


def read_entry(raw: bytes) -> Entry | None:
    """An entry, or None for a value nobody can read (it is then nobody's)."""
    try:
        return _entry.decode(raw)
    except msgspec.DecodeError:
        return None


def read_receipt(raw: bytes) -> Receipt | None:
    """A receipt, or None for a value nobody can read."""
    try:
        return _receipt.decode(raw)
    except msgspec.DecodeError:
        return None


def read_named(raw: Any) -> dict[str, int]:
    """What `named` answered: node to Unix milliseconds; the answer is flat, or in pairs (RESP3)."""
    pairs = raw if raw and isinstance(raw[0], list) else zip(raw[::2], raw[1::2], strict=True)
    return {name.decode("utf-8", "replace"): int(float(score)) for name, score in pairs}


class Layout:
    """Keys and commands under one prefix."""

    def __init__(self, prefix: str, replay: float, lease_ttl: float, scope_ttl: float) -> None:
        self.prefix = prefix
        self.nodes = f"{prefix}:nodes"
        self._replay_ms = max(1, round(replay * 1000))
        self.claim_ms = self._replay_ms + round(CLAIM_SECONDS * 1000)
        self._lease_ms = round(lease_ttl * 1000)
        self._scope_ms = round(scope_ttl * 1000)

    def node_key(self, kind: str, node: str, rest: str = "") -> str:
        """A key in the slot of a node. Kinds: `node` (its lease), `epoch` (its last), `tomb` (the epoch declared lost),
        `streams`, `receipt`, `stats`, `inbox`, `scopes` (where its streams hold leases), `corrupt`."""
        return f"{self.prefix}:{kind}:{{{node}}}" + (f":{rest}" if rest else "")

    def stats_key(self, node: str, owner: str | None) -> str:
        """A node's counters, of an owner (None: of all)."""
        return self.node_key("stats", node, "" if owner is None else "o:" + owner)

    def scope_key(self, scope: str) -> str:
        """The concurrency leases of a key or owner."""
        return f"{self.prefix}:lease:{{{scope}}}"

    def claim_key(self, key: str) -> str:
        """A client-chosen id in use, by its stream key."""
        return f"{self.prefix}:claim:{{{key}}}"

    def holds(self, left_ms: Any) -> bool:
        """Whether a lease with so much life left (PTTL) holds. More than it was given: Redis's clock was set back."""
        return isinstance(left_ms, int) and 0 <= left_ms <= self._lease_ms

    def beat(self, node: str, epoch: str) -> list[Op]:
        """Renew a node's lease and presence; the first answer is LOST or the epoch that held it before."""
        keys = tuple(self.node_key(kind, node) for kind in ("node", "streams", "epoch", "tomb"))
        return [Op("beat", keys, (epoch, self._lease_ms, REMEMBER_MS)), self._seen(node)]

    def farewell(self, node: str) -> list[Op]:
        """Give a lease back for good. It lives longer than a lease may, so to every script there is none. And leave the
        name: no heartbeat follows that would tell it to a server that has been emptied since the last one."""
        return [self._seen(node), Op("SET", (self.node_key("node", node),), (FAREWELL, "PX", REMEMBER_MS))]

    def _seen(self, node: str) -> Op:
        return Op("seen", (self.nodes,), (node, REMEMBER_MS))

    def named(self) -> Op:
        """All nodes, and when each was seen; for `read_named`."""
        return Op("ZRANGE", (self.nodes,), (0, -1, "WITHSCORES"))

    def name_again(self, node: str, seen_ms: int) -> Op:
        """Leave a node's name, unless it has come itself."""
        return Op("ZADD", (self.nodes,), ("NX", seen_ms, node))

    def register(self, node: str, entries: Sequence[Entry]) -> Op:
        """Write running streams; answers the keys that have ended already, or STALE. To be `stamped`."""
        keys = [self.node_key("tomb", node), self.node_key("streams", node)]
        args: list[str | bytes | int] = [""]
        for entry in entries:
            keys.append(self.node_key("receipt", node, entry.stream_id))
            args += [stream_key(entry.stream_id, entry.owner), entry.owner, _encode(entry)]
        return Op("register", tuple(keys), tuple(args))

    def settle(self, receipt: Receipt, node: str, counts: Sequence[dict[str, int]]) -> Op:
        """The owner ends a stream once and counts it: `counts` are the increments (the same for the owner and for all).
        Answers 1, the receipt that was there before, or STALE. To be `stamped`."""
        keys = (*self._ending(receipt, node), *self._counters(receipt, node))
        key = stream_key(receipt.stream_id, receipt.owner)
        args = ("", key, receipt.owner, _encode(receipt), self._replay_ms, REMEMBER_MS)
        return Op("settle", keys, (*args, *_pairs(counts)))

    def bury(self, receipt: Receipt, node: str, counts: Sequence[dict[str, int]]) -> Op:
        """End a stream of a node that has no lease, and fence that node's last epoch."""
        lease = (self.node_key("node", node), self.node_key("epoch", node))
        keys = (*self._ending(receipt, node), *lease, *self._counters(receipt, node))
        key = stream_key(receipt.stream_id, receipt.owner)
        args = (key, receipt.owner, _encode(receipt), self._replay_ms, REMEMBER_MS, self._lease_ms)
        return Op("bury", keys, (*args, *_pairs(counts)))

    def depose(self, node: str) -> Op:
        """Fence the last epoch of a node that has no lease; answers 1, or 0 when it has one."""
        keys = tuple(self.node_key(kind, node) for kind in ("tomb", "node", "epoch"))
        return Op("depose", keys, (REMEMBER_MS, self._lease_ms))

    def _ending(self, receipt: Receipt, node: str) -> tuple[str, ...]:
        own = self.node_key("receipt", node, receipt.stream_id)
        return self.node_key("tomb", node), self.node_key("streams", node), own

    def _counters(self, receipt: Receipt, node: str) -> tuple[str, str]:
        return self.stats_key(node, None), self.stats_key(node, receipt.owner)

    @staticmethod
    def stamped(op: Op, epoch: str) -> Op:
        """A write of the owner under its present epoch."""
        return op._replace(args=(epoch, *op.args[1:])) if op.name in ("register", "settle") else op

    def quarantine(self, op: Op) -> Op:
        """Move values of the wrong type out of the way of a command."""
        kinds = [key.removeprefix(self.prefix + ":").split(":", 1)[0] for key in op.keys]
        return Op("quarantine", op.keys, (REMEMBER_MS, *(_TYPES.get(kind, "") for kind in kinds)))

    def set_aside(self, node: str, field: bytes, value: bytes) -> list[Op]:
        """Move one unreadable entry out of a node's list, where somebody may look at it."""
        aside, name = self.node_key("corrupt", node), field.decode("utf-8", "replace")
        put = Op("HSET", (aside,), (name, value))
        return [put, Op("PEXPIRE", (aside,), (REMEMBER_MS,)), Op("HDEL", (self.node_key("streams", node),), (field,))]

    def receipt_of(self, node: str, stream_id: str, owner: str | None) -> Op:
        """Read the receipt of an owner's stream; without an owner those of all (a hash)."""
        key = self.node_key("receipt", node, stream_id)
        return Op("HGETALL", (key,)) if owner is None else Op("HGET", (key,), (owner,))

    def entry_of(self, node: str, stream_id: str, owner: str | None) -> Op:
        """Read the entry of an owner's running stream; without an owner all of the node (a hash)."""
        key = self.node_key("streams", node)
        return Op("HGETALL", (key,)) if owner is None else Op("HGET", (key,), (stream_key(stream_id, owner),))

    def admit(self, scope: str, stream_id: str, limit: int, gone: Sequence[str] = ()) -> Op:
        """Take a concurrency lease; answers [granted, held]. `gone`: who of this node has just given one back."""
        return Op("admit", (self.scope_key(scope),), (stream_id, limit, self._scope_ms, *gone))

    def renew(self, scope: str, ids: Sequence[str]) -> Op:
        """Prolong this node's leases of a scope."""
        return Op("renew", (self.scope_key(scope),), (self._scope_ms, *ids))

    def scopes_of(self, node: str, scopes: Sequence[str]) -> list[Op]:
        """Note where a node's streams hold leases."""
        key = self.node_key("scopes", node)
        return [Op("SADD", (key,), tuple(scopes)), Op("PEXPIRE", (key,), (self._scope_ms,))] if scopes else []

    def peak(self, owner: str | None, active: int) -> Op:
        """Most running streams at once, of an owner (None: of all); answers what it is, `active` included."""
        key = f"{self.prefix}:peak:{{{'' if owner is None else 'o:' + owner}}}"
        return Op("peak", (key,), (active, REMEMBER_MS))

    def release(self, scope: str, stream_id: str) -> Op:
        """Give a lease back."""
        return Op("ZREM", (self.scope_key(scope),), (stream_id,))

    def rate(self, scope: str, per_minute: int, cost: int, *, force: bool = False) -> Op:
        """Spend of a rate; answers [granted, microseconds to wait]. `force` asks nobody. Not to be repeated."""
        key = f"{self.prefix}:rate:{{{scope}}}"
        return Op("gcra", (key,), (per_minute, cost, int(force)))

    def claim(self, key: str, token: str) -> Op:
        """Reserve an id (by its stream key) under a token; answers nothing when it is taken."""
        return Op("SET", (self.claim_key(key),), (token, "NX", "PX", self.claim_ms))

    def unclaim(self, key: str, token: str) -> Op:
        """Give an id back, unless somebody else has claimed it since."""
        return Op("unclaim", (self.claim_key(key),), (token,))

    def forget(self, node: str, receipt: Receipt) -> Op:
        """Take a receipt away: its stream was refused, and another may have its id."""
        return Op("forget", (self.node_key("receipt", node, receipt.stream_id),), (receipt.owner, _encode(receipt)))

    def claim_probe(self, backend: str, node: str, seconds: float) -> Op:
        """Reserve a backend's trial for a node; answers nothing when it is another's."""
        return Op("SET", (f"{self.prefix}:probe:{{{backend}}}",), (node, "NX", "PX", round(seconds * 1000)))

    def unclaim_probe(self, backend: str, node: str) -> Op:
        """Give a trial back, unless it is another node's by now."""
        return Op("unclaim", (f"{self.prefix}:probe:{{{backend}}}",), (node,))

    def keep_claim(self, key: str) -> Op:
        """From the end of its stream a claim lives as long as the receipt; without a claim nothing happens."""
        return Op("PEXPIRE", (self.claim_key(key),), (self._replay_ms,))


def _pairs(counts: Sequence[dict[str, int]]) -> list[str | int]:
    return [word for part in counts for field, n in part.items() for word in (field, n)]


def settled_key(op: Op) -> str:
    """The stream key a `settle` is about."""
    return str(op.args[1])


def registered_keys(op: Op) -> list[str]:
    """The stream keys a `register` is about."""
    return [str(key) for key in op.args[1::3]]


def pick(raw: Any, stream_id: str, read: Callable[[bytes], T | None]) -> T | None:
    """What `receipt_of` or `entry_of` answered: a value, or (of a hash) the first of that id. None: nothing to read."""
    if isinstance(raw, bytes):
        return read(raw)
    if not raw or isinstance(raw, BaseException):
        return None
    pairs = raw.items() if isinstance(raw, dict) else zip(raw[::2], raw[1::2], strict=True)
    found = (read(value) for _, value in pairs)
    return next((item for item in found if item is not None and item.stream_id == stream_id), None)
