"""The shared transcript as it lies in Redis: one list per stream, its entries, their words. Pure.

Law: an entry begins with its id, the number of bytes of the transcript up to its end, `<bytes>-0`. So it says by itself
where it begins: a hole is seen, and a part that was read already is skipped. What stands first (`0-1`) says whose
stream it is; what stands last (`<2^53-1>-0`) how it ended, and nothing can be added behind it. A node that claims a
stream of a dead one writes `<bytes>-2` and all that follows as `<bytes>-2`, the next one `-3`, and so on: the last
id says who may write.

A list, because Redis keeps its elements in full pages of 8 KB. Its own streams take pages of 4 KB at most, a tree above
them, and a whole page for a single entry: a quarter to a half more than what is in them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from backends.base import Driver
from backends.contract.errors import BackendError, ErrorCode
from backends.contract.events import FinishReason, Usage
from gateway.protocols.base import Ending
from gateway.registry.redis_client import Op
from gateway.registry.shared_entry import Words, opened, sealed
from gateway.streams.replay import MESSAGE, SPEAKER
from gateway.streams.stream import Identity, State
from gateway.streams.transcript import Segment

FIRST = "0-1"
LAST = 2**53 - 1
LAST_ID = f"{LAST}-0"
WATCH_MS = 4000  # a watch that is not renewed ends
PAGE = 64  # entries of one reading
MOST_ASKED = 256 * 1024  # bytes of what was asked that are shared
Addition = tuple[str, bytes]  # what is expected, and the entry, as the script takes them

_encode = msgspec.json.Encoder().encode
_CODES = {code.wire: code for code in ErrorCode}
_STATES = {state.wire: state for state in State}


class Meta(Struct, frozen=True):
    """The beginning of a log: all a view depends on besides the blocks. `backend` and `dialect` name the driver."""

    identity: Identity
    backend: str
    dialect: str
    include_usage: bool = True


class Turn(Struct, frozen=True, array_like=True):
    """A segment begins: who answers, in which dialect, and whether what was said before counts no more."""

    backend: str
    dialect: str
    restart: bool = False


class _Fault(Struct, frozen=True, omit_defaults=True):
    code: str
    message: str
    retry_after: float | None = None
    upstream_status: int = 0
    kind: str = ""
    param: str | None = None
    own_code: str = ""


class _Said(Struct, frozen=True, omit_defaults=True):
    finish: FinishReason
    usage: Usage
    usage_estimated: bool
    tokens: int
    error: _Fault | None = None


_meta = msgspec.json.Decoder(Meta)
_turns = msgspec.json.Decoder(tuple[Turn, ...])
_said = msgspec.json.Decoder(_Said)


def addition(expected: int, sent: int, life: int, least: int, claims: int, entry: bytes = b"") -> Addition:
    """To append an entry where exactly `expected` are (0: whatever is there goes), which end at `sent` bytes. `life`:
    the log's in ms, from now on (0: as it is); `least`: entries of fewer bytes may go (0: none may); `claims`: those
    the writer knows of."""
    return f"{expected} {sent} {life} {least} {claims}", entry


def meta_words(meta: Meta, will: bytes = b"", turns: bytes = b"") -> Words:
    """The words of a first entry; `will`: what another node needs to go on; `turns`: what it was asked with, unless
    that is too much to share."""
    asked: Words = ("i", turns) if 0 < len(turns) <= MOST_ASKED else ()
    return ("m", _encode(meta), *asked, *(("w", will) if will else ()))


def turns_of(segments: Sequence[Segment]) -> bytes:
    """Segments that begin, as one word."""
    return _encode([Turn(s.driver.name, s.driver.dialect, s.restart) for s in segments])


def terminal_words(state: State, total: int, ending: Ending, turns: bytes = b"") -> Words:
    """The words of a last entry; `total`: bytes of the whole transcript."""
    error = ending.error
    fault = None
    if error is not None:
        own = (error.upstream_status, error.kind, error.param, error.own_code)
        fault = _Fault(error.code.wire, error.message, error.retry_after, *own)
    said = _Said(ending.finish, ending.usage, ending.usage_estimated, ending.tokens, fault)
    words: Words = ("t", state.wire, "n", total, "e", _encode(said))
    return (*words, "s", turns) if turns else words


def read_meta(words: Mapping[bytes, bytes]) -> Meta | None:
    """A first entry, or None for one nobody can read."""
    try:
        return _meta.decode(words.get(b"m", b""))
    except msgspec.DecodeError:
        return None


def read_turns(words: Mapping[bytes, bytes]) -> tuple[Turn, ...]:
    """The segments that begin before this entry. Raises ValueError for words nobody can read."""
    raw = words.get(b"s")
    return _turns.decode(raw) if raw else ()


def read_terminal(words: Mapping[bytes, bytes]) -> tuple[State, int, Ending]:
    """A last entry: state, bytes of the whole transcript, ending. Raises ValueError for words nobody can read."""
    try:
        said = _said.decode(words[b"e"])
        state, total = _STATES[words[b"t"].decode()], int(words[b"n"])
    except KeyError as error:
        raise ValueError(str(error)) from None
    fault = _fault(said.error) if said.error is not None else None
    return state, total, Ending(said.finish, said.usage, said.usage_estimated, said.tokens, fault)


def _fault(said: _Fault) -> BackendError:
    return BackendError(
        _CODES.get(said.code, ErrorCode.INTERNAL),
        said.message,
        retry_after=said.retry_after,
        upstream_status=said.upstream_status,
        kind=said.kind,
        param=said.param,
        own_code=said.own_code,
    )


def position(entry_id: bytes | str) -> int:
    """The bytes an entry's id tells; 0 for the first entry. Raises ValueError."""
    text = entry_id.decode() if isinstance(entry_id, bytes) else entry_id
    return int(text.partition("-")[0])


