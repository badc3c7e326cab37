"""Calls that are no streams (embeddings, counts of tokens): who may make them, over which backends, within which rates.

Law: operators' rules, the route and the rates hold for them as for streams; limits of running streams do not. What a
call takes is given back when it is over.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from msgspec.structs import replace

from backends.base import Driver, HttpRequest
from backends.contract.errors import BackendError, ErrorCode
from backends.contract.request import ChatRequest
from gateway.access.keys import Caller, may_use
from gateway.access.limits import Demand, Who, demand
from gateway.edge.permission import attributed, permit
from gateway.edge.planning import decide, first_choice, world_of
from gateway.edge.services import Services, request_id
from gateway.protocols.base import Asked
from gateway.routing.asides import ask_aside
from gateway.routing.policies import Candidate
from gateway.routing.router import Decision

_PATIENCE = 30.0  # seconds a backend may take to count
_CANNOT = (404, 405, 501)  # the server has the API, but not this part of it

Call = tuple[Driver, HttpRequest | None]  # who reads the answer; None: it has no such call


def decided(services: Services, caller: Caller, request: ChatRequest, headers: Mapping[str, str]) -> Decision:
    """Where a call may go. Raises BackendError: no route, not the caller's model, or switched off by an operator."""
    services.keyring.check(caller)  # its body may have been long in coming
    asked = attributed(headers, Asked(request, stream=False, body={}))
    decision = decide(services, headers, asked, caller)
    choice = first_choice(decision)
    may_use(caller, request.model or choice.model)
    permit(services, asked, caller, choice)
    return decision


@asynccontextmanager
async def within_rates(
    services: Services, caller: Caller, request: ChatRequest, headers: Mapping[str, str], decision: Decision, chars: int
) -> AsyncIterator[None]:
    """Take what the call needs of the rates. Raises LimitReached."""
    asked = attributed(headers, Asked(request, stream=False, body={}))
    who = Who(asked.user_id, asked.workspace_id)
    wanted = demand(services.config, caller, who, decision.route, -(-chars // 4))
    key = request_id()
    await services.limiter.admit(key, Demand((), wanted.rates, wanted.names, (), wanted.rank))
    try:
        yield
    finally:
        services.limiter.release(key, 0)


async def counted(services: Services, decision: Decision, call: Callable[[Candidate], Call]) -> int | None:
    """Tokens as the first backend of the route counts them that can; None: none can. Raises BackendError."""
    calls: dict[str, tuple[Driver, HttpRequest]] = {}
    left: list[Candidate] = []
    problem: BackendError | None = None
    for candidate in decision.candidates:
        try:
            driver, request = call(candidate)
        except BackendError as error:  # it cannot be asked this at all
            problem = problem or error
            continue
        if request is not None and candidate.backend not in calls:
            calls[candidate.backend] = driver, request
            left.append(candidate)
    if not left:
        if problem is not None:
            raise problem
        return None

    async def ask(candidate: Candidate, prepared: tuple[Driver, HttpRequest]) -> int | None:
        return await _asked(services, candidate.backend, *prepared)

    over = replace(decision, candidates=tuple(left))
    return await ask_aside(over, world_of(services), lambda one: calls[one.backend], ask, whole=False)


async def _asked(services: Services, backend: str, driver: Driver, request: HttpRequest) -> int | None:
    """The backend's count; None when it turns out that it cannot count."""
    status, headers, answer = await services.transports[backend].fetch(request, _PATIENCE)
    if status != 200:
        error = driver.failure(status, headers, answer)
        if status in _CANNOT and error.code is not ErrorCode.UNKNOWN_MODEL:
            return None
        raise error
    try:
        return driver.read_count(answer)
    except ValueError:
        text = f"backend {backend!r} answered without a count"
        raise BackendError(ErrorCode.UPSTREAM_FAILED, text) from None
