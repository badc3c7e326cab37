"""A rollout's own brake: how the streams it let in ended, and whether it has to be taken back.

Law: where nodes share a store the fleet's counts are judged, so that two nodes with half of the streams each decide as
one node with all of them would; while the store is away each node goes by its own. What is counted is never sent twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from gateway.access.rollout import Outcomes, Verdict, judged, kind_of
from gateway.control.flags import ControlState
from gateway.control.store import Away, Store


class Brake:
    """One per worker. `clock`: monotonic seconds."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self.outcomes = Outcomes()  # of this worker
        self._store = store
        self._clock = clock
        self._fresh = [0, 0, 0]  # what the others have not been told yet

    def add(self, state: str) -> None:
        """A stream that the rollout let in ended in this state (its wire name)."""
        self.outcomes.add(state, self._clock())
        kind = kind_of(state)
        if kind is not None:
            self._fresh[kind] += 1

    def clear(self) -> None:
        """The rollout was changed: what comes is judged anew."""
        self.outcomes.clear()
        self._fresh = [0, 0, 0]

    async def judge(self, state: ControlState) -> Verdict | None:
        """What is to be said of the rollout; None: it lets everybody in, or nobody, or is to be left alone."""
        rollout = state.rollout
        if not rollout.automatic or not 0 < rollout.percent < 100:
            return None
        errors, complete, minimum = rollout.error_rate, rollout.completion_rate, rollout.minimum
        sums = await self._sums(state)
        if sums is not None:
            return judged(*sums, error_rate=errors, completion_rate=complete, minimum=minimum)
        return self.outcomes.verdict(
            self._clock(), window=rollout.window, error_rate=errors, completion_rate=complete, minimum=minimum
        )

    async def _sums(self, state: ControlState) -> tuple[int, ...] | None:
        if self._store.away:
            return None
        fresh, self._fresh = self._fresh, [0, 0, 0]
        try:
            return await self._store.tally(state.rollout_version, state.rollout.window, fresh)
        except Away:
            return None  # it may have been counted: better missed than counted twice
