"""Streams as resources: list, statistics, one stream's state or receipt, cancel. An owner sees and ends only its own.

Unknown, malformed and foreign ids answer the same 404.
"""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from backends.contract.errors import BackendError, ErrorCode
from gateway.edge.admission import caller_of
from gateway.edge.health_handlers import answer
from gateway.edge.services import Services
from gateway.registry.base import Entry
from gateway.streams.stream import ID_PATTERN, Receipt

_HIDDEN = ("keyId",)  # registry fields that are nobody else's business


def stream_routes(services: Services) -> list[web.RouteDef]:
    """Routes under `/api/streaming` and their aliases under `/v1/streams`."""
    api = StreamsApi(services)
    found: list[web.RouteDef] = []
    for prefix, listing in (("/api/streaming", "/api/streaming/active"), ("/v1/streams", "/v1/streams")):
        found += [
            web.get(listing, api.active),
            web.get(f"{prefix}/active", api.active) if listing == prefix else web.get(prefix, api.active),
            web.get(f"{prefix}/statistics", api.statistics),
            web.get(f"{prefix}/{{id}}", api.show),
            web.delete(f"{prefix}/{{id}}", api.cancel),
        ]
    return found


def shown(found: Entry | Receipt) -> dict[str, Any]:
    """A running or ended stream as JSON."""
    if isinstance(found, Receipt):
        return {"streamId": found.stream_id, "state": found.state, "receipt": msgspec.to_builtins(found)}
    entry: dict[str, Any] = msgspec.to_builtins(found)
    for name in _HIDDEN:
        entry.pop(name, None)
    return entry


class StreamsApi:
    """Handlers; errors are raised as BackendError and rendered by the middleware."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def active(self, request: web.Request) -> web.Response:
        """Running streams of the caller, on all nodes."""
        owner = caller_of(self._services, request).owner
        streams = [shown(entry) for entry in await self._services.registry.active(owner)]
        return answer({"count": len(streams), "streams": streams})

    async def statistics(self, request: web.Request) -> web.Response:
        """Counts, rates and percentiles of the caller's streams."""
        owner = caller_of(self._services, request).owner
        return answer(await self._services.registry.statistics(owner))

    async def show(self, request: web.Request) -> web.Response:
        """State while it runs, receipt afterwards."""
        owner = caller_of(self._services, request).owner
        stream_id = request.match_info["id"]
        found = await self._services.registry.find(stream_id, owner) if ID_PATTERN.fullmatch(stream_id) else None
        if found is None:
            raise _unknown()
        return answer(shown(found), extra={"X-Stream-State": found.state})

    async def cancel(self, request: web.Request) -> web.Response:
        """Stop it, wherever it runs. Idempotent: an ended stream answers with its receipt."""
        owner = caller_of(self._services, request).owner
        stream_id = request.match_info["id"]
        if not ID_PATTERN.fullmatch(stream_id):
            raise _unknown()
        result = await self._services.registry.cancel(stream_id, owner, by="client", reason="cancelled by DELETE")
        if result.outcome == "unknown":
            raise _unknown()
        body: dict[str, Any] = {"streamId": stream_id, "state": result.state}
        if result.receipt is not None:
            body["receipt"] = msgspec.to_builtins(result.receipt)
        return answer(body, 200 if result.outcome == "done" else 202)


def _unknown() -> BackendError:
    return BackendError(
        ErrorCode.NOT_FOUND, "no stream with this id (it never was, has been forgotten, or is not yours)"
    )
