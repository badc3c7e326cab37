"""What a stream leaves behind for another node to go on with: its will, written ahead, and what was said so far. Pure.

Law: a will holds what was asked and under which rules, never a secret: no credential, no key of a backend. What was
said is exactly what the shared copy holds, which is at least what any client has been shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct, field

from backends.contract.events import Usage
from backends.contract.request import ChatRequest
from config.schema import OnDisconnect
from config.values import Duration
from gateway.streams.accounts import CHARS_PER_TOKEN, Spent
from gateway.streams.stream import Identity, Try
from gateway.streams.transcript import Transcript


class Held(Struct, frozen=True):
    """What a stream holds of the fleet's limits: scopes of its leases, and (scope, per minute, cost) of its rates."""

    scopes: tuple[str, ...] = ()
    tokens: tuple[tuple[str, int, int], ...] = ()
    rolled: bool = False


class Will(Struct, frozen=True, omit_defaults=True):
    """Written ahead of the first byte. `request`: as the route made it; `body` and `headers`: the client's own, as a
    backend of its dialect is handed them; `action` and `grace` (seconds): when nobody reads; `route`: its model glob;
    `backend`: named by the client, or empty."""

    request: ChatRequest
    protocol: str
    dialect: str
    action: Literal["cancel", "grace", "continue"]
    grace: float
    route: str
    backend: str = ""
    body: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    include_usage: bool = True
    prompt_chars: int = 0
    partial: bool = False
    items: bytes = b""  # `Plan.turns`
    held: Held = Held()

    @property
    def on_disconnect(self) -> OnDisconnect:
        """The stream's policy."""
        return OnDisconnect(self.action, Duration(self.grace))


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Will).decode


def will_words(will: Will) -> bytes:
    """A will as it is stored."""
    return _encode(will)


def read_will(raw: bytes) -> Will | None:
    """A will, or None for one nobody can read."""
    try:
        return _decode(raw)
    except (msgspec.DecodeError, ValueError):
        return None


def tries_of(transcript: Transcript, lost: Sequence[int], who: Identity) -> list[Try]:
    """The attempts of nodes that are gone, as their segments tell them. `lost`: the blocks before which nodes were
    lost, and with each what it was doing."""
    model = who.upstream_model
    tries = [] if transcript.segments else [Try(who.backend, model, "start", "node_lost", 0)]
    for i, (driver, restart, tokens, end) in enumerate(_counted(transcript)):
        kind = "start" if i == 0 else "restart" if restart else "continue"
        outcome = "node_lost" if end in lost else "failed"
        tries.append(Try(driver, model, kind, outcome, tokens))
    return tries


def spent_on(transcript: Transcript, prompt_chars: int) -> Spent:
    """What those attempts used up, as an estimate."""
    tokens = sum(count for _, _, count, _ in _counted(transcript))
    used = Usage(prompt=-(-prompt_chars // CHARS_PER_TOKEN) if tokens else 0, completion=tokens)
    return Spent(max(1, len(transcript.segments)), transcript.total, tokens, 0, used, estimated=True)


def _counted(transcript: Transcript) -> list[tuple[str, bool, int, int]]:
    """Backend, whether it began anew, deltas, and the block behind it, of every segment."""
    ends = [segment.first for segment in transcript.segments[1:]] + [transcript.tip]
    blocks, found = transcript.blocks, []
    for segment, end in zip(transcript.segments, ends, strict=False):
        tap = segment.driver.tap()
        for block in blocks[segment.first - transcript.base : end - transcript.base]:
            tap.feed(block)
        found.append((segment.driver.name, segment.restart, tap.tokens, end))
    return found
