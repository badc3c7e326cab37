"""The operators' settings at work on one node: held, changed, kept, followed from other nodes, put into force.

Law: admission asks `state`, which is always there; every change goes through `change`, which makes the next version,
keeps it, puts it into force here at once and on the other nodes within a second (each looks every quarter of one: a
message cannot get lost). While the store is away a change holds here, and is handed on when it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import structlog
from msgspec.structs import replace

from gateway.access.limiter import Ticket
from gateway.control.brake import Brake
from gateway.control.flags import ControlState, Invalid, Rule, current, patched, pause_of, rule_of
from gateway.control.store import AUDIT, Away, Change, MemoryStore, Store
from gateway.streams.stream import Receipt

log = structlog.get_logger("headgate.control")

LOOK = 0.25  # seconds between looks at a shared store
_TRIES = 20  # of a change that others get in the way of

Applied = Callable[[ControlState], None]


class Control:
    """One per worker. `applied` puts a state into force, at each change; `changed` hears of those made here. Times of
    rules are Unix seconds."""

    def __init__(
        self,
        node: str,
        store: Store | None = None,
        applied: Applied = lambda state: None,
        clock: Callable[[], float] = time.time,
        changed: Callable[[Change], None] = lambda change: None,
    ) -> None:
        self.state = ControlState()
        self._node = node
        self._store = store or MemoryStore()
        self.brake = Brake(self._store)
        self._applied = applied
        self._clock, self._changed = clock, changed
        self._kept = 0  # the version the store is known to have
        self._unsent: deque[Change] = deque(maxlen=AUDIT)
        self._loop: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()

    @property
    def now(self) -> float:
        """Unix seconds, by the clock all nodes go by."""
        return self._clock() + self._store.offset

    async def start(self) -> None:
        """Take up what is kept and follow it from now on."""
        await self._follow()
        self._loop = asyncio.create_task(self._run(), name="control")

    async def stop(self) -> None:
        """No more looks."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)

    # -- changes -------------------------------------------------------------------------------------------------------

    async def patch(self, wish: Mapping[str, Any], by: str) -> ControlState:
        """Set fields. Raises Invalid."""
        return await self.change("set", by, lambda state: patched(state, wish))

    async def kill(self, wish: Mapping[str, Any], by: str) -> Rule:
        """A new kill rule. Raises Invalid."""
        rule = rule_of(wish, "kill_" + secrets.token_hex(4), by, self.now)
        await self.change("kill", by, lambda state: replace(state, killed=(*state.killed, rule)))
        return rule

    async def lift(self, rule_id: str, by: str) -> bool:
        """Take a kill back; False when there is none of that id."""
        if all(rule.id != rule_id for rule in self.state.killed):
            return False

        def lifted(state: ControlState) -> ControlState:
            return replace(state, killed=tuple(rule for rule in state.killed if rule.id != rule_id))

        await self.change("unkill", by, lifted)
        return True

    async def pause(self, wish: Mapping[str, Any], by: str) -> ControlState:
        """Pause a backend or model; a pause of the same one is replaced. Raises Invalid."""
        pause = pause_of(wish, by, self.now)

        def paused(state: ControlState) -> ControlState:
            others = (p for p in state.paused if (p.kind, p.match) != (pause.kind, pause.match))
            return replace(state, paused=(*others, pause))

        return await self.change("pause", by, paused)

    async def resume(self, wish: Mapping[str, Any], by: str) -> bool:
        """End a pause; False when there is none. Raises Invalid."""
        wanted = pause_of(wish, by, self.now)

        def rest(state: ControlState) -> ControlState:
            kept = tuple(p for p in state.paused if (p.kind, p.match) != (wanted.kind, wanted.match))
            return replace(state, paused=kept)

        if len(rest(self.state).paused) == len(self.state.paused):
            return False
        await self.change("resume", by, rest)
        return True

    async def reset(self, by: str) -> ControlState:
        """Back to safe defaults: nothing killed, nothing paused, everything on."""
        return await self.change("reset", by, lambda state: ControlState(version=state.version))

    async def reset_breaker(self, backend: str, by: str) -> ControlState:
        """Close a backend's breaker in every worker."""
        return await self.change(
            "breaker", by, lambda state: replace(state, resets={**state.resets, backend: state.version + 1})
        )

    async def change(self, action: str, by: str, make: Callable[[ControlState], ControlState]) -> ControlState:
        """Make, keep and apply the next state; made again when another node was faster. Raises Invalid."""
        async with self._lock:
            for _ in range(_TRIES):
                before = current(self.state, self.now)
                new = replace(make(before), version=self.state.version + 1)
                if new.rollout != before.rollout:
                    new = replace(new, rollout_version=new.version)
                line = Change(new.version, self.now, by, action, *_difference(before, new), self._node)
                try:
                    other = await self._store.swap(self._kept, new, line)
                except Away:
                    other = None
                    self._unsent.append(line)  # `_follow` hands both on
                else:
                    if other is None:
                        self._kept = new.version
                if other is None:
                    log.warning("control.changed", **msgspec.to_builtins(line))
                    self._changed(line)
                    self._take(new)
                    return new
                self._kept = other.version
                if other.version >= self.state.version:
                    self._take(other)
                await asyncio.sleep(random.uniform(0, 0.02))  # let them finish
            raise Invalid("other nodes keep changing this at the same time; try again")

    async def audit(self) -> list[Change]:
        """The last changes, oldest first; none while the store is away."""
        try:
            return await self._store.audit()
        except Away:
            return []

    # -- following -----------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK)
            try:
                if self._store.shared:
                    await self._follow()
                await self._judge()
            except Exception:
                log.exception("control.step_failed")  # a fault of ours must not end the looking

    async def _follow(self) -> None:
        """Take up what the store has, or put there what it has not: the higher version wins."""
        async with self._lock:
            try:
                found = await self._store.load()
                self._kept = 0 if found is None else found.version
                if self._kept < self.state.version:
                    found = await self._store.swap(self._kept, self.state, None) or found
                    self._kept = max(self._kept, self.state.version)
                if self._unsent:
                    await self._store.append(list(self._unsent))
                    self._unsent.clear()
            except Away:
                return
            if found is not None and found.version > self.state.version:
                self._take(found)

    def _take(self, state: ControlState) -> None:
        if (state.rollout, state.rollout_version) != (self.state.rollout, self.state.rollout_version):
            self.brake.clear()
        self.state = state
        self._applied(current(state, self.now))

    # -- the rollout's own brake ---------------------------------------------------------------------------------------

    def finished(self, receipt: Receipt, ticket: Ticket | None) -> None:
        """A stream ended; those a rollout let in are counted."""
        if ticket is not None and ticket.rolled:
            self.brake.add(receipt.state)

    async def _judge(self) -> None:
        state = self.state
        found = await self.brake.judge(state)
        if found is None or not found.reason:
            return
        by = f"automatic rollback: {found.reason} of {found.streams} streams"

        def taken_back(now: ControlState) -> ControlState:
            if now.rollout_version != state.rollout_version:
                raise _Superseded
            return patched(now, {"rollout": {"percent": 0.0}})

        with contextlib.suppress(_Superseded):  # another node was faster, or an operator
            await self.change("rollback", by, taken_back)


class _Superseded(Exception):
    """The rollout that was judged is no more."""


_SILENT = ("version", "rollout_version")


def _difference(before: ControlState, after: ControlState) -> tuple[dict[str, Any], dict[str, Any]]:
    old, new = msgspec.to_builtins(before), msgspec.to_builtins(after)
    changed = [name for name in new if name not in _SILENT and new[name] != old[name]]
    return {name: old[name] for name in changed}, {name: new[name] for name in changed}
