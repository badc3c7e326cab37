"""One line per stream, at its end, and one per refusal: figures and names only.

Law: no message content, no query string, no key, no user id ever appears in these lines. Lines are plain values (pure);
`AccessLog` writes them.
"""

from __future__ import annotations

from typing import Any, Protocol

from gateway.streams.stream import Receipt

_MAX_TEXT = 200
# What a stream may not have.
_ABSENT = (
    "ended_by", "reason", "finish", "owner", "protocol", "model", "backend", "rate", "average_gap_ms", "max_gap_ms",
    "first_token_ms", "unread", "error", "degraded", "node",
)  # fmt: skip
_QUIET = frozenset({"completed", "cancelled", "client_gone"})


class Writer(Protocol):
    """What is needed of a logger (`lines.Lines`, or one of structlog's)."""

    def info(self, event: str, **fields: Any) -> Any:
        """Write at level info."""

    def warning(self, event: str, **fields: Any) -> Any:
        """Write at level warning."""


def stream_line(receipt: Receipt) -> dict[str, Any]:
    """The summary of one stream. Times in milliseconds, rate in tokens per second; absent figures are left out."""
    line = {
        "stream": receipt.stream_id,
        "state": receipt.state,
        "ended_by": receipt.ended_by,
        "reason": plain(receipt.reason),
        "finish": receipt.finish_reason,
        "owner": plain(receipt.owner),
        "protocol": receipt.protocol,
        "model": plain(receipt.model),
        "backend": receipt.backend,
        "tokens": receipt.token_count,
        "unread": receipt.unread_tokens or None,
        "prompt_tokens": receipt.prompt_tokens,
        "completion_tokens": receipt.completion_tokens,
        "usage_estimated": receipt.usage_estimated,
        "rate": receipt.tokens_per_second,
        "average_gap_ms": receipt.average_gap_ms,
        "max_gap_ms": receipt.max_gap_ms,
        "first_token_ms": receipt.first_token_ms,
        "duration_ms": receipt.duration_ms,
        "bytes_in": receipt.bytes_in,
        "attempts": receipt.attempts,
    }
    if receipt.tries:
        line["tries"] = ", ".join(f"{t.backend} {t.kind}: {t.outcome} after {t.tokens}" for t in receipt.tries)
    if receipt.last:
        line["answered_by"] = f"{receipt.last.backend} {receipt.last.kind}"
    line |= {"error": receipt.error_code, "degraded": receipt.degraded, "node": receipt.node}
    for name in _ABSENT:
        if line[name] is None or line[name] == "":
            del line[name]
    return line


def refusal_line(
    *, code: str, status: int, method: str, path: str, owner: str = "", request_id: str = ""
) -> dict[str, Any]:
    """A request that never became a stream. `path` may come with a query string: it is cut off."""
    line = {
        "code": code,
        "status": status,
        "method": plain(method),
        "path": plain(path.split("?", 1)[0]),
        "owner": plain(owner),
        "request_id": request_id,
    }
    return {name: value for name, value in line.items() if value != ""}


def plain(text: str) -> str:
    """Printable and at most 200 characters: what a client chose cannot forge a line."""
    text = text[:_MAX_TEXT]
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


class AccessLog:
    """Writes the lines to a logger; failures of backends and of the gateway at level warning."""

    def __init__(self, logger: Writer) -> None:
        self._logger = logger

    def finished(self, receipt: Receipt) -> None:
        """Write a stream's summary."""
        write = self._logger.info if receipt.state in _QUIET else self._logger.warning
        write("stream", **stream_line(receipt))

    def refused(self, *, code: str, status: int, method: str, path: str, owner: str = "", request_id: str = "") -> None:
        """Write a refusal."""
        line = refusal_line(code=code, status=status, method=method, path=path, owner=owner, request_id=request_id)
        self._logger.info("refused", **line)
