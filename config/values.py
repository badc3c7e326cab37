"""Values of gateway.yaml that are more than a string: durations, sizes, secrets, globs. Knows nobody."""

from __future__ import annotations

import fnmatch
import re

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|KB|KiB|MB|MiB|GB|GiB)?", re.IGNORECASE)
_BYTES = {"b": 1, "kb": 1000, "kib": 1024, "mb": 1000**2, "mib": 1024**2, "gb": 1000**3, "gib": 1024**3}


class Duration(float):
    """A length of time in seconds; written `250ms`, `30s`, `1m30s`, `5m`, `90d`, or a bare number of seconds."""

    @classmethod
    def parse(cls, text: str | int | float) -> Duration:
        """Raises ValueError with a sentence that says what is accepted."""
        if isinstance(text, bool):
            raise ValueError(f"expected a duration such as 30s, 5m or 250ms, got {text!r}")
        if isinstance(text, int | float):
            return cls._positive(float(text), text)
        rest = text.strip()
        parts = _DURATION.findall(rest)
        if parts and "".join(n + u for n, u in parts) == rest:
            return cls._positive(sum(float(n) * _SECONDS[u] for n, u in parts), text)
        try:
            return cls._positive(float(rest), text)
        except ValueError:
            raise ValueError(f"expected a duration such as 30s, 5m or 250ms, got {text!r}") from None

    @classmethod
    def _positive(cls, seconds: float, text: object) -> Duration:
        if not 0 <= seconds < 1e10:
            raise ValueError(f"expected a duration such as 30s, 5m or 250ms, got {text!r}")
        return cls(seconds)


class Size(int):
    """A number of bytes; written `8MiB`, `64KiB`, `1GB`, or a bare number of bytes."""

    @classmethod
    def parse(cls, text: str | int) -> Size:
        """Raises ValueError with a sentence that says what is accepted."""
        match = _SIZE.fullmatch(str(text).strip())
        if match is None or isinstance(text, bool):
            raise ValueError(f"expected a size such as 8MiB, 64KiB or 1048576, got {text!r}")
        return cls(float(match[1]) * _BYTES[(match[2] or "B").lower()])


class Secret:
    """A string that never shows itself: repr and str are `***`; `reveal()` is the one way to the text."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The secret itself: only for the header it is meant for."""
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__


def glob_matches(pattern: str, name: str) -> bool:
    """Whether a model name fits a glob of `routes` or `keys` (`*`, `?`, `[...]`; case matters)."""
    return pattern in ("*", name) or fnmatch.fnmatchcase(name, pattern)
