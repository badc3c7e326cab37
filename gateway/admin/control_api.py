"""Runtime control, reload and the configuration in force, for operators: JSON in, JSON out.

Law: every change says who made it: the header `X-Headgate-Operator` (any text), else "operator", and from where.
Nothing shown here is a secret.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from config.complaints import did_you_mean
from config.diff import diff, shown
from gateway.control.control import Control
from gateway.control.flags import ControlState, Invalid, current
from gateway.control.reload import Outcome, Reloader
from gateway.edge.health_handlers import answer, refusal
from gateway.edge.services import request_id

_Handler = Callable[[web.Request], Awaitable[web.Response]]


def control_routes(control: Control, reloader: Reloader) -> list[web.RouteDef]:
    """The routes, for the admin listener."""
    handlers = _Handlers(control, reloader)
    return [
        web.get("/control", handlers.show),
        web.patch("/control", _checked(handlers.patch)),
        web.get("/control/audit", handlers.audit),
        web.post("/control/kill", _checked(handlers.kill)),
        web.delete("/control/kill/{id}", _checked(handlers.lift)),
        web.post("/control/pause", _checked(handlers.pause)),
        web.post("/control/resume", _checked(handlers.resume)),
        web.post("/control/emergency", _checked(handlers.emergency)),
        web.post("/control/reset", _checked(handlers.reset)),
        web.post("/reload", handlers.reload),
        web.get("/config", handlers.config),
    ]


def _checked(handler: _Handler) -> _Handler:
    """A wish that cannot be granted is a 400 that says why."""

    async def checked(request: web.Request) -> web.Response:
        try:
            return await handler(request)
        except (Invalid, msgspec.MsgspecError, UnicodeDecodeError) as problem:
            return refusal(400, "invalid_request", str(problem), request_id())

    return checked


def operator_of(request: web.Request) -> str:
    """Who asks for a change, for the audit."""
    said = "".join(c for c in request.headers.get("X-Headgate-Operator", "")[:100] if c.isprintable())
    return f"{said or 'operator'} ({request.remote or 'unknown'})"


async def _wish(request: web.Request) -> dict[str, Any]:
    raw = await request.read()
    wish = msgspec.json.decode(raw) if raw.strip() else {}
    if not isinstance(wish, dict):
        raise Invalid("the body must be a JSON object")
    return wish


class _Handlers:
    def __init__(self, control: Control, reloader: Reloader) -> None:
        self._control, self._reloader = control, reloader

    def _state(self, state: ControlState) -> web.Response:
        return answer(msgspec.to_builtins(current(state, self._control.now)))

    def _meant(self, wish: dict[str, Any]) -> dict[str, Any]:
        """The wish, if what it names exists. Raises Invalid."""
        for kind in ("backend", "route", "key"):
            if isinstance(wish.get(kind), str) and wish[kind]:
                self._there(kind, wish[kind])
        return wish

    def _there(self, kind: str, name: str) -> None:
        """Raises Invalid for a name of no backend, route or key, in force or in the file: a rule about it does nothing
        and looks as if it had."""
        known: set[str] = set()
        for config in (self._reloader.config, self._reloader.wanted):
            if kind == "backend":
                known |= config.backends.keys()
            elif kind == "route":
                known |= {"*", *(route.model for route in config.routes)}  # "*": of a backend by name, too
            else:
                known |= {key.id for key in config.keys}
        if name not in known:
            hint = did_you_mean(name, known)
            raise Invalid(f"there is no {kind} '{name}'" + (f" ({hint})" if hint else ""))

    async def show(self, _request: web.Request) -> web.Response:
        """What is set now."""
        return self._state(self._control.state)

    async def patch(self, request: web.Request) -> web.Response:
        """Set `streaming`, `background`, `routes`, `mode`, `debug`, `emergency`, `rollout`; the rest stays."""
        wish = await _wish(request)
        said = wish.get("routes")
        for name in [name for name, on in said.items() if on is not None] if isinstance(said, dict) else ():
            self._there("route", name)
        return self._state(await self._control.patch(wish, operator_of(request)))

    async def audit(self, _request: web.Request) -> web.Response:
        """The last changes, oldest first."""
        return answer({"changes": msgspec.to_builtins(await self._control.audit())})

    async def kill(self, request: web.Request) -> web.Response:
        """End what runs and refuse what comes, by one of backend, model, route, key, owner, user, all."""
        rule = await self._control.kill(self._meant(await _wish(request)), operator_of(request))
        return answer({"rule": msgspec.to_builtins(rule), "version": self._control.state.version})

    async def lift(self, request: web.Request) -> web.Response:
        """Take a kill back: new streams may start again."""
        if not await self._control.lift(request.match_info["id"], operator_of(request)):
            return refusal(404, "not_found", "there is no such kill rule", request_id())
        return self._state(self._control.state)

    async def pause(self, request: web.Request) -> web.Response:
        """A backend or model takes no new streams; running ones go on."""
        return self._state(await self._control.pause(self._meant(await _wish(request)), operator_of(request)))

    async def resume(self, request: web.Request) -> web.Response:
        """End a pause."""
        if not await self._control.resume(await _wish(request), operator_of(request)):
            return refusal(404, "not_found", "that is not paused", request_id())
        return self._state(self._control.state)

    async def emergency(self, request: web.Request) -> web.Response:
        """`{"on": true}`: only keys of high priority get new streams; `{"on": false}`: back to normal."""
        wish = await _wish(request)
        if set(wish) - {"on"} or not isinstance(wish.get("on", True), bool):
            raise Invalid('the body is {"on": true} or {"on": false}')
        return self._state(await self._control.patch({"emergency": wish.get("on", True)}, operator_of(request)))

    async def reset(self, request: web.Request) -> web.Response:
        """Back to safe defaults."""
        return self._state(await self._control.reset(operator_of(request)))

    async def reload(self, request: web.Request) -> web.Response:
        """Read gateway.yaml again, on this worker. 422: it cannot be used, the last good one stays."""
        return _told(await self._reloader.reload(f"asked by {operator_of(request)}"))

    async def config(self, _request: web.Request) -> web.Response:
        """The configuration in force, secrets hidden; `pending`: what waits for a restart."""
        reloader = self._reloader
        waiting = [msgspec.to_builtins(change) for change in diff(reloader.config, reloader.wanted)]
        last = None if reloader.last is None else _plain(reloader.last)
        return answer({"source": reloader.source, "config": shown(reloader.config), "pending": waiting, "last": last})


def _told(outcome: Outcome) -> web.Response:
    if not outcome.complaints:
        return answer(_plain(outcome))
    message = "; ".join(map(str, outcome.complaints))
    error = {"code": "invalid_config", "message": message, "requestId": request_id()}
    return answer({"error": error, **_plain(outcome)}, 422)


def _plain(outcome: Outcome) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(outcome)
    return found
