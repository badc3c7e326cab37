"""How a worker leaves: no new streams, patience with those that run, the rest to other nodes or to an end.

Law: in this order. Who listens elsewhere comes before who ends: a stream that survives its node is handed over first,
and what is left ends with a last frame that its client gets to read.
"""

from __future__ import annotations

import asyncio

from backends.contract.errors import BackendError, ErrorCode
from gateway.edge.output import ClientOutput
from gateway.edge.server import PublicRunner
from gateway.edge.services import Services
from gateway.ports import close
from gateway.streams.stream import State

_LAST_WORDS = 0.4  # seconds for last frames, and for refusing who had connected before the listener was closed


async def drain(services: Services, public: PublicRunner, patience: float, hurry: asyncio.Event | None) -> int:
    """Wait up to `patience` s (or until `hurry`), then end the rest. Returns how many it ended."""
    services.draining = True
    public.closing()
    services.sharing.leaving()
    await _wait(services, patience, hurry)
    await close(public)  # who connects from now on is refused by the system, and a proxy asks another node
    await _sure(services)
    await _hand_over(services)
    ended = _end(services)
    await _last_words(services, public)
    return ended


async def _wait(services: Services, patience: float, hurry: asyncio.Event | None) -> None:
    deadline = services.loop.time() + patience
    while len(services.hub) and services.loop.time() < deadline and not (hurry and hurry.is_set()):  # noqa: ASYNC110 - three ends
        await asyncio.sleep(0.05)


async def _sure(services: Services) -> None:
    """A node that has just woken up must know whose streams it ends: it waits as they would."""
    known = asyncio.Event()
    if services.registry.holds(known.set):
        await known.wait()


async def _hand_over(services: Services) -> None:
    """Another node claims a stream as soon as this one's lease of it is given back."""
    services.sharing.heir(None)
    surviving = any(one.stream.identity.survives for one in services.hub)
    if surviving and await services.sharing.heirs():
        for producer in [one for one in services.hub if one.stream.identity.survives and one.heard]:
            who = producer.stream.identity
            services.hub.stop(who.id, who.owner, "gateway", "node_lost")


def _end(services: Services) -> int:
    rest = list(services.hub)
    error = BackendError(ErrorCode.SHED, "the gateway node is shutting down", retry_after=1)
    for producer in rest:
        producer.stop(State.SHED, by="gateway", reason="drain timeout", finish="error", error=error)
    return len(rest)


async def _last_words(services: Services, public: PublicRunner) -> None:
    deadline = services.loop.time() + _LAST_WORDS
    await asyncio.sleep(0)
    while public.busy and services.loop.time() < deadline:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.02)
    for output in [one for one in services.outputs if isinstance(one, ClientOutput)]:
        output.close(False)  # readers of other nodes' streams come back elsewhere
