"""Which backend a model's stream goes to. Pure: load is an argument, and so is the die.

The first route whose glob fits decides. A backend named by the client (native protocol) must be one that exists.
"""

from __future__ import annotations

import difflib
import random
from collections.abc import Callable, Mapping

from msgspec import Struct

from backends.contract.errors import BackendError, ErrorCode
from config.schema import Config, Route, Target
from config.values import glob_matches


class Choice(Struct, frozen=True):
    """Where a stream goes: the backend, the model's name there, and the route that said so."""

    backend: str
    model: str
    route: Route


class Router:
    """The routes of one configuration. Its only state is the turn of `round_robin`."""

    def __init__(self, config: Config, busy: Callable[[str], int], die: Callable[[], float] = random.random) -> None:
        self._routes = config.routes or _implied(config)
        self._backends: Mapping[str, object] = config.backends
        self._busy = busy
        self._die = die
        self._turns: dict[int, int] = {}

    def choose(self, model: str, backend: str = "") -> Choice:
        """Raises BackendError UNKNOWN_MODEL or INVALID_REQUEST with a suggestion."""
        if backend:
            return self._named(model, backend)
        model = model or self._default_model()
        for number, route in enumerate(self._routes):
            if glob_matches(route.model, model):
                target = self._target(number, route)
                return Choice(target.backend, target.model or model, route)
        raise BackendError(
            ErrorCode.UNKNOWN_MODEL, f"no route for model {model[:100]!r}" + self._hint(model), param="model"
        )

    def _named(self, model: str, backend: str) -> Choice:
        if backend not in self._backends:
            close = difflib.get_close_matches(backend, list(self._backends), 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise BackendError(ErrorCode.INVALID_REQUEST, f"no backend named {backend[:100]!r}{hint}", param="backend")
        for route in self._routes:
            for target in route.to:
                if target.backend == backend and glob_matches(route.model, model or self._default_model()):
                    return Choice(backend, target.model or model or self._default_model(), route)
        return Choice(backend, model or "default", Route(model="*", to=(Target(backend),)))

    def _default_model(self) -> str:
        """A request without a model takes the first route that names one outright."""
        return next((r.model for r in self._routes if not _is_glob(r.model)), "default")

    def _hint(self, model: str) -> str:
        close = difflib.get_close_matches(model, [r.model for r in self._routes if not _is_glob(r.model)], 1)
        return f"; did you mean {close[0]!r}?" if close else ""

    def _target(self, number: int, route: Route) -> Target:
        if len(route.to) == 1 or route.policy == "ordered":
            return route.to[0]
        if route.policy == "round_robin":
            turn = self._turns.get(number, 0)
            self._turns[number] = turn + 1
            return route.to[turn % len(route.to)]
        if route.policy == "least_busy":
            return min(route.to, key=lambda t: self._busy(t.backend) / max(t.weight, 1))
        return self._weighted(route)

    def _weighted(self, route: Route) -> Target:
        mark = self._die() * sum(t.weight for t in route.to)
        for target in route.to:
            mark -= target.weight
            if mark < 0:
                return target
        return route.to[-1]

    def models(self) -> list[str]:
        """The model names that routes name outright (globs name none)."""
        return [r.model for r in self._routes if not _is_glob(r.model)]

    def open_backends(self) -> list[str]:
        """Backends whose own model names pass through a glob unrenamed."""
        return list(dict.fromkeys(t.backend for r in self._routes if _is_glob(r.model) for t in r.to if not t.model))

    def glob_for(self, backend: str) -> list[str]:
        """The globs that lead to a backend under the client's own name."""
        return [
            r.model for r in self._routes if _is_glob(r.model) for t in r.to if t.backend == backend and not t.model
        ]


def _is_glob(pattern: str) -> bool:
    return any(c in pattern for c in "*?[")


def _implied(config: Config) -> tuple[Route, ...]:
    """No routes: a single backend takes everything."""
    if len(config.backends) == 1:
        return (Route(model="*", to=(Target(next(iter(config.backends))),)),)
    return ()
