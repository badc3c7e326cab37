"""Secrets in log lines: hidden by a field's name, and in any text by their shape. Pure.

Law: hiding too much is no harm. A text is searched by `_SHAPES` only where `suspect` says so, and that must say so of
every text they could match.
"""

from __future__ import annotations

import re
from typing import Any

from structlog.typing import EventDict

_FIELDS = re.compile(
    r"(?i)^(x[-_])?(goog[-_])?(proxy[-_])?"
    r"(authorization|api[-_]?key|token|secret|password|cookie|set[-_]cookie)$"
)
_SHAPES = re.compile(
    r"(?i)(\bbearer\s+|\bbasic\s+|[?&](?:key|token|api_key|access_token)=|://[^/\s:@]*:(?=[^/\s@]*@))[^\s&@\"']+"
    r"|\b(?:sk|pk|hg|gsk|xai)[-_][A-Za-z0-9_-]{12,}|\bAIza[\w-]{20,}"
)
# Each shape holds one of these, case folded; looking for them first takes a fiftieth of the time.
_MARKS = ("bearer", "basic", "key=", "token=", "://", "aiza", *(a + b for a in ("sk", "pk", "hg", "xai") for b in "-_"))


def redact(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Hide fields that are secrets by name, and secrets inside any text by shape; make the event one line."""
    for name, value in event.items():
        if _FIELDS.match(name):
            event[name] = "***"
        elif isinstance(value, str) and suspect(value):
            event[name] = _SHAPES.sub(_hide, value)
    text = event.get("event")
    if isinstance(text, str):
        event["event"] = "".join(c if c.isprintable() else " " for c in text)
    return event


def suspect(text: str) -> bool:
    """Whether a text may hold a secret."""
    folded = text.lower() if text.isascii() else text.casefold()
    for mark in _MARKS:  # noqa: SIM110 - a generator costs more than the search
        if mark in folded:
            return True
    return False


def _hide(match: re.Match[str]) -> str:
    return (match[1] or "") + "***"
