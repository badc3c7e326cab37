"""The way of one stream over its route's backends: who is asked first, who next, beside whom, and who goes on.

Law: every place, permit and retry taken here is given back here, once, whatever becomes of the stream (`close`). It
decides, the producer acts; nothing here waits.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from backends.contract.errors import BackendError
from gateway.protocols.base import Answer
from gateway.routing.legs import Ask, World, beside, build_leg, preferred, without_api
from gateway.routing.policies import Candidate
from gateway.routing.resuming import RESTARTED, build_resume_leg
from gateway.routing.router import Decision
from gateway.routing.upstream import Upstream
from gateway.streams.course import Leg

ATTEMPTS = 3  # of one stream, where its route has a choice and says nothing else


class Routed:
    """The course of one stream (see `gateway.streams.course.Course`). `dropped`: of the first attempt."""

    def __init__(
        self,
        decision: Decision,
        ask: Ask,
        world: World,
        first: tuple[Candidate, Leg, tuple[str, ...]],
        *,
        placed: bool,
    ) -> None:
        self.route = decision.route
        self.leg, self.dropped = first[1], first[2]
        self._candidates = decision.candidates
        self._ask, self._world, self._upstreams = ask, world, world.upstreams
        choice = len(decision.candidates) > 1 or self.route.on_failure != "fail"
        self._limit = self.route.attempts or (ATTEMPTS if choice else 1)
        self._tried: list[str] = []
        self._held: list[str] = []  # a backend as often as it is asked
        self._trials: set[str] = set()
        self._known: dict[str, Upstream] = {}  # as it was when a place was taken: a reload may forget it
        self._retrying = self._closed = False
        self._upstreams.budget.streams += 1
        self.leg = self._took(self.leg, placed=placed)
        self.hedge_after = self._hedge_after()

    def _hedge_after(self) -> float | None:
        hedge = self.route.hedge
        if hedge is None or len(self._candidates) < 2:
            return None
        return float(hedge.after) or self._upstreams[self.leg.backend].percentile(hedge.percentile)

    @property
    def ask(self) -> Ask:
        """What every backend of this stream is asked."""
        return self._ask

    # -- what the producer asks ----------------------------------------------------------------------------------------

    def first(self) -> Leg:
        """The first attempt; its place is taken already."""
        return self.leg

    def more(self) -> bool:
        """Whether a failure before the first token could be answered by another attempt."""
        return self._api_unknown() or (len(self._tried) < self._limit and any(True for _ in self._standing()))

    def next(self, error: BackendError) -> Leg | None:
        """Another backend, or one again if there is no other and it may be waited for."""
        if self._api_unknown() and without_api(error):
            return self._by_main_api(error)
        if not error.code.elsewhere or len(self._tried) >= self._limit:
            return None
        return self._launched(self._ready(), error)

    def hedge(self) -> Leg | None:
        """Somebody else beside the first."""
        if len(self._tried) >= max(self._limit, 2):
            return None
        return self._launched([(c, 0.0) for c in self._open() if c.backend not in self._tried], None)

    def resume(self, error: BackendError, answer: Answer) -> Leg | None:
        """Who goes on with a half-finished answer, or begins it anew, as the route says."""
        if self.route.on_failure == "fail" or len(self._tried) >= self._limit:
            return None
        if not error.code.elsewhere and len(self._tried) < 2:  # later ones may be about what we asked
            return None
        found = self._ready()
        ready, waits = [candidate for candidate, _ in found], {candidate.backend: wait for candidate, wait in found}
        leg = self._restarted(ready) if self.route.on_failure == "restart" else self._continued(ready, answer)
        return None if leg is None else self._took(replace(leg, delay=waits[leg.backend]))

    def began(self, leg: Leg, seconds: float) -> None:
        """An attempt gave its first token."""
        upstream, now = self._known[leg.backend], self._upstreams.clock()
        upstream.began(now, seconds)
        if beside(leg, self._world):
            upstream.apis[leg.driver.dialect] = True
        if leg.kind != "continue":
            self._ask = replace(self._ask, wanted=replace(self._ask.wanted, began=leg.driver.dialect))
        upstream.breaker.success(now, trial=self._trial_of(leg.backend), whole=False)
        self._settled()

    def failed(self, leg: Leg, error: BackendError) -> None:
        """An attempt failed: the breaker hears of it, its place is free."""
        upstream = self._known[leg.backend]
        upstream.failed(self._upstreams.clock(), error, trial=self._trial_of(leg.backend))
        self._left(leg.backend)

    def over(self, leg: Leg, *, completed: bool) -> None:
        """An attempt completed, or was no longer wanted."""
        breaker, trial = self._known[leg.backend].breaker, self._trial_of(leg.backend)
        if completed:
            breaker.success(self._upstreams.clock(), trial=trial)
        elif trial:
            breaker.neither()
        self._left(leg.backend)

    def close(self) -> None:
        """The stream is over, or was never begun: give back whatever is still held. Idempotent."""
        if self._closed:
            return
        self._closed = True
        for backend in list(self._held):
            if self._trial_of(backend):
                self._known[backend].breaker.neither()
            self._left(backend)
        self._settled()
        self._upstreams.budget.streams -= 1

    # -- how -----------------------------------------------------------------------------------------------------------

    def _open(self) -> list[Candidate]:
        """Who may be asked now, the best first."""
        return preferred(self._standing(), self._upstreams)

    def _standing(self) -> Iterator[Candidate]:
        now, paused = self._upstreams.clock(), self._upstreams.paused()
        for candidate in self._candidates:
            upstream = None if candidate.backend in paused else self._upstreams.find(candidate.backend)
            if upstream is not None and upstream.breaker.allows(now) and not upstream.full:
                yield candidate

    def _ready(self) -> list[tuple[Candidate, float]]:
        """Who may be asked next, and after how many seconds: who was not asked yet, then those it is of use to ask
        again."""
        now, die, found = self._upstreams.clock(), self._world.die(), []
        for candidate in sorted(self._open(), key=lambda c: c.backend in self._tried):
            own, wait = self._tried.count(candidate.backend), 0.0
            if own:
                said = self._upstreams[candidate.backend].refusals.wait(now, len(self._tried), own, die)
                if said is None:
                    continue
                wait = said
            found.append((candidate, wait))
        return found

    def _api_unknown(self) -> bool:
        """Whether the last attempt used an API beside the main one which nobody has seen this server answer."""
        leg = self._last
        return beside(leg, self._world) and leg.driver.dialect not in self._known[leg.backend].apis

    def _by_main_api(self, error: BackendError) -> Leg | None:
        """The server lacks the client's API: the same backend by its main one, now and from now on."""
        last = self._last
        self._known[last.backend].apis[last.driver.dialect] = False
        same = next((c for c in self._candidates if (c.backend, c.model) == (last.backend, last.model)), None)
        if same is None:
            return None
        try:
            leg, self.dropped = build_leg(same, self.route, self._ask, self._world)
        except BackendError as refusal:
            error.become(refusal)  # it cannot be asked this by its main one, and that is why
            return None
        return self._took(leg)

    def _launched(self, candidates: list[tuple[Candidate, float]], error: BackendError | None) -> Leg | None:
        for candidate, delay in candidates:
            try:
                leg, _dropped = build_leg(candidate, self.route, self._ask, self._world)
            except BackendError:
                continue  # it cannot be asked this at all
            if not self._retry():
                if error is not None:
                    error.exhausted, error.retry_after = True, error.retry_after or 1.0
                return None
            return self._took(replace(leg, delay=delay))
        return None

    def _continued(self, candidates: list[Candidate], answer: Answer) -> Leg | None:
        world = self._world
        return build_resume_leg(candidates, self._ask.wanted, answer, world.drivers, world.transports)

    def _restarted(self, candidates: list[Candidate]) -> Leg | None:
        if self._ask.wanted.protocol not in RESTARTED:
            return None
        for candidate in candidates:
            try:
                leg, _dropped = build_leg(candidate, self.route, self._ask, self._world)
            except BackendError:
                continue
            return replace(leg, kind="restart")
        return None

    def _took(self, leg: Leg, *, placed: bool = False) -> Leg:
        upstream = self._upstreams[leg.backend]
        self._known[leg.backend] = upstream
        if not placed:
            upstream.take()
            leg = replace(leg, transport=self._upstreams.leased(upstream, leg.transport, self._ask.tokens))
        if upstream.breaker.begin():
            self._trials.add(leg.backend)
        self._held.append(leg.backend)
        self._tried.append(leg.backend)
        self._last = leg
        return leg

    def _left(self, backend: str) -> None:
        self._settled()
        if backend in self._held:
            self._held.remove(backend)
            self._known[backend].give()

    def _trial_of(self, backend: str) -> bool:
        """Whether the attempt there is the breaker's trial; asked once, at its first outcome."""
        if backend not in self._trials:
            return False
        self._trials.discard(backend)
        self._upstreams.unclaim(backend)
        return True

    def _retry(self) -> bool:
        """A part of the retry budget; a stream never holds more than one."""
        self._retrying = self._retrying or self._upstreams.budget.take()
        return self._retrying

    def _settled(self) -> None:
        if self._retrying:
            self._retrying = False
            self._upstreams.budget.give()
