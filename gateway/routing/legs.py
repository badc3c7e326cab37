"""What a candidate is asked: the leg of an attempt from the beginning, and who is to be asked before whom.

Law: a client's body goes on unchanged where the backend speaks its dialect; else the neutral request is fitted to it.
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
from backends.transport import Transport
from config.schema import Route
from gateway.routing.policies import Candidate
from gateway.routing.resuming import Wanted
from gateway.routing.rewriting import rewrites, rewritten_body
from gateway.routing.upstream import Upstreams
from gateway.streams.course import Leg


class Ask(Struct, frozen=True):
    """What is asked: the neutral request as the route made it, the client's own body, and what is done to every call
    that hands that body on."""

    wanted: Wanted
    body: dict[str, Any]
    hand_on: Callable[[HttpRequest], HttpRequest]


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
        driver = main
        neutral = replace(ask.wanted.request, model=candidate.model)
        neutral, dropped = fit(neutral, driver.expresses, candidate.backend, driver.dialect)
        dropped += driver.drops(neutral)
        request = driver.prepare(neutral)
    return Leg(candidate.backend, candidate.model, driver, request, world.transports[candidate.backend]), dropped


def beside(leg: Leg, world: World) -> bool:
    """Whether a leg uses an API beside the backend's main one: not every server of its kind has it."""
    main = world.drivers.get(leg.backend)
    return main is not None and leg.driver is not main and leg.driver.dialect != main.dialect


def without_api(error: BackendError) -> bool:
    """Whether an error says that the server has no such API: a path it does not know, not a model."""
    return error.upstream_status in (404, 405, 501) and error.code is not ErrorCode.UNKNOWN_MODEL


def preferred(candidates: Iterable[Candidate], upstreams: Upstreams) -> list[Candidate]:
    """In the policy's order, but whoever is full or asked to be spared after the others."""
    now = upstreams.clock()

    def last(candidate: Candidate) -> tuple[bool, bool]:
        upstream = upstreams[candidate.backend]
        return upstream.full, now < upstream.spared

    return sorted(candidates, key=last)
