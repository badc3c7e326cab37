"""What a serving process is told from outside: stop, and hurry.

Law: from `listen` on, no signal is lost and none kills; told during the start, a process stops as soon as it has
started. Alone, a second SIGTERM or SIGINT hurries. Under a supervisor only SIGUSR2 does: SIGTERM may come twice, from
the parent and from whoever signals the whole group (systemd, a terminal), and must not cut streams off by that.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from msgspec import Struct

HURRY = signal.SIGUSR2
BLOCKED = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, HURRY})  # by a parent, at all times


class Place(Struct, frozen=True):
    """A worker's place under its supervisor. `slot` counts from 0; `parent` is a pipe that ends with the parent;
    `figures`: the folder of all workers' metrics."""

    slot: int
    parent: int
    figures: Path


class Signals:
    """One per serving process; `stop` and `hurry` are set once and stay."""

    def __init__(self, place: Place | None = None) -> None:
        self.stop, self.hurry = asyncio.Event(), asyncio.Event()
        self._place = place

    def listen(self) -> None:
        """Take over the signals. A worker was started with them blocked; what has come meanwhile comes now."""
        loop = asyncio.get_running_loop()
        if self._place is None:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._again)
            return
        loop.add_signal_handler(signal.SIGTERM, self.stop.set)
        loop.add_signal_handler(HURRY, self._at_once)
        loop.add_reader(self._place.parent, self._orphaned)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED)

    def _again(self) -> None:
        (self.hurry if self.stop.is_set() else self.stop).set()

    def _at_once(self) -> None:
        self.stop.set()
        self.hurry.set()

    def _orphaned(self) -> None:
        """The parent is gone: nobody would restart or stop this worker, and it would keep its ports."""
        assert self._place is not None
        asyncio.get_running_loop().remove_reader(self._place.parent)
        os.close(self._place.parent)
        self.stop.set()
