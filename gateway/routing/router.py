"""Which backends a stream may be sent to, and in which order. Pure: what is known of backends is an argument, and so is
the die.

The first route whose glob and `match` fit decides; its policy orders the targets. A backend named by the client (native
protocol) must be one that exists, and is then the only one.
"""

from __future__ import annotations

import difflib
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from backends.contract.errors import BackendError, ErrorCode
from config.schema import Backend, Config, Route, Target
from gateway.routing.matching import ANY, Asking, fits, globs, is_glob, mismatch, unmatched
from gateway.routing.policies import PREFIX, Candidate, Ranked, State, Traits, order, rank


class Choice(Struct, frozen=True):
    """Where a stream goes: the backend, the model's name there, and the route that said so."""

    backend: str
    model: str
    route: Route


class Decision(Struct, frozen=True):
    """The route taken and its candidates, the best first. `number`: of the route in the file; -1: none was needed."""

    route: Route
    candidates: tuple[Candidate, ...]
    number: int = -1
    ranked: tuple[Ranked, ...] = ()


DEGRADES = ("cached", "message", "partial")  # what a route may give instead of an error
_NAMES = 512  # model names that are remembered; clients make them up
_LONGEST = 512  # characters of a name: it stays in statistics and records
_READING = frozenset({"prefix", "cheapest"})  # policies that look at the prompt
_BLIND = frozenset({"ordered", "weighted", "round_robin", "sticky"})  # policies that look at no backend
_Fitting = tuple[int, Route, tuple[Candidate, ...], Decision | None]  # the last: where it is always the same


