"""Streams as resources: list, statistics, one stream's state or receipt, cancel. An owner sees and ends only its own.

Unknown, malformed and foreign ids answer the same 404.
"""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from gateway.edge.admission import caller_of
from gateway.edge.attach import Attach
from gateway.edge.gone import unknown_stream
from gateway.edge.health_handlers import answer
from gateway.edge.services import Services
from gateway.edge.shown import listed, shown
from gateway.edge.wanted import wants_stream
from gateway.registry.base import Entry
from gateway.streams.stream import ID_PATTERN, Receipt

_ID = "{id:(?!(?:active|chat|generate|statistics)$)[^/]+}"  # these names are paths of their own, never ids


def stream_routes(services: Services) -> list[web.RouteDef]:
    """Routes under `/api/streaming` and their aliases under `/v1/streams`."""
    api = StreamsApi(services)
    found: list[web.RouteDef] = []
    for prefix, listing in (("/api/streaming", "/api/streaming/active"), ("/v1/streams", "/v1/streams")):
        found += [
            web.get(listing, api.active),
            web.get(f"{prefix}/active", api.active) if listing == prefix else web.get(prefix, api.active),
            web.get(f"{prefix}/statistics", api.statistics),
            web.get(f"{prefix}/{_ID}", api.show),
            web.delete(f"{prefix}/{_ID}", api.cancel),
        ]
    for prefix in ("/api/v1", "/v1"):
        found.append(web.get(f"{prefix}/conversations/{{id}}/stream", api.conversation, allow_head=False))
    return found


class StreamsApi:
    """Handlers; errors are raised as BackendError and rendered by the middleware."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._attach = Attach(services)

    async def active(self, request: web.Request) -> web.Response:
        """Running streams of the caller, on all nodes."""
        owner = caller_of(self._services, request).owner
        streams = [listed(entry) for entry in await self._services.registry.active(owner)]
        return answer(self._services.registry.told({"count": len(streams), "streams": streams}))

    async def statistics(self, request: web.Request) -> web.Response:
        """Counts, rates and percentiles of the caller's streams."""
        owner = caller_of(self._services, request).owner
        return answer(await self._services.registry.statistics(owner))

    async def conversation(self, request: web.Request) -> web.StreamResponse:
        """The running stream of a conversation."""
        return await self._attach.conversation(request, caller_of(self._services, request).owner)

    async def show(self, request: web.Request) -> web.StreamResponse:
        """Its frames, for who accepts a stream; else its state, and its receipt (so far, while it runs)."""
        services = self._services
        owner = caller_of(services, request).owner
        stream_id = request.match_info["id"]
        if not ID_PATTERN.fullmatch(stream_id):
            raise unknown_stream()
        if request.method == "GET" and wants_stream(request):
            if await services.sources.forgotten(stream_id, owner):
                raise unknown_stream()
            return await self._attach.stream(request, stream_id, owner)
        found = await self._services.registry.find(stream_id, owner)
        await self._check_kept(found, stream_id, owner)
        if found is None:
            return await self._attach.remains(stream_id, owner)
        if request.method == "HEAD":
            return await self._attach.head(request, stream_id, owner, found.state)
        producer = None if isinstance(found, Receipt) else services.hub.find(stream_id, owner)
        body = shown(found, producer, services.loop.time(), services.now_ms())
        return answer(body, extra={"X-Stream-State": found.state})

    async def cancel(self, request: web.Request) -> web.Response:
        """Stop it, wherever it runs. Idempotent: an ended stream answers with its receipt."""
        owner = caller_of(self._services, request).owner
        stream_id = request.match_info["id"]
        if not ID_PATTERN.fullmatch(stream_id):
            raise unknown_stream()
        result = await self._services.registry.cancel(stream_id, owner, by="client", reason="cancelled by DELETE")
        if result.outcome == "unknown":
            raise unknown_stream()
        await self._check_kept(result.receipt, stream_id, owner)
        body: dict[str, Any] = {"streamId": stream_id, "state": result.state}
        if result.receipt is not None:
            body["receipt"] = msgspec.to_builtins(result.receipt)
        return answer(body, 200 if result.outcome == "done" else 202)

    async def _check_kept(self, found: Entry | Receipt | None, stream_id: str, owner: str) -> None:
        """An ended stream that its owner has deleted is as unknown as one that never was. Raises NOT_FOUND."""
        if not isinstance(found, Entry) and await self._services.sources.forgotten(stream_id, owner):
            raise unknown_stream()
