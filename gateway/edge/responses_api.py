"""Responses as resources: retrieve, attach again, cancel, delete (OpenAI's Responses API). An owner sees and ends only
its own.

Law: an answer is told from the stream's transcript or not at all: one whose transcript is gone is never shown as
complete and empty. Unknown and foreign ids answer the same 404. Only what runs in the background can be cancelled here,
as with OpenAI; `DELETE /api/streaming/{id}` ends any stream.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import web
from msgspec.structs import replace

from backends.contract.errors import BackendError, ErrorCode
from backends.contract.fit import STORED
from backends.contract.request import Message
from gateway.edge.admission import caller_of
from gateway.edge.attach import Attach
from gateway.edge.health_handlers import answer
from gateway.edge.services import Services
from gateway.protocols import openai_responses_object as words
from gateway.protocols.base import About, Answer, Asked
from gateway.protocols.openai_responses_gatherer import ResponsesGatherer
from gateway.protocols.openai_responses_items import DIALECT, Turns
from gateway.protocols.parsing import Fields
from gateway.registry.base import Entry
from gateway.streams.archive import Gone, Recording
from gateway.streams.sofar import answer_of
from gateway.streams.sources import Source
from gateway.streams.stream import ID_PATTERN, Receipt, State

_PROTOCOL = "openai_responses"
_STOPPED = frozenset({State.CANCELLED.wire, State.CLIENT_GONE.wire})
_RUNNING = {State.WAITING.wire: "queued", State.STREAMING.wire: "in_progress"}
_CANCELLABLE = _STOPPED | _RUNNING.keys()


def response_routes(services: Services, prefix: str) -> list[web.RouteDef]:
    """Routes below `{prefix}/v1/responses`."""
    api = ResponsesApi(services)
    path = f"{prefix}/v1/responses/{{id}}"
    return [
        web.get(path, api.show, allow_head=False),
        web.delete(path, api.delete),
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
        """The stream a response id names: ours, or the id its backend gave a stream of this node. Raises NOT_FOUND."""
        for stream_id in words.stream_ids(given):
            if ID_PATTERN.fullmatch(stream_id) and await self._known(stream_id, owner):
                return stream_id
        found = self._by_answer(given, owner)
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
        found = self._services.sources.matching(owner, _named(given))
        return found.identity.id if found and not _unkept(found) else None

    async def _object(self, stream_id: str, owner: str, given: str) -> dict[str, Any]:
        """The Response as it is now, under the id the client knows. Raises NOT_FOUND when its content is gone."""
        source = await self._services.sources.find(stream_id, owner)
        if source is not None and not isinstance(source, Gone) and source.transcript.base == 0:
            return {**_of_source(source), "id": given}
        found = await self._services.registry.find(stream_id, owner)
        if found is None:
            raise _unknown()
        about = None if source is None or isinstance(source, Gone) else source.about
        return {**_of_entry(found, about), "id": given}


def _unkept(source: Source) -> bool:
    """Whether an answer is over that its client did not want stored. (It is read again by its Idempotency-Key, and by
    readers that lost their connection.)"""
    return source.state.terminal and source.about.echo.get("store") is False


def _named(given: str) -> Callable[[Source], bool]:
    """Whether a stream's backend gave its answer this id."""
    said = msgspec.json.encode(given)

    def tells(source: Source) -> bool:
        blocks = source.transcript.blocks
        return source.driver.dialect == DIALECT and bool(blocks) and said in blocks[0]

    return tells


async def continued(services: Services, asked: Asked, owner: str) -> Asked:
    """A request as those it may be put to need it: where it goes on from a response of ours, backends with this API are
    told the id their like gave that one (clients of the background know ours alone), and others all its turns."""
    if asked.request.dialect != DIALECT:
        return asked
    given = asked.body.get("previous_response_id")
    given = given if isinstance(given, str) else ""
    source = await _earlier(services, given, owner) if given else None
    if source is not None:
        asked = _told_again(asked, source)
        if source.driver.dialect == DIALECT and source.identity.id in words.stream_ids(given):
            asked = replace(asked, body={**asked.body, "previous_response_id": _gathered(source)["id"]})
    return replace(asked, turns=_turns(asked))


async def _earlier(services: Services, given: str, owner: str) -> Source | None:
    """The stream of a response id; only this node knows what its backends call theirs."""
    for stream_id in words.stream_ids(given):
        source = await services.sources.find(stream_id, owner)
        if source is not None and not isinstance(source, Gone):
            break
    else:
        source = services.sources.matching(owner, _named(given))
    return None if source is None or await services.sources.forgotten(source.identity.id, owner) else source


def _told_again(asked: Asked, source: Source) -> Asked:
    """The request with all that was said before it, read as if its client had sent it; as it is where that is not known
    here."""
    if not isinstance(source, Recording) or not source.turns:
        return asked
    request = asked.request
    own = 1 if asked.body.get("instructions") else 0  # those of earlier requests do not count
    said = Turns().read(Fields({"input": _of_source(source)["output"]}))
    messages = (*request.messages[:own], *source.turns, *said, *request.messages[own:])
    extra = {name: value for name, value in request.extra.items() if name != "previous_response_id"}
    return replace(asked, request=replace(request, messages=messages, extra=extra))


def _turns(asked: Asked) -> tuple[Message, ...]:
    """What a later request may go on from; nothing where the client does not want it stored, or not all is known."""
    request = asked.request
    if asked.body.get("store") is False or STORED & request.extra.keys():
        return ()
    return request.messages[1 if asked.body.get("instructions") else 0 :]


def _of_source(source: Source) -> dict[str, Any]:
    """A Response from a transcript: a complete one as its backend said it, where one attempt said it all in this API;
    any other as its events make it."""
    about, ending = source.about, source.ending()
    single = len(source.transcript.segments) == 1
    if source.state is State.COMPLETED and source.driver.dialect == DIALECT and single:
        return _gathered(source)
    said = answer_of(source.transcript) or Answer()
    running = _RUNNING.get(source.state.wire)
    if running:
        some = bool(said.text or said.reasoning or said.tool_calls)
        return words.response(about, running, words.output_of(about, said, "in_progress") if some else [])
    if not words.ended_well(ending):
        return words.cut_off(about, ending, words.output_of(about, said, "incomplete"))
    return words.final(about, ending, words.output_of(about, said, words.status_of(ending)))


def _gathered(source: Source) -> dict[str, Any]:
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
