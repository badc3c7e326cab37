"""What a candidate is asked: the leg of an attempt from the beginning, and who is to be asked before whom.

Law: a client's body goes on unchanged where the backend speaks its dialect; else the neutral request is fitted to its
main API, and to another of its own only where the main one would refuse it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from backends.base import Driver, HttpRequest
from backends.contract.errors import BackendError, ErrorCode
from backends.contract.fit import fit
from backends.contract.request import ChatRequest
from backends.transport import Transport
from config.schema import Route
from gateway.routing.policies import Candidate
from gateway.routing.resuming import Wanted
from gateway.routing.rewriting import rewrites, rewritten_body
from gateway.routing.upstreams import Upstreams
from gateway.streams.course import Leg


class Ask(Struct, frozen=True):
    """What is asked: the neutral request as the route made it, the client's own body, and what is done to every call
    that hands that body on. `tokens`: how many it will probably use."""

    wanted: Wanted
    body: dict[str, Any]
    hand_on: Callable[[HttpRequest], HttpRequest]
    tokens: int = 0


class World(Struct, frozen=True):
    """What courses of one configuration have in common."""

    upstreams: Upstreams
    drivers: Mapping[str, Driver]
    transports: Mapping[str, Transport]
    die: Callable[[], float] = random.random


def build_leg(candidate: Candidate, route: Route, ask: Ask, world: World) -> tuple[Leg, tuple[str, ...]]:
    """How a candidate is asked from the beginning, and what was dropped. Raises BackendError when it cannot be."""
    main = world.drivers[candidate.backend]
    upstream = world.upstreams.find(candidate.backend)
    lacking = upstream is not None and upstream.apis.get(ask.wanted.dialect) is False
    driver = None if lacking else main.speaking(ask.wanted.dialect)
    dropped: tuple[str, ...] = ()
    if driver is not None:
        body = rewritten_body(ask.body, route, driver.dialect, main.limit) if rewrites(route) else ask.body
        request = ask.hand_on(driver.forward(body, candidate.model))
    else:
        neutral = replace(ask.wanted.request, model=candidate.model)
        lacks = upstream.apis if upstream is not None else {}
        others = [sibling for sibling in main.beside() if lacks.get(sibling.dialect) is not False]
        driver, request, dropped = translated(neutral, candidate.backend, (main, *others))
    return Leg(candidate.backend, candidate.model, driver, request, world.transports[candidate.backend]), dropped


def translated(
    request: ChatRequest, backend: str, voices: Iterable[Driver]
) -> tuple[Driver, HttpRequest, tuple[str, ...]]:
    """The first of a backend's APIs that can be asked this, what it is asked, and what was dropped. Raises what the
    first one says, a BackendError, when none can."""
    refusal: BackendError | None = None
    for driver in voices:
        try:
            fitted, dropped = fit(request, driver.expresses, backend, driver.dialect)
            return driver, driver.prepare(fitted), dropped + driver.drops(fitted)
        except BackendError as error:
            refusal = refusal or error
    raise refusal or BackendError(ErrorCode.NO_UPSTREAM, f"backend {backend!r} has no API")


def beside(leg: Leg, world: World) -> bool:
    """Whether a leg uses an API beside the backend's main one: not every server of its kind has it."""
    main = world.drivers.get(leg.backend)
    return main is not None and leg.driver is not main and leg.driver.dialect != main.dialect


def without_api(error: BackendError) -> bool:
    """Whether an error says that the server has no such API: a path it does not know, not a model."""
    return error.upstream_status in (404, 405, 501) and error.code is not ErrorCode.UNKNOWN_MODEL


def preferred(candidates: Iterable[Candidate], upstreams: Upstreams) -> list[Candidate]:
    """In the policy's order, but whoever is full or asked to be spared after the others."""
    now, found = upstreams.clock(), list(candidates)
    if len(found) == 1:
        return found

    def last(candidate: Candidate) -> tuple[bool, bool]:
        upstream = upstreams[candidate.backend]
        return upstream.full, now < upstream.spared

    return sorted(found, key=last)
