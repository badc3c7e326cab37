"""The short cut of the token path agrees with the long way."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from backends.contract.likeness import Likeness


def frame(delta: dict[str, object]) -> bytes:
    """One chunk as OpenAI writes it."""
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    return b"data: " + json.dumps({"id": "c", "choices": [choice]}, separators=(",", ":")).encode() + b"\n\n"


@given(st.text(max_size=30))
def test_like_means_exactly_one_piece_of_content(text: str) -> None:
    """A token would be counted that is none, or an error frame would pass for content."""
    likeness = Likeness()
    assert not likeness.same(frame({"content": "first"}))
    likeness.learn(frame({"content": "first"}))
    expected = bool(text) and '"' not in text
    assert likeness.same(frame({"content": text})) is expected


def test_anything_more_is_not_like_it() -> None:
    """Tool calls, reasoning or a second frame would be overlooked."""
    likeness = Likeness()
    likeness.learn(frame({"content": "first"}))
    assert not likeness.same(frame({"content": "a", "reasoning": "b"}))
    assert not likeness.same(frame({"content": "a"}) + frame({"content": "b"}))
    assert not likeness.same(b'data: {"error":{"message":"x"}}\n\n')
    assert not likeness.same(b"data: [DONE]\n\n")
