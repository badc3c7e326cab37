"""gateway.yaml to a Config, or to every complaint about it at once. Reads files; decides nothing else.

Law: what is returned is whole and checked, or it is not returned; the caller keeps the last good one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from config.checks import findings, notices
from config.complaints import Complaint, ConfigError
from config.findings import DriverFactory, Finding, Material
from config.reader import BAD, Reader
from config.schema import Backend, Config, Route, Target
from config.yaml_source import MAX_BYTES, Mapped, Node, parse

__all__ = ["Complaint", "ConfigError", "DriverFactory", "Loaded", "demo_config", "load", "load_file", "load_text"]


class Loaded(Struct, frozen=True):
    """The outcome of a reading: `config` is None exactly when there are complaints."""

    config: Config | None
    complaints: tuple[Complaint, ...]
    notices: tuple[Complaint, ...]


def load(
    path: str | Path, *, env: Mapping[str, str] | None = None, drivers: Mapping[str, DriverFactory] | None = None
) -> Config:
    """The configuration of a file; `env` is the process's own unless given. Raises ConfigError with every complaint."""
    loaded = load_file(path, env=env, drivers=drivers)
    if loaded.config is None:
        raise ConfigError(loaded.complaints)
    return loaded.config


def load_file(
    path: str | Path, *, env: Mapping[str, str] | None = None, drivers: Mapping[str, DriverFactory] | None = None
) -> Loaded:
    """As `load_text`, of a file. A file that cannot be read is a complaint too; nothing is raised."""
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_BYTES + 1)
        text = raw.decode("utf-8-sig")
    except OSError as problem:
        return _refused(str(path), f"cannot be read: {problem.strerror or problem}")
    except UnicodeDecodeError as problem:
        if len(raw) <= MAX_BYTES:
            return _refused(str(path), f"is not UTF-8 text (byte {problem.start})")
        text = raw.decode("utf-8", "replace")
    return load_text(text, str(path), os.environ if env is None else env, drivers=drivers)


def load_text(
    text: str, name: str, env: Mapping[str, str], *, drivers: Mapping[str, DriverFactory] | None = None
) -> Loaded:
    """Read YAML; `name` stands for the file in complaints. An empty text is the default configuration.

    `drivers`: the known drivers; each backend is tried with its own, whose ValueError becomes a complaint at
    `backends.<name>`. None: driver names are not checked. Raises nothing.
    """
    reading = _Reading(name)
    node = parse(text, env, reading.complain)
    config = reading.tree(Mapped(1, {}) if node is None and not reading.complaints else node, drivers)
    complaints = tuple(sorted(reading.complaints, key=lambda c: c.line))
    return Loaded(None if complaints else config, complaints, tuple(reading.notices))


def demo_config() -> Config:
    """What runs without a file: the demo backend for every model, on loopback."""
    return Config(backends={"demo": Backend(driver="demo")}, routes=(Route(model="*", to=(Target("demo"),)),))


class _Reading:
    """One reading of one file: gathers complaints and knows the lines of what was read."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.complaints: list[Complaint] = []
        self.notices: list[Complaint] = []
        self._reader = Reader(self.complain)

    def complain(self, line: int, path: str, message: str, suggestion: str) -> None:
        complaint = Complaint(self._name, line, path, message, suggestion)
        if complaint not in self.complaints:  # an alias shows the same line twice
            self.complaints.append(complaint)

    def tree(self, node: Node | None, drivers: Mapping[str, DriverFactory] | None) -> Config | None:
        """The tree, checked as far as it could be read; None when the root is no mapping."""
        config = BAD if node is None else self._reader.struct(Config, node, "")
        if not isinstance(node, Mapped) or not isinstance(config, Config):
            return None
        blank, given = self._reader.blank.__contains__, node.entries.__contains__
        seen = Material(config, _named_backends(node), self._touched, drivers, blank, given)
        for finding in list(findings(seen)):
            if not self._touched(finding.path) and not self._unread(finding.path):
                self.complain(self._line(finding.path), *finding)
        self.notices = [self._notice(finding) for finding in notices(seen)]
        return replace(config, keys=tuple(k for i, k in enumerate(config.keys) if not blank(f"keys[{i}].hash")))

    def _notice(self, finding: Finding) -> Complaint:
        return Complaint(self._name, self._line(finding.path), *finding)

    def _touched(self, path: str) -> bool:
        return any(c.path == path or c.path.startswith((path + ".", path + "[")) for c in self.complaints)

    def _unread(self, path: str) -> bool:
        """Whether it is of something that could not be read, so that a stand-in was looked at."""
        return any(path == bad or path.startswith((bad + ".", bad + "[")) for bad in self._reader.unread)

    def _line(self, path: str) -> int:
        """The line of a path, or of the nearest one above it that the file has."""
        while path and path not in self._reader.lines:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self._reader.lines.get(path, 1)


def _named_backends(node: Node) -> frozenset[str]:
    entry = node.entries.get("backends") if isinstance(node, Mapped) else None
    return frozenset(entry.value.entries) if entry and isinstance(entry.value, Mapped) else frozenset()


def _refused(name: str, message: str) -> Loaded:
    return Loaded(None, (Complaint(name, 0, "", message),), ())
