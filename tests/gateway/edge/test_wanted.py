"""What an Accept header asks for (RFC 9110, section 12.5.1)."""

from __future__ import annotations

import pytest

from gateway.edge.wanted import accepted

_CASES = [
    ("text/event-stream", "sse"),
    ("Text/Event-Stream; charset=utf-8", "sse"),
    ("application/x-ndjson", "ndjson"),
    ("application/jsonl, */*;q=0.1", "ndjson"),
    ("text/event-stream, application/x-ndjson", "sse"),
    ("application/x-ndjson, text/event-stream", "sse"),
    ("application/x-ndjson, text/event-stream;q=0.5", "ndjson"),
    ("text/event-stream; Q=0.1 , application/x-ndjson; q=0.2", "ndjson"),
    ("application/json, text/event-stream", "sse"),
    ("application/json, text/event-stream;q=0.9", ""),
    ("text/event-stream;q=0", ""),
    ("text/event-stream;q=nan", ""),
    ("text/event-stream;q=x", ""),
    ("application/json", ""),
    ("*/*", ""),
    ("", ""),
]


@pytest.mark.parametrize(("accept", "kind"), _CASES)
def test_what_is_liked_best_is_given(accept: str, kind: str) -> None:
    """A client that reads lines would be sent events it takes for a broken line, because it named them too."""
    assert accepted(accept) == kind
