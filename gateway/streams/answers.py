"""Finished answers, kept to be given again when no backend can: an exact-match cache. Pure; the clock is an argument
(monotonic seconds).

Law: an answer is given again only to the owner who got it, for the same request, within its route's time. Memory is
bounded: beyond `memory` bytes the oldest go first.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from backends.base import Driver
from backends.contract.request import ChatRequest
from config.schema import Target
from gateway.streams.stream import State, Stream
from gateway.streams.transcript import Transcript

_encode = msgspec.json.Encoder(order="deterministic").encode


class Kept(Struct, frozen=True):
    """One answer: whole frames in the dialect of `driver`, from the first to the end mark. `model`: its name there."""

    driver: Driver
    model: str
    frames: tuple[bytes, ...]
    at: float
    size: int


def key_of(owner: str, targets: tuple[Target, ...], request: ChatRequest) -> str:
    """The name of a request: everything that makes a difference to the answer (`targets`: who might give it), and whose
    it is."""
    bare = replace(request, user="", metadata={})
    return hashlib.sha256(_encode((owner, targets, bare))).hexdigest()


class Answers:
    """One per worker."""

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self.size = 0

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, key: str, driver: Driver, model: str, frames: tuple[bytes, ...], now: float) -> None:
        """Remember a completed answer; one that is too large by itself is not."""
        size = sum(map(len, frames)) + 200 + 50 * len(frames)
        self._drop(key)
        if size > self._memory // 4:
            return
        self._kept[key] = Kept(driver, model, frames, now, size)
        self.size += size
        while self.size > self._memory:
            self._drop(next(iter(self._kept)))

    def offer(self, key: str, stream: Stream, transcript: Transcript, now: float) -> None:
        """Remember a stream's answer under `key` (empty: its route wants none kept), if it is one that can be given
        again: completed, of one backend, with its beginning."""
        if not key:
            return
        whole = transcript.base == 0 and len(transcript.segments) == 1 and stream.tokens > 0
        if whole and stream.state is State.COMPLETED and not stream.degraded:
            model = stream.last.model if stream.last else stream.identity.upstream_model
            self.keep(key, transcript.segments[0].driver, model, tuple(transcript.blocks), now)

    def find(self, key: str, within: float, now: float) -> Kept | None:
        """An answer no older than `within` seconds."""
        kept = self._kept.get(key)
        if kept is None or now - kept.at > within:
            return None
        return kept

    def _drop(self, key: str) -> None:
        dropped = self._kept.pop(key, None)
        if dropped is not None:
            self.size -= dropped.size
