"""What a check of gateway.yaml looks at, and what it may say. No logic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from config.schema import Backend, Config

# a driver's class: raises ValueError when the backend does not suit it
DriverFactory = Callable[[str, Backend], object]


class OptionError(ValueError):
    """An option that does not suit its driver. `where`: below `options`, as `.body.top_k[0]`; "": all of them. `name`
    and `known`: the option that does not exist, and those that do."""

    def __init__(self, backend: str, where: str, message: str, name: str = "", known: tuple[str, ...] = ()) -> None:
        super().__init__(f"backends.{backend}.options{where}: {message}")
        self.where, self.message, self.name, self.known = where, message, name, known


class Finding(NamedTuple):
    """One thing seen: where, what, what to do."""

    path: str
    message: str
    suggestion: str = ""


class Material(NamedTuple):
    """What the checks look at. `named`: the backends the file names, also those that could not be read."""

    config: Config
    named: frozenset[str]
    touched: Callable[[str], bool]  # was something at or below this path complained of already?
    drivers: Mapping[str, DriverFactory] | None
    blank: Callable[[str], bool]  # did the environment leave this empty, where the file allows it?
    given: Callable[[str], bool]  # was something set here in the file?
