"""What a Responses request goes on from, and what a later one may go on from.

Law: nobody goes on from half an answer, or from turns of which the beginning is not known: then the request is asked as
it is, and refused where no backend can know more.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from backends.contract.fit import STORED
from gateway.edge.response_names import told
from gateway.edge.responses_api import gathered, inputs_of, named, of_source
from gateway.edge.services import Services
from gateway.protocols import openai_responses_object as words
from gateway.protocols.base import Asked
from gateway.protocols.openai_responses_inputs import Item, items_of
from gateway.protocols.openai_responses_items import DIALECT, Turns
from gateway.protocols.parsing import Fields
from gateway.streams.archive import Gone
from gateway.streams.sources import Source
from gateway.streams.stream import State

_encode = msgspec.json.Encoder().encode


async def continued(services: Services, asked: Asked, owner: str) -> Asked:
    """A request as those it may be put to need it: where it goes on from a response of ours, backends with this API are
    told the id their like gave that one (clients of the background know ours alone), and others all its turns."""
    if asked.request.dialect != DIALECT:
        return asked
    given = asked.body.get("previous_response_id")
    given = given if isinstance(given, str) else ""
    source = await _earlier(services, given, owner) if given else None
    before: list[Item] = []
    if source is not None:
        before = _before(source)
        asked = _told_again(asked, before)
        if source.driver.dialect == DIALECT and source.identity.id in words.stream_ids(given):
            asked = replace(asked, body={**asked.body, "previous_response_id": gathered(source)["id"]})
    return replace(asked, turns=_turns(asked, before))


async def _earlier(services: Services, given: str, owner: str) -> Source | None:
    """The stream of a response id: of ours, or of the one its backend gave it."""
    for stream_id in words.stream_ids(given):
        source = await services.sources.find(stream_id, owner)
        if source is not None and not isinstance(source, Gone):
            break
    else:
        source = services.sources.matching(owner, named(given))
        if source is None and (abroad := await told(services, given, owner)):
            found = await services.sources.find(abroad, owner)
            source = None if isinstance(found, Gone) else found
    return None if source is None or await services.sources.forgotten(source.identity.id, owner) else source


def _before(source: Source) -> list[Item]:
    """All that was said up to the end of a response; empty where that is not known, or it did not complete."""
    if source.state is not State.COMPLETED or not source.turns or source.transcript.base:
        return []
    return [*inputs_of(source), *of_source(source)["output"]]


def _told_again(asked: Asked, before: list[Item]) -> Asked:
    """The request with all that was said before it, read as if its client had sent it; as it is where that is not known
    here."""
    if not before:
        return asked
    request = asked.request
    own = 1 if asked.body.get("instructions") else 0  # those of earlier requests do not count
    said = Turns().read(Fields({"input": before}))
    messages = (*request.messages[:own], *said, *request.messages[own:])
    extra = {name: value for name, value in request.extra.items() if name != "previous_response_id"}
    return replace(asked, request=replace(request, messages=messages, extra=extra))


def _turns(asked: Asked, before: list[Item]) -> bytes:
    """What a later request may go on from; nothing where the client does not want it stored, or not all is known."""
    if asked.body.get("store") is False or STORED & asked.request.extra.keys():
        return b""
    return _encode([*before, *items_of(asked.body.get("input"))])
