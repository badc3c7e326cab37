"""Streams as resources: list, statistics, one stream's state or receipt, cancel. An owner sees and ends only its own.

Unknown, malformed and foreign ids answer the same 404.
"""

from __future__ import annotations

import asyncio
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
from gateway.registry.sharing import shared
from gateway.streams.archive import Gone
from gateway.streams.stream import ID_PATTERN, Receipt

_ID = "{id:(?!(?:active|chat|generate|statistics)$)[^/]+}"  # these names are paths of their own, never ids
_LOOKS, _AGAIN = 20, 0.03  # how often, and after how many seconds, the fleet is asked again about a stream that is here


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
        entries = await self._services.registry.active(owner)
        streams = [{**listed(entry), "resumable": self._readable(entry)} for entry in entries]
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
        found = await self._found(stream_id, owner)
        await self._check_kept(found, stream_id, owner)
        if found is None:
            return await self._attach.remains(stream_id, owner)
        if request.method == "HEAD":
            return await self._attach.head(request, stream_id, owner, found.state)
        producer = None if isinstance(found, Receipt) else services.hub.find(stream_id, owner)
        resumable = shared(services.config.registry)  # a look at another node's copy would keep it here
        if found.node == services.node:
            resumable = await self._attach.resumable(stream_id, owner)
        body = shown(found, producer, services.loop.time(), services.now_ms(), resumable=resumable)
        return answer(body, extra={"X-Stream-State": found.state})

    async def cancel(self, request: web.Request) -> web.Response:
        """Stop it, wherever it runs. Idempotent: an ended stream answers with its receipt, one that is no longer kept
        as a GET of it does."""
        owner = caller_of(self._services, request).owner
        stream_id = request.match_info["id"]
        if not ID_PATTERN.fullmatch(stream_id):
            raise unknown_stream()
        registry = self._services.registry
        result = await registry.cancel(stream_id, owner, by="client", reason="cancelled by DELETE")
        if result.outcome == "unknown" and await self._found(stream_id, owner) is not None:
            result = await registry.cancel(stream_id, owner, by="client", reason="cancelled by DELETE")
        if result.outcome == "unknown":
            await self._check_kept(None, stream_id, owner)
            return await self._attach.remains(stream_id, owner)
        await self._check_kept(result.receipt, stream_id, owner)
        body: dict[str, Any] = {"streamId": stream_id, "state": result.state}
        if result.receipt is not None:
            body["receipt"] = msgspec.to_builtins(result.receipt)
        return answer(body, 200 if result.outcome == "done" else 202)

    def _readable(self, entry: Entry) -> bool:
        """Whether a running stream's frames can be read here, as far as is known without asking other nodes."""
        producer = self._services.hub.find(entry.stream_id, entry.owner)
        return not producer.shown.base if producer is not None else shared(self._services.config.registry)

    async def _found(self, stream_id: str, owner: str) -> Entry | Receipt | None:
        """What the fleet knows of a stream. Its frames may be here before it is: one that has begun or ended on another
        node this moment is not told unknown to a client that was given its id."""
        registry, sources = self._services.registry, self._services.sources
        found = await registry.find(stream_id, owner)
        for _ in range(_LOOKS):
            if found is not None or isinstance(await sources.find(stream_id, owner), Gone | None):
                break
            await asyncio.sleep(_AGAIN)
            found = await registry.find(stream_id, owner)
        return found

    async def _check_kept(self, found: Entry | Receipt | None, stream_id: str, owner: str) -> None:
        """An ended stream that its owner has deleted is as unknown as one that never was. Raises NOT_FOUND."""
        if not isinstance(found, Entry) and await self._services.sources.forgotten(stream_id, owner):
            raise unknown_stream()