def epoch_of(entry_id: bytes | str) -> int:
    """How often a stream was claimed before this entry was written: 0, then 2, 3, ... Raises ValueError."""
    text = entry_id.decode() if isinstance(entry_id, bytes) else entry_id
    number = int(text.partition("-")[2] or 0)
    return number if text != FIRST else 0


def driver_of(drivers: Mapping[str, Driver], backend: str, dialect: str) -> Driver | None:
    """The driver a log names, as this node has it; None: it has no such backend, or not in this dialect."""
    driver = SPEAKER if backend == MESSAGE else drivers.get(backend)
    return driver.speaking(dialect) if driver is not None else None


class SharedLayout:
    """Keys and commands under one prefix. `life`: seconds a running log lives unrenewed; `replay`: an ended one.
    `cluster`: wake-ups stay within a shard."""

    def __init__(self, prefix: str, replay: float, lease: float, *, cluster: bool) -> None:
        self._prefix = prefix
        self.replay_ms = max(1, round(replay * 1000))
        self.life_ms = self.replay_ms + round(2000 * lease)
        self.publish = "SPUBLISH" if cluster else "PUBLISH"

    def log(self, key: str) -> str:
        """The transcript of a stream (by its stream key); wake-ups are published under the same name."""
        return f"{self._prefix}:log:{{{key}}}"

    def watch(self, key: str) -> str:
        """There while other nodes read this stream."""
        return f"{self._prefix}:watch:{{{key}}}"

    def ship(self, additions: Sequence[tuple[str, Addition]]) -> Op:
        """Append, each to the log of its stream key."""
        return self.appending([(self.keys(key), added) for key, added in additions])

    def keys(self, key: str) -> tuple[str, str]:
        """A stream's log and watch."""
        return self.log(key), self.watch(key)

    def appending(self, additions: Sequence[tuple[tuple[str, str], Addition]]) -> Op:
        """As `ship`, by `keys`."""
        keys: list[str] = []
        args: list[str | bytes | int] = [self.publish]
        for names, added in additions:
            keys += names
            args += added
        return Op("ship", tuple(keys), tuple(args))

    def fence(self, key: str, words: Words) -> Op:
        """End the log of a stream whose node is gone."""
        return Op("fence", (self.log(key),), (self.publish, LAST, self.replay_ms, sealed(LAST_ID, words)))

    def inherit(self, key: str, node: str, epoch: int) -> Op:
        """Claim a stream of a dead node that was claimed up to `epoch`; answers the log's entries with this one, or 0:
        somebody else was first, or it has ended."""
        return Op("inherit", (self.log(key),), (self.publish, LAST, epoch, max(2, epoch + 1), node, self.life_ms))

    def read(self, key: str, after: str) -> Op:
        """The next page behind an entry's id ("": from the beginning)."""
        return Op("page", (self.log(key),), (after, PAGE))

    def erase(self, key: str) -> Op:
        """Forget an ended stream."""
        return Op("DEL", (self.log(key),))

    def forgetting(self, key: str) -> Op:
        """Say that its owner wants it forgotten: other nodes may have it, too."""
        return Op("SET", (self._mark(key),), ("1", "PX", self.replay_ms))

    def was_forgotten(self, key: str) -> Op:
        """Whether that was said."""
        return Op("EXISTS", (self._mark(key),))

    def _mark(self, key: str) -> str:
        return f"{self._prefix}:forgotten:{{{key}}}"

    def watching(self, key: str) -> Op:
        """Say that this stream is read here."""
        return Op("SET", (self.watch(key),), ("1", "PX", WATCH_MS))

    def unwatch(self, key: str) -> Op:
        """Nobody reads it here any more; other nodes' watches are back within a second."""
        return Op("DEL", (self.watch(key),))


def entries_of(answer: Any) -> list[tuple[bytes, Mapping[bytes, bytes]]]:
    """The entries of a page. Raises ValueError where the key holds something else."""
    if isinstance(answer, BaseException):
        raise ValueError(str(answer))
    return [opened(entry) for entry in answer or ()]
