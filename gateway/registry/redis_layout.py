"""Where everything lies in Redis, and the commands that put it there.

Law: pure. All keys of one node carry its name as hash tag, so that a script finds them in one slot of a cluster; every
command built here may be repeated without harm.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gateway.registry.base import Entry
from gateway.registry.redis_client import Op
from gateway.streams.stream import Receipt, State

REMEMBER_MS = 25 * 3_600_000  # statistics and names of nodes unseen for so long are forgotten
CLAIM_SECONDS = 3600.0  # a claim of a stream that never ended is kept the replay window and this much longer

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


def lost(entry: Entry, now_ms: int) -> Receipt:
    """The receipt of a stream whose node is gone: usage is estimated from the last heartbeat's count."""
    return Receipt(
        stream_id=entry.stream_id,
        state=State.NODE_LOST.wire,
        ended_by="gateway",
        reason="node_lost",
        protocol=entry.protocol,
        model=entry.model,
        backend=entry.backend,
        upstream_model=entry.upstream_model,
        owner=entry.owner,
        user_id=entry.user_id,
        workspace_id=entry.workspace_id,
        conversation_id=entry.conversation_id,
        node=entry.node,
        started_at=entry.started_at,
        ended_at=now_ms,
        first_token_ms=entry.first_token_ms,
        duration_ms=float(max(0, now_ms - entry.started_at)),
        token_count=entry.token_count,
        finish_reason="error",
        prompt_tokens=0,
        completion_tokens=entry.token_count,
        reasoning_tokens=0,
        cached_tokens=0,
        usage_estimated=True,
        bytes_in=0,
        average_gap_ms=None,
        max_gap_ms=None,
        tokens_per_second=None,
        attempts=1,
        error_code="node_lost",
        error_message="the gateway node that carried this stream is gone",
    )


class Layout:
    """Keys and commands under one prefix."""

    def __init__(self, prefix: str, replay: float, lease_ttl: float, scope_ttl: float) -> None:
        self.prefix = prefix
        self.nodes = f"{prefix}:nodes"
        self._replay_ms = max(1, round(replay * 1000))
        self._lease_ms = round(lease_ttl * 1000)
        self._scope_ms = round(scope_ttl * 1000)

    def node_key(self, kind: str, node: str, rest: str = "") -> str:
        """A key in the slot of a node: kinds `node` (its lease), `streams`, `receipt`, `stats`, `inbox`."""
        return f"{self.prefix}:{kind}:{{{node}}}" + (f":{rest}" if rest else "")

    def stats_key(self, node: str, owner: str | None) -> str:
        """A node's counters, of an owner (None: of all)."""
        return self.node_key("stats", node, "" if owner is None else "o:" + owner)

    def scope_key(self, scope: str) -> str:
        """The concurrency leases of a key or owner."""
        return f"{self.prefix}:lease:{{{scope}}}"

    def claim_key(self, stream_id: str) -> str:
        """A client-chosen id in use."""
        return f"{self.prefix}:claim:{{{stream_id}}}"

    def beat(self, node: str, epoch: str) -> list[Op]:
        """Renew a node's lease and presence; the first answer is the epoch that held it before."""
        keys = (self.node_key("node", node), self.node_key("streams", node))
        return [Op("beat", keys, (epoch, self._lease_ms, REMEMBER_MS)), Op("seen", (self.nodes,), (node, REMEMBER_MS))]

    def register(self, node: str, entries: Sequence[Entry]) -> Op:
        """Write running streams; answers the ids that have ended already."""
        keys = [self.node_key("streams", node)]
        args: list[str | bytes | int] = []
        for entry in entries:
            keys.append(self.node_key("receipt", node, entry.stream_id))
            args += [entry.stream_id, _encode(entry)]
        return Op("register", tuple(keys), tuple(args))

    def settle(self, receipt: Receipt, node: str, counts: Sequence[dict[str, int]], *, if_dead: bool = False) -> Op:
        """End a stream once and count it: `counts` are the increments (the same for the owner and for all)."""
        keys = (
            self.node_key("node", node),
            self.node_key("streams", node),
            self.node_key("receipt", node, receipt.stream_id),
            self.stats_key(node, None),
            self.stats_key(node, receipt.owner),
        )
        pairs = [word for part in counts for field, n in part.items() for word in (field, n)]
        flag = "1" if if_dead else "0"
        args = (receipt.stream_id, _encode(receipt), self._replay_ms, flag, REMEMBER_MS, *pairs)
        return Op("settle", keys, args)

    def admit(self, scope: str, stream_id: str, limit: int) -> Op:
        """Take a concurrency lease; answers [granted, held]."""
        return Op("admit", (self.scope_key(scope),), (stream_id, limit, self._scope_ms))

    def renew(self, scope: str, ids: Sequence[str]) -> Op:
        """Prolong this node's leases of a scope."""
        return Op("renew", (self.scope_key(scope),), (self._scope_ms, *ids))

    def release(self, scope: str, stream_id: str) -> Op:
        """Give a lease back."""
        return Op("ZREM", (self.scope_key(scope),), (stream_id,))

    def claim(self, stream_id: str, owner: str) -> Op:
        """Reserve an id; answers nothing when it is taken."""
        life = self._replay_ms + round(CLAIM_SECONDS * 1000)
        return Op("SET", (self.claim_key(stream_id),), (owner, "NX", "PX", life))

    def unclaim(self, stream_id: str) -> Op:
        """Give an id back."""
        return Op("DEL", (self.claim_key(stream_id),))

    def keep_claim(self, stream_id: str) -> Op:
        """From the end of its stream a claim lives as long as the receipt; without a claim nothing happens."""
        return Op("PEXPIRE", (self.claim_key(stream_id),), (self._replay_ms,))
