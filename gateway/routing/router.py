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

from msgspec import Struct, field
from msgspec.structs import replace

from backends.contract.errors import BackendError, ErrorCode
from config.schema import Backend, Config, Match, Route, Target
from config.values import glob_matches
from gateway.routing.policies import PREFIX, Candidate, Ranked, State, Traits, rank

CHARS_PER_TOKEN = 4  # the usual rule of thumb for English text


class Asking(Struct, frozen=True):
    """What a route may match on, and a policy go by. `prompt`: its text, as far as it tells prompts apart; `chars`: the
    length of all of it; `headers` by lower-case name."""

    model: str = ""
    backend: str = ""
    key: str = ""
    owner: str = ""
    user: str = ""
    workspace: str = ""
    conversation: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    prompt: str = ""
    chars: int = 0
    max_tokens: int | None = None

    @property
    def tokens(self) -> int:
        """The prompt's size, estimated."""
        return -(-self.chars // CHARS_PER_TOKEN)


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


class Router:
    """The routes of one configuration. Its only state is the turn of `round_robin`."""

    def __init__(self, config: Config, seen: Callable[[], State], die: Callable[[], float] = random.random) -> None:
        self._routes = config.routes or _implied(config)
        self._backends: Mapping[str, Backend] = config.backends
        self._owners = {key.id: key.owner for key in config.keys}
        self._seen = seen
        self._die = die
        self._turns: dict[int, int] = {}

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
        for number, route in enumerate(self._routes):
            if mismatch(route, model, asking) == "":
                return self._ranked(number, route, model, asking)
        text = f"no route for model {model[:100]!r}" + self._hint(model)
        raise BackendError(ErrorCode.UNKNOWN_MODEL, text, param="model")

    def by_name(self, name: str, asking: Asking) -> Decision | None:
        """By the route of this model glob, whatever else it matches on: it was taken before, on another node. None:
        there is no such route, or the client named a backend."""
        routes = [] if asking.backend else [(n, r) for n, r in enumerate(self._routes) if r.model == name]
        model = asking.model or self._default_model()
        fitting = next(((n, r) for n, r in routes if mismatch(r, model, asking) == ""), None)
        number, route = fitting or (routes[0] if routes else (-1, None))
        return None if route is None else self._ranked(number, route, model, asking)

    def _ranked(self, number: int, route: Route, model: str, asking: Asking) -> Decision:
        candidates = tuple(self._candidate(target, model) for target in route.to)
        if len(candidates) == 1:
            return Decision(route, candidates, number, (Ranked(candidates[0], 0.0, "the only target"),))
        turn = self._turns.get(number, 0)
        if route.policy == "round_robin":
            self._turns[number] = turn + 1
        traits = Traits(turn, _sticky(route, asking), asking.prompt[:PREFIX], asking.tokens, asking.max_tokens)
        state = {} if route.policy in ("ordered", "weighted", "round_robin", "sticky") else self._seen()
        ranked = tuple(rank(route.policy, candidates, state, traits, self._die))
        return Decision(route, tuple(one.candidate for one in ranked), number, ranked)

    def _candidate(self, target: Target, model: str) -> Candidate:
        price = target.price or self._backends[target.backend].price
        return Candidate(target.backend, target.model or model, target.weight, price)

    def _named(self, model: str, asking: Asking) -> Decision:
        name = asking.backend
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
        return next((r.model for r in self._routes if not _is_glob(r.model)), "default")

    def _hint(self, model: str) -> str:
        close = difflib.get_close_matches(model, self.models(), 1)
        return f"; did you mean {close[0]!r}?" if close else ""

    def models(self) -> list[str]:
        """The model names that routes name outright (globs name none)."""
        return list(dict.fromkeys(g for r in self._routes for g in globs(r) if not _is_glob(g)))

    def open_backends(self) -> list[str]:
        """Backends whose own model names pass through a glob unrenamed."""
        found = (t.backend for r in self._routes if any(map(_is_glob, globs(r))) for t in r.to if not t.model)
        return list(dict.fromkeys(found))

    def glob_for(self, backend: str) -> list[str]:
        """The globs that lead to a backend under the client's own name."""
        routes = (r for r in self._routes for t in r.to if t.backend == backend and not t.model)
        return [g for r in routes for g in globs(r) if _is_glob(g)]


def globs(route: Route) -> tuple[str, ...]:
    """The model globs of a route: its own and its aliases."""
    return (route.model, *route.aliases)


def mismatch(route: Route, model: str, asking: Asking) -> str:
    """Why a route is not taken; "" when it is."""
    if not any(glob_matches(glob, model) for glob in globs(route)):
        return f"its model is {', '.join(globs(route))}"
    match = route.match
    return "" if match == _ANY else _unmatched(match, asking)


def _unmatched(match: Match, asking: Asking) -> str:
    for name in ("key", "owner", "user", "workspace"):
        wanted, said = getattr(match, name), getattr(asking, name)
        if wanted and not any(glob_matches(glob, said) for glob in wanted):
            return f"{name} is {said[:60]!r}, not {', '.join(wanted)}"
    for name, glob in match.header.items():
        header = asking.headers.get(name.lower())
        if header is None or not glob_matches(glob, header):
            return f"header {name} is {'missing' if header is None else repr(header[:60])}, not {glob}"
    if asking.tokens < match.min_prompt:
        return f"the prompt has about {asking.tokens} tokens, fewer than {match.min_prompt}"
    if match.max_prompt and asking.tokens > match.max_prompt:
        return f"the prompt has about {asking.tokens} tokens, more than {match.max_prompt}"
    return ""


def _sticky(route: Route, asking: Asking) -> str:
    """Whose place it is: the conversation's, or else the user's, or else the key's."""
    conversation = asking.conversation if route.sticky_by == "conversation" else ""
    return conversation or asking.user or asking.key


_ANY = Match()


def _is_glob(pattern: str) -> bool:
    return any(c in pattern for c in "*?[")


def _implied(config: Config) -> tuple[Route, ...]:
    """No routes: a single backend takes everything."""
    if len(config.backends) == 1:
        return (Route(model="*", to=(Target(next(iter(config.backends))),)),)
    return ()
