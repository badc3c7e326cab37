"""The short cut of the token path agrees with the long way."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.contract.likeness import Likeness


def frame(delta: dict[str, object]) -> bytes:
    """One chunk as OpenAI writes it."""
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    return b"data: " + json.dumps({"id": "c", "choices": [choice]}, separators=(",", ":")).encode() + b"\n\n"


def learnt() -> Likeness:
    """One that knows what a chunk of content looks like."""
    likeness = Likeness()
    assert likeness.text(frame({"content": "first"})) is None
    likeness.learn(frame({"content": "first"}), "first")
    return likeness


@given(st.text(max_size=30))
def test_like_means_exactly_one_piece_of_content(text: str) -> None:
    """A token would be counted that is none, or text would come out other than it went in."""
    found = learnt().text(frame({"content": text}))
    assert found in (None, text)
    if text.isascii() and text.isalnum():
        assert found == text


@pytest.mark.parametrize(
    "other",
    [
        frame({"content": "a", "reasoning": "b"}),
        frame({"content": "a"}) + frame({"content": "b"}),
        frame({"content": 'say "x"'}),
        frame({"content": ""}),
        b'data: {"error":{"message":"x"}}\n\n',
        b"data: [DONE]\n\n",
        frame({"content": "X"}).replace(b"X", b"a\n\nb"),
        frame({"content": "X"}).replace(b"X", b"\xff"),
    ],
)
def test_anything_more_is_not_like_it(other: bytes) -> None:
    """Tool calls, a second frame, broken UTF-8 or forged line ends would be overlooked."""
    assert learnt().text(other) is None


@pytest.mark.parametrize(
    "block",
    [
        frame({"content": "c"}),  # "c" is also the id: which of the two is the text?
        frame({"role": "first"}),
        frame({"content": "first"}) * 2,
        b'data: {"content":"first"}\r\n\r\n',
    ],
)
def test_what_is_not_certain_is_not_learnt(block: bytes) -> None:
    """The wrong string of a chunk would be taken for its text from then on."""
    likeness = Likeness()
    likeness.learn(block, "c" if b"first" not in block else "first")
    assert likeness.text(block) is None


def test_a_line_of_ndjson_is_learnt_too() -> None:
    """Dialects without SSE would always take the long way."""
    likeness = Likeness()
    likeness.learn(b'{"message":{"content":"a"}}\n', "a")
    assert likeness.text(b'{"message":{"content":"bc"}}\n') == "bc"
