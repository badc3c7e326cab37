"""Which texts are looked through for secrets."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.observe.redaction import _SHAPES, redact, suspect


@settings(max_examples=200, deadline=None)
@given(st.from_regex(_SHAPES))
def test_every_shape_is_suspect(text: str) -> None:
    """Breaks when a secret reaches the log because the quick look at its text did not see it."""
    assert suspect(text)


@pytest.mark.parametrize("text", ["the client disconnected", "gpt-4o-mini", "vm-20643-b97f2a", "mock-model", "token"])
def test_ordinary_words_are_not(text: str) -> None:
    """Breaks when every line of a stream is searched, which takes longer than to write it."""
    assert not suspect(text)


def test_what_is_hidden_stays_hidden() -> None:
    """Breaks when the quick look changes what is starred."""
    event = redact(None, "", {"event": "x", "api_key": "k", "url": "http://u:pw@h/?a=1", "note": "baſic abcdef"})
    assert event == {"event": "x", "api_key": "***", "url": "http://u:***@h/?a=1", "note": "baſic ***"}
