"""How the course of a stream goes on that another node began: who is asked, and what. Nothing here waits.

Law: what a client was shown is never said again unless its protocol has a word for that; where nobody can go on
exactly, nobody is asked.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from backends.contract.errors import BackendError
from gateway.protocols.base import Answer
from gateway.routing.course import Routed
from gateway.routing.legs import Ask, World, build_leg, preferred
from gateway.routing.policies import Candidate
from gateway.routing.resuming import RESTARTED, build_resume_leg
from gateway.routing.router import Decision
from gateway.streams.course import Leg

First = tuple[Candidate, Leg, tuple[str, ...]]


def inherited(decision: Decision, ask: Ask, world: World, answer: Answer | None, last: str) -> Routed | None:
    """The course from here on; None: nobody can go on. `answer`: what was said, None when nothing was; `last`: the
    backend that said it, asked first. Whoever gets a course must close it."""
    candidates = _standing(decision.candidates, world, last)
    if answer is None:
        first = _from_the_beginning(candidates, decision, ask, world, "start")
    elif answer.tool_calls or answer.finish is not None:
        first = None  # nothing is added to a call that somebody may run already, or to a finished answer
    elif decision.route.on_failure == "restart" and ask.wanted.protocol in RESTARTED:
        first = _from_the_beginning(candidates, decision, ask, world, "restart")
    else:
        first = _continued(candidates, ask, world, answer)
    if first is None:
        return None
    course = Routed(decision, ask, world, first, placed=False)
    if answer is not None:
        course.hedge_after = None  # who goes on is asked alone
    return course


def _standing(candidates: Sequence[Candidate], world: World, last: str) -> list[Candidate]:
    upstreams = world.upstreams
    now = upstreams.clock()
    known = [c for c in candidates if (up := upstreams.find(c.backend)) is not None and up.breaker.allows(now)]
    return sorted(preferred(known, upstreams), key=lambda c: c.backend != last)


def _continued(candidates: Sequence[Candidate], ask: Ask, world: World, answer: Answer) -> First | None:
    for candidate in candidates:
        leg = build_resume_leg([candidate], ask.wanted, answer, world.drivers, world.transports)
        if leg is not None:
            return candidate, leg, ()
    return None


def _from_the_beginning(
    candidates: Sequence[Candidate], decision: Decision, ask: Ask, world: World, kind: str
) -> First | None:
    for candidate in candidates:
        try:
            leg, dropped = build_leg(candidate, decision.route, ask, world)
        except BackendError:
            continue  # it cannot be asked this at all
        return candidate, replace(leg, kind=kind), dropped
    return None
