"""YAML text to a small tree of nodes with line numbers, ${ENV} filled in. Nothing in the text is ever executed.

Law: the work is bounded (size, depth, nodes after aliases) before a tree is built; a value from the environment fills
one scalar and can never add structure, because it is put in after parsing.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Callable, Mapping

import yaml
from msgspec import Struct

MAX_BYTES = 1024 * 1024
MAX_DEPTH = 32
MAX_NODES = 50_000
MAX_ALIASES = 200

_REFERENCE = re.compile(r"\$\$(?=\{)|\$\{(?:([A-Za-z_][A-Za-z0-9_]*)(:-([^}]*))?\})?")
_TAG = "tag:yaml.org,2002:"
_PLAIN_TAGS = frozenset(_TAG + name for name in ("str", "int", "float", "bool", "null", "timestamp", "value"))

# (line, path, message, suggestion)
Complain = Callable[[int, str, str, str], None]


class Scalar(Struct, frozen=True):
    """One value. `text` has the environment filled in; `shown` is what may be printed of it."""

    line: int
    text: str
    tag: str  # str, int, float, bool, null: how YAML reads it
    shown: str


class Sequence(Struct, frozen=True):
    """A list."""

    line: int
    items: tuple[Node, ...]


class Entry(Struct, frozen=True):
    """One `key: value` of a mapping; `line` is the key's."""

    line: int
    value: Node


class Mapped(Struct, frozen=True):
    """A mapping with string keys, in the file's order."""

    line: int
    entries: dict[str, Entry]


Node = Scalar | Sequence | Mapped


class TooMuch(Exception):
    """The text asks for more work than a configuration ever needs."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.message = message


def parse(text: str, env: Mapping[str, str], complain: Complain) -> Node | None:
    """The root node; None when the text is empty, or so broken that there is no tree (then `complain` was called)."""
    try:
        _bound(text)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        return None if root is None else _Converter(env, complain).convert(root, "", 0)
    except TooMuch as problem:
        complain(problem.line, "", problem.message, "")
    except yaml.MarkedYAMLError as problem:
        _complain_of_syntax(problem, text, complain)
    except yaml.reader.ReaderError as problem:
        line = text.count("\n", 0, problem.position) + 1
        complain(line, "", "a character that YAML does not allow", "save the file as plain UTF-8 text")
    except ValueError:
        complain(0, "", "not valid YAML", "")
    return None


def _bound(text: str) -> None:
    """Walk the events, which needs no recursion, so that a bomb is refused before anything is built from it."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise TooMuch(0, f"larger than {MAX_BYTES} bytes")
    depth = nodes = aliases = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 0
        nodes += isinstance(event, yaml.NodeEvent)
        aliases += isinstance(event, yaml.AliasEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise TooMuch(line, f"nested deeper than {MAX_DEPTH} levels")
        if nodes > MAX_NODES:
            raise TooMuch(line, f"more than {MAX_NODES} values")
        if aliases > MAX_ALIASES:
            raise TooMuch(line, f"more than {MAX_ALIASES} aliases")


def _complain_of_syntax(problem: yaml.MarkedYAMLError, text: str, complain: Complain) -> None:
    mark = problem.problem_mark or problem.context_mark
    line = mark.line + 1 if mark else 0
    row = text.splitlines()[line - 1] if mark and line <= len(text.splitlines()) else ""
    what = "; ".join(part for part in (problem.context, problem.problem) if part)
    tab = "\t" in row[: len(row) - len(row.lstrip())]
    quotes = 'inside { } a reference needs quotes: "${NAME}"' if "${" in row else ""
    complain(line, "", f"not valid YAML: {what}", "indent with spaces, not tabs" if tab else quotes)


def _plain_tag(text: str) -> str:
    """How YAML reads a plain scalar of this text."""
    resolver: typing.Any = yaml.resolver.Resolver()  # PyYAML's stubs leave `resolve` untyped
    tag = str(resolver.resolve(yaml.ScalarNode, text, (True, False)))
    return tag if tag in _PLAIN_TAGS else _TAG + "str"


class _Converter:
    """yaml's nodes to ours. Counts every visit, so that aliases cannot multiply without end."""

    def __init__(self, env: Mapping[str, str], complain: Complain) -> None:
        self._env = env
        self._complain = complain
        self._visits = 0

    def convert(self, node: yaml.Node, path: str, depth: int) -> Node:
        line = node.start_mark.line + 1
        self._visits += 1
        if self._visits > MAX_NODES or depth > MAX_DEPTH:
            raise TooMuch(line, "aliases that multiply into too many values")
        if isinstance(node, yaml.CollectionNode) and node.tag not in (_TAG + "map", _TAG + "seq"):
            self._refuse_tag(str(node.tag), line, path)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode):
            items = (self.convert(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(node.value))
            return Sequence(line, tuple(items))
        return self._scalar(typing.cast(yaml.ScalarNode, node), path)

    def _mapping(self, node: yaml.MappingNode, path: str, depth: int) -> Mapped:
        entries: dict[str, Entry] = {}
        merged: dict[str, Entry] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.tag == _TAG + "merge":
                merged = self._merge(value, path, depth) | merged
                continue
            if not isinstance(key, yaml.ScalarNode):
                self._complain(line, path, "a key must be a plain word", "")
                continue
            name = str(key.value)
            below = f"{path}.{name}" if path else name
            if name in entries:
                first = entries[name].line
                self._complain(line, below, f"'{name}' is given twice (first on line {first})", "remove one of them")
                continue
            entries[name] = Entry(line, self.convert(value, below, depth + 1))
        return Mapped(node.start_mark.line + 1, merged | entries)

    def _merge(self, value: yaml.Node, path: str, depth: int) -> dict[str, Entry]:
        """`<<: *other`: the other mapping's entries, for the keys this one does not set itself."""
        sources = value.value if isinstance(value, yaml.SequenceNode) else [value]
        entries: dict[str, Entry] = {}
        for source in sources:
            converted = self.convert(source, path, depth + 1)
            if isinstance(converted, Mapped):
                entries = converted.entries | entries
            else:
                self._complain(converted.line, path, "'<<' can only merge mappings", "")
        return entries

    def _scalar(self, node: yaml.ScalarNode, path: str) -> Scalar:
        line = node.start_mark.line + 1
        raw = str(node.value)
        tag = str(node.tag)
        if tag not in _PLAIN_TAGS:
            self._refuse_tag(tag, line, path)
            tag = _TAG + "str"
        text = self._fill(raw, line, path)
        if text != raw and node.style is None:
            tag = _plain_tag(text)
        return Scalar(line, text, tag.removeprefix(_TAG), repr(raw))

    def _refuse_tag(self, tag: str, line: int, path: str) -> None:
        self._complain(line, path, f"the tag {tag.replace(_TAG, '!!')} is not accepted", "write a plain value")

    def _fill(self, raw: str, line: int, path: str) -> str:
        """Put the environment in: `${NAME}`, `${NAME:-default}`; `$${` stands for `${` itself."""

        def one(match: re.Match[str]) -> str:
            if match[0] == "$$":
                return "$"
            if match[1] is None:
                self._complain(line, path, "'${' without a name and '}'", "write ${NAME}, ${NAME:-default}, or $${")
                return ""
            value = self._env.get(match[1])
            if match[2] is not None:
                return value or match[3]
            if not value:
                name = match[1]
                message = f"the environment variable {name} is {'not set' if value is None else 'empty'}"
                self._complain(line, path, message, f"set it, or give a default: ${{{name}:-…}}")
            return value or ""

        return _REFERENCE.sub(one, raw)
