"""From a request to a decided stream: who asks, for what, where it goes, under which id. Leases are taken here.

Order: draining, caller, body, model allowed, route, caps, stream id, concurrency. A refusal leaves nothing behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from aiohttp import web
from msgspec import Struct
from msgspec.structs import replace
from multidict import CIMultiDict

from backends.contract.errors import BackendError, ErrorCode
from config.scalars import parse_on_disconnect
from config.schema import OnDisconnect
from gateway.access.keys import Caller, may_use
from gateway.edge.permission import attributed, check_caps, check_open, permit, recheck, take
from gateway.edge.planning import Planned, decide, first_choice, plan
from gateway.edge.services import Services
from gateway.edge.surviving import survives
from gateway.protocols.base import About, Asked, ClientProtocol
from gateway.routing.router import Choice
from gateway.streams.course import Opener
from gateway.streams.disconnect import choose
from gateway.streams.pacer import WINDOWS
from gateway.streams.plan import Plan
from gateway.streams.stream import ID_PATTERN, Identity, new_stream_id
from gateway.streams.views import about_of

# What an EventSource cannot say in headers, and the query parameters that say it, the first of them that is there.
_IN_QUERY = (
    ("X-Stream-Id", "stream_id"),
    ("X-Stream-Id", "streamId"),
    ("X-Stream-On-Disconnect", "on_disconnect"),
    ("X-Stream-On-Disconnect", "onDisconnect"),
    ("X-Stream-Mode", "mode"),
    ("X-User-Id", "user_id"),
    ("X-User-Id", "userId"),
    ("X-Workspace-Id", "workspace_id"),
    ("X-Workspace-Id", "workspaceId"),
    ("X-Conversation-Id", "conversation_id"),
    ("X-Conversation-Id", "conversationId"),
)


class Admitted(Struct, frozen=True):
    """A stream that may start. What it holds is in `Services.limiter`, by its key."""

    identity: Identity
    plan: Plan
    about: About
    asked: Asked
    transport: Opener
    mode: str = ""  # how its first reader is paced; "": as the worker is


def caller_of(services: Services, request: web.Request) -> Caller:
    """Who asks. Raises UNAUTHENTICATED."""
    return services.keyring.identify(request.headers, request.query)


def headers_of(request: web.Request) -> Mapping[str, str]:
    """The headers; a GET may say some of them in its query, because an EventSource cannot send any."""
    if request.method != "GET":
        return request.headers
    headers = CIMultiDict(request.headers)
    for name, param in _IN_QUERY:
        if param in request.query:
            headers.setdefault(name, request.query[param])
    return headers


def mode_of(headers: Mapping[str, str]) -> str:
    """How a request wants its frames paced (`X-Stream-Mode`), "" for the worker's own way. Raises INVALID_REQUEST."""
    said = headers.get("X-Stream-Mode", "").strip()
    if said and said not in WINDOWS:
        text = f"X-Stream-Mode must be one of {', '.join(WINDOWS)}"
        raise BackendError(ErrorCode.INVALID_REQUEST, text, param="X-Stream-Mode")
    return said


async def give_back(services: Services, request: web.Request, identity: Identity) -> None:
    """A stream ended as a refusal with a status: an id its client chose is free again; clients retry with it."""
    if headers_of(request).get("X-Stream-Id"):
        services.hub.forget(identity.id, identity.owner)
        await services.registry.unclaim(identity.id, identity.owner)


