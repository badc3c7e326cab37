"""From a request to a decided stream: who asks, for what, where it goes, under which id. Leases are taken here.

Order: draining, caller, body, model allowed, route, caps, stream id, concurrency. A refusal leaves nothing behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from aiohttp import web
from msgspec import Struct
from msgspec.structs import replace

from backends.contract.errors import BackendError, ErrorCode
from backends.contract.request import ChatRequest, Message
from config.reader import parse_on_disconnect
from config.schema import OnDisconnect
from gateway.access.keys import Caller, may_use
from gateway.edge.services import Services
from gateway.protocols.base import About, Asked, ClientProtocol
from gateway.routing.router import Choice
from gateway.streams.disconnect import choose
from gateway.streams.producer import Plan
from gateway.streams.stream import ID_PATTERN, Identity, new_stream_id


class Admitted(Struct, frozen=True):
    """A stream that may start. `scope`: its concurrency lease, "" for none."""

    identity: Identity
    plan: Plan
    about: About
    asked: Asked
    scope: str


def caller_of(services: Services, request: web.Request) -> Caller:
    """Who asks. Raises UNAUTHENTICATED."""
    query = request.query
    return services.keyring.identify(request.headers, query.get("token") or query.get("key"))


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
    _check_open(services)
    headers = request.headers
    choice = services.router.choose(asked.request.model, asked.backend)
    may_use(caller, asked.request.model or choice.model)
    _check_caps(services, asked.request)
    plan = _plan(services, protocol, asked, choice, _policy(services, headers, choice, protocol), onboarding)
    identity = _identity(services, headers, protocol, asked, caller, choice)
    scope = await _claim_and_lease(services, caller, identity.id, chosen=bool(headers.get("X-Stream-Id")))
    about = About(
        stream_id=identity.id,
        model=identity.model,
        backend=choice.backend,
        created_ms=identity.started_ms,
        conversation_id=identity.conversation_id,
        include_usage=asked.include_usage,
    )
    return Admitted(identity, plan, about, asked, scope)


def _check_open(services: Services) -> None:
    if services.draining:
        raise BackendError(ErrorCode.SHED, "this gateway node is shutting down; try again", retry_after=1)
    if len(services.hub) >= services.config.streams.max_active:
        raise BackendError(ErrorCode.SHED, "this gateway node carries as many streams as it may", retry_after=1)


def _check_caps(services: Services, request: ChatRequest) -> None:
    access = services.config.access
    if request.n > access.max_n or request.n < 1:
        raise BackendError(
            ErrorCode.INVALID_REQUEST, f"n must be between 1 and {access.max_n} (access.max_n)", param="n"
        )
    if access.max_tokens and (request.max_tokens or 0) > access.max_tokens:
        text = f"max_tokens must be at most {access.max_tokens} (access.max_tokens)"
        raise BackendError(ErrorCode.INVALID_REQUEST, text, param="max_tokens")


def _policy(services: Services, headers: Mapping[str, str], choice: Choice, protocol: ClientProtocol) -> OnDisconnect:
    said = headers.get("X-Stream-On-Disconnect")
    try:
        wanted = parse_on_disconnect(said) if said else None
    except ValueError as error:
        raise BackendError(ErrorCode.INVALID_REQUEST, f"X-Stream-On-Disconnect: {error}") from None
    # The configured default is for streams one can come back to; protocol clients' SDKs never do.
    default = services.config.streams.on_disconnect if protocol.family == "native" else None
    return choose(wanted, choice.route.on_disconnect, default, protocol.on_disconnect)


def _plan(
    services: Services, protocol: ClientProtocol, asked: Asked, choice: Choice, policy: OnDisconnect, onboarding: bool
) -> Plan:
    driver = services.drivers[choice.backend]
    request = replace(asked.request, model=choice.model)
    if onboarding and choice.route.system:
        request = replace(request, messages=(Message("system", choice.route.system), *request.messages))
    if driver.dialect == protocol.dialect:
        outgoing = driver.forward(asked.body, choice.model)
    else:
        outgoing = driver.prepare(request)
    chars = sum(len(m.text()) for m in request.messages)
    return Plan(driver, outgoing, services.config.streams, policy, chars)


def _identity(
    services: Services,
    headers: Mapping[str, str],
    protocol: ClientProtocol,
    asked: Asked,
    caller: Caller,
    choice: Choice,
) -> Identity:
    chosen = headers.get("X-Stream-Id", "")
    if chosen and not ID_PATTERN.fullmatch(chosen):
        text = "X-Stream-Id must be 1 to 100 characters of A-Z, a-z, 0-9, _ and -"
        raise BackendError(ErrorCode.INVALID_REQUEST, text, param="X-Stream-Id")
    now = services.now_ms()
    return Identity(
        id=chosen or new_stream_id(now),
        owner=caller.owner,
        protocol=protocol.name,
        model=asked.request.model or choice.model,
        backend=choice.backend,
        upstream_model=choice.model,
        node=services.node,
        started_ms=now,
        key_id=caller.key_id,
        user_id=_attribute(headers, "X-User-Id", asked.user_id or asked.request.user),
        workspace_id=_attribute(headers, "X-Workspace-Id", asked.workspace_id),
        conversation_id=_attribute(headers, "X-Conversation-Id", asked.conversation_id),
    )


def _attribute(headers: Mapping[str, str], name: str, said: str) -> str:
    return "".join(c for c in (headers.get(name) or said)[:200] if c.isprintable())


async def _claim_and_lease(services: Services, caller: Caller, stream_id: str, *, chosen: bool) -> str:
    """The lease's scope. A chosen id is claimed first and given back if refused: clients retry with the same one."""
    registry = services.registry
    if chosen and not await registry.claim(stream_id, caller.owner):
        raise BackendError(
            ErrorCode.CONFLICT, "this X-Stream-Id is already in use; choose another", param="X-Stream-Id"
        )
    try:
        return await _lease(services, caller, stream_id)
    except (BackendError, asyncio.CancelledError):
        if chosen:
            registry.unclaim(stream_id)
        raise


async def _lease(services: Services, caller: Caller, stream_id: str) -> str:
    limit = caller.max_streams or services.config.access.max_streams
    if not limit:
        return ""
    scope = f"key:{caller.key_id}" if caller.max_streams else f"owner:{caller.owner}"
    admission = await services.registry.admit(scope, limit, stream_id)
    if admission.allowed:
        return scope
    text = f"{admission.active} of {limit} concurrent streams run already (max_streams of {scope}); wait for one's end"
    raise BackendError(ErrorCode.RATE_LIMITED, text, retry_after=1)
