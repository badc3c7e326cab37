"""Where the operators' settings are kept: nowhere but here, in a file, or in Redis for all nodes.

Law: a change is made from a version and is refused when another has come in between. What cannot be read is treated as
absent and said so; a store that is away never keeps an operator from changing this node.
"""

from __future__ import annotations

import os
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import structlog
from msgspec import Struct

from config.schema import Config
from gateway.control.flags import ControlState
from gateway.registry.base import Registry
from gateway.registry.redis_client import Away, Link, Op

log = structlog.get_logger("headgate.control")

AUDIT = 1000  # changes remembered
_SLOTS = 60  # of a rollout's window: what is older than all of them is forgotten slot by slot

_encode = msgspec.json.Encoder().encode
_state = msgspec.json.Decoder(ControlState)


class Change(Struct, frozen=True):
    """One line of the audit: what was done, by whom, from where; `before` and `after` of what changed."""

    version: int
    at: float  # Unix seconds
    by: str
    action: str
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    node: str = ""


class Store(ABC):
    """`swap` is compare-and-set by version."""

    shared = False  # whether other nodes see it
    away = False  # whether it cannot be reached now, as far as is known
    offset = 0.0  # seconds its clock is ahead of this node's: clocks of nodes are never compared

    @abstractmethod
    async def load(self) -> ControlState | None:
        """What is kept; None: nothing. Raises Away."""

    @abstractmethod
    async def swap(self, before: int, state: ControlState, change: Change | None) -> ControlState | None:
        """Keep `state` if version `before` (0: nothing) is what is kept; else the state that is. Raises Away."""

    async def append(self, changes: list[Change]) -> None:
        """Add lines to the audit that could not be kept with their change. Raises Away."""
        raise NotImplementedError("this store is never away")

    @abstractmethod
    async def audit(self) -> list[Change]:
        """The last changes, oldest first. Raises Away."""

    async def tally(self, rollout: int, window: float, counts: Sequence[int]) -> tuple[int, ...] | None:
        """Add outcomes (completed, failed, other) of the streams that a rollout (its version) let in; the sums of all
        nodes within the last `window` seconds. None: there are no others. Raises Away; then it is not repeated."""
        return None


class MemoryStore(Store):
    """Forgotten with the process."""

    def __init__(self) -> None:
        self._changes: list[Change] = []

    async def load(self) -> ControlState | None:
        return None

    async def swap(self, before: int, state: ControlState, change: Change | None) -> ControlState | None:
        if change is not None:
            self._changes = [*self._changes[1 - AUDIT :], change]
        return None

    async def audit(self) -> list[Change]:
        return list(self._changes)


class FileStore(MemoryStore):
    """A JSON file, replaced whole, and beside it one line per change (`<name>.audit.jsonl`)."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = Path(path)
        self._log = self._path.with_name(self._path.name + ".audit.jsonl")
        self._changes = _changes(self._log)

    async def load(self) -> ControlState | None:
        try:
            return _state.decode(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as problem:
            log.warning("control.unreadable", path=str(self._path), error=str(problem))
            return None

    async def swap(self, before: int, state: ControlState, change: Change | None) -> ControlState | None:
        await super().swap(before, state, change)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            _replace(self._path, _encode(state))
            if change is not None:
                with self._log.open("ab") as file:
                    file.write(_encode(change) + b"\n")
        except OSError as problem:
            log.error("control.not_kept", path=str(self._path), error=str(problem))
        return None


class RedisStore(Store):
    """A hash and a list, for all nodes that share the registry's prefix."""

    shared = True

    def __init__(self, link: Link, prefix: str, clock: Callable[[], float] = time.time) -> None:
        self._link = link
        self._clock = clock
        self._keys = (f"{prefix}:{{control}}:state", f"{prefix}:{{control}}:audit")
        self._rollout = f"{prefix}:{{control}}:rollout"

    @property
    def away(self) -> bool:  # type: ignore[override]  # of the others it is a constant
        return not self._link.healthy

    async def load(self) -> ControlState | None:
        state, now = await self._link.one(Op("control_look", self._keys[:1]))
        self.offset = now / 1e6 - self._clock()
        return _read(state)

    async def swap(self, before: int, state: ControlState, change: Change | None) -> ControlState | None:
        line = b"" if change is None else _encode(change)
        for _ in range(2):
            args = (before, state.version, _encode(state), line, AUDIT)
            answer = await self._link.one(Op("control", self._keys, args))
            found = None if answer[0] else _read(answer[2])
            if answer[0] or found is not None:
                break
            before = int(answer[1])  # nobody can read what is there: it is replaced
        return found

    async def append(self, changes: list[Change]) -> None:
        await self._link.one(Op("RPUSH", self._keys[1:], tuple(map(_encode, changes))))

    async def audit(self) -> list[Change]:
        lines = await self._link.one(Op("LRANGE", self._keys[1:], (0, -1)))
        return _lines(lines)

    async def tally(self, rollout: int, window: float, counts: Sequence[int]) -> tuple[int, ...] | None:
        slot = max(1, round(window * 1000 / _SLOTS))
        sums = await self._link.one(Op("tally", (f"{self._rollout}:{rollout}",), (slot, _SLOTS, *counts)))
        return tuple(map(int, sums))


def store_for(config: Config, registry: Registry) -> Store:
    """The shared registry's Redis where there is one, else `admin.state`, else nothing that lasts."""
    link = getattr(registry, "link", None)  # its class is imported only where it is used
    if link is not None:
        return RedisStore(link, config.registry.prefix)
    return FileStore(config.admin.state) if config.admin.state else MemoryStore()


def _read(raw: bytes | None) -> ControlState | None:
    if not raw:
        return None
    try:
        return _state.decode(raw)
    except msgspec.MsgspecError as problem:
        log.warning("control.unreadable", error=str(problem))
        return None


def _changes(path: Path) -> list[Change]:
    try:
        return _lines(path.read_bytes().splitlines()[-AUDIT:])
    except OSError:
        return []


def _lines(lines: list[bytes]) -> list[Change]:
    found = []
    for line in lines:
        try:
            found.append(msgspec.json.decode(line, type=Change))
        except msgspec.MsgspecError:
            log.warning("control.audit_unreadable")
    return found


def _replace(path: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


__all__ = ["AUDIT", "Away", "Change", "FileStore", "MemoryStore", "RedisStore", "Store"]
