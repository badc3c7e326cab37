"""Calls that are no streams (embeddings, counts of tokens) over the backends of their route.

Law: an open breaker is respected, what a call comes to is an outcome as a stream's is, and a backend that fails is
followed by the next one within the same retry budget. An embedding is a whole answer; a count is not: a server that
can count may still be unable to generate, so its success counts as a trial only. Questions about a backend itself
(`ask_small`) leave trials alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from backends.base import HttpRequest
from backends.contract.errors import BackendError, ErrorCode
from backends.transport import Transport
from gateway.routing.beginning import resting, ripen
from gateway.routing.breaker import BreakerState
from gateway.routing.course import ATTEMPTS
from gateway.routing.legs import World, preferred
from gateway.routing.places import is_spent
from gateway.routing.policies import Candidate
from gateway.routing.router import Decision
from gateway.routing.upstream import Upstream
from gateway.routing.upstreams import Upstreams

P = TypeVar("P")
T = TypeVar("T")


async def ask_aside(
    decision: Decision,
    world: World,
    prepare: Callable[[Candidate], P],
    ask: Callable[[Candidate, P], Awaitable[T]],
    *,
    whole: bool,
    tokens: int | None = None,
) -> T:
    """What the first backend answers that can be asked. `prepare` raises BackendError where one cannot be; `ask`
    does where it failed, and None says neither. `whole`: an answer says that the backend is well; `tokens`: what it
    spends of a backend's rates, None: it does not count. Raises the last failure, or NO_UPSTREAM while all breakers are
    open."""
    able = _able(await _standing(decision, world), prepare)
    budget, retrying = world.upstreams.budget, False
    failure: BackendError | None = None
    budget.streams += 1
    try:
        for candidate, prepared in able[: decision.route.attempts or ATTEMPTS]:
            upstream = world.upstreams.find(candidate.backend)
            if upstream is None or not upstream.breaker.allows(world.upstreams.clock()):
                continue  # since others were asked
            if tokens is not None and not await world.upstreams.spend(upstream.name, tokens):
                failure = failure or is_spent(upstream)
                continue
            if failure is not None:
                retrying = retrying or budget.take()
                failure.exhausted = not retrying
            if failure is not None and not retrying:
                break
            try:
                return await _once(world.upstreams, upstream, partial(ask, candidate, prepared), whole)
            except BackendError as error:
                if not error.code.elsewhere:
                    raise
                failure = error
        raise failure or resting([candidate for candidate, _ in able], world.upstreams)
    finally:
        budget.streams -= 1
        if retrying:
            budget.give()


async def _standing(decision: Decision, world: World) -> list[Candidate]:
    """Who may be asked now. Raises NO_UPSTREAM."""
    await ripen(decision.candidates, world)
    upstreams, now = world.upstreams, world.upstreams.clock()
    known = [c for c in decision.candidates if upstreams.find(c.backend)]
    standing = [c for c in known if upstreams[c.backend].breaker.allows(now)]
    if not standing:
        raise resting(known, upstreams)
    return preferred(standing, upstreams)


def _able(candidates: list[Candidate], prepare: Callable[[Candidate], P]) -> list[tuple[Candidate, P]]:
    """Those that can be asked this. Raises the first one's BackendError where none can."""
    found: list[tuple[Candidate, P]] = []
    problem: BackendError | None = None
    for candidate in candidates:
        try:
            found.append((candidate, prepare(candidate)))
        except BackendError as error:
            problem = problem or error
    if not found:
        raise problem or BackendError(ErrorCode.NO_UPSTREAM, "this route has no backends")
    return found


async def _once(upstreams: Upstreams, upstream: Upstream, ask: Callable[[], Awaitable[T]], whole: bool) -> T:
    """One call, and what its outcome says of the backend; an answer that is None says nothing."""
    breaker = upstream.breaker
    trial = breaker.begin()
    try:
        answer = await ask()
    except BackendError as error:
        upstream.failed(upstreams.clock(), error, trial=trial)
        raise
    except BaseException:  # the client left
        if trial:
            breaker.neither()
        raise
    finally:
        if trial:
            upstreams.unclaim(upstream.name)
    if answer is not None:
        upstream.refusals.answered()
        breaker.success(upstreams.clock(), trial=trial, whole=whole)
    elif trial:
        breaker.neither()
    return answer


async def ask_small(
    upstreams: Upstreams, transport: Transport, backend: str, request: HttpRequest, patience: float
) -> tuple[int, dict[str, str], bytes]:
    """A small question to one backend (what models it has): status, headers, body. Its failure counts, as a probe's
    does; its success does not. Raises BackendError, NO_UPSTREAM while the breaker is not closed: nobody's trial is
    spent on it."""
    upstream = upstreams.find(backend)
    if upstream is None:
        return await transport.fetch(request, patience)
    if upstream.breaker.state is not BreakerState.CLOSED:
        raise resting([Candidate(backend, "")], upstreams)
    try:
        status, headers, body = await transport.fetch(request, patience)
    except BackendError as error:
        upstream.failed(upstreams.clock(), error, trial=False)
        raise
    if status >= 500:
        upstream.breaker.failure(upstreams.clock(), f"listing: status {status}")
    return status, headers, body
