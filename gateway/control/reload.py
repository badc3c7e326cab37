"""Hot reload: the file is read again when it changes, on SIGHUP and on request; what is right is put into force.

Law: one reload at a time; a file that is wrong changes nothing and is told of with line and suggestion. The last good
configuration stays until a better one has been adopted whole.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path

import structlog
from msgspec import Struct
from watchfiles import awatch

from backends import catalog
from config.diff import Change, diff, effective
from config.load import Complaint, Loaded, load_file
from config.schema import Config

log = structlog.get_logger("headgate.reload")

_LOOK_MS = 2000  # a look at the file also without news of it: some file systems send none
_SETTLE_MS = 50  # news of one change come in several pieces
_STILL = 0.1  # seconds in which a file must not change to count as written


def read(path: Path) -> Loaded:
    """A file, checked with its drivers' opinions."""
    return load_file(path, drivers={name: catalog.load(name) for name in catalog.names()})


class Outcome(Struct, frozen=True):
    """What came of a reload. `applied`: something changed and is in force."""

    applied: bool
    changes: tuple[Change, ...] = ()
    complaints: tuple[Complaint, ...] = ()


class Reloader:
    """One per worker. `read` reads and checks the file (in a thread); `adopt` puts a configuration into force and
    raises ValueError, having changed nothing, when it cannot; `told` hears what came of each reload. `config`: what is
    in force now; `wanted`: what the file said last, with what waits for a restart."""

    def __init__(
        self,
        source: str | None,
        config: Config,
        adopt: Callable[[Config], None],
        read: Callable[[Path], Loaded] = read,
        told: Callable[[Outcome], None] = lambda outcome: None,
    ) -> None:
        self.source = source
        self.config = config
        self.last: Outcome | None = None
        self.wanted = config
        self._path = None if source is None else Path(source)
        self._read = read
        self._adopt = adopt
        self._hears = told
        self._lock = asyncio.Lock()
        self._seen = _EMPTY
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Watch the file from now on."""
        if self._path is not None:
            self._seen = _digest(self._path)
            self._task = asyncio.create_task(self._watch(self._path), name="reload")

    async def stop(self) -> None:
        """No more watching."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def soon(self, why: str) -> None:
        """`reload`, by somebody who cannot wait for it."""
        self._soon = asyncio.get_running_loop().create_task(self.reload(why))

    async def reload(self, why: str) -> Outcome:
        """Read the file and put it into force."""
        if self._path is None:
            return self._told(why, Outcome(False, complaints=(_NO_FILE,)))
        async with self._lock:
            self._seen = _digest(self._path)
            loaded = await asyncio.to_thread(self._read, self._path)
            if loaded.config is None:
                return self._told(why, Outcome(False, complaints=loaded.complaints))
            return self._told(why, self._apply(loaded.config))

    def _apply(self, wanted: Config) -> Outcome:
        changes = tuple(diff(self.wanted, wanted))
        new = effective(self.config, wanted)
        try:
            if new != self.config:
                self._adopt(new)
        except ValueError as problem:
            return Outcome(False, complaints=(Complaint(str(self._path), 0, "", str(problem)),))
        applied = new != self.config
        self.config, self.wanted = new, wanted
        return Outcome(applied, changes)

    def _told(self, why: str, outcome: Outcome) -> Outcome:
        self.last = outcome
        self._hears(outcome)
        for complaint in outcome.complaints:
            log.error("reload.refused", why=why, problem=str(complaint))
        for change in outcome.changes:
            log.warning("reload.changed", why=why, setting=change.path, change=str(change), restart=change.restart)
        if not outcome.complaints:
            log.info("reload.done", why=why, changes=len(outcome.changes))
        return outcome

    async def _watch(self, path: Path) -> None:
        """The folder is watched, not the file: editors and Kubernetes put a new one in its place."""
        folder = path.absolute().parent  # noqa: ASYNC240 - asks nobody but for the working folder
        news = awatch(
            folder,
            recursive=False,
            step=_SETTLE_MS,
            debounce=_SETTLE_MS * 4,
            rust_timeout=_LOOK_MS,
            yield_on_timeout=True,
        )
        async for _ in news:
            try:
                if await _settled(path) not in (self._seen, _EMPTY):
                    await self.reload("the file changed")
            except Exception:
                log.exception("reload.failed")  # a fault of ours must not end the watching


_EMPTY = hashlib.sha256(b"").digest()  # of a file that is empty, or not there: one being written, or replaced
_NO_FILE = Complaint("", 0, "", "this gateway was started without a file")


async def _settled(path: Path) -> bytes:
    """The digest of a file nobody is writing just now: half of one may be a good configuration without its keys."""
    while True:
        before = _digest(path)
        await asyncio.sleep(_STILL)
        if _digest(path) == before:
            return before


def _digest(path: Path) -> bytes:
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return _EMPTY
