"""Which model names get a label of their own in the figures. Pure but for what it remembers, and that is bounded.

Law: a name that the configuration or a backend's list has always gets one. One that only fits a narrower glob than `*`
earns one of the free places by a stream that was completed; whatever else clients make up is `other`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from config.schema import Config
from config.values import glob_matches

OTHER = "other"
MAX_LENGTH = 100
_PLACES = 200


def clean(value: str) -> str:
    """A label's value: printable, at most 100 characters, not empty."""
    return "".join(c for c in value[:MAX_LENGTH] if c.isprintable()) or "unknown"


class Naming:
    """The labels of models under the configuration `config()`; `listed()`: the names backends gave when last asked."""

    def __init__(self, config: Callable[[], Config], listed: Callable[[], Collection[str]]) -> None:
        self._config, self._listed = config, listed
        self._of: Config | None = None
        self._names: frozenset[str] = frozenset()
        self._globs: tuple[str, ...] = ()
        self._earned: set[str] = set()

    def __call__(self, model: str, *, completed: bool) -> str:
        """The label of a model's name."""
        self._learn()
        if model in self._names or model in self._earned or model in self._listed():
            return clean(model)
        if completed and len(self._earned) < _PLACES and any(glob_matches(glob, model) for glob in self._globs):
            self._earned.add(model)
            return clean(model)
        return OTHER

    def _learn(self) -> None:
        config = self._config()
        if config is self._of:
            return
        patterns = [name for route in config.routes for name in (route.model, *route.aliases)]
        globs = [name for name in patterns if set(name) & set("*?[")]
        names = {target.model for route in config.routes for target in route.to}
        names |= {model for backend in config.backends.values() for model in backend.models}
        self._names = frozenset(names | set(patterns)) - {""} - set(globs) | {"default"}  # of who names none
        self._globs = tuple(glob for glob in globs if glob.strip("*"))
        self._of = config
