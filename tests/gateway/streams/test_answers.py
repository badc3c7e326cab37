"""Finished answers kept to be given again: under which name, for how long, and how many."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from backends import catalog
from backends.contract.request import ChatRequest, ImagePart, Message, TextPart
from config.schema import Backend, Target
from gateway.streams.answers import Answers, key_of
from gateway.streams.stream import Identity, State, Stream
from gateway.streams.transcript import Transcript

DRIVER = catalog.build("up", Backend("vllm", url="http://a"))
TO = (Target("up"),)
ASKED = ChatRequest("m", (Message("user", (TextPart("hi"), ImagePart("http://p"))),), extra={"b": 1, "a": [2]})
FRAMES = (b"data: 1\n\n", b"data: 2\n\n")


def test_the_same_request_has_the_same_name() -> None:
    """An answer would never be found again, though nothing of the question is another."""
    again = replace(ASKED, extra={"a": [2], "b": 1}, user="u2", metadata={"trace": "x"})
    assert key_of("o", TO, again) == key_of("o", TO, ASKED)


@pytest.mark.parametrize(
    "other",
    [{"model": "n"}, {"temperature": 0.0}, {"extra": {"a": [2], "b": 2}}, {"messages": ()}, {"dialect": "anthropic"}],
)
def test_another_request_has_another_name(other: dict[str, Any]) -> None:
    """The answer to one question would be given to another."""
    assert key_of("o", TO, replace(ASKED, **other)) != key_of("o", TO, ASKED)


def test_owners_and_routes_are_told_apart() -> None:
    """Two customers, or two models under one name, would share their answers; `o` and `ox` too."""
    names = {key_of("o", TO, ASKED), key_of("ox", TO, ASKED), key_of("o", (Target("up", "x"),), ASKED)}
    assert len(names) == 3


def test_answers_grow_too_old() -> None:
    """Yesterday's answer would be given where an hour is allowed."""
    answers = Answers(10_000)
    answers.keep("a", DRIVER, "m", FRAMES, 100.0)
    kept = answers.find("a", 60.0, 160.0)
    assert kept is not None
    assert (kept.driver, kept.model, kept.frames) == (DRIVER, "m", FRAMES)
    assert answers.find("a", 60.0, 160.1) is None
    assert answers.find("b", 60.0, 100.0) is None


def test_memory_is_bounded() -> None:
    """A worker would keep every answer it ever gave."""
    answers = Answers(10_000)
    for n in range(100):
        answers.keep(str(n), DRIVER, "m", (b"x" * 1000,), 0.0)
        assert answers.size <= 10_000
    assert [str(n) for n in range(100) if answers.find(str(n), 1.0, 0.0)] == [str(n) for n in range(92, 100)]
    answers.keep("large", DRIVER, "m", (b"x" * 3000,), 0.0)
    assert answers.find("large", 1.0, 0.0) is None
    assert len(answers) == 8


def test_the_newest_answer_counts() -> None:
    """What was said first would be given for ever, and its memory counted twice."""
    answers = Answers(10_000)
    answers.keep("a", DRIVER, "m", FRAMES, 0.0)
    size = answers.size
    answers.keep("a", DRIVER, "n", FRAMES, 1.0)
    kept = answers.find("a", 9.0, 1.0)
    assert kept is not None
    assert (kept.model, answers.size, len(answers)) == ("n", size, 1)


def stream_of(state: State, tokens: int = 2) -> Stream:
    who = Identity("st_a", "o", "openai", "m", "up", "llama", "n1", 0)
    stream = Stream(who, 0.0)
    if tokens:
        stream.progress(tokens, 1.0)
    stream.end(state, 2.0, by="backend", reason="")
    return stream


def transcript(cap: int = 1000, *, parts: int = 1) -> Transcript:
    made = Transcript(cap)
    for _ in range(parts):
        made.begin(DRIVER)
        for frame in FRAMES:
            made.append(frame)
    return made


def test_a_whole_answer_is_kept() -> None:
    """Nothing would ever be kept."""
    answers = Answers(10_000)
    answers.offer("a", stream_of(State.COMPLETED), transcript(), 0.0)
    kept = answers.find("a", 1.0, 0.0)
    assert kept is not None
    assert (kept.model, kept.frames) == ("llama", FRAMES)


def test_what_is_not_kept() -> None:
    """A broken, empty, trimmed or pieced answer, or one that was given again itself, would be given for a whole one."""
    answers, again = Answers(10_000), stream_of(State.COMPLETED)
    again.degraded = "cached"
    answers.offer("", stream_of(State.COMPLETED), transcript(), 0.0)
    answers.offer("a", stream_of(State.TIMED_OUT), transcript(), 0.0)
    answers.offer("a", stream_of(State.COMPLETED, tokens=0), transcript(), 0.0)
    answers.offer("a", stream_of(State.COMPLETED), transcript(10), 0.0)
    answers.offer("a", stream_of(State.COMPLETED), transcript(parts=2), 0.0)
    answers.offer("a", again, transcript(), 0.0)
    assert len(answers) == 0
