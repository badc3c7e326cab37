"""Logs: structlog to standard error, JSON for machines, readable lines on a terminal.

Law: writing a log line never waits. Lines go through a bounded queue to a thread of their own, which also renders and
redacts them; when the queue is full a line is dropped and counted. Secrets never leave: known fields and shapes
are hidden.
"""

from __future__ import annotations

import logging
import queue
import re
import sys
import threading
import time
from logging.handlers import QueueHandler, QueueListener
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor

from config.schema import Observe

QUEUE = 10_000
_PATIENCE = 2.0  # seconds the last lines may take
_FIELDS = re.compile(
    r"(?i)^(x[-_])?(goog[-_])?(proxy[-_])?"
    r"(authorization|api[-_]?key|token|secret|password|cookie|set[-_]cookie)$"
)
_SHAPES = re.compile(
    r"(?i)(\bbearer\s+|\bbasic\s+|[?&](?:key|token|api_key|access_token)=|://[^/\s:@]*:(?=[^/\s@]*@))[^\s&@\"']+"
    r"|\b(?:sk|pk|hg|gsk|xai)[-_][A-Za-z0-9_-]{12,}|\bAIza[\w-]{20,}"
)


def redact(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Hide fields that are secrets by name, and secrets inside any text by shape; make the event one line."""
    for name, value in event.items():
        if _FIELDS.match(name):
            event[name] = "***"
        elif isinstance(value, str):
            event[name] = _SHAPES.sub(_hide, value)
    text = event.get("event")
    if isinstance(text, str):
        event["event"] = "".join(c if c.isprintable() else " " for c in text)
    return event


def _hide(match: re.Match[str]) -> str:
    return (match[1] or "") + "***"


class _NeverWaiting(QueueHandler):
    """Puts records as they are (the listener's thread renders them) and counts what does not fit."""

    def __init__(self, lines: queue.Queue[logging.LogRecord]) -> None:
        super().__init__(lines)
        self.dropped = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1


class _Listener(QueueListener):
    """Its end mark waits for room: what is queued is written first."""

    def __init__(self, lines: queue.Queue[logging.LogRecord], sink: logging.Handler) -> None:
        super().__init__(lines, sink)
        self._room: queue.Queue[Any] = lines

    def stop_within(self, seconds: float) -> bool:
        """Whether all was written, and the thread has ended."""
        until = time.monotonic() + seconds
        try:
            self._room.put(None, timeout=seconds)
        except queue.Full:
            return False
        thread: threading.Thread | None = self._thread
        if thread is not None:
            thread.join(max(0.0, until - time.monotonic()))
        return thread is None or not thread.is_alive()


class Logs:
    """The logs of this process, from construction to `close`. One at a time: structlog's set-up is the process's."""

    def __init__(self, observe: Observe, stream: TextIO | None = None, size: int = QUEUE) -> None:
        out = stream or sys.stderr
        self._queue: queue.Queue[logging.LogRecord] = queue.Queue(size)
        self._handler = _NeverWaiting(self._queue)
        sink = logging.StreamHandler(out)
        sink.setFormatter(_formatter(observe.log_format, out))
        self._listener = _Listener(self._queue, sink)
        self._root = logging.getLogger()
        self._root.addHandler(self._handler)
        self._before = self._root.level
        # Libraries speak up from warning on; debug is for our own lines.
        self._root.setLevel(max(logging.WARNING, _level(observe)))
        logging.getLogger("headgate").setLevel(_level(observe))
        _configure()
        self._listener.start()
        self._open = True

    @property
    def dropped(self) -> int:
        """Lines dropped since the start because the writer was too slow."""
        return self._handler.dropped

    def close(self) -> bool:
        """Write what is queued and stop the thread; idempotent. False: whoever reads the lines has stopped reading, and
        the thread still waits for him (the interpreter would, too, at its end)."""
        if not self._open:
            return True
        self._open = False
        self._root.removeHandler(self._handler)
        self._root.setLevel(self._before)
        return self._listener.stop_within(_PATIENCE)


def get_logger(name: str = "headgate", **fields: Any) -> Any:
    """A logger named `headgate` or `headgate.<name>` with fields bound; usable before `Logs` exists."""
    full = name if name.startswith("headgate") else f"headgate.{name}"
    return structlog.stdlib.get_logger(full, **fields)


def _level(observe: Observe) -> int:
    return int(logging.getLevelNamesMapping()[observe.log_level.upper()])


def _caught(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Take hold of the exception here: the thread that renders has none of its own."""
    if event.get("exc_info") is True:
        event["exc_info"] = sys.exc_info()
    return event


def _shared() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


def _configure() -> None:
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_shared(),
            _caught,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def _formatter(log_format: str, out: TextIO) -> logging.Formatter:
    console = log_format == "console" or (log_format == "auto" and out.isatty())
    renderer: Processor = structlog.processors.JSONRenderer(default=str)
    if console:
        plain = structlog.dev.plain_traceback
        renderer = structlog.dev.ConsoleRenderer(colors=out.isatty(), exception_formatter=plain)
    steps: list[Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.format_exc_info,
        redact,
        renderer,
    ]
    return structlog.stdlib.ProcessorFormatter(foreign_pre_chain=_shared(), processors=steps)
