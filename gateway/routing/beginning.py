"""How a stream's course begins: a permit where a breaker is due, a backend that can be asked this, a place there.

Law: the only waiting of routing is here, before the stream exists: for a permit, and for a place where one may be had.
"""

from __future__ import annotations

from collections.abc import Iterable

from backends.contract.errors import BackendError, ErrorCode
from config.schema import Route
from gateway.routing.breaker import BreakerState
from gateway.routing.course import Routed
from gateway.routing.degrading import Instead, Spare, Spared
from gateway.routing.legs import Ask, World, build_leg, preferred
from gateway.routing.places import limited, no_room
from gateway.routing.policies import Candidate
from gateway.routing.router import Decision
from gateway.routing.upstreams import Upstreams
from gateway.streams.course import Leg

PERMIT = 10.0  # seconds within which a trial must begin
TRIAL = 30.0  # seconds for which nobody else in the fleet may try
_Able = tuple[Candidate, Leg, tuple[str, ...]]  # who can be asked, how, and what is dropped for it
_REFUSED = 1.0  # seconds until a refused permit is asked for again


async def begin(
    decision: Decision, ask: Ask, world: World, priority: int = 0, spare: Spare | None = None
) -> Routed | Instead:
    """The course of a new stream, its first place taken; waits for one where all are full and may be waited for.
    `spare`: what is given where nobody can be asked now. Raises BackendError: nobody can be asked this, or nobody now.
    Whoever gets a course must `close` it."""
    only = _only(decision, ask, world) if spare is None and len(decision.candidates) == 1 else None
    if only is not None:
        return Routed(decision, ask, world, only, placed=True)
    try:
        return await _placed(decision, ask, world, priority, spare)
    except BackendError as error:
        leg = spare.instead_of(error, world.upstreams.clock()) if spare is not None else None
        if leg is None:
            raise
        return Instead(leg)


def _only(decision: Decision, ask: Ask, world: World) -> _Able | None:
    """The one backend of a route where neither a permit nor a place is to be had first, its place taken."""
    candidate = decision.candidates[0]
    upstream = world.upstreams.find(candidate.backend)
    if upstream is None or upstream.breaker.state is not BreakerState.CLOSED or limited(upstream.backend):
        return None
    leg, dropped = build_leg(candidate, decision.route, ask, world)
    upstream.take()
    return candidate, leg, dropped


async def _placed(decision: Decision, ask: Ask, world: World, priority: int, spare: Spare | None) -> Routed:
    await ripen(decision.candidates, world)
    first = None
    while first is None:  # each round takes a place, or finds one more backend full
        first = await _taken(decision, ask, world, priority)
    if spare is not None:
        return Spared(decision, ask, world, first, placed=True, spare=spare)
    return Routed(decision, ask, world, first, placed=True)


async def _taken(decision: Decision, ask: Ask, world: World, priority: int) -> _Able | None:
    """Who is asked first, its place taken; None: it turned out to be full. Raises BackendError."""
    upstreams = world.upstreams
    known = [c for c in decision.candidates if upstreams.find(c.backend)]  # a reload may have come meanwhile
    now = upstreams.clock()
    standing = [c for c in known if upstreams[c.backend].breaker.allows(now)]
    if not standing:
        raise resting(known, upstreams)
    able = _able(preferred(standing, upstreams), decision.route, ask, world)
    first = able[-1]  # those before it are full
    upstream = upstreams[first[0].backend]
    if not limited(upstream.backend):
        upstream.take()  # nobody is asked, nothing is waited for
        return first
    if upstream.full:
        place = await upstreams.place(_queues(able, upstreams), priority)
        first = next(one for one in able if one[0].backend == place)
    elif not await upstreams.occupy(first[0].backend):
        return None
    upstream, paid = upstreams[first[0].backend], False
    try:
        paid = await upstreams.spend(upstream.name, ask.tokens)
    finally:
        if not paid:
            upstream.give()
    return first if paid else None


def _queues(able: Iterable[_Able], upstreams: Upstreams) -> list[str]:
    """The full backends that can be waited for. Raises NoRoom when there are none."""
    full = [upstreams[candidate.backend] for candidate, _, _ in able]
    found = [upstream.name for upstream in full if upstream.backend.queue.size and not upstream.left()]
    if not found:
        raise no_room(full)
    return found


def _able(candidates: Iterable[Candidate], route: Route, ask: Ask, world: World) -> list[_Able]:
    """Those that can be asked this: the first, and while it is full the others. Raises the first one's BackendError."""
    found: list[_Able] = []
    problem: BackendError | None = None
    for candidate in candidates:
        try:
            found.append((candidate, *build_leg(candidate, route, ask, world)))
        except BackendError as error:
            problem = problem or error
            continue
        if not world.upstreams[candidate.backend].full:
            break
    if not found:
        raise problem or BackendError(ErrorCode.NO_UPSTREAM, "this route has no backends")
    return found


async def ripen(candidates: Iterable[Candidate], world: World) -> None:
    """Ask for the fleet's permit where a breaker is due for a trial."""
    upstreams = world.upstreams
    for candidate in candidates:
        upstream, now = upstreams.find(candidate.backend), upstreams.clock()
        if upstream is None or upstream.breaker.state is BreakerState.CLOSED:
            continue
        if upstream.breaker.lapsed(now):
            upstreams.unclaim(candidate.backend)
        if upstream.breaker.due(now) and now >= upstream.claim_after:
            if await upstreams.claim(candidate.backend, TRIAL):
                upstream.breaker.permit(upstreams.clock(), PERMIT)
            else:
                upstream.claim_after = now + _REFUSED


def resting(candidates: Iterable[Candidate], upstreams: Upstreams) -> BackendError:
    """The refusal while the breakers of all these are open."""
    found = [upstreams[name] for name in dict.fromkeys(c.backend for c in candidates)]
    waits = [one.breaker.wait(upstreams.clock()) for one in found]
    kinds = [one.breaker.reason.partition(":")[0] or "failures" for one in found]  # clients are not told its own words
    said = "; ".join(f"{one.name!r} after {kind}" for one, kind in zip(found, kinds, strict=True))
    text = f"no backend of this route takes streams now, its circuit breaker is open: {said}"
    return BackendError(ErrorCode.NO_UPSTREAM, text[:500], retry_after=max(1.0, min(waits, default=1.0)))
