"""What a stream used: counts, guesses, and the sum of several attempts."""

from __future__ import annotations

import pytest

from backends.base import Tap
from backends.contract.events import Usage
from gateway.streams.accounts import Spent, spent_with, usage_of
from gateway.streams.stream import Identity, State, Stream

WHO = Identity(
    id="st_a", owner="acme", protocol="native", model="fast", backend="demo", upstream_model="m", node="n", started_ms=1
)


class Counted(Tap):
    """A tap that has already counted."""

    def feed(self, block: bytes) -> None:
        self.chars += len(block)


def ended(state: State, tokens: int = 0) -> Stream:
    stream = Stream(WHO, 100.0)
    for count in range(1, tokens + 1):
        stream.progress(count, 100.0 + count)
    stream.end(state, 110.0, by="backend", reason="because")
    return stream


def test_a_count_of_the_beginning_is_no_bill() -> None:
    """Breaks when a cancelled answer of the Messages API, which begins with a count of one token, costs one token."""
    tap = Counted()
    tap.tokens, tap.usage = 500, Usage(prompt=50, completion=1, cached=7)
    usage, estimated = usage_of(ended(State.CANCELLED, 2), tap, 1)
    assert (usage.prompt, usage.completion, usage.cached, estimated) == (50, 500, 7, True)
    spent = spent_with(Spent(), tap, 9, 1, leading=True)
    assert (spent.usage.completion, spent.estimated) == (500, True)
    tap.finish = "stop"  # the server has counted it to the end: several deltas may be one token
    assert spent_with(Spent(), tap, 9, 1, leading=True).usage.completion == 1


def test_a_count_without_the_prompt_is_no_count_of_it() -> None:
    """Breaks when an answer of an Ollama that leaves out `prompt_eval_count` is said to have cost no prompt at all."""
    tap = Counted()
    tap.tokens, tap.finish, tap.usage = 5, "stop", Usage(prompt=0, completion=5, reasoning=2)
    assert usage_of(ended(State.COMPLETED, 5), tap, 41) == (Usage(prompt=11, completion=5, reasoning=2), True)
    spent = spent_with(Spent(), tap, 9, 41, leading=True)
    assert (spent.usage.prompt, spent.usage.completion, spent.estimated) == (11, 5, True)
    assert spent_with(Spent(), tap, 0, 41, leading=True).usage.prompt == 0  # it was not answered at all
    assert usage_of(ended(State.COMPLETED, 5), tap, 0) == (tap.usage, False)  # nothing was asked


def test_characters_are_the_last_resort() -> None:
    """Breaks when an answer whose deltas were not counted is billed as empty."""
    tap = Counted()
    tap.feed(b"x" * 41)
    usage, estimated = usage_of(ended(State.COMPLETED), tap, 8)
    assert (usage.prompt, usage.completion, estimated) == (2, 11, True)


def test_attempts_are_added_up() -> None:
    """Breaks when the prompt of a failed attempt is not billed, or words that nobody was sent count as delivered."""
    first, second = Counted(), Counted()
    first.tokens, first.chars = 3, 12
    second.tokens, second.usage = 5, Usage(prompt=10, completion=5)
    unheard = spent_with(Spent(), first, 100, 40, leading=False)
    assert (unheard.attempts, unheard.bytes_in, unheard.tokens, unheard.chars) == (1, 100, 0, 0)
    assert (unheard.usage.prompt, unheard.usage.completion, unheard.estimated) == (10, 3, True)
    both = spent_with(Spent(), first, 100, 40, leading=True).before(second, 40)
    assert both is not None
    assert both.usage == Usage(prompt=20, completion=8)
    assert (both.tokens, both.estimated) == (8, True)
    with pytest.raises(TypeError):
        both.feed(b"")


def test_one_attempt_is_its_own_account() -> None:
    """Breaks when the common case pays for a sum of one, or an attempt that was never answered is billed its prompt."""
    tap = Counted()
    assert Spent().before(tap, 9) is tap
    assert spent_with(Spent(), tap, 0, 4000, leading=False).usage.prompt == 0
