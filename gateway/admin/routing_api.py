"""Breakers and routing decisions of this worker, for operators: JSON out.

Law: explaining changes nothing: no turn is used up, no place taken, no permit asked for. A breaker that is closed by
hand is closed in all workers of all nodes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import web

from backends.contract.errors import BackendError
from gateway.admin.control_api import operator_of
from gateway.control.control import Control
from gateway.control.flags import Invalid
from gateway.edge.health_handlers import answer, refusal
from gateway.edge.services import request_id
from gateway.routing.circuits import circuits
from gateway.routing.matching import Asking
from gateway.routing.router import Router
from gateway.routing.upstreams import Upstreams

_SAID = ("model", "backend", "key", "owner", "user", "workspace", "conversation", "prompt")


def routing_routes(upstreams: Upstreams, router: Callable[[], Router], control: Control) -> list[web.RouteDef]:
    """The routes, for the admin listener. `router`: of the configuration in force."""
    handlers = _Handlers(upstreams, router, control)
    return [
        web.get("/breakers", handlers.breakers),
        web.post("/breakers/{backend}/reset", handlers.reset),
        web.get("/routes/explain", handlers.explain),
    ]


class _Handlers:
    def __init__(self, upstreams: Upstreams, router: Callable[[], Router], control: Control) -> None:
        self._upstreams, self._router, self._control = upstreams, router, control

    async def breakers(self, _request: web.Request) -> web.Response:
        """Every backend's breaker, its history, and how busy and fast the backend is."""
        budget = self._upstreams.budget
        retries = {"streams": budget.streams, "underWay": budget.retries, "refused": budget.refused}
        return answer({"breakers": msgspec.to_builtins(circuits(self._upstreams)), "retries": retries})

    async def reset(self, request: web.Request) -> web.Response:
        """Close a backend's breaker here, and in all other workers and nodes within a second."""
        name = request.match_info["backend"]
        if self._upstreams.find(name) is None:
            return refusal(404, "not_found", "no such backend", request_id())
        try:
            await self._control.reset_breaker(name, operator_of(request))
        except Invalid as problem:  # other nodes would not let it through
            return refusal(409, "conflict", str(problem), request_id())
        found = next(one for one in circuits(self._upstreams) if one.backend == name)
        return answer(msgspec.to_builtins(found))

    async def explain(self, request: web.Request) -> web.Response:
        """Which route a request would take, and why: `?model=`, `key`, `owner`, `user`, `workspace`, `conversation`,
        `prompt`, `backend`; a header as `header.NAME=`."""
        said: dict[str, Any] = {name: request.query.get(name, "") for name in _SAID}
        headers = {
            name.removeprefix("header.").lower(): value
            for name, value in request.query.items()
            if name.startswith("header.")
        }
        try:
            routes = list(self._router().explain(Asking(**said, headers=headers, chars=len(said["prompt"]))))
        except BackendError as error:
            return refusal(400, error.code.wire, error.message, request_id())
        now, paused = self._upstreams.clock(), self._upstreams.paused()
        for candidate in (c for route in routes for c in route.get("candidates", ())):
            upstream = self._upstreams.find(candidate["backend"])
            if upstream is not None:
                breaker = upstream.breaker
                candidate |= {
                    "breaker": breaker.state.wire,
                    "retryIn": round(breaker.wait(now), 1),
                    "full": upstream.full,
                    "paused": candidate["backend"] in paused,
                    "spared": round(max(0.0, upstream.spared - now), 1),
                    "active": upstream.active,
                }
        return answer({"routes": routes, "taken": bool(routes) and routes[-1]["taken"]})
