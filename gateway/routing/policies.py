"""Which backend first, which next: the policies of routes as plain functions. Pure; what is random is an argument.

Law: a policy orders all candidates and drops none; who may be asked at all is decided elsewhere. A score says why: the
lowest is asked first. Weight 0 means: only when the others cannot.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from config.schema import Policy, Price

LOAD_BOUND = 1.25  # `prefix`: a backend may have so many times the average before its prompts go elsewhere
ROOM = 4  # ... though so many it may always have
PREFIX = 2048  # characters of a prompt that tell it from others
_ANSWER = 500  # tokens of an answer nobody limited, for `cheapest`


class Candidate(Struct, frozen=True):
    """A target of the route that was taken: the backend and the model's name there."""

    backend: str
    model: str
    weight: int = 1
    price: Price | None = None


class Seen(Struct, frozen=True):
    """What is known of a backend now. `busy`: requests it has; `first_token`: mean seconds, None when unknown."""

    busy: int = 0
    first_token: float | None = None


class Traits(Struct, frozen=True):
    """Of a request, what policies look at. `turn`: the route's own count; sizes in tokens, estimated."""

    turn: int = 0
    sticky: str = ""
    prefix: str = ""
    prompt: int = 0
    answer: int | None = None


class Ranked(Struct, frozen=True):
    """A candidate with its score and what the score is."""

    candidate: Candidate
    score: float
    why: str


State = Mapping[str, Seen]
Die = Callable[[], float]
Rank = Callable[[Sequence[Candidate], State, Traits, Die], list[Ranked]]
_UNSEEN = Seen()


def rank(policy: Policy, candidates: Sequence[Candidate], state: State, traits: Traits, die: Die) -> list[Ranked]:
    """All candidates, the best first; those of weight 0 after the others."""
    ranked = POLICIES[policy](candidates, state, traits, die)
    return sorted(ranked, key=lambda one: (one.candidate.weight == 0, one.score))


def order(
    policy: Policy, candidates: tuple[Candidate, ...], state: State, traits: Traits, die: Die
) -> tuple[Candidate, ...]:
    """As `rank`, without saying why."""
    if policy != "least_busy":
        return tuple([one.candidate for one in rank(policy, candidates, state, traits, die)])

    def load(one: Candidate) -> tuple[bool, float]:
        return one.weight == 0, state.get(one.backend, _UNSEEN).busy / max(one.weight, 1)

    return tuple(sorted(candidates, key=load))


def ordered(candidates: Sequence[Candidate], _state: State, _traits: Traits, _die: Die) -> list[Ranked]:
    """As written."""
    return [Ranked(one, float(n), f"place {n + 1} in the file") for n, one in enumerate(candidates)]


def weighted(candidates: Sequence[Candidate], _state: State, _traits: Traits, die: Die) -> list[Ranked]:
    """By lot: each as often first as its share of the weights, and the rest by lot again."""
    left, out = list(candidates), list[Ranked]()
    while left:
        mark = die() * sum(one.weight for one in left)
        for one in left:
            mark -= one.weight
            if mark < 0 or one is left[-1]:
                break
        left.remove(one)
        out.append(Ranked(one, float(len(out)), f"weight {one.weight}, by lot"))
    return out


def round_robin(candidates: Sequence[Candidate], _state: State, traits: Traits, _die: Die) -> list[Ranked]:
    """In turn."""
    count = len(candidates)
    return [Ranked(one, float((n - traits.turn) % count), "in turn") for n, one in enumerate(candidates)]


def least_busy(candidates: Sequence[Candidate], state: State, _traits: Traits, _die: Die) -> list[Ranked]:
    """The fewest requests for its weight."""
    return [_busy(one, state.get(one.backend, _UNSEEN).busy) for one in candidates]


def _busy(one: Candidate, busy: int) -> Ranked:
    return Ranked(one, busy / max(one.weight, 1), f"{busy} requests, weight {one.weight}")


def latency(candidates: Sequence[Candidate], state: State, _traits: Traits, _die: Die) -> list[Ranked]:
    """The shortest first token, times those already waiting for one; whoever was never measured is tried first."""
    out = []
    for one in candidates:
        seen = state.get(one.backend, _UNSEEN)
        mean = seen.first_token or 0.0
        said = "never measured" if seen.first_token is None else f"first token {mean * 1000:.0f} ms"
        out.append(Ranked(one, mean * (seen.busy + 1) / max(one.weight, 1), f"{said}, {seen.busy} requests"))
    return out


def sticky(candidates: Sequence[Candidate], _state: State, traits: Traits, die: Die) -> list[Ranked]:
    """The same conversation (or user) at the same backend; one that leaves moves only its own."""
    if not traits.sticky:
        return weighted(candidates, _state, traits, die)
    return [Ranked(one, _distance(traits.sticky, one), f"by {traits.sticky[:40]!r}") for one in candidates]


def prefix(candidates: Sequence[Candidate], state: State, traits: Traits, die: Die) -> list[Ranked]:
    """Prompts that begin alike at the same backend, for its cache, unless that one is far busier than the others."""
    if not traits.prefix:
        return least_busy(candidates, state, traits, die)
    total = sum(state.get(one.backend, _UNSEEN).busy for one in candidates)
    bound = max(ROOM, math.ceil((total + 1) / len(candidates) * LOAD_BOUND))
    out = []
    for one in candidates:
        busy = state.get(one.backend, _UNSEEN).busy
        over = busy >= bound
        why = f"too busy: {busy} of {bound}" if over else "by the prompt's beginning"
        out.append(Ranked(one, _distance(traits.prefix, one) + (1e9 * (busy + 1) if over else 0.0), why))
    return out


def cheapest(candidates: Sequence[Candidate], state: State, traits: Traits, _die: Die) -> list[Ranked]:
    """The least for this prompt and the answer it may get; equal prices: the less busy."""
    out = []
    for one in candidates:
        price = one.price or Price()
        answer = _ANSWER if traits.answer is None else traits.answer
        cost = (price.input * traits.prompt + price.output * answer) / 1e6
        tie = state.get(one.backend, _UNSEEN).busy * 1e-12
        out.append(Ranked(one, cost + tie, f"about {cost:.6f} for {traits.prompt} + {answer} tokens"))
    return out


def _distance(key: str, one: Candidate) -> float:
    """Rendezvous hashing with weights: the same on every worker and node, whatever the others are."""
    digest = hashlib.blake2b(f"{key}\0{one.backend}\0{one.model}".encode("utf-8", "replace"), digest_size=8).digest()
    share = (int.from_bytes(digest, "big") + 1) / (2**64 + 2)
    return -math.log(share) / max(one.weight, 1)


POLICIES: dict[Policy, Rank] = {
    "weighted": weighted,
    "ordered": ordered,
    "round_robin": round_robin,
    "least_busy": least_busy,
    "latency": latency,
    "sticky": sticky,
    "prefix": prefix,
    "cheapest": cheapest,
}
