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
from config.schema import Access, Config, Route
from gateway.access.keys import Caller
from gateway.registry.base import Quota, Rate, Taken

RANKS = {"high": 0, "normal": 1, "low": 2}
_ANSWER = 500  # tokens an answer is taken for until it is known, when the request sets no limit
_CHARS_PER_TOKEN = 4
_UNITS = {"rpm": "requests", "tpm": "tokens"}
_MANY = 1000  # callers and routes that are remembered together
_LOW_SHARE = 0.8  # of `streams.max_active`: beyond it keys of low priority are refused


class LimitReached(BackendError):
    """A refusal by a limit; `limit` is its name, for the header X-Headgate-Limit."""

    def __init__(self, limit: str, message: str, retry_after: float, code: ErrorCode = ErrorCode.RATE_LIMITED) -> None:
        super().__init__(code, message, retry_after=retry_after)
        self.limit = limit


def limit_header(error: BackendError) -> dict[str, str]:
    """The header that names the limit which refused; empty for any other error."""
    name = limit_of(error)
    return {"X-Headgate-Limit": name} if name else {}


def limit_of(error: BackendError) -> str:
    """The name of the limit which refused; "" for any other error."""
    return str(getattr(error, "limit", ""))  # those of backends are refused by routing, which knows nothing of access


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


_Table = tuple[tuple[str, str, int], ...]  # (the limit's name, whose it is, how much; 0: no limit)


def _tables(access: Access, caller: Caller, who: Who, route: Route) -> tuple[_Table, _Table, _Table]:
    """All limits a stream may have: of running streams, of requests per minute, of tokens per minute."""
    own = f"key:{caller.key_id}", f"owner:{caller.owner}"
    user, workspace = _named("user", caller, who.user_id), _named("workspace", caller, who.workspace_id)
    named, at = f"route:{route.model}", f"routes[{route.model}]"
    streams = (
        ("max_streams", *_either(own, caller.max_streams, access.max_streams)),
        ("user_streams", user, caller.user_streams or access.user_streams),
        ("workspace_streams", workspace, caller.workspace_streams or access.workspace_streams),
        (f"{at}.max_streams", named, route.max_streams),
        ("access.gateway_streams", "gateway", access.gateway_streams),
    )
    requests = (
        ("rpm", *_either(own, caller.rpm, access.rpm)),
        ("user_rpm", user, caller.user_rpm or access.user_rpm),
        ("workspace_rpm", workspace, caller.workspace_rpm or access.workspace_rpm),
        (f"{at}.rpm", named, route.rpm),
        ("access.gateway_rpm", "gateway", access.gateway_rpm),
    )
    tokens = (
        ("tpm", *_either(own, caller.tpm, access.tpm)),
        ("user_tpm", user, caller.user_tpm or access.user_tpm),
        ("workspace_tpm", workspace, caller.workspace_tpm or access.workspace_tpm),
        (f"{at}.tpm", named, route.tpm),
        ("access.gateway_tpm", "gateway", access.gateway_tpm),
    )
    return streams, requests, tokens


def demand(config: Config, caller: Caller, who: Who, route: Route, estimate: int) -> Demand:
    """All limits of one stream. `estimate`: tokens it will probably use."""
    streams, requests, tokens = _tables(config.access, caller, who, route)
    quotas = tuple(Quota(scope, limit) for _, scope, limit in streams if limit and scope)
    names = {scope: name for name, scope, limit in streams if limit and scope}
    rates: list[Rate] = []
    for kind, cost, table in (("rpm", 1, requests), ("tpm", estimate, tokens)):
        for name, scope, limit in table:
            if limit and scope:
                names[f"{kind}:{scope}"] = name
                rates.append(Rate(f"{kind}:{scope}", limit, cost))
    counted = tuple(rate for rate in rates if rate.scope.startswith("tpm:"))
    return Demand(quotas, tuple(rates), names, counted, RANKS[caller.priority])


def priced(wanted: Demand, estimate: int) -> Demand:
    """The same for a stream that will probably use so many tokens."""
    counted = tuple([Rate(rate.scope, rate.per_minute, estimate) for rate in wanted.tokens])
    others = wanted.rates[: len(wanted.rates) - len(counted)]
    return Demand(wanted.quotas, others + counted, wanted.names, counted, wanted.rank)


class Demands:
    """What streams of a caller that name no user and no workspace need of a route, worked out once for the
    configuration in force; what tokens cost is put in by `priced`."""

    def __init__(self) -> None:
        self._of: Config | None = None
        self._known: dict[tuple[int, int], tuple[Caller, Route, Demand]] = {}  # by identity: those are held here

    def usual(self, config: Config, caller: Caller, route: Route) -> Demand:
        """It, for no tokens."""
        if config is not self._of or len(self._known) >= _MANY:
            self._of, self._known = config, {}
        known = self._known.get((id(caller), id(route)))
        if known is None:
            known = caller, route, demand(config, caller, Who(), route, 0)
            self._known[id(caller), id(route)] = known
        return known[2]


def counts_tokens(config: Config, caller: Caller, route: Route) -> bool:
    """Whether any limit of tokens may hold for a stream, so that it is worth while to estimate them."""
    access = config.access
    ours = (caller, access, route)
    return any(one.tpm for one in ours) or bool(
        access.gateway_tpm or any(one.user_tpm or one.workspace_tpm for one in (caller, access))
    )


def name_of(scope: str) -> str:
    """The limit a lease is held for, as metrics call it: no keys, owners, users or workspaces."""
    kind, _, rest = scope.partition(":")
    match kind:
        case "user" | "workspace":
            return f"{kind}_streams"
        case "route":
            return f"routes[{rest}].max_streams"
        case "gateway":
            return "access.gateway_streams"
        case _:
            return "max_streams"


def _either(own: tuple[str, str], key: int, access: int) -> tuple[str, int]:
    return (own[0], key) if key else (own[1], access)


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
    kind, _, scope = taken.refused.partition(":")
    if any(rate.scope == taken.refused for rate in wanted.rates):
        whose = f"{name} of {scope}" if name == kind else name
        text = f"{taken.limit} {_UNITS[kind]} per minute are used up ({whose})"
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
