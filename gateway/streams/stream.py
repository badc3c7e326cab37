"""One stream: identity, state table, counters. Pure: the clock is an argument (monotonic seconds unless said).

Law: exactly one terminal state, set by `end`, which returns True to exactly one caller.
"""

from __future__ import annotations

import base64
import os
import re
from enum import Enum
from typing import Any, Protocol

from msgspec import Struct

from backends.contract.errors import BackendError
from backends.contract.events import FinishReason

# A client-chosen X-Stream-Id; `.` and `:` would break SSE ids, the words are paths beside `/api/streaming/{id}`.
ID_PATTERN = re.compile(r"(?!(?:active|chat|generate|statistics)\Z)[A-Za-z0-9_-]{1,100}")


class State(Enum):
    """(wire name, terminal)"""

    WAITING = ("waiting", False)
    STREAMING = ("streaming", False)
    COMPLETED = ("completed", True)
    CANCELLED = ("cancelled", True)
    TIMED_OUT = ("timed_out", True)
    CLIENT_GONE = ("client_gone", True)
    UPSTREAM_ERROR = ("upstream_error", True)
    UPSTREAM_TRUNCATED = ("upstream_truncated", True)
    NODE_LOST = ("node_lost", True)
    SHED = ("shed", True)

    def __init__(self, wire: str, terminal: bool) -> None:
        self.wire = wire
        self.terminal = terminal


# Where each state may lead. WAITING may be retried elsewhere; nothing leaves a terminal state.
_TERMINAL = frozenset(s for s in State if s.terminal)
NEXT: dict[State, frozenset[State]] = {
    State.WAITING: _TERMINAL | {State.STREAMING},
    State.STREAMING: _TERMINAL,
    **{s: frozenset() for s in _TERMINAL},
}


_BASE32 = "abcdefghijklmnopqrstuvwxyz234567"
_PAIRS = tuple(one + other for one in _BASE32 for other in _BASE32)
_SHIFTS = range(150, -10, -10)
_LUCK = 14  # random bytes of an id


class _Luck:
    """Random bytes of the system's, asked for many ids at once. A forked process has none of its parent's."""

    def __init__(self) -> None:
        self._bytes = b""
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._bytes = b""

    def take(self) -> int:
        """Those of one id."""
        if not self._bytes:
            self._bytes = os.urandom(64 * _LUCK)
        taken, self._bytes = self._bytes[:_LUCK], self._bytes[_LUCK:]
        return int.from_bytes(taken)


_luck = _Luck()


def new_stream_id(now_ms: int) -> str:
    """`st_` + 32 lower-case base32 characters: 48 bits of Unix milliseconds, 112 random bits. Sorts by time."""
    number = (now_ms & (2**48 - 1)) << 8 * _LUCK | _luck.take()
    return "st_" + "".join([_PAIRS[number >> shift & 1023] for shift in _SHIFTS])


def born_ms(stream_id: str) -> int | None:
    """The Unix milliseconds in an id of `new_stream_id`; None for one a client chose."""
    text = stream_id.removeprefix("st_")
    if len(text) != 32 or text == stream_id:
        return None
    try:
        return int.from_bytes(base64.b32decode(text.upper())[:6], "big")
    except ValueError:
        return None


class Identity(Struct, frozen=True):
    """Who and what a stream is; fixed at admission."""

    id: str
    owner: str
    protocol: str
    model: str  # as the client said it
    backend: str
    upstream_model: str
    node: str
    started_ms: int  # Unix milliseconds
    key_id: str = ""
    user_id: str = ""
    workspace_id: str = ""
    conversation_id: str = ""
    resumable: bool = False
    survives: bool = False  # its node may die: another goes on with it
    echo: dict[str, Any] = {}  # fields of the request that its answer says again, on whichever node


class Entry(Struct, rename="camel"):
    """One stream as the list of active streams shows it. `key_id` counts for concurrency; it is not shown."""

    stream_id: str
    state: str
    model: str
    backend: str
    protocol: str
    owner: str
    user_id: str
    workspace_id: str
    conversation_id: str
    node: str
    started_at: int  # Unix milliseconds
    first_token_ms: float | None = None
    token_count: int = 0
    resumable: bool = False
    upstream_model: str = ""
    key_id: str = ""
    survives: bool = False  # likewise


class Try(Struct, frozen=True, gc=False, rename="camel"):
    """One attempt that was not the last: `kind` is start, continue or restart; `outcome` an error code, or why it was
    no longer wanted; `tokens` what it gave."""

    backend: str
    model: str
    kind: str
    outcome: str
    tokens: int


