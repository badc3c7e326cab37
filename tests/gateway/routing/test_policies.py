"""Policies: who is first, why, and that the same question has the same answer everywhere."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from config.schema import Policy, Price
from gateway.routing.policies import POLICIES, Candidate, Seen, Traits, rank

THREE = (Candidate("a", "m", 3), Candidate("b", "m", 1), Candidate("c", "m", 1))


def first(policy: Policy, state: dict[str, Seen] | None = None, traits: Traits | None = None) -> str:
    return rank(policy, THREE, state or {}, traits or Traits(), lambda: 0.0)[0].candidate.backend


@pytest.mark.parametrize("policy", list(POLICIES))
def test_nobody_is_dropped(policy: Policy) -> None:
    """A fallback that a policy forgot would never be asked."""
    for die in (0.0, 0.5, 0.999):
        ranked = rank(policy, THREE, {}, Traits(sticky="s", prefix="p"), lambda die=die: die)
        assert sorted(r.candidate.backend for r in ranked) == ["a", "b", "c"]
        assert all(r.why for r in ranked)


def test_weight_nothing_comes_last() -> None:
    """A reserve would get traffic while the others can."""
    candidates = (Candidate("reserve", "m", 0), Candidate("a", "m"), Candidate("b", "m"))
    for policy in POLICIES:
        ranked = rank(policy, candidates, {}, Traits(sticky="s", prefix="p"), lambda: 0.0)
        assert ranked[-1].candidate.backend == "reserve", policy


def test_weights_are_shares() -> None:
    """Three fifths of the traffic would not go where three fifths of the weight is."""
    die = random.Random(1)
    counted = Counter(rank("weighted", THREE, {}, Traits(), die.random)[0].candidate.backend for _ in range(5000))
    assert 2850 < counted["a"] < 3150


def test_least_busy_goes_by_weight() -> None:
    """A big server would be left idle."""
    assert first("least_busy", {"a": Seen(5), "b": Seen(2), "c": Seen(3)}) == "a"
    assert first("least_busy", {"a": Seen(9), "b": Seen(2), "c": Seen(3)}) == "b"


def test_latency_tries_the_unknown_and_then_the_fastest() -> None:
    """A backend never measured would never be measured; or all would crowd onto the fastest."""
    seen = {"a": Seen(0, 3.0), "b": Seen(0, 0.5), "c": Seen(0, 0.8)}
    assert first("latency", {"a": seen["a"], "b": seen["b"]}) == "c"
    assert first("latency", seen) == "b"
    assert first("latency", {**seen, "b": Seen(3, 0.5)}) == "c"


def test_sticky_stays_and_moves_only_what_it_must() -> None:
    """A conversation would change its backend with every turn, or all would when one backend leaves."""
    keys = [f"conversation {n}" for n in range(500)]
    before = {k: rank("sticky", THREE, {}, Traits(sticky=k), random.random)[0].candidate.backend for k in keys}
    after = {k: rank("sticky", THREE[:2], {}, Traits(sticky=k), random.random)[0].candidate.backend for k in keys}
    assert all(after[k] == before[k] for k in keys if before[k] != "c")
    shares = Counter(before.values())
    assert 250 < shares["a"] < 350


def test_prefix_keeps_to_its_backend_until_that_is_overloaded() -> None:
    """The cache of a local server would be useless; or one popular prompt would drown one server."""
    traits = Traits(prefix="You are a helpful assistant.")
    home = first("prefix", traits=traits)
    assert all(first("prefix", {home: Seen(n)}, traits) == home for n in range(4))
    idle = {name: Seen(4) for name in "abc"}
    assert first("prefix", idle, traits) == home
    assert first("prefix", {**idle, home: Seen(30)}, traits) != home


def test_cheapest_counts_prompt_and_answer() -> None:
    """The cheaper price of input would win over the whole cost."""
    candidates = (
        Candidate("in", "m", price=Price(input=1, output=100)),
        Candidate("out", "m", price=Price(input=10, output=10)),
    )
    short = rank("cheapest", candidates, {}, Traits(prompt=10, answer=1000), random.random)
    long = rank("cheapest", candidates, {}, Traits(prompt=100_000, answer=1), random.random)
    assert [r[0].candidate.backend for r in (short, long)] == ["out", "in"]


def test_round_robin_and_ordered() -> None:
    """Turns would be skipped; the file's order would not count."""
    assert [first("round_robin", traits=Traits(turn=n)) for n in range(4)] == ["a", "b", "c", "a"]
    assert first("ordered") == "a"
