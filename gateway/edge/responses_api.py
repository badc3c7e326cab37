"""Responses as resources: retrieve, attach again, cancel, delete (OpenAI's Responses API), and what was asked. An
owner sees and ends only its own.

Law: an answer is told from the stream's transcript or not at all: one whose transcript is gone is never shown as
complete and empty. Unknown and foreign ids answer the same 404. Only what runs in the background can be cancelled here,
as with OpenAI; `DELETE /api/streaming/{id}` ends any stream.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import web

from backends.contract.errors import BackendError, ErrorCode
from gateway.edge.admission import caller_of
from gateway.edge.attach import Attach
from gateway.edge.health_handlers import answer
from gateway.edge.response_names import told
from gateway.edge.services import Services
from gateway.protocols import openai_responses_object as words
from gateway.protocols.base import About, Answer
from gateway.protocols.openai_responses_gatherer import ResponsesGatherer
from gateway.protocols.openai_responses_inputs import Item, identified, listing, read_page
from gateway.protocols.openai_responses_items import DIALECT
from gateway.registry.base import Entry
from gateway.streams.archive import Gone
from gateway.streams.sofar import answer_of
from gateway.streams.sources import Source
from gateway.streams.stream import ID_PATTERN, Receipt, State

_PROTOCOL = "openai_responses"
_STOPPED = frozenset({State.CANCELLED.wire, State.CLIENT_GONE.wire})
_RUNNING = {State.WAITING.wire: "queued", State.STREAMING.wire: "in_progress"}
_CANCELLABLE = _STOPPED | _RUNNING.keys()
_NO_INPUT = (
    "the input of this response is not kept here (`store: false`, or it has expired, or it went on from what this "
    "gateway does not know)"
)

_items = msgspec.json.Decoder(list[Item]).decode


def response_routes(services: Services, prefix: str) -> list[web.RouteDef]:
    """Routes below `{prefix}/v1/responses`."""
    api = ResponsesApi(services)
    path = f"{prefix}/v1/responses/{{id}}"
    return [
        web.get(path, api.show, allow_head=False),
        web.delete(path, api.delete),
        web.get(f"{path}/input_items", api.inputs, allow_head=False),
        web.post(f"{path}/cancel", api.cancel),
    ]


class ResponsesApi:
    """Handlers; errors are raised as BackendError and rendered by the middleware."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._attach = Attach(services)

    async def show(self, request: web.Request) -> web.StreamResponse:
        """The answer so far, or (`?stream=true`) the events after number `starting_after`."""
        owner = caller_of(self._services, request).owner
        given = request.match_info["id"]
        stream_id = await self._stream_of(given, owner)
        if request.query.get("stream", "").lower() == "true":
            return await self._attach.stream(request, stream_id, owner, protocol=_PROTOCOL)
        return answer(await self._object(stream_id, owner, given))

    async def inputs(self, request: web.Request) -> web.Response:
        """What the model was given: the request's own items, and before them every turn it went on from."""
        owner = caller_of(self._services, request).owner
        page = read_page(request.query)
        stream_id = await self._stream_of(request.match_info["id"], owner)
        source = await self._services.sources.find(stream_id, owner)
        items = [] if source is None or isinstance(source, Gone) else inputs_of(source)
        if not items:
            raise BackendError(ErrorCode.NOT_FOUND, _NO_INPUT)
        return answer(listing(items, page))

    async def cancel(self, request: web.Request) -> web.Response:
        """Stop one that runs in the background, wherever it runs. Idempotent: a cancelled one is shown again; any other
        that has ended, and one whose client waits for it, cannot be cancelled (400)."""
        owner = caller_of(self._services, request).owner
        given = request.match_info["id"]
        stream_id = await self._stream_of(given, owner)
        await self._check_cancel(stream_id, owner)
        result = await self._services.registry.cancel(
            stream_id, owner, by="client", reason="cancelled by POST /v1/responses/{id}/cancel"
        )
        if result.outcome == "unknown":
            raise _unknown()
        return answer(await self._object(stream_id, owner, given), 200 if result.outcome == "done" else 202)

    async def _check_cancel(self, stream_id: str, owner: str) -> None:
        """Raises INVALID_REQUEST. Where only its receipt or entry is known here, it may have been in the background."""
        source = await self._services.sources.find(stream_id, owner)
        if source is not None and not isinstance(source, Gone):
            if source.about.echo.get("background") is not True:
                text = "a response that is not in the background cannot be cancelled: close its connection"
                raise BackendError(ErrorCode.INVALID_REQUEST, text)
            state = source.state.wire
        else:
            found = await self._services.registry.find(stream_id, owner)
            state = "" if found is None else found.state
        if state and state not in _CANCELLABLE:
            raise BackendError(ErrorCode.INVALID_REQUEST, f"this response has ended ({state}): it cannot be cancelled")

    async def delete(self, request: web.Request) -> web.Response:
        """Forget what it said; one that runs is stopped first. Who has its receipt may still see that it ended."""
        owner = caller_of(self._services, request).owner
        given = request.match_info["id"]
        stream_id = await self._stream_of(given, owner)
        reason = "deleted by DELETE /v1/responses/{id}"
        result = await self._services.registry.cancel(stream_id, owner, by="client", reason=reason)
        if result.outcome not in ("done", "unknown"):
            raise BackendError(ErrorCode.CONFLICT, "this response is being stopped; delete it again")
        await self._services.sources.forget(stream_id, owner)
        return answer({"id": given, "object": "response.deleted", "deleted": True})

    async def _stream_of(self, given: str, owner: str) -> str:
        """The stream a response id names: ours, or the id its backend gave it. Raises NOT_FOUND."""
        for stream_id in words.stream_ids(given):
            if ID_PATTERN.fullmatch(stream_id) and await self._known(stream_id, owner):
                return stream_id
        found = self._by_answer(given, owner)
        if found is None:
            abroad = await told(self._services, given, owner)
            found = abroad if abroad and await self._known(abroad, owner) else None
        if found is None or await self._services.sources.forgotten(found, owner):
            raise _unknown()
        return found

    async def _known(self, stream_id: str, owner: str) -> bool:
        if await self._services.sources.forgotten(stream_id, owner):
            return False
        source = await self._services.sources.find(stream_id, owner)
        if source is not None:
            return isinstance(source, Gone) or not _unkept(source)
        return await self._services.registry.find(stream_id, owner) is not None

    def _by_answer(self, given: str, owner: str) -> str | None:
        """Where a backend's own frames are passed on, so is its id of the answer."""
        found = self._services.sources.matching(owner, named(given))
        return found.identity.id if found and not _unkept(found) else None

    async def _object(self, stream_id: str, owner: str, given: str) -> dict[str, Any]:
        """The Response as it is now, under the id the client knows. Raises NOT_FOUND when its content is gone."""
        source = await self._services.sources.find(stream_id, owner)
        if source is not None and not isinstance(source, Gone) and source.transcript.base == 0:
            return {**of_source(source), "id": given}
        found = await self._services.registry.find(stream_id, owner)
        if found is None:
            raise _unknown()
        about = None if source is None or isinstance(source, Gone) else source.about
        return {**_of_entry(found, about), "id": given}