class Receipt(Struct, frozen=True, rename="camel", omit_defaults=False):
    """What happened, said once. Times in milliseconds; `ended_by` says who: client, operator, gateway, backend."""

    stream_id: str
    state: str
    ended_by: str
    reason: str
    protocol: str
    model: str
    backend: str
    upstream_model: str
    owner: str
    user_id: str
    workspace_id: str
    conversation_id: str
    node: str
    started_at: int
    ended_at: int
    first_token_ms: float | None
    duration_ms: float
    token_count: int
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    cached_tokens: int
    usage_estimated: bool
    bytes_in: int
    average_gap_ms: float | None
    max_gap_ms: float | None
    tokens_per_second: float | None
    attempts: int
    error_code: str = ""
    error_message: str = ""
    tries: tuple[Try, ...] = ()  # attempts before the last
    last: Try | None = None  # the last, where there were several
    unread_tokens: int = 0  # of `token_count`: came while nobody read
    degraded: str = ""  # what the client got was cached, message, or partial; empty: an answer, or an error


class Counter(Protocol):
    """Who counts the deltas of the attempt that leads."""

    @property
    def tokens(self) -> int:
        """So many, up to now."""


class Stream:
    """The mutable heart of a stream; owned by its producer."""

    __slots__ = (
        "_alone",
        "_counted",
        "_counter",
        "_unread",
        "accepted",
        "attempts",
        "degraded",
        "ended",
        "ended_by",
        "error",
        "finish",
        "first_token",
        "identity",
        "last",
        "last_progress",
        "max_gap",
        "reason",
        "receipt",
        "state",
        "tries",
    )

    def __init__(self, identity: Identity, now: float) -> None:
        self.identity = identity
        self.state = State.WAITING
        self.accepted = now
        self.first_token: float | None = None
        self.last_progress = now
        self.max_gap = 0.0
        self._counted = 0
        self._counter: Counter | None = None
        self._unread = 0
        self._alone: int | None = 0  # the number of deltas when the last reader left; None: somebody reads
        self.attempts = 1
        self.degraded = ""
        self.ended: float | None = None
        self.ended_by = ""
        self.reason = ""
        self.finish: FinishReason | None = None
        self.error: BackendError | None = None
        self.receipt: Receipt | None = None
        self.tries: list[Try] = []
        self.last: Try | None = None  # who answers; its outcome is not known yet, its tokens are those before it

    def progress(self, tokens: int, now: float) -> None:
        """`tokens` content deltas have come in all. The first moves WAITING to STREAMING."""
        if self.first_token is None:
            self.first_token = now
            self.state = State.STREAMING
        elif now - self.last_progress > self.max_gap:
            self.max_gap = now - self.last_progress
        self._counted = tokens - (self._counter.tokens if self._counter is not None else 0)
        self.last_progress = now

    def progressed(self, now: float, gap: float = 0.0) -> None:
        """More deltas, which the counter knows of: `progress` for most tokens. `gap`: the longest between two of them,
        or those before."""
        self.max_gap = max(self.max_gap, gap or now - self.last_progress)
        self.last_progress = max(self.last_progress, now)

    @property
    def tokens(self) -> int:
        """Content deltas so far."""
        return self._counted if self._counter is None else self._counted + self._counter.tokens

    def read(self, anybody: bool) -> None:
        """Whether anybody reads from now on."""
        self._unread = self.unread
        self._alone = None if anybody else self.tokens

    @property
    def unread(self) -> int:
        """Content deltas that came while nobody read: what the disconnect policy cost."""
        return self._unread if self._alone is None else self._unread + self.tokens - self._alone

    def count_by(self, counter: Counter) -> None:
        """From now on `counter` counts, beginning with what it has counted already; what was before stays."""
        self._counted = self.tokens
        self._counter = counter

    def end(
        self,
        state: State,
        now: float,
        *,
        by: str,
        reason: str,
        finish: FinishReason | None = None,
        error: BackendError | None = None,
    ) -> bool:
        """Move to a terminal state. True for the one caller that did it; later callers change nothing."""
        if state not in NEXT[self.state]:
            return False
        self._counted, self._counter = self.tokens, None
        self.state = state
        self.ended = now
        self.ended_by = by
        self.reason = reason
        self.finish = finish
        self.error = error
        return True

    def entry(self) -> Entry:
        """The stream as the list of active streams shows it now."""
        who, first = self.identity, self.first_token
        return Entry(
            stream_id=who.id,
            state=self.state.wire,
            model=who.model,
            backend=who.backend,
            protocol=who.protocol,
            owner=who.owner,
            user_id=who.user_id,
            workspace_id=who.workspace_id,
            conversation_id=who.conversation_id,
            node=who.node,
            started_at=who.started_ms,
            first_token_ms=None if first is None else round((first - self.accepted) * 1000, 3),
            token_count=self.tokens,
            resumable=who.resumable,
            upstream_model=who.upstream_model,
            key_id=who.key_id,
            survives=who.survives,
        )
