"""Whether operators and limits let a request become a stream: what admission asks of `gateway.control` and `access`.

Law: nothing is taken here but by `take`, and what it took is given back by the stream's receipt, or by `release`.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from backends.contract.errors import BackendError, ErrorCode
from backends.contract.request import ChatRequest, OtherPart
from config.schema import Route
from gateway.access.keys import Caller
from gateway.access.limits import Demand, Who, check_prompt, check_room, counts_tokens, demand, estimate, priced
from gateway.control.flags import Subject
from gateway.control.gate import FREE, Passed, check, nothing_set, paused_backends
from gateway.edge.services import Services
from gateway.protocols.base import Asked
from gateway.routing.router import Choice, Decision
from gateway.streams.names import stream_key
from gateway.streams.stream import Identity

_ATTRIBUTES = ("X-User-Id", "X-Workspace-Id", "X-Conversation-Id")


def attribute(headers: Mapping[str, str], name: str, said: str) -> str:
    """A user, workspace or conversation: the header's word before the body's; printable, at most 200 characters."""
    text = (headers.get(name) or said)[:200]
    return text if text.isprintable() else "".join(c for c in text if c.isprintable())


def attributed(headers: Mapping[str, str], asked: Asked) -> Asked:
    """The request with the user, workspace and conversation it names, whichever way it does."""
    named = asked.user_id or asked.request.user or asked.workspace_id or asked.conversation_id
    if not named and headers.keys().isdisjoint(_ATTRIBUTES):
        return asked
    user = attribute(headers, "X-User-Id", asked.user_id or asked.request.user)
    workspace = attribute(headers, "X-Workspace-Id", asked.workspace_id)
    conversation = attribute(headers, "X-Conversation-Id", asked.conversation_id)
    if (user, workspace, conversation) == (asked.user_id, asked.workspace_id, asked.conversation_id):
        return asked
    return replace(asked, user_id=user, workspace_id=workspace, conversation_id=conversation)


def check_open(services: Services, caller: Caller) -> None:
    """Raises BackendError SHED while this node takes no more streams (of this caller)."""
    if services.draining:
        raise BackendError(ErrorCode.SHED, "this gateway node is shutting down; try again", retry_after=1)
    check_room(services.config, len(services.hub), caller)


def check_caps(services: Services, request: ChatRequest) -> None:
    """What one request may ask for. Raises BackendError INVALID_REQUEST."""
    access = services.config.access
    if request.n != 1 or not _is_plain(request):
        _check_answers(request, access.max_n)
    if access.max_tokens and (request.max_tokens or 0) > access.max_tokens:
        text = f"max_tokens must be at most {access.max_tokens} (access.max_tokens)"
        raise BackendError(ErrorCode.INVALID_REQUEST, text, param="max_tokens")
    if access.max_prompt:
        check_prompt(services.config, chars_of(request))


def _is_plain(request: ChatRequest) -> bool:
    """Whether its last turn, where `best_of` would be, is mere text."""
    return bool(request.messages) and isinstance(request.messages[-1].content, str)


def _check_answers(request: ChatRequest, most: int) -> None:
    for name, answers in (("n", request.n), ("best_of", _best_of(request))):
        if answers > most or answers < 1:
            text = f"{name} must be between 1 and {most} (access.max_n)"
            raise BackendError(ErrorCode.INVALID_REQUEST, text, param=name)


def _best_of(request: ChatRequest) -> int:
    """Answers a completion has made to be given the best of them: as much work as if all were given."""
    content = request.messages[-1].content if request.messages else ""
    others = () if isinstance(content, str) else (part for part in content if isinstance(part, OtherPart))
    return max((part.raw for part in others if part.kind == "best_of"), default=1)


def chars_of(request: ChatRequest) -> int:
    """Characters of all messages together."""
    chars = 0
    for message in request.messages:
        said = message.content
        chars += len(said if isinstance(said, str) else message.text())
    return chars


def permit(services: Services, asked: Asked, caller: Caller, choice: Choice) -> tuple[Asked, Passed]:
    """The request (`attributed`) as operators let it pass: perhaps for the whole answer instead of a stream. Raises
    BackendError."""
    control = services.control
    if nothing_set(control.state):
        return asked, FREE
    subject = Subject(
        backends=(choice.backend,),
        models=(asked.request.model, choice.model),
        route=choice.route.model,
        key=caller.key_id,
        owner=caller.owner,
        user=asked.user_id,
    )
    high = caller.priority == "high"
    passed = check(control.state, subject, stream=asked.stream, background=asked.background, high=high, now=control.now)
    return (replace(asked, stream=False) if passed.whole else asked), passed


def in_service(services: Services, decision: Decision) -> Decision:
    """The decision without backends that are paused or killed; as it is when none is left: `permit` refuses then."""
    control = services.control
    out = paused_backends(control.state, control.now)
    left = tuple(one for one in decision.candidates if one.backend not in out) if out else ()
    return replace(decision, candidates=left) if left else decision


async def take(
    services: Services, caller: Caller, identity: Identity, choice: Choice, request: ChatRequest, *, rolled: bool
) -> None:
    """Every lease and rate the stream needs. Raises LimitReached; then nothing is held."""
    wanted = _demand(services, caller, identity, choice.route, request)
    key = stream_key(identity.id, identity.owner)
    if wanted.quotas or wanted.rates:
        await services.limiter.admit(key, wanted, route=choice.route.model, rolled=rolled)
    else:
        services.limiter.note(key, wanted, route=choice.route.model, rolled=rolled)


def _demand(services: Services, caller: Caller, identity: Identity, route: Route, request: ChatRequest) -> Demand:
    usual = services.demands.usual(services.config, caller, route)
    if identity.user_id or identity.workspace_id:
        tokens = estimate(request, chars_of(request)) if counts_tokens(services.config, caller, route) else 0
        return demand(services.config, caller, Who(identity.user_id, identity.workspace_id), route, tokens)
    return priced(usual, estimate(request, chars_of(request))) if usual.tokens else usual


def recheck(
    services: Services, asked: Asked, caller: Caller, choice: Choice, identity: Identity, *, version: int
) -> None:
    """Ask for the key, and for operators' settings if they are no more those of `version`, again, after waiting. Raises
    BackendError, and gives back what was taken."""
    try:
        services.keyring.check(caller)
        if services.control.state.version != version:  # something was switched off meanwhile
            permit(services, asked, caller, choice)
    except BackendError:
        services.limiter.release(stream_key(identity.id, identity.owner), 0)
        raise
