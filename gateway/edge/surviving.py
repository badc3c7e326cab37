"""Streams that survive their node: what is written ahead when one begins, and how it goes on on this node.

Law: a claimed stream is opened whatever happens: it goes on, or it ends here, honestly, as `node_lost`. Nothing here
waits, so that between the claim and the running stream there is no moment in which it is nobody's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import structlog
from msgspec.structs import replace

from backends.base import HttpRequest
from backends.contract.errors import BackendError, ErrorCode
from gateway.edge.permission import in_service
from gateway.edge.planning import Planned, handed_on, world_of
from gateway.edge.services import Services
from gateway.protocols.base import Answer, Asked, ClientProtocol
from gateway.registry.sharing import shared
from gateway.routing.course import Routed
from gateway.routing.inheritance import inherited
from gateway.routing.legs import Ask
from gateway.routing.matching import Asking
from gateway.routing.resuming import Wanted
from gateway.routing.router import Decision
from gateway.streams.legacy import Will, will_words
from gateway.streams.names import stream_key
from gateway.streams.plan import Plan
from gateway.streams.producer import Producer
from gateway.streams.sofar import answer_of
from gateway.streams.stream import Identity, State

if TYPE_CHECKING:
    from gateway.registry.inheriting import Legacy

log = structlog.get_logger(__name__)

GRACE = 30.0  # seconds within which somebody must come back for a stream whose node was lost, at least
_LOST = "the gateway node that carried this stream is gone, and nobody can go on with its answer"


def survives(services: Services, asked: Asked, planned: Planned) -> bool:
    """Whether another node is to go on with a stream when this one dies. Whole answers are asked for anew anyway."""
    wanted = planned.choice.route.survive == "node" and (asked.stream or asked.background)
    return wanted and isinstance(planned.course, Routed) and shared(services.config.registry)


def will_of(
    services: Services,
    headers: Mapping[str, str],
    protocol: ClientProtocol,
    asked: Asked,
    who: Identity,
    plan: Plan,
) -> bytes:
    """What is written ahead of it. Never a credential: of the headers only those a dialect hands on."""
    course = plan.course
    assert isinstance(course, Routed)
    wanted = course.ask.wanted
    will = Will(
        request=wanted.request,
        protocol=wanted.protocol,
        dialect=wanted.dialect,
        action=plan.on_disconnect.action,
        grace=float(plan.on_disconnect.grace),
        route=course.route.model,
        backend=asked.backend,
        body=course.ask.body,
        headers={name: headers[name] for name in protocol.forwarded if name in headers},
        include_usage=plan.include_usage,
        prompt_chars=plan.prompt_chars,
        partial=plan.partial,
        items=plan.turns,
        held=services.limiter.held(stream_key(who.id, who.owner)),
    )
    return will_words(will)


class Surviving:
    """Opens claimed streams on this node."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def accept(self, legacy: Legacy) -> bool:
        """Go on with a claimed stream, or end it here. False: it could not be opened at all."""
        services, stream, will = self._services, legacy.stream, legacy.will
        who = replace(stream.identity, node=services.node)
        course = self._course(legacy, who)
        try:
            producer = self._open(legacy, who, course)
        except Exception:
            log.exception("surviving.not_opened", stream=who.id)
            services.hub.running.pop(stream_key(who.id, who.owner), None)
            if course is not None:
                course.close()
            return False
        services.limiter.inherited(stream_key(who.id, who.owner), will.held, will.route)
        services.sharing.inherited(producer, services.pacer, legacy)
        services.registry.opened(producer.stream.entry())
        services.metrics.started(who)
        finish = (answer_of(producer.transcript) or Answer()).finish
        if finish is not None:
            producer.stop(State.COMPLETED, by="backend", reason="completed", finish=finish)
        elif course is None:
            error = BackendError(ErrorCode.NODE_LOST, _LOST)
            producer.stop(State.NODE_LOST, by="gateway", reason="node_lost", finish="error", error=error)
        else:
            producer.start()
        return True

    def _course(self, legacy: Legacy, who: Identity) -> Routed | None:
        services, will, said = self._services, legacy.will, legacy.stream.transcript
        protocol = services.protocols.get(will.protocol)
        answer = answer_of(said)
        if protocol is None or answer is None:
            return None

        def hand_on(call: HttpRequest) -> HttpRequest:
            return handed_on(call, will.headers, protocol)

        begun = [segment for i, segment in enumerate(said.segments) if i == 0 or segment.restart]
        began = begun[-1].driver.dialect if begun else ""
        ask = Ask(Wanted(will.request, will.protocol, will.dialect, began), will.body, hand_on)
        last = said.segments[-1].driver.name if said.segments else ""
        nothing = not (answer.deltas or answer.tool_calls or answer.finish)
        try:
            decision = _decided(services, will, who)
            return inherited(decision, ask, world_of(services), None if nothing else answer, last)
        except Exception as error:  # whatever it is, the stream must not be left to nobody
            log.warning("surviving.no_course", stream=who.id, error=str(error)[:200])
            return None

    def _open(self, legacy: Legacy, who: Identity, course: Routed | None) -> Producer:
        services, will, stream = self._services, legacy.will, legacy.stream
        nothing = HttpRequest("POST", "", (), b"")
        limits, policy = services.config.streams, will.on_disconnect
        driver, request = (course.leg.driver, course.leg.request) if course else (stream.driver, nothing)
        plan = Plan(
            driver,
            request,
            limits,
            policy,
            will.prompt_chars,
            (),
            will.include_usage,
            course,
            partial=will.partial,
            turns=will.items,
            will=will_words(will),
        )
        age = max(0, services.now_ms() - who.started_ms) / 1000
        accepted = services.loop.time() - age
        producer = services.hub.open(who, plan, services.transports[driver.name], accepted)
        producer.driver = stream.driver
        first = legacy.entry.first_token_ms
        producer.inherit(stream.transcript, stream.claimed, None if first is None else first / 1000, GRACE)
        return producer


def _decided(services: Services, will: Will, who: Identity) -> Decision:
    """The route as this node has it: the one it went by, or the first that takes its model. Raises BackendError."""
    router, request = services.router, will.request
    asking = Asking(
        model=request.model or who.model,
        backend=will.backend,
        key=who.key_id,
        owner=who.owner,
        user=who.user_id,
        workspace=who.workspace_id,
        conversation=who.conversation_id,
        chars=will.prompt_chars,
        max_tokens=request.max_tokens,
    )
    return in_service(services, router.by_name(will.route, asking) or router.decide(asking))
