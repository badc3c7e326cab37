"""Lines that come with every stream and every refusal: rendered where they are made.

Law: they say the same, and hide the same, as on the common road through `logging`; they take it only where somebody
else listens there, or where they are for people's eyes.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import Any

import msgspec
from structlog.typing import EventDict

from gateway.observe.redaction import redact, suspect

_encode = msgspec.json.Encoder(enc_hook=str).encode
_LEVELS = {logging.INFO: "info", logging.WARNING: "warning"}
_ROOT = logging.getLogger()


def as_json(event: EventDict) -> str:
    """In one line. What has no JSON is told by its `str`; texts that are no UTF-8 are escaped."""
    try:
        return _encode(event).decode()
    except UnicodeEncodeError:
        return json.dumps(event, default=str)


class _Clock:
    """The time as lines say it; what is the same for a second is put together once a second."""

    def __init__(self) -> None:
        self._second, self._text = -1, ""

    def stamp(self, now: float) -> str:
        """Unix seconds as ISO 8601, in UTC, to the microsecond."""
        second = int(now)
        if second != self._second:
            self._second, self._text = second, time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
        return f"{self._text}{int((now - second) * 1e6):06d}Z"


_clock = _Clock()


def _whole(name: str, level: int, event: str, fields: EventDict, now: float) -> EventDict:
    stamp = _clock.stamp(now)
    return {**fields, "event": event, "level": _LEVELS[level], "logger": name, "timestamp": stamp}


def rendered(fields: EventDict) -> str:
    """As JSON. A single look tells of most lines that there is nothing to hide in them."""
    if suspect("\n".join([value for value in fields.values() if type(value) is str])):
        fields = redact(None, "", fields)
    return as_json(fields)


class Line(logging.LogRecord):
    """A line on the common road."""

    def __init__(self, name: str, level: int, event: str, fields: EventDict) -> None:
        super().__init__(name, level, "", 0, event, (), None)
        self.fields = _whole(name, level, event, fields, self.created)
        self.text = ""

    def render(self) -> None:
        """As JSON."""
        self.text = rendered(self.fields)


class Lines:
    """A logger for lines that are many: their fields' names are no secrets', and none tells of an exception."""

    def __init__(self, name: str = "headgate") -> None:
        self._name = name
        self._logger = logging.getLogger(name)

    def info(self, event: str, **fields: Any) -> None:
        """Write at level info."""
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Write at level warning."""
        self._write(logging.WARNING, event, fields)

    def _write(self, level: int, event: str, fields: EventDict) -> None:
        if not self._logger.isEnabledFor(level):
            return
        if short.put is None or len(_ROOT.handlers) > 1 or self._logger.handlers:
            self._logger.handle(Line(self._name, level, event, fields))
        else:
            short.put(rendered(_whole(self._name, level, event, fields, time.time())))


class Short:
    """The short road of this process. `put` takes a line that is rendered; None: there is none."""

    put: Callable[[str], None] | None = None


short = Short()
