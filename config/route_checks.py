"""What must hold for a route and the traffic rules of a backend. Pure; called by `config.checks`."""

from __future__ import annotations

from collections.abc import Iterator

from config.complaints import did_you_mean
from config.findings import Finding, Material
from config.parameters import PARAMETERS, wrong
from config.schema import Backend, Match, Route
from config.values import glob_matches


def routing(seen: Material) -> Iterator[Finding]:
    """Matches, parameters, prices and attempts of every route."""
    for i, route in enumerate(seen.config.routes):
        yield from _rules(f"routes[{i}]", route)
        yield from _parameters(f"routes[{i}]", route, seen)
        yield from _prices(f"routes[{i}]", route, seen)
        yield from _degrading(f"routes[{i}].degrade", route, seen)


def _rules(path: str, route: Route) -> Iterator[Finding]:
    match = route.match
    if not all(route.aliases):
        yield Finding(f"{path}.aliases", "one of them is empty", "name a model or a glob")
    if not 0 <= route.attempts <= 10:
        yield Finding(f"{path}.attempts", f"{route.attempts} is not a number of attempts", "from 1 to 10")
    if match.max_prompt and match.max_prompt < match.min_prompt:
        yield Finding(f"{path}.match.max_prompt", "is less than min_prompt: nothing would match")
    if min(match.min_prompt, match.max_prompt) < 0:
        yield Finding(f"{path}.match", "a prompt size must not be negative")
    if route.hedge is not None and len(route.to) < 2:
        yield Finding(f"{path}.hedge", "needs a second target", "add one to `to`, or remove the line")


def _parameters(path: str, route: Route, seen: Material) -> Iterator[Finding]:
    for field, said in (("defaults", route.defaults), ("force", route.force)):
        for name, value in said.items():
            at = f"{path}.{field}.{name}"
            if name not in PARAMETERS:
                yield Finding(at, "is not a parameter a route can set", did_you_mean(name, PARAMETERS))
            elif problem := wrong(name, value):
                yield Finding(at, problem)
            elif field == "force":
                yield from _expressed(at, name, route, seen)


def _expressed(at: str, name: str, route: Route, seen: Material) -> Iterator[Finding]:
    """A forced parameter that a backend has no word for would silently not be forced."""
    needed = PARAMETERS[name][1]
    for target in route.to:
        backend = seen.config.backends.get(target.backend)
        factory = (seen.drivers or {}).get(backend.driver) if backend and needed else None
        expressed = getattr(factory, "expresses", None)
        if backend and expressed is not None and needed not in {feature.name for feature in expressed}:
            message = f"backend '{target.backend}' (driver {backend.driver}) has no word for it"
            yield Finding(at, message, "remove it, or give that backend a route of its own")


def _degrading(path: str, route: Route, seen: Material) -> Iterator[Finding]:
    degrade = route.degrade
    if degrade.cached and not seen.config.streams.answers_memory:
        yield Finding(f"{path}.cached", "nothing is kept: streams.answers_memory is 0", "give it a size, or remove one")
    if degrade.message and not degrade.message.strip():
        yield Finding(f"{path}.message", "says nothing", "write a sentence, or remove the line")


def _prices(path: str, route: Route, seen: Material) -> Iterator[Finding]:
    if route.policy != "cheapest" or len(route.to) < 2:
        return
    for j, target in enumerate(route.to):
        backend = seen.config.backends.get(target.backend)
        if backend is not None and target.price is None and backend.price is None:
            hint = f"add price: {{input: 0, output: 0}} there or to backends.{target.backend}"
            yield Finding(f"{path}.to[{j}].price", "is needed by policy: cheapest", hint)


def hidden_routes(seen: Material) -> Iterator[Finding]:
    """Names of routes that an earlier route without conditions takes first."""
    earlier: list[tuple[int, str]] = []
    for i, route in enumerate(seen.config.routes):
        names = [name for name in (route.model, *route.aliases) if name]
        taken = {name: next((j for j, other in earlier if _covers(other, name)), None) for name in names}
        if names and None not in taken.values():
            first = taken[names[0]]
            yield Finding(f"routes[{i}]", f"is never reached: routes[{first}] takes its models", "move it up")
        if route.match == Match():
            earlier += [(i, name) for name in names]


def _covers(glob: str, name: str) -> bool:
    """Whether `glob` fits whatever `name`, itself perhaps a glob, fits; where in doubt: no."""
    return glob == name or (not set(glob) & set("?[") and glob_matches(glob, name))


def traffic(path: str, backend: Backend) -> Iterator[Finding]:
    """Queue, breaker and probe of one backend."""
    if backend.queue.size < 0:
        yield Finding(f"{path}.queue.size", "must not be negative", "0: nobody waits")
    if backend.queue.size and not backend.max_streams:
        yield Finding(f"{path}.queue", "is for a place under max_streams, which is not set", "add max_streams")
    if backend.breaker.failures < 0:
        yield Finding(f"{path}.breaker.failures", "must not be negative", "0: no breaker")
    if backend.breaker.successes < 1:
        yield Finding(f"{path}.breaker.successes", "must be at least 1")
    if not 0 < backend.breaker.pause <= backend.breaker.longest:
        yield Finding(f"{path}.breaker.pause", "must be longer than nothing and at most `longest`")
