"""Effort and budget: one wish, said in the word a backend has for it."""

from __future__ import annotations

from typing import Any

import pytest

from backends.contract.fit import Feature, fit
from backends.contract.request import ChatRequest, Message
from backends.contract.thinking import BUDGETS, budget_of, effort_of

EFFORT, BUDGET = Feature.REASONING, Feature.REASONING_BUDGET


def fitted(can: set[Feature], **wish: Any) -> tuple[str | None, int | None, tuple[str, ...]]:
    """Effort, budget, and what was dropped."""
    request, dropped = fit(ChatRequest("m", (Message("user", "hi"),), **wish), frozenset(can), "b", "openai")
    return request.reasoning_effort, request.reasoning_budget, dropped


@pytest.mark.parametrize("effort", ["none", "low", "medium", "high"])
def test_an_effort_comes_back_the_same(effort: str) -> None:
    """Two gateways one behind the other would think more, or less, than either was asked."""
    assert effort_of(BUDGETS[effort]) == effort


@pytest.mark.parametrize(("budget", "effort"), [
    (-1, "none"), (0, "none"), (1, "low"), (2048, "low"), (2049, "medium"), (8192, "medium"), (8193, "high"),
    (200_000, "high"),
])  # fmt: skip
def test_a_budget_is_the_nearest_effort(budget: int, effort: str) -> None:
    """A short thought would cost as much as a long one."""
    assert effort_of(budget) == effort


def test_each_is_said_in_the_word_there_is() -> None:
    """A model would think at its own discretion though its API has a word for what was asked."""
    assert fitted({EFFORT}, reasoning_budget=4096) == ("medium", None, ())
    assert fitted({BUDGET}, reasoning_effort="high") == (None, 16384, ())
    assert fitted({EFFORT, BUDGET}, reasoning_budget=4096) == (None, 4096, ())
    assert fitted(set(), reasoning_budget=4096) == (None, None, ("reasoning budget",))
    assert fitted(set(), reasoning_effort="low") == (None, None, ("reasoning effort",))


def test_the_exact_word_counts_before_the_translated_one() -> None:
    """A client that says both would be given the guess instead of what it said."""
    assert fitted({EFFORT}, reasoning_effort="low", reasoning_budget=30_000) == ("low", None, ())
    assert fitted({BUDGET}, reasoning_effort="low", reasoning_budget=30_000) == (None, 30_000, ())


def test_a_word_nobody_knows_is_dropped_by_name() -> None:
    """It would become some budget out of nowhere."""
    assert budget_of("galactic") is None
    assert fitted({BUDGET}, reasoning_effort="galactic") == (None, None, ("reasoning effort",))
