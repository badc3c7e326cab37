"""Logs: structlog to standard error, JSON for machines, readable lines on a terminal.

Law: writing a log line never waits. Lines go through a bounded queue to a thread of their own, which also renders and
redacts them and writes those of one moment together; when the queue is full a line is dropped and counted. Secrets
never leave: known fields and shapes are hidden. Lines that come with every stream go a road of their own (`lines`).
"""

from __future__ import annotations

import logging
import queue
import sys
import threading
from logging.handlers import QueueHandler
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor

from config.schema import Observe
from gateway.observe.lines import Line, as_json, short
from gateway.observe.redaction import redact

QUEUE = 10_000
_PATIENCE = 2.0  # seconds the last lines may take
_MOMENT = 0.02  # seconds in which lines gather to be written together: the writer is woken so often at most
_UNWRITTEN = logging.makeLogRecord({"msg": "log lines"})
_Queue = queue.SimpleQueue[logging.LogRecord | str | None]


class _NeverWaiting(QueueHandler):
    """Puts records as they are (the listener's thread renders them) and counts what does not fit."""

    def __init__(self, lines: _Queue, size: int, *, json: bool) -> None:
        super().__init__(lines)
        self.dropped = 0
        self._lines, self._size, self._json = lines, size, json

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        if self._json and isinstance(record, Line):
            record.render()
        return record

    def enqueue(self, record: logging.LogRecord | str) -> None:
        """A record, or a line that is rendered."""
        if self._lines.qsize() < self._size:
            self._lines.put(record)
        else:
            self.dropped += 1


class _Listener:
    """The thread that writes."""

    def __init__(self, lines: _Queue, sink: logging.StreamHandler[TextIO]) -> None:
        self._lines, self._sink = lines, sink
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def stop_within(self, seconds: float) -> bool:
        """Whether all was written, and the thread has ended."""
        self._lines.put(None)
        self._hurry.set()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        going = True
        while going:
            records = [self._lines.get()]
            self._hurry.wait(_MOMENT)
            records += [self._lines.get() for _ in range(self._lines.qsize())]
            going = None not in records
            told = [record for record in records if record is not None]
            if told:
                self._write(told)

    def _write(self, records: list[logging.LogRecord | str]) -> None:
        """What cannot be rendered or written is reported as `logging` does, and is the loss of no other line."""
        texts, sink = [], self._sink
        for record in records:
            if isinstance(record, str):
                texts.append(record + sink.terminator)
                continue
            try:
                texts.append(sink.format(record) + sink.terminator)
            except Exception:
                sink.handleError(record)
        try:
            sink.stream.write("".join(texts))
            sink.flush()
        except Exception:
            sink.handleError(_UNWRITTEN)


class Logs:
    """The logs of this process, from construction to `close`. One at a time: structlog's set-up is the process's."""

    def __init__(self, observe: Observe, stream: TextIO | None = None, size: int = QUEUE) -> None:
        out = stream or sys.stderr
        lines: _Queue = queue.SimpleQueue()
        console = observe.log_format == "console" or (observe.log_format == "auto" and out.isatty())
        self._handler = _NeverWaiting(lines, size, json=not console)
        sink = logging.StreamHandler(out)
        sink.setFormatter(_Formatter(_renderer(out) if console else _as_json))
        self._root, self._own = logging.getLogger(), logging.getLogger("headgate")
        self._root.addHandler(self._handler)
        self._before = self._root.level, self._own.level
        # Libraries speak up from warning on; debug is for our own lines.
        self._root.setLevel(max(logging.WARNING, _level(observe)))
        self._own.setLevel(_level(observe))
        _configure()
        self._listener = _Listener(lines, sink)
        short.put = None if console else self._handler.enqueue
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
        short.put = None
        self._root.removeHandler(self._handler)
        self._root.setLevel(self._before[0])
        self._own.setLevel(self._before[1])
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


def _as_json(_logger: Any, _method: str, event: EventDict) -> str:
    return as_json(event)


def _renderer(out: TextIO) -> Processor:
    plain = structlog.dev.plain_traceback
    return structlog.dev.ConsoleRenderer(colors=out.isatty(), exception_formatter=plain)


class _Formatter(structlog.stdlib.ProcessorFormatter):
    """Of structlog's records, of the libraries' own, and of lines, rendered or not."""

    def __init__(self, renderer: Processor) -> None:
        steps: list[Processor] = [
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            redact,
            renderer,
        ]
        super().__init__(foreign_pre_chain=_shared(), processors=steps)
        self._renderer = renderer

    def format(self, record: logging.LogRecord) -> str:
        if not isinstance(record, Line):
            return super().format(record)
        return record.text or str(self._renderer(None, record.levelname.lower(), redact(None, "", dict(record.fields))))