def _unkept(source: Source) -> bool:
    """Whether an answer is over that its client did not want stored. (It is read again by its Idempotency-Key, and by
    readers that lost their connection.)"""
    return source.state.terminal and source.about.echo.get("store") is False


def named(given: str) -> Callable[[Source], bool]:
    """Whether a stream's backend gave its answer this id."""
    said = msgspec.json.encode(given)

    def tells(source: Source) -> bool:
        first = source.transcript.since(source.transcript.base, 1)
        return source.driver.dialect == DIALECT and bool(first) and said in first[0]

    return tells


def inputs_of(source: Source) -> list[Item]:
    """What a response was asked with, every turn before it included; empty where that is not kept."""
    return identified(_items(source.turns), words.suffix(source.about)) if source.turns else []


def of_source(source: Source) -> dict[str, Any]:
    """A Response from a transcript: a complete one as its backend said it, where one attempt said it all in this API;
    any other as its events make it."""
    about, ending = source.about, source.ending()
    single = len(source.transcript.segments) == 1
    if source.state is State.COMPLETED and source.driver.dialect == DIALECT and single:
        return gathered(source)
    said = answer_of(source.transcript) or Answer()
    running = _RUNNING.get(source.state.wire)
    if running:
        some = bool(said.text or said.reasoning or said.tool_calls)
        return words.response(about, running, words.output_of(about, said, "in_progress") if some else [])
    if not words.ended_well(ending):
        return words.cut_off(about, ending, words.output_of(about, said, "incomplete"))
    return words.final(about, ending, words.output_of(about, said, words.status_of(ending)))


def gathered(source: Source) -> dict[str, Any]:
    gatherer = ResponsesGatherer()
    for block in source.transcript.blocks:
        gatherer.feed(block)
    return gatherer.response(source.about, source.ending())


def _of_entry(found: Entry | Receipt, about: About | None) -> dict[str, Any]:
    """What the registry knows of a stream whose content is not here; `about`: what is known of it here all the same."""
    about = about or About(found.stream_id, found.model, found.backend, found.started_at)
    if isinstance(found, Receipt):
        if found.state == State.COMPLETED.wire:
            text = "this response completed, but what it said is no longer kept"
            raise BackendError(ErrorCode.NOT_FOUND, text)
        status = "cancelled" if found.state in _STOPPED else "failed"
        error = {"code": "server_error", "message": found.error_message or found.reason}
        return words.response(about, status, [], error=None if status == "cancelled" else error)
    return words.response(about, _RUNNING.get(found.state, "in_progress"), [])


def _unknown() -> BackendError:
    return BackendError(
        ErrorCode.NOT_FOUND, "no response with this id (it never was, has been forgotten, or is not yours)"
    )
