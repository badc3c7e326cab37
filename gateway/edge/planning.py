"""From a decided caller to a stream's plan: who may be asked, and what. Waits only for a place or a permit."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from backends.base import HttpRequest
from backends.contract.request import ChatRequest, Message
from config.schema import OnDisconnect, Route
from gateway.access.keys import Caller
from gateway.access.limits import estimate
from gateway.edge.permission import chars_of, in_service
from gateway.edge.services import Services
from gateway.protocols.base import Asked, ClientProtocol
from gateway.routing.beginning import begin
from gateway.routing.course import Routed
from gateway.routing.degrading import Instead, Spare
from gateway.routing.legs import Ask, World
from gateway.routing.matching import Asking
from gateway.routing.policies import PREFIX
from gateway.routing.resuming import Wanted
from gateway.routing.rewriting import rewritten
from gateway.routing.router import Choice, Decision
from gateway.streams.answers import key_of
from gateway.streams.plan import Plan

_PRIORITY = {"high": 1, "normal": 0, "low": -1}


class Planned(Struct, frozen=True):
    """A plan and where its first attempt goes. Whoever does not start the stream must close its course."""

    plan: Plan
    choice: Choice
    course: Routed | Instead


def decide(services: Services, headers: Mapping[str, str], asked: Asked, caller: Caller) -> Decision:
    """The route of a request (`attributed`) and its candidates, those aside that operators have paused. Raises
    BackendError."""
    request, router = asked.request, services.router
    decision = router.decide(
        Asking(
            model=request.model,
            backend=asked.backend,
            key=caller.key_id,
            owner=caller.owner,
            user=asked.user_id,
            workspace=asked.workspace_id,
            conversation=asked.conversation_id,
            headers=headers,
            prompt=_beginning(request) if router.reads else "",
            chars=chars_of(request) if router.reads else 0,
            max_tokens=request.max_tokens,
        )
    )
    return in_service(services, decision)


def first_choice(decision: Decision) -> Choice:
    """Where the policy would send it."""
    first = decision.candidates[0]
    return Choice(first.backend, first.model, decision.route)


async def plan(
    services: Services,
    headers: Mapping[str, str],
    protocol: ClientProtocol,
    asked: Asked,
    caller: Caller,
    decision: Decision,
    policy: OnDisconnect,
    *,
    onboarding: bool,
) -> Planned:
    """Raises BackendError; then nothing is held."""
    route, request = decision.route, rewritten(asked.request, decision.route)
    if request.most != services.config.access.max_tokens:
        request = replace(request, most=services.config.access.max_tokens)
    if onboarding and route.system:
        request = replace(request, messages=(Message("system", route.system), *request.messages))

    wanted = Wanted(request, protocol.name, protocol.dialect)
    chars = chars_of(request)
    hand_on = partial(handed_on, headers=headers, protocol=protocol) if protocol.forwarded else _as_it_is
    ask = Ask(wanted, asked.body, hand_on, estimate(request, chars))
    spare = _spare(services, asked, caller, route, request)
    course = await begin(decision, ask, world_of(services), _PRIORITY[caller.priority], spare)
    leg = course.leg
    made = Plan(
        leg.driver,
        leg.request,
        services.config.streams,
        policy,
        chars,
        course.dropped,
        asked.include_usage,
        course,
        partial=route.degrade.partial and request.n == 1,  # of several choices each would need an end
        remembered=spare.name if spare is not None and route.degrade.cached else "",
        turns=asked.turns,
    )
    return Planned(made, Choice(leg.backend, leg.model, route), course)


def _spare(services: Services, asked: Asked, caller: Caller, route: Route, request: ChatRequest) -> Spare | None:
    """What there is instead of an error for this request; None: the route has nothing."""
    degrade = route.degrade
    if not degrade.cached and not degrade.message:
        return None
    name = key_of(caller.owner, route.to, request) if degrade.cached else ""
    return Spare(degrade, services.answers, name, asked.request.model, services.now_ms)


def world_of(services: Services) -> World:
    """The backends of the configuration in force."""
    return World(services.upstreams, services.drivers, services.transports)


def handed_on(call: HttpRequest, headers: Mapping[str, str], protocol: ClientProtocol) -> HttpRequest:
    """The call with the client's own `protocol.forwarded` headers instead of the driver's; those of gateway.yaml are
    added later and win over both."""
    said = {name: headers[name] for name in protocol.forwarded if name in headers and headers[name].isprintable()}
    return replace(call, headers=tuple({**dict(call.headers), **said}.items())) if said else call


def _as_it_is(call: HttpRequest) -> HttpRequest:
    return call


def _beginning(request: ChatRequest) -> str:
    """As much of the prompt as tells prompts apart."""
    said, size = [], 0
    for message in request.messages:
        text = message.text()
        said.append(f"{message.role}: {text[:PREFIX]}")
        size += len(text)
        if size >= PREFIX:
            break
    return "\n".join(said)
