"""Halves of surrogate pairs in what backends say, and events that end with the body."""

from __future__ import annotations

import json

import pytest

from backends import catalog
from backends.contract.events import Failed, TextDelta
from backends.contract.framing import Framer, NdjsonFramer, SseFramer
from config.schema import Backend

_HALF = r"a\ud83d"  # as JavaScript cuts a text in the middle of an emoji
_SAID = {
    "openai": {"choices": [{"index": 0, "delta": {"content": "@"}}]},
    "vllm": {"choices": [{"index": 0, "delta": {"content": "@"}}]},
    "anthropic": {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "@"}},
    "google": {"candidates": [{"content": {"parts": [{"text": "@"}]}, "index": 0}]},
    "ollama": {"message": {"role": "assistant", "content": "@"}, "done": False},
}


def block(kind: str, text: str) -> bytes:
    said = json.dumps(_SAID[kind]).replace("@", text).encode()
    return said + b"\n" if kind == "ollama" else b"data: " + said + b"\n\n"


@pytest.mark.parametrize("kind", sorted(_SAID))
def test_half_a_surrogate_pair_costs_a_character_and_not_the_answer(kind: str) -> None:
    """One emoji that a server cut in two would end the stream of a client as a failure of the backend."""
    driver = catalog.build("b", Backend(driver=kind, url="http://127.0.0.1:1"))
    decoder, tap = driver.decoder(), driver.tap()
    events = []
    for text in ("so", _HALF, r"\ude00b", r"\ud83d\ude00", r"\\ud83d"):
        tap.feed(block(kind, text))
        events += decoder.feed(block(kind, text))
    assert not any(isinstance(event, Failed) for event in events)
    assert [e.text for e in events if isinstance(e, TextDelta)] == ["so", "a\ufffd", "\ufffdb", "😀", r"\ud83d"]
    assert tap.failure is None
    assert tap.tokens == 5


@pytest.mark.parametrize(
    ("framer", "body", "last"),
    [
        (SseFramer(99), b"data: a\r\rdata: b\r\r", b"data: b\r\r"),
        (SseFramer(99), b"data: a\n\ndata: b\n\r", b"data: b\n\r"),
        (SseFramer(99), b"data: a\r\rdata: b\r", b""),
        (SseFramer(99), b"data: a\n\ndata: b\n", b""),
        (NdjsonFramer(99), b"a\nb", b"b\n"),
        (NdjsonFramer(99), b"a\n \r", b""),
    ],
)
def test_the_end_of_the_body_completes_what_only_waited_for_it(framer: Framer, body: bytes, last: bytes) -> None:
    """A stream whose lines end with CR would lose its last event, the one that says it is complete."""
    for at in range(len(body)):
        framer.feed(body[at : at + 1])
    frames = framer.frames
    assert framer.last() == last
    assert framer.frames == frames + bool(last)
