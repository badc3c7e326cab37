"""Nodes to the typed tree: each struct of schema.py read field by field, each problem told and none of them final.

Law: one bad value costs one complaint; reading goes on with the default, so that all problems are told at once.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Callable
from typing import Any, Final, Literal

from msgspec import NODEFAULT, Struct
from msgspec.structs import FieldInfo, fields

from config.complaints import did_you_mean
from config.schema import OnDisconnect, Target
from config.values import Duration, Secret, Size
from config.yaml_source import Complain, Entry, Mapped, Node, Scalar, Sequence

BAD: Final = object()  # a value that could not be read; it has been complained of

_INTEGER = re.compile(r"[-+]?\d{1,18}")
_BOOLS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_KIND = {Scalar: "a single value", Sequence: "a list", Mapped: "a mapping"}


class Reader:
    """Reads one file. `lines` holds the line of every path read, for those who check afterwards."""

    def __init__(self, complain: Complain) -> None:
        self._complain = complain
        self.lines: dict[str, int] = {}

    def struct(self, kind: type[Struct], node: Node, path: str) -> Any:
        """A struct, or BAD when a required field is missing or unreadable."""
        if not isinstance(node, Mapped):
            return self._wrong(node, path, "a mapping of settings")
        known = {info.encode_name: info for info in fields(kind)}
        for name, entry in node.entries.items():
            if name not in known:
                hint = did_you_mean(name, known)
                self._complain(entry.line, below(path, name), f"'{name}' is not a setting here", hint)
        values = {name: self._field(info, node, below(path, name)) for name, info in known.items()}
        if BAD in values.values():
            return BAD
        return kind(**{name: value for name, value in values.items() if value is not NODEFAULT})

    def _field(self, info: FieldInfo, node: Mapped, path: str) -> Any:
        """The field's value; NODEFAULT when the struct's own default is to be used; BAD."""
        entry = node.entries.get(info.encode_name)
        if entry is None or _is_empty(entry.value, info.type):
            if info.required:
                self._complain(entry.line if entry else node.line, path, "is required", "")
                return BAD
            return NODEFAULT
        self.lines[path] = entry.line
        value = self.value(info.type, entry.value, path)
        return NODEFAULT if value is BAD and not info.required else value

    def value(self, kind: Any, node: Node, path: str) -> Any:
        """A value of any type used in schema.py, or BAD."""
        self.lines.setdefault(path, node.line)
        origin = typing.get_origin(kind)
        if origin is types.UnionType:
            inner = next(part for part in typing.get_args(kind) if part is not types.NoneType)
            return None if isinstance(node, Scalar) and node.tag == "null" else self.value(inner, node, path)
        if kind is Any:
            return self._untyped(node, path)
        if origin is tuple:
            return self._list(typing.get_args(kind)[0], node, path)
        if origin is dict:
            return self._dict(typing.get_args(kind)[1], node, path)
        if origin is Literal:
            return self._choice(typing.get_args(kind), node, path)
        if kind is OnDisconnect:
            return self._scalar(node, path, parse_on_disconnect)
        if isinstance(kind, type) and issubclass(kind, Struct):
            return self.struct(kind, node, path)
        return self._scalar(node, path, _PARSERS[kind])

    def _list(self, kind: Any, node: Node, path: str) -> Any:
        if kind is Target and not isinstance(node, Sequence):
            target = self._target(node, path)
            return BAD if target is BAD else (target,)
        if not isinstance(node, Sequence):
            return self._wrong(node, path, "a list")
        read = self._target if kind is Target else lambda item, at: self.value(kind, item, at)
        values = [read(item, f"{path}[{i}]") for i, item in enumerate(node.items)]
        return tuple(value for value in values if value is not BAD)

    def _target(self, node: Node, path: str) -> Any:
        """A target of a route; a bare name is short for `{backend: name}`."""
        if isinstance(node, Scalar):
            node = Mapped(node.line, {"backend": Entry(node.line, node)})
        self.lines[path] = node.line
        return self.struct(Target, node, path)

    def _dict(self, kind: Any, node: Node, path: str) -> Any:
        if not isinstance(node, Mapped):
            return self._wrong(node, path, "a mapping")
        values: dict[str, Any] = {}
        for name, entry in node.entries.items():
            self.lines[below(path, name)] = entry.line
            value = self.value(kind, entry.value, below(path, name))
            if value is not BAD:
                values[name] = value
        return values

    def _choice(self, choices: tuple[str, ...], node: Node, path: str) -> Any:
        if isinstance(node, Scalar) and node.text in choices:
            return node.text
        if not isinstance(node, Scalar):
            return self._wrong(node, path, "one of " + ", ".join(choices))
        hint = did_you_mean(node.text, choices)
        self._complain(node.line, path, f"{node.shown} is not one of {', '.join(choices)}", hint)
        return BAD

    def _scalar(self, node: Node, path: str, parse: Callable[[str], Any]) -> Any:
        if not isinstance(node, Scalar):
            return self._wrong(node, path, "a single value")
        if node.tag == "null":
            self._complain(node.line, path, "has no value", "give one, or remove the line")
            return BAD
        try:
            return parse(node.text)
        except (ValueError, OverflowError) as problem:
            # the parsers quote the text they were given; a value from the environment must not be shown
            message = str(problem).removesuffix(f", got {node.text!r}")
            self._complain(node.line, path, f"{message}, got {node.shown}", "")
            return BAD

    def _untyped(self, node: Node, path: str) -> Any:
        """`options` of a backend: plain YAML, decoded by the driver."""
        if isinstance(node, Mapped):
            return {name: self._untyped(entry.value, below(path, name)) for name, entry in node.entries.items()}
        if isinstance(node, Sequence):
            return [self._untyped(item, f"{path}[{i}]") for i, item in enumerate(node.items)]
        return _untyped_scalar(node)

    def _wrong(self, node: Node, path: str, wanted: str) -> Any:
        self._complain(node.line, path, f"expected {wanted}, found {_KIND[type(node)]}", "")
        return BAD


def below(path: str, name: str) -> str:
    """The dotted path of a field."""
    return f"{path}.{name}" if path else name


def parse_on_disconnect(text: str) -> OnDisconnect:
    """`cancel`, `continue`, `grace 30s` (also `grace=30s`, as the header has it). Raises ValueError."""
    word, _, rest = text.strip().replace("=", " ", 1).partition(" ")
    if word == "grace" and rest:
        return OnDisconnect("grace", Duration.parse(rest.strip()))
    if word == "cancel" and not rest:
        return OnDisconnect("cancel")
    if word == "continue" and not rest:
        return OnDisconnect("continue")
    raise ValueError(f"expected cancel, continue or a grace such as 'grace 30s', got {text[:60]!r}")


def _integer(text: str) -> int:
    if not _INTEGER.fullmatch(text.strip()):
        raise ValueError(f"expected a whole number, got {text!r}")
    return int(text)


def _boolean(text: str) -> bool:
    if text.strip().lower() not in _BOOLS:
        raise ValueError(f"expected true or false, got {text!r}")
    return _BOOLS[text.strip().lower()]


def _untyped_scalar(node: Scalar) -> Any:
    if node.tag == "null":
        return None
    if node.tag == "bool":
        return _boolean(node.text)
    try:
        if node.tag == "int":
            return int(node.text.replace("_", ""), 0)
        return float(node.text.replace("_", "")) if node.tag == "float" else node.text
    except ValueError:
        return node.text  # 0o17, 1:30 and other numbers of old YAML are text here


def _is_empty(node: Node, kind: Any) -> bool:
    """`backends:` with every entry commented out means none, as if the line were not there."""
    container = typing.get_origin(kind) in (tuple, dict) or (isinstance(kind, type) and issubclass(kind, Struct))
    return container and isinstance(node, Scalar) and node.tag == "null"


_PARSERS: dict[Any, Callable[[str], Any]] = {
    str: str,
    int: _integer,
    bool: _boolean,
    Duration: Duration.parse,
    Size: Size.parse,
    Secret: Secret,
}
