"""What differs between two configurations, setting by setting. Pure.

Law: a secret, a key's hash and whatever looks like one in a driver's options is never shown. Keys are told apart by id,
routes and the rest by their place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from config.schema import Config, Key, Server
from config.values import Secret, Size

_SECRET_NAME = re.compile(r"(?i)key|token|secret|passw|credential|authorization")
_SECRET_NUMBER = re.compile(r"(?i)(^|[_-])(key|token|pin)$|secret|passw|credential|authorization")  # not: max_tokens
_PASSWORD = re.compile(r"(://[^/@:]*:)[^/@]*@")
ABSENT = "(none)"

# What is read once, when the gateway starts: a change there waits for the next start.
_LIVE = ("drain_timeout", "cors", "hosts")  # of `server`: asked for at each request
_AT_START = (
    *("admin", "registry", "store", "apps", "observe"),
    *(f"server.{name}" for name in Server.__struct_fields__ if name not in _LIVE),
    *("streams.replay_memory", "streams.answers_memory"),
)


class Change(Struct, frozen=True):
    """One setting: its path, and both values as text fit to be shown. `restart`: it waits for the next start."""

    path: str
    before: str
    after: str
    restart: bool = False

    def __str__(self) -> str:
        wait = " (needs a restart)" if self.restart else ""
        return f"{self.path}: {self.before} -> {self.after}{wait}"


def diff(old: Config, new: Config) -> list[Change]:
    """Every setting that differs, in the order of the file's sections."""
    return list(_walk("", old, new))


def effective(old: Config, new: Config) -> Config:
    """`new`, but for what waits for the next start: that is as in `old`."""
    before = old.streams
    return replace(
        new,
        **{name: getattr(old, name) for name in _AT_START if "." not in name},
        server=replace(old.server, **{name: getattr(new.server, name) for name in _LIVE}),
        streams=replace(new.streams, replay_memory=before.replay_memory, answers_memory=before.answers_memory),
    )


def shown(value: Any, name: str = "") -> Any:
    """A value of the tree as plain data, secrets hidden; `name` is its setting's."""
    if isinstance(value, Secret):
        return "***" if value else ""
    if isinstance(value, Struct):
        return {field: shown(getattr(value, field), field) for field in value.__struct_fields__}
    if isinstance(value, Mapping):
        own = name == "options"
        below = "options" if own else ""
        return {key: "***" if own and _hidden(key, v) else shown(v, below) for key, v in value.items()}
    if isinstance(value, tuple | list):
        return [shown(item) for item in value]
    if isinstance(value, str):
        return value[:15] + "..." if name == "hash" else _PASSWORD.sub(r"\1***@", value)
    if isinstance(value, float):
        return int(value) if value.is_integer() else float(value)  # a Duration, plainly
    return int(value) if isinstance(value, Size) else value


def _hidden(name: str, value: Any) -> bool:
    """Whether one of a driver's options looks like a secret."""
    if value is None or isinstance(value, bool):
        return False
    return bool((_SECRET_NUMBER if isinstance(value, int | float) else _SECRET_NAME).search(name))


def _walk(path: str, old: Any, new: Any) -> Iterator[Change]:
    if old == new:
        return
    if isinstance(old, Struct) and type(old) is type(new):
        for field in old.__struct_fields__:
            yield from _walk(_below(path, field), getattr(old, field), getattr(new, field))
    elif isinstance(old, Mapping) and isinstance(new, Mapping):
        yield from _pairs(path, old, new)
    elif isinstance(old, tuple) and isinstance(new, tuple) and _structs(old) and _structs(new):
        yield from _pairs(path, _named(old), _named(new), "[{}]")
    else:
        yield _change(path, old, new)


def _pairs(path: str, old: Mapping[Any, Any], new: Mapping[Any, Any], form: str = ".{}") -> Iterator[Change]:
    for name in dict.fromkeys((*old, *new)):
        below = path + form.format(name)
        if name in old and name in new:
            yield from _walk(below, old[name], new[name])
        else:
            yield _change(below, old.get(name, ABSENT), new.get(name, ABSENT))


def _structs(values: tuple[Any, ...]) -> bool:
    return all(isinstance(value, Struct) for value in values)


def _named(values: tuple[Any, ...]) -> dict[Any, Any]:
    return {value.id if isinstance(value, Key) else i: value for i, value in enumerate(values)}


def _change(path: str, old: Any, new: Any) -> Change:
    restart = any(path == start or path.startswith((start + ".", start + "[")) for start in _AT_START)
    before, after = _text(path, old), _text(path, new)
    if before == after:
        after += " (another)"  # both are hidden
    return Change(path, before, after, restart)


def _text(path: str, value: Any) -> str:
    name = path.rpartition(".")[2]
    own = ".options." in path
    if own and _hidden(name, value) and value != ABSENT:
        return "***"
    plain = shown(value, "options" if own else name)
    return plain if isinstance(plain, str) and plain else repr(plain)


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
