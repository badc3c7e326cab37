"""Several workers of one node: a parent that serves nothing, and children that are each a whole gateway.

Law: the parent has no event loop and keeps no thread, so it can fork at any time; it decides only who runs. The
children listen on the same addresses (SO_REUSEPORT) and the kernel spreads connections over them; what they must know
of each other they know through the registry, as nodes do. A worker that ends is replaced; one that dies loses its
streams as a node does, through its lease.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from msgspec import Struct

from config.diff import effective
from config.schema import Config
from gateway.control.reload import read
from gateway.observe.logging import Logs, get_logger
from gateway.observe.shared_metrics import bury, wipe
from gateway.ports import hold
from gateway.serving import run as run_one
from gateway.signals import BLOCKED, HURRY, Place

FIRST, LONGEST = 1.0, 30.0  # seconds before a worker that died is replaced; doubled each time
SETTLED = 60.0  # seconds of life after which a death is a first one again
_YOUNG = 10.0  # seconds after the start in which a worker that cannot start means that none can
_BEYOND = 30.0  # seconds a worker gets beyond its drain before it is killed
_AT_ONCE = 10.0  # the same, when told to hurry
_IDLE = 3600.0
_CRASHED = 70


class Restarts:
    """How long one slot stays empty after each death. Pure."""

    def __init__(self) -> None:
        self._next = FIRST

    def died(self, lived: float) -> float:
        """Seconds until the next worker, after one that lived so many."""
        if lived >= SETTLED:
            self._next = FIRST
        delay, self._next = self._next, min(self._next * 2, LONGEST)
        return delay


def count_of(config: Config) -> int:
    """How many workers are wanted; 0 in the file: one per core this process may use."""
    return config.server.workers or len(os.sched_getaffinity(0))


def run(config: Config, source: str | None) -> int:
    """The command `headgate serve`, after configuration was read. Returns the exit code."""
    count = count_of(config)
    if count == 1:
        return run_one(config, source)
    try:
        config, held = hold(config)
    except OSError as error:
        print(f"headgate: cannot listen: {error.strerror or error}", file=sys.stderr)
        return 1
    with _figures() as folder:
        return _Supervisor(config, source, count, folder, held).run()


@contextlib.contextmanager
def _figures() -> Iterator[Path]:
    """The folder of all workers' metrics, empty: the operator's, or one that goes with the process."""
    given = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    folder = Path(given or tempfile.mkdtemp(prefix="headgate-metrics-"))
    wipe(folder)
    try:
        yield folder
    finally:
        if not given:
            shutil.rmtree(folder, ignore_errors=True)


class _Child(Struct, frozen=True):
    slot: int
    born: float


class _Supervisor:
    def __init__(
        self, config: Config, source: str | None, count: int, figures: Path, held: list[socket.socket]
    ) -> None:
        self._config, self._source, self._figures, self._held = config, source, figures, held
        self._restarts = [Restarts() for _ in range(count)]
        self._due = dict.fromkeys(range(count), 0.0)  # empty slots, and when their next worker may start; 0: the first
        self._children: dict[int, _Child] = {}
        self._stopping = False
        self._kill_at = float("inf")
        self._code = 0
        self._alive, self._mine = os.pipe()

    def run(self) -> int:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
        gc.collect()
        gc.freeze()  # what the workers share stays shared
        self._began = time.monotonic()
        try:
            self._start_due()
            self._say("supervising", workers=len(self._restarts), port=self._config.server.port)
            while self._children or not self._stopping:
                told = signal.sigtimedwait(BLOCKED, self._patience())
                if told is not None:
                    self._told(told.si_signo)
                self._reap()
                self._start_due()
            self._say("all workers have ended", code=self._code)
            return self._code
        finally:
            os.close(self._mine)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            for one in self._held:
                one.close()

    def _patience(self) -> float:
        now = time.monotonic()
        due = min((*self._due.values(), self._kill_at)) if not self._stopping else self._kill_at
        return min(max(due - now, 0.0), _IDLE)

    def _told(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            self._stop(hurry=self._stopping)
        elif number == HURRY:
            self._stop(hurry=True)
        elif number == signal.SIGHUP:
            self._send(signal.SIGHUP)

    def _stop(self, *, hurry: bool) -> None:
        self._stopping = True
        self._due.clear()
        self._read_again()
        patience = _AT_ONCE if hurry else float(self._config.server.drain_timeout) + _BEYOND
        self._kill_at = time.monotonic() + patience
        self._send(HURRY if hurry else signal.SIGTERM)

    def _send(self, number: int) -> None:
        for pid in self._children:
            os.kill(pid, number)  # not reaped yet, so the number is still its own

    # -- births and deaths ---------------------------------------------------------------------------------------------

    def _start_due(self) -> None:
        now = time.monotonic()
        for slot in [slot for slot, at in self._due.items() if at <= now]:
            if self._due.pop(slot):
                self._read_again()
            sys.stdout.flush()
            sys.stderr.flush()
            try:
                pid = os.fork()
            except OSError as problem:  # no memory, no more processes
                self._due[slot] = now + LONGEST
                self._say("worker not started", slot=slot, problem=str(problem), again_in=LONGEST)
                continue
            if not pid:
                self._be_worker(slot)
            self._children[pid] = _Child(slot, now)

    def _read_again(self) -> None:
        """The workers follow their file; a later one must begin where they are, and a drain last as theirs does. A file
        with mistakes changes nothing, nor does what waits for a restart."""
        found = None if self._source is None else read(Path(self._source)).config
        if found is not None:
            self._config = effective(self._config, found)

    def _be_worker(self, slot: int) -> NoReturn:
        code = _CRASHED
        try:
            os.close(self._mine)
            for one in self._held:
                one.close()
            for number in (signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            code = run_one(self._config, self._source, Place(slot, self._alive, self._figures))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    def _reap(self) -> None:
        if time.monotonic() >= self._kill_at:
            self._send(signal.SIGKILL)
            self._kill_at = float("inf")
        for pid in list(self._children):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self._died(pid, os.waitstatus_to_exitcode(status))

    def _died(self, pid: int, code: int) -> None:
        child, now = self._children.pop(pid), time.monotonic()
        bury(self._figures, child.slot)
        if self._stopping:
            self._code = self._code or (1 if code else 0)
            return
        if code == 1 and now - self._began < _YOUNG:
            self._code = 1  # it has said why; another one would say the same
            self._stop(hurry=True)
            return
        delay = self._restarts[child.slot].died(now - child.born)
        self._due[child.slot] = now + delay
        self._say("worker ended", slot=child.slot, pid=pid, code=code, lived=round(now - child.born, 1), again_in=delay)

    def _say(self, event: str, **fields: object) -> None:
        logs = Logs(self._config.observe)
        get_logger().info(event, **fields)
        logs.close()  # its thread may not live through a fork