async def admit(
    services: Services,
    request: web.Request,
    protocol: ClientProtocol,
    asked: Asked,
    caller: Caller,
    *,
    onboarding: bool = False,
) -> Admitted:
    """Decide everything. Raises BackendError; on success the caller must hand the lease to the hub or release it."""
    check_open(services, caller)
    headers = headers_of(request)
    mode = mode_of(headers)
    asked = attributed(headers, asked)
    decision = decide(services, headers, asked, caller)
    choice = first_choice(decision)
    may_use(caller, asked.request.model or choice.model)
    check_caps(services, asked.request)
    version = services.control.state.version
    asked, passed = permit(services, asked, caller, choice)
    policy = _policy(services, headers, caller, choice, protocol)
    if asked.background and "X-Stream-On-Disconnect" not in headers:
        policy = OnDisconnect("continue")
    if not passed.background:
        policy = OnDisconnect("cancel")
    planned = await plan(services, headers, protocol, asked, caller, decision, policy, onboarding=onboarding)
    try:
        held = await _held(services, headers, protocol, asked, caller, planned, version, rolled=passed.rolled)
    except (BackendError, asyncio.CancelledError):
        planned.course.close()
        raise
    return replace(held, mode=mode) if mode else held


async def _held(
    services: Services,
    headers: Mapping[str, str],
    protocol: ClientProtocol,
    asked: Asked,
    caller: Caller,
    planned: Planned,
    version: int,
    *,
    rolled: bool,
) -> Admitted:
    """The stream's id is its own, and its leases are taken. `version`: of operators' settings it is permitted by."""
    chosen = headers.get("X-Stream-Id", "")
    identity = _identity(services, chosen, protocol, asked, caller, planned.choice)
    if survives(services, asked, planned):
        identity = replace(identity, survives=True)
    if chosen:
        await _claim(services, identity)
    try:
        await take(services, caller, identity, planned.choice, asked.request, rolled=rolled)
        recheck(services, asked, caller, planned.choice, identity, version=version)
    except (BackendError, asyncio.CancelledError):
        if chosen:
            await services.registry.unclaim(identity.id, identity.owner)
        raise
    about = about_of(identity, include_usage=asked.include_usage, dialect=planned.plan.driver.dialect)
    return Admitted(identity, planned.plan, about, asked, planned.course.leg.transport)


def _policy(
    services: Services, headers: Mapping[str, str], caller: Caller, choice: Choice, protocol: ClientProtocol
) -> OnDisconnect:
    said = headers.get("X-Stream-On-Disconnect")
    try:
        wanted = parse_on_disconnect(said) if said else None
    except ValueError as error:
        raise BackendError(ErrorCode.INVALID_REQUEST, f"X-Stream-On-Disconnect: {error}") from None
    # The configured default is for streams one can come back to; protocol clients' SDKs never do.
    default = services.config.streams.on_disconnect if protocol.family == "native" else None
    # Who sends an Idempotency-Key means to come back with it.
    own = "grace 30s" if protocol.on_disconnect == "cancel" and "Idempotency-Key" in headers else protocol.on_disconnect
    return choose(wanted or caller.on_disconnect, choice.route.on_disconnect, default, own)


def _identity(
    services: Services, chosen: str, protocol: ClientProtocol, asked: Asked, caller: Caller, choice: Choice
) -> Identity:
    if chosen and not ID_PATTERN.fullmatch(chosen):
        text = "X-Stream-Id must be 1 to 100 characters of A-Z, a-z, 0-9, _ and -, and no name of a path"
        raise BackendError(ErrorCode.INVALID_REQUEST, text, param="X-Stream-Id")
    now = services.now_ms()
    return Identity(
        resumable=True,
        id=chosen or new_stream_id(now),
        owner=caller.owner,
        protocol=protocol.name,
        model=asked.request.model or choice.model,
        backend=choice.backend,
        upstream_model=choice.model,
        node=services.node,
        started_ms=now,
        key_id=caller.key_id,
        user_id=asked.user_id,
        workspace_id=asked.workspace_id,
        conversation_id=asked.conversation_id,
        echo=asked.echo,
    )


async def _claim(services: Services, identity: Identity) -> None:
    """Reserve an id the client chose. It stays taken for the replay window after the stream's end, so that it names one
    stream; of a refused one it is given back: clients retry with the same."""
    if not await services.registry.claim(identity.id, identity.owner):
        text = "this X-Stream-Id names another stream of yours; choose a new one"
        raise BackendError(ErrorCode.CONFLICT, text, param="X-Stream-Id")
