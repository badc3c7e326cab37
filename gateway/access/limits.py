"""Which limits hold for a stream, and how a refusal is said. Pure.

Law: a limit has one name, that of its setting in gateway.yaml, and a refusal says it. What a key says goes before what
`access` says for its owner. Users and workspaces are told apart per owner; a request that names none is not held by
their limits. Scopes that hold a client's own words are hashed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from msgspec import Struct

from backends.contract.errors import BackendError, ErrorCode
from backends.contract.request import ChatRequest
from config.schema import Config, Route
from gateway.access.keys import Caller
from gateway.registry.base import Quota, Rate, Taken

RANKS = {"high": 0, "normal": 1, "low": 2}
_ANSWER = 500  # tokens an answer is taken for until it is known, when the request sets no limit
_CHARS_PER_TOKEN = 4
_LOW_SHARE = 0.8  # of `streams.max_active`: beyond it keys of low priority are refused


class LimitReached(BackendError):
    """A refusal by a limit; `limit` is its name, for the header X-Headgate-Limit."""

    def __init__(self, limit: str, message: str, retry_after: float, code: ErrorCode = ErrorCode.RATE_LIMITED) -> None:
        super().__init__(code, message, retry_after=retry_after)
        self.limit = limit


def limit_header(error: BackendError) -> dict[str, str]:
    """The header that names the limit which refused; empty for any other error."""
    return {"X-Headgate-Limit": error.limit} if isinstance(error, LimitReached) else {}


class Who(Struct, frozen=True):
    """Whose stream it is to be."""

    user_id: str = ""
    workspace_id: str = ""


class Demand(Struct, frozen=True):
    """What a stream needs. `names`: the limit's name of each scope; `tokens`: which of the rates count tokens."""

    quotas: tuple[Quota, ...] = ()
    rates: tuple[Rate, ...] = ()
    names: dict[str, str] = {}
    tokens: tuple[Rate, ...] = ()
    rank: int = RANKS["normal"]


def demand(config: Config, caller: Caller, who: Who, route: Route, estimate: int) -> Demand:
    """All limits of one stream. `estimate`: tokens it will probably use."""
    access = config.access
    own = f"key:{caller.key_id}", f"owner:{caller.owner}"
    streams = (
        ("max_streams", *_either(own, caller.max_streams, access.max_streams)),
        ("user_streams", _named("user", caller, who.user_id), caller.user_streams or access.user_streams),
        (
            "workspace_streams",
            _named("workspace", caller, who.workspace_id),
            caller.workspace_streams or access.workspace_streams,
        ),
        (f"routes[{route.model}].max_streams", f"route:{route.model}", route.max_streams),
        ("access.gateway_streams", "gateway", access.gateway_streams),
    )
    quotas = tuple(Quota(scope, limit) for _, scope, limit in streams if limit and scope)
    requests = _rates("rpm", own, caller.rpm, access.rpm, 1)
    tokens = _rates("tpm", own, caller.tpm, access.tpm, estimate)
    names = {scope: name for name, scope, limit in streams if limit and scope}
    names |= {rate.scope: rate.scope.partition(":")[0] for rate in (*requests, *tokens)}
    return Demand(quotas, requests + tokens, names, tokens, RANKS[caller.priority])


def _either(own: tuple[str, str], key: int, access: int) -> tuple[str, int]:
    return (own[0], key) if key else (own[1], access)


def _rates(name: str, own: tuple[str, str], key: int, access: int, cost: int) -> tuple[Rate, ...]:
    scope, per_minute = _either(own, key, access)
    return (Rate(f"{name}:{scope}", per_minute, cost),) if per_minute else ()


def _named(kind: str, caller: Caller, name: str) -> str:
    """The scope of an owner's user or workspace; "" when the request names none."""
    if not name:
        return ""
    return f"{kind}:" + hashlib.sha256(f"{caller.owner}\0{name}".encode("utf-8", "surrogatepass")).hexdigest()[:32]


def estimate(request: ChatRequest, chars: int) -> int:
    """Tokens a request will probably use, prompt and answers, before anybody has counted."""
    return -(-chars // _CHARS_PER_TOKEN) + (request.max_tokens or _ANSWER) * max(1, request.n)


def refusal(wanted: Demand, taken: Taken) -> BackendError:
    """The words of a refusal. Raises KeyError for a scope that was not asked for."""
    name = wanted.names[taken.refused]
    if name in ("rpm", "tpm"):
        what = "requests" if name == "rpm" else "tokens"
        whose = taken.refused.partition(":")[2]
        text = f"{taken.limit} {what} per minute are used up ({name} of {whose})"
        return LimitReached(name, text, taken.retry_after)
    whose = f"{name} of {taken.refused}" if name == "max_streams" else name
    text = f"{taken.active} of {taken.limit} concurrent streams run already ({whose}); wait for one's end"
    return LimitReached(name, text, 1)


def without_registry() -> BackendError:
    """What `access.on_redis_loss: deny` answers."""
    text = "limits cannot be checked while the registry is away (access.on_redis_loss)"
    return LimitReached("on_redis_loss", text, 2, ErrorCode.REGISTRY_AWAY)


def check_room(config: Config, active: int, caller: Caller) -> None:
    """Whether this worker has room for one more stream of this caller. Raises LimitReached, 503."""
    limit = config.streams.max_active
    if caller.priority == "low":
        limit = max(1, int(limit * _LOW_SHARE))
    if active >= limit:
        text = "this gateway node carries as many streams as it may"
        raise LimitReached("streams.max_active", text, 1, ErrorCode.SHED)


def check_prompt(config: Config, chars: int) -> None:
    """Raises BackendError INVALID_REQUEST for a prompt of more characters than `access.max_prompt`."""
    most = config.access.max_prompt
    if most and chars > most:
        text = f"the messages are longer than {most} characters together (access.max_prompt)"
        raise BackendError(ErrorCode.INVALID_REQUEST, text, param="messages")


def settlement(tokens: Sequence[Rate], used: int) -> list[Rate]:
    """What is still to be charged (or, negative, given back) once the real use is known."""
    return [Rate(r.scope, r.per_minute, used - r.cost) for r in tokens if used != r.cost]
