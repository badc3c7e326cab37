"""The ids backends give their Responses, told to the fleet: where a backend's own frames are passed on, its id is the
one a client comes back with, to whichever node.

Law: an id leads only its owner to a stream, and for as long as streams can be read again.
"""

from __future__ import annotations

import msgspec

from gateway.edge.services import Services
from gateway.protocols.base import ClientProtocol
from gateway.protocols.openai_responses_items import DIALECT
from gateway.registry.base import Keyed
from gateway.streams.producer import Producer

_PROTOCOL = "openai_responses"


class _Response(msgspec.Struct):
    id: str = ""


class _Created(msgspec.Struct):
    response: _Response


_created = msgspec.json.Decoder(_Created)


def tell(services: Services, protocol: ClientProtocol, producer: Producer) -> None:
    """Once its first frame is there; again without harm."""
    if protocol.name != _PROTOCOL or producer.driver.dialect != DIALECT:
        return
    kept = producer.transcript
    first = kept.since(kept.base, 1)
    name = _name_in(first[0]) if first else ""
    if name:
        who = producer.stream.identity
        services.registry.keep_key(who.owner, _key(name), Keyed("", ""), who.id)


async def told(services: Services, given: str, owner: str) -> str:
    """The stream whose backend called its answer so, on whichever node; "" where nobody knows."""
    found = await services.registry.kept_key(owner, _key(given))
    return "" if found is None else found.stream_id


def _key(name: str) -> str:
    """Beside the keys of clients: no header holds this character."""
    return f"\0response\0{name}"


def _name_in(frame: bytes) -> str:
    for line in frame.splitlines():
        if line.startswith(b"data:"):
            try:
                return _created.decode(line[5:]).response.id
            except msgspec.MsgspecError:
                return ""
    return ""
