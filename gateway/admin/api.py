"""The operators' listener: metrics, health with details, all streams of all owners, cancel.

Law: nothing but liveness is answered without the token when one is set; a browser that was lured here (DNS rebinding,
cross-site form) is refused by Host and Origin before anything happens, more strictly than by `edge.cross_site`.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from config.schema import Admin
from gateway.edge.cross_site import host_name, own
from gateway.edge.health_handlers import answer, refusal
from gateway.edge.health_handlers import routes as health_routes
from gateway.observe.health import Health
from gateway.observe.metrics import NullMetrics
from gateway.registry.base import Entry, Registry
from gateway.streams.stream import ID_PATTERN, Receipt

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_WILDCARD = frozenset({"0.0.0.0", "::", ""})
_OPEN = frozenset({"/health", "/health/ready"})  # what an orchestrator asks without credentials
_SAFE = frozenset({"GET", "HEAD"})
_SETTINGS = ("/control", "/reload", "/breakers")  # paths below which the gateway itself is changed
MEANT = "X-Headgate-Admin"


def admin_app(
    admin: Admin, *, metrics: NullMetrics, health: Health, registry: Registry, more: Iterable[web.RouteDef] = ()
) -> web.Application:
    """The admin listener's application; `more`: further routes. Answers are JSON, except `/metrics`."""
    handlers = _Handlers(metrics, registry)
    app = web.Application(middlewares=[_guard(admin)], client_max_size=64 * 1024)
    app.on_response_prepare.append(_named)
    app.add_routes(health_routes(health, public=False))
    app.add_routes(
        [
            web.get("/metrics", handlers.metrics),
            web.get("/api/streams", handlers.active),
            web.get("/api/streams/{id}", handlers.show),
            web.delete("/api/streams/{id}", handlers.cancel),
            web.get("/api/statistics", handlers.statistics),
            *more,
        ]
    )
    return app


def host_allowed(header: str, admin: Admin) -> bool:
    """Whether a Host header names this listener. Behind a wildcard address any name may be right: the token, which a
    rebound page cannot know, is the guard there; so it must be set."""
    name = host_name(header)
    if name in _LOOPBACK or (name and name == admin.host.lower()):
        return True
    return admin.host in _WILDCARD and bool(admin.token) and bool(name)


def origin_allowed(method: str, origin: str | None, fetch_site: str | None, host: str) -> bool:
    """Whether a request may change something: not a browser's, or a page's of this very origin."""
    if method in _SAFE:
        return True
    if fetch_site is not None and fetch_site not in ("same-origin", "none"):
        return False
    return origin is None or own(origin, host)


def token_right(header: str, admin: Admin) -> bool:
    """Whether an Authorization header carries the token, in constant time; True when none is set."""
    if not admin.token:
        return True
    scheme, _, given = header.partition(" ")
    right = hmac.compare_digest(given.strip().encode(), admin.token.reveal().encode())
    return scheme.lower() == "bearer" and right


def meant(method: str, path: str, headers: Mapping[str, str], admin: Admin) -> bool:
    """Whether whoever changes the gateway's own settings without a token meant to: no page of a browser can send this
    header to another origin unasked. With a token set, the token says it."""
    changes = method not in _SAFE and path.startswith(_SETTINGS)
    return bool(admin.token) or not changes or MEANT in headers


def needs_token(host: str) -> bool:
    """Whether a listener on `host` must have a token: everywhere but on loopback."""
    if host == "localhost":
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True


async def _named(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "headgate"  # and not library and language, with their versions


def _guard(admin: Admin) -> Middleware:
    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        refused = _refused(request, admin)
        if refused is not None:
            return refused
        try:
            return await handler(request)
        except web.HTTPNotFound:
            return refusal(404, "not_found", "no such path on the admin listener", _request_id())
        except web.HTTPMethodNotAllowed as error:
            found = refusal(405, "method_not_allowed", "that path does not take this method", _request_id())
            found.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
            return found

    return guard


def _refused(request: web.Request, admin: Admin) -> web.Response | None:
    host = request.headers.get("Host", "")
    if not host_allowed(host, admin):
        return refusal(421, "forbidden", "this Host is not served here", _request_id())
    headers = request.headers
    if not origin_allowed(request.method, headers.get("Origin"), headers.get("Sec-Fetch-Site"), host):
        return refusal(403, "forbidden", "cross-site requests may not change anything here", _request_id())
    if not meant(request.method, request.path, headers, admin):
        text = f"changes without a token need the header {MEANT}: 1"
        return refusal(403, "forbidden", text, _request_id())
    if request.path not in _OPEN and not token_right(headers.get("Authorization", ""), admin):
        found = refusal(401, "unauthenticated", "the admin token is required: Authorization: Bearer ...", _request_id())
        found.headers["WWW-Authenticate"] = 'Bearer realm="headgate admin"'
        return found
    return None


def _request_id() -> str:
    return "req_" + secrets.token_hex(8)


def _shown(found: Entry | Receipt) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(found)
    shown.pop("keyId", None)
    return shown


class _Handlers:
    def __init__(self, metrics: NullMetrics, registry: Registry) -> None:
        self._metrics, self._registry = metrics, registry

    async def metrics(self, _request: web.Request) -> web.Response:
        """The Prometheus scrape."""
        body, content_type = self._metrics.render()
        return web.Response(body=body, headers={"Content-Type": content_type, "Cache-Control": "no-store"})

    async def active(self, _request: web.Request) -> web.Response:
        """The running streams of all owners on all nodes."""
        streams = [_shown(entry) for entry in await self._registry.active(None)]
        return answer(self._registry.told({"count": len(streams), "streams": streams}))

    async def show(self, request: web.Request) -> web.Response:
        """A running stream, or the receipt of an ended one; `?owner=` says whose, where owners share an id."""
        stream_id = request.match_info["id"]
        found = (
            await self._registry.find(stream_id, request.query.get("owner"))
            if ID_PATTERN.fullmatch(stream_id)
            else None
        )
        return _unknown() if found is None else answer(_shown(found))

    async def cancel(self, request: web.Request) -> web.Response:
        """Stop a stream wherever it runs; `?owner=` as in `show`. 202 while its node has not yet confirmed."""
        stream_id = request.match_info["id"]
        if not ID_PATTERN.fullmatch(stream_id):
            return _unknown()
        owner = request.query.get("owner")
        done = await self._registry.cancel(stream_id, owner, by="operator", reason="cancelled by an operator")
        if done.outcome == "unknown":
            return _unknown()
        state = done.state or ("cancelling" if done.outcome == "pending" else "cancelled")
        body: dict[str, Any] = {"streamId": stream_id, "state": state}
        if done.receipt is not None:
            body["receipt"] = done.receipt
        return answer(body, 202 if done.outcome == "pending" else 200)

    async def statistics(self, _request: web.Request) -> web.Response:
        """Figures of all owners."""
        return answer(await self._registry.statistics(None))


def _unknown() -> web.Response:
    return refusal(404, "not_found", "no such stream", _request_id())
