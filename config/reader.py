"""Nodes to the typed tree: each struct of schema.py read field by field, each problem told and none of them final.

Law: one bad value costs one complaint; reading goes on with the default, so that all problems are told at once.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterable
from typing import Any, Final, Literal

from msgspec import NODEFAULT, Struct
from msgspec.structs import FieldInfo, fields

from config.complaints import did_you_mean, nearest
from config.scalars import PARSERS, parse_boolean
from config.schema import Route, Target
from config.stand_ins import stand_in
from config.yaml_source import Complain, Entry, Mapped, Node, Scalar, Sequence

BAD: Final = object()  # a value that could not be read; it has been complained of

_KIND = {Scalar: "a single value", Sequence: "a list", Mapped: "a mapping"}
_WRITTEN = {  # how what was wanted is written
    "a list": "write it in brackets: [a, b]",
    "a mapping": "write it in braces: {name: value}",
    "a mapping of settings": "write it in braces, {name: value}, or as indented lines",
    "a single value": "write one value, without brackets or braces",
}


class Reader:
    """Reads one file. For those who check afterwards: `lines` holds the line of every path read, `unread` the paths
    that hold a stand-in, `blank` those the environment left empty where the file allows it (`${NAME:-}`)."""

    def __init__(self, complain: Complain) -> None:
        self._complain = complain
        self.lines: dict[str, int] = {}
        self.unread: set[str] = set()
        self.blank: set[str] = set()
        self._optional = False  # may what is read now be left out?

    def struct(self, kind: type[Struct], node: Node, path: str) -> Any:
        """A struct, with stand-ins for required fields that are missing or unreadable; BAD when it is no mapping."""
        if not isinstance(node, Mapped):
            return self._wrong(node, path, "a mapping of settings")
        if kind is Route:
            node = _aliased(node)
        known = {info.encode_name: info for info in fields(kind)}
        self._unknown(node, known, path)
        values = {name: self._field(info, node, below(path, name)) for name, info in known.items()}
        for name in [name for name, value in values.items() if value is BAD]:
            self.unread.add(below(path, name))
            values[name] = stand_in(known[name].type)
        return kind(**{name: value for name, value in values.items() if value is not NODEFAULT})

    def _unknown(self, node: Mapped, known: Iterable[str], path: str) -> None:
        """Settings that do not exist. What there is, is listed once."""
        listed = False
        for name in [name for name in node.entries if name not in known]:
            hint = nearest(name, known) or ("" if listed else did_you_mean(name, known))
            listed = listed or hint.startswith("known")
            self._complain(node.entries[name].line, below(path, name), f"'{name}' is not a setting here", hint)

    def _field(self, info: FieldInfo, node: Mapped, path: str) -> Any:
        """The field's value; NODEFAULT when the struct's own default is to be used; BAD."""
        entry = node.entries.get(info.encode_name)
        if entry is None or _is_empty(entry.value, info.type):
            if info.required:
                self._complain(entry.line if entry else node.line, path, "is required", f"add {info.encode_name}: …")
                return BAD
            return NODEFAULT
        self.lines[path] = entry.line
        self._optional = not info.required
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
        if kind in PARSERS:
            return self._scalar(node, path, PARSERS[kind])
        return self.struct(kind, node, path)

    def _list(self, kind: Any, node: Node, path: str) -> Any:
        if kind is Target and not isinstance(node, Sequence):
            node = Sequence(node.line, (node,))  # `to: a` is short for `to: [a]`
        if (
            kind is str
            and isinstance(node, Scalar)
            and node.tag != "null"
            and path.rpartition(".")[0].endswith(".match")
        ):
            node = Sequence(node.line, (node,))  # `key: web` is short for `key: [web]`
        if not isinstance(node, Sequence):
            return self._wrong(node, path, "a list")
        read = self._target if kind is Target else lambda item, at: self.value(kind, item, at)
        values = [read(item, f"{path}[{i}]") for i, item in enumerate(node.items)]
        for i in [i for i, value in enumerate(values) if value is BAD]:
            self.unread.add(f"{path}[{i}]")  # and the others keep their places
            values[i] = stand_in(kind)
        return tuple(values)

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
        self._complain(node.line, path, f"{node.shown} is not one of {', '.join(choices)}", nearest(node.text, choices))
        return BAD

    def _scalar(self, node: Node, path: str, parse: Callable[[str], Any]) -> Any:
        if not isinstance(node, Scalar):
            return self._wrong(node, path, "a single value")
        if node.tag == "null":
            self._complain(node.line, path, "has no value", "give one, or remove the line")
            return BAD
        if not node.text and ":-}" in node.shown:
            self.blank.add(path)
        try:
            return parse(node.text)
        except (ValueError, OverflowError) as problem:
            # the parsers quote the text they were given; a value from the environment must not be shown
            message = str(problem).removesuffix(f", got {node.text!r}")
            hint = "put it right, or remove the line for the default" if self._optional else "put it right"
            self._complain(node.line, path, f"{message}, got {node.shown}", hint)
            return BAD

    def _untyped(self, node: Node, path: str) -> Any:
        """`options` of a backend: plain YAML, decoded by the driver."""
        self.lines[path] = node.line
        if isinstance(node, Mapped):
            return {name: self._untyped(entry.value, below(path, name)) for name, entry in node.entries.items()}
        if isinstance(node, Sequence):
            return [self._untyped(item, f"{path}[{i}]") for i, item in enumerate(node.items)]
        return _untyped_scalar(node)

    def _wrong(self, node: Node, path: str, wanted: str) -> Any:
        self._complain(node.line, path, f"expected {wanted}, found {_KIND[type(node)]}", _WRITTEN.get(wanted, ""))
        return BAD


def below(path: str, name: str) -> str:
    """The dotted path of a field."""
    return f"{path}.{name}" if path else name


def _aliased(route: Mapped) -> Mapped:
    """`model: [a, b]` as `model: a` and `aliases: [b]`."""
    model = route.entries.get("model")
    if model is None or not isinstance(model.value, Sequence) or not model.value.items or "aliases" in route.entries:
        return route
    first, rest = model.value.items[0], model.value.items[1:]
    others = Entry(model.line, Sequence(model.value.line, rest))
    return Mapped(route.line, {**route.entries, "model": Entry(model.line, first), "aliases": others})


def _untyped_scalar(node: Scalar) -> Any:
    if node.tag == "null":
        return None
    if node.tag == "bool":
        return parse_boolean(node.text)
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
