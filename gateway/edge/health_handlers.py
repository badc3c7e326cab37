"""Health over HTTP: for load balancers, Kubernetes, dashboards and frontends.

Law: these answers come at once, without credentials, and say nothing that helps an attacker: no address, no key, no
version of anything but the gateway. `public=False` (the admin listener) adds the details.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from gateway.edge.services import request_id
from gateway.observe.health import Health

_RETRY_MS = 15_000  # how soon an EventSource asks again


def routes(health: Health, *, public: bool = True) -> list[web.RouteDef]:
    """The routes of CONTRACT.md section 1, row Monitoring."""
    handlers = _Handlers(health, public)
    return [
        web.get("/health", handlers.live),
        web.get("/health/ready", handlers.ready),
        web.get("/health/detailed", handlers.detailed),
        web.get("/health/stream", handlers.stream),
        web.get("/api/v1/health/stream", handlers.stream),
        web.get("/api/monitoring/health", handlers.detailed),
        web.get("/api/monitoring/health/{check}", handlers.check),
        web.get("/api/monitoring/system", handlers.system),
    ]


def answer(value: Any, status: int = 200, extra: Mapping[str, str] | None = None) -> web.Response:
    """A JSON answer that nobody caches; `extra` headers may be added."""
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", **(extra or {})}
    return web.Response(
        body=msgspec.json.encode(value), status=status, headers=headers, content_type="application/json"
    )


def refusal(status: int, code: str, message: str, request_id: str = "") -> web.Response:
    """An error outside a stream, in the native shape."""
    return answer({"error": {"code": code, "message": message, "requestId": request_id}}, status)


class _Handlers:
    def __init__(self, health: Health, public: bool) -> None:
        self._health, self._public = health, public

    async def live(self, _request: web.Request) -> web.Response:
        """200 as long as the process answers: restarting it would not cure a lost backend."""
        return answer(self._health.summary())

    async def ready(self, _request: web.Request) -> web.Response:
        """503 while starting or draining, so that balancers send new streams elsewhere. `degraded` names what is not
        well but keeps nobody from streaming: a registry that is away, or may forget."""
        ready, phase = self._health.ready, self._health.phase
        degraded = sorted(name for name, check in self._health.own().items() if check.status != "healthy")
        return answer({"ready": ready, "phase": phase, "degraded": degraded}, 200 if ready else 503)

    async def detailed(self, _request: web.Request) -> web.Response:
        """All checks; 503 when unhealthy."""
        report = self._health.report(public=self._public)
        return answer(report, 503 if report["status"] == "unhealthy" else 200)

    async def check(self, request: web.Request) -> web.Response:
        """One check by name; 404 for an unknown one."""
        found = self._health.check(request.match_info["check"], public=self._public)
        if found is None:
            return refusal(404, "not_found", "there is no such check", request_id())
        return answer(found, 503 if found["status"] == "unhealthy" else 200)

    async def system(self, _request: web.Request) -> web.Response:
        """Figures of the process and its machine."""
        return answer(self._health.summary() | self._health.system())

    async def stream(self, request: web.Request) -> web.Response:
        """Whether streaming works here. To an EventSource: one `health` event, and when to ask again (no connection
        is held for it)."""
        value = self._health.summary() | {"streaming": True, "accepting": self._health.ready}
        if "text/event-stream" not in request.headers.get("Accept", ""):
            return answer(value)
        body = b"retry: %d\nevent: health\ndata: %s\n\n" % (_RETRY_MS, msgspec.json.encode(value))
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return web.Response(body=body, headers=headers, content_type="text/event-stream")