class Router:
    """The routes of one configuration. Its only state is the turn of `round_robin`; it remembers which routes fit a
    name. `reads`: whether the prompt makes any difference."""

    def __init__(self, config: Config, seen: Callable[[], State], die: Callable[[], float] = random.random) -> None:
        self._routes = config.routes or _implied(config)
        self._backends: Mapping[str, Backend] = config.backends
        self._owners = {key.id: key.owner for key in config.keys}
        self._seen = seen
        self._die = die
        self._turns: dict[int, int] = {}
        self._fitting: dict[str, list[_Fitting]] = {}
        self.reads = any(route.policy in _READING or route.match != ANY for route in self._routes)

    def choose(self, model: str, backend: str = "") -> Choice:
        """The first candidate for a bare model name. Raises as `decide`."""
        decision = self.decide(Asking(model=model, backend=backend))
        first = decision.candidates[0]
        return Choice(first.backend, first.model, decision.route)

    def decide(self, asking: Asking) -> Decision:
        """Raises BackendError UNKNOWN_MODEL or INVALID_REQUEST with a suggestion."""
        model = asking.model or self._default_model()
        if asking.backend:
            return self._named(model, asking)
        for number, route, candidates, decision in self._fitting.get(model) or self._fit(model):
            if route.match == ANY or unmatched(route.match, asking) == "":
                return decision or self._ordered(number, route, asking, candidates)
        text = f"no route for model {model[:100]!r}" + self._hint(model)
        raise BackendError(ErrorCode.UNKNOWN_MODEL, text, param="model")

    def _fit(self, model: str) -> list[_Fitting]:
        """The routes of a model's name. Raises INVALID_REQUEST."""
        _check_name("model", model)
        found: list[_Fitting] = []
        for number, route in enumerate(self._routes):
            if fits(route, model):
                targets = self._targets(route, model)
                found.append((number, route, targets, Decision(route, targets, number) if len(targets) == 1 else None))
        if len(self._fitting) >= _NAMES:
            self._fitting.clear()
        self._fitting[model] = found
        return found

    def by_name(self, name: str, asking: Asking) -> Decision | None:
        """By the route of this model glob, whatever else it matches on: it was taken before, on another node. None:
        there is no such route, or the client named a backend."""
        routes = [] if asking.backend else [(n, r) for n, r in enumerate(self._routes) if r.model == name]
        model = asking.model or self._default_model()
        fitting = next(((n, r) for n, r in routes if mismatch(r, model, asking) == ""), None)
        number, route = fitting or (routes[0] if routes else (-1, None))
        return None if route is None else self._ranked(number, route, model, asking)

    def _ordered(self, number: int, route: Route, asking: Asking, candidates: tuple[Candidate, ...]) -> Decision:
        """The decision, without saying why."""
        traits, state = self._looked(number, route, asking)
        return Decision(route, order(route.policy, candidates, state, traits, self._die), number)

    def _ranked(self, number: int, route: Route, model: str, asking: Asking) -> Decision:
        candidates = self._targets(route, model)
        if len(candidates) == 1:
            return Decision(route, candidates, number, (Ranked(candidates[0], 0.0, "the only target"),))
        traits, state = self._looked(number, route, asking)
        ranked = tuple(rank(route.policy, candidates, state, traits, self._die))
        return Decision(route, tuple(one.candidate for one in ranked), number, ranked)

    def _looked(self, number: int, route: Route, asking: Asking) -> tuple[Traits, State]:
        """What the policy goes by; its turn is used up."""
        turn = self._turns.get(number, 0)
        if route.policy == "round_robin":
            self._turns[number] = turn + 1
        traits = Traits(turn, _sticky(route, asking), asking.prompt[:PREFIX], asking.tokens, asking.max_tokens)
        return traits, {} if route.policy in _BLIND else self._seen()

    def _targets(self, route: Route, model: str) -> tuple[Candidate, ...]:
        return tuple([self._candidate(target, model) for target in route.to])

    def _candidate(self, target: Target, model: str) -> Candidate:
        price = target.price or self._backends[target.backend].price
        return Candidate(target.backend, target.model or model, target.weight, price)

    def _named(self, model: str, asking: Asking) -> Decision:
        name = asking.backend
        _check_name("model", model)
        _check_name("backend", name)
        if name not in self._backends:
            close = difflib.get_close_matches(name, list(self._backends), 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise BackendError(ErrorCode.INVALID_REQUEST, f"no backend named {name[:100]!r}{hint}", param="backend")
        for number, route in enumerate(self._routes):
            for target in route.to:
                if target.backend == name and mismatch(route, model, asking) == "":
                    return Decision(route, (self._candidate(target, model),), number)
        return Decision(Route(model="*", to=(Target(name),)), (Candidate(name, asking.model or "default"),))

    def explain(self, asking: Asking) -> Iterator[dict[str, Any]]:
        """Every route down to the one that is taken, and why; the last one has the candidates with their scores. Turns
        are not used up. A key that is named speaks for its owner."""
        asking = replace(asking, owner=asking.owner or self._owners.get(asking.key, ""))
        model = asking.model or self._default_model()
        for number, route in enumerate(self._routes):
            why = mismatch(route, model, asking)
            said = {"route": number, "model": ", ".join(globs(route)), "policy": route.policy}
            if why:
                yield {**said, "taken": False, "why": why}
                continue
            turns = dict(self._turns)
            decision = self._ranked(number, route, model, asking)
            self._turns = turns
            shown = [
                {"backend": r.candidate.backend, "model": r.candidate.model, "score": r.score, "why": r.why}
                for r in decision.ranked
            ]
            said |= {"onFailure": route.on_failure, "degrade": [d for d in DEGRADES if getattr(route.degrade, d)]}
            yield {**said, "taken": True, "why": "fits", "candidates": shown}
            return

    def _default_model(self) -> str:
        """A request without a model takes the first route that names one outright."""
        return next((r.model for r in self._routes if not is_glob(r.model)), "default")

    def _hint(self, model: str) -> str:
        close = difflib.get_close_matches(model, self.models(), 1)
        return f"; did you mean {close[0]!r}?" if close else ""

    def models(self) -> list[str]:
        """The model names that routes name outright (globs name none)."""
        return list(dict.fromkeys(g for r in self._routes for g in globs(r) if not is_glob(g)))

    def open_backends(self) -> list[str]:
        """Backends whose own model names pass through a glob unrenamed."""
        found = (t.backend for r in self._routes if any(map(is_glob, globs(r))) for t in r.to if not t.model)
        return list(dict.fromkeys(found))

    def glob_for(self, backend: str) -> list[str]:
        """The globs that lead to a backend under the client's own name."""
        routes = (r for r in self._routes for t in r.to if t.backend == backend and not t.model)
        return [g for r in routes for g in globs(r) if is_glob(g)]


def _check_name(field: str, name: str) -> None:
    if len(name) > _LONGEST:
        raise BackendError(ErrorCode.INVALID_REQUEST, f"{field}: expected at most {_LONGEST} characters", param=field)


def _sticky(route: Route, asking: Asking) -> str:
    """Whose place it is: the conversation's, or else the user's, or else the key's."""
    conversation = asking.conversation if route.sticky_by == "conversation" else ""
    return conversation or asking.user or asking.key


def _implied(config: Config) -> tuple[Route, ...]:
    """No routes: a single backend takes everything."""
    if len(config.backends) == 1:
        return (Route(model="*", to=(Target(next(iter(config.backends))),)),)
    return ()
