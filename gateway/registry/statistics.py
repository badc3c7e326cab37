"""What ended streams add up to: counters and log-spaced histograms as one flat mapping of field to integer.

Law: pure, and additive. `fields` of a receipt are increments; the sum of any number of such mappings (of receipts, of
nodes) is again one, so a Redis hash can hold it and HINCRBY can merge it. Labels are bounded: `Fold` says how.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from gateway.streams.stream import Receipt, State

MAX_MODELS = 200  # distinct model names of one owner; the rest is `other`
MAX_OWNERS = 1000  # the least recently active is forgotten
OTHER = "other"
_TOGETHER = 16  # receipts counted in one go
_STEPS = 8  # histogram buckets per doubling: a percentile is within 4.5 % of the truth
_TOP = 200  # the last bucket: 2**25 ms, nine hours
_FAILED = (State.UPSTREAM_ERROR.wire, State.UPSTREAM_TRUNCATED.wire, State.NODE_LOST.wire)
_STOPPED = (State.CANCELLED.wire, State.CLIENT_GONE.wire)

Fields = Mapping[str, int]


def bucket(milliseconds: float) -> int:
    """The histogram bucket of a time; 0 holds everything up to a millisecond."""
    if milliseconds <= 1:
        return 0
    return min(_TOP, math.ceil(_STEPS * math.log2(milliseconds)))


def bucket_value(index: int) -> float:
    """The time in milliseconds a bucket stands for: its geometric middle."""
    return 1.0 if index <= 0 else 2 ** ((index - 0.5) / _STEPS)


def fields(receipt: Receipt, model: str | None = None) -> dict[str, int]:
    """The increments of one ended stream. `model` replaces the receipt's name where labels are bounded."""
    label = receipt.model if model is None else model
    tokens = receipt.completion_tokens or receipt.token_count
    found = {f"state|{receipt.state}": 1, "tokens": tokens, "prompt_tokens": receipt.prompt_tokens}
    _observe(found, "duration", receipt.duration_ms)
    if receipt.first_token_ms is not None:
        _observe(found, "first", receipt.first_token_ms)
        found["streaming_ms"] = max(0, round(receipt.duration_ms - receipt.first_token_ms))
    for count, said, failed in (_names_of("backend", receipt.backend), _names_of("model", label)):
        found[count] = 1
        found[said] = tokens
        if receipt.state in _FAILED:
            found[failed] = 1
    return found if all(found.values()) else {name: value for name, value in found.items() if value}


@lru_cache(4 * MAX_MODELS)
def _names_of(kind: str, name: str) -> tuple[str, str, str]:
    return f"{kind}|count|{name}", f"{kind}|tokens|{name}", f"{kind}|failed|{name}"


@lru_cache(4 * _TOP)
def _names_in(kind: str, index: int) -> tuple[str, str]:
    return f"{kind}|{index}", f"{kind}_us|{index}"


def _observe(found: dict[str, int], kind: str, milliseconds: float) -> None:
    """One time: counted in its bucket, and added to what its bucket holds (whole microseconds)."""
    count, time = _names_in(kind, bucket(milliseconds))
    found[count] = 1
    found[time] = round(max(0.0, milliseconds) * 1000)


def merge(parts: Iterable[Fields]) -> Counter[str]:
    """The sum of several nodes' or receipts' fields."""
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return total


def percentiles(counts: Fields, kind: str) -> dict[str, float | None]:
    """p50, p95 and p99 in milliseconds of the histogram `kind`; None while it is empty. Each is the mean of its bucket,
    so never more than the greatest time there was nor less than the smallest."""
    prefix = kind + "|"
    buckets = sorted((int(name[len(prefix) :]), n) for name, n in counts.items() if name.startswith(prefix))
    total = sum(n for _, n in buckets)
    found: dict[str, float | None] = {}
    for p in (50, 95, 99):
        index = _bucket_of(buckets, total, p / 100)
        found[f"p{p}"] = None if index is None else round(_mean(counts, kind, index), 1)
    return found


def _bucket_of(buckets: list[tuple[int, int]], total: int, share: float) -> int | None:
    rank = 0
    for index, n in buckets:
        rank += n
        if rank >= share * total:
            return index
    return None


def _mean(counts: Fields, kind: str, index: int) -> float:
    """What the times of a bucket are on average; its middle where only some of them were added up (by nodes of an
    earlier release)."""
    mean = counts.get(f"{kind}_us|{index}", 0) / 1000 / counts[f"{kind}|{index}"]
    low, high = (0.0, 1.0) if index <= 0 else (2 ** ((index - 1) / _STEPS), 2 ** (index / _STEPS))
    within = low * 0.9999 <= mean and (mean <= high * 1.0001 or index >= _TOP)
    return mean if within else bucket_value(index)


def _by(counts: Fields, kind: str, running: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    groups: dict[str, dict[str, Any]] = {}
    blank = {"count": 0, "tokens": 0, "failed": 0}
    for field, n in counts.items():
        parts = field.split("|", 2)
        if parts[0] == kind and len(parts) == 3:
            groups.setdefault(parts[2], dict(blank))[parts[1]] = n
    for name, n in running.items():
        groups.setdefault(name, dict(blank))["active"] = n
    for group in groups.values():
        group.setdefault("active", 0)
        group["errorRate"] = _rate(group["failed"], group["count"])
    return groups


def _rate(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0


def snapshot(
    counts: Fields,
    *,
    active: int,
    peak: int,
    backends: Mapping[str, int] | None = None,
    models: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """The answer of GET /api/streaming/statistics. Rates are shares of ended streams; `backends` and `models` count
    running ones. A rate is 0 and a percentile None while nothing has ended."""
    states = {s.wire: counts.get(f"state|{s.wire}", 0) for s in State if s.terminal}
    ended = sum(states.values())
    seconds = counts.get("streaming_ms", 0) / 1000
    return {
        "total": ended + active,
        "states": states,
        "completionRate": _rate(states[State.COMPLETED.wire], ended),
        "errorRate": _rate(sum(states[name] for name in _FAILED), ended),
        "timeoutRate": _rate(states[State.TIMED_OUT.wire], ended),
        "cancelRate": _rate(sum(states[name] for name in _STOPPED), ended),
        "firstTokenMs": percentiles(counts, "first"),
        "durationMs": percentiles(counts, "duration"),
        "tokens": counts.get("tokens", 0),
        "promptTokens": counts.get("prompt_tokens", 0),
        "tokensPerSecond": round(counts.get("tokens", 0) / seconds, 2) if seconds else None,
        "active": active,
        "peakActive": max(peak, active),
        "byBackend": _by(counts, "backend", backends or {}),
        "byModel": _by(counts, "model", models or {}),
    }


class Fold:
    """The running sum of one node's receipts, of all owners and of each."""

    def __init__(self, max_models: int = MAX_MODELS, max_owners: int = MAX_OWNERS) -> None:
        self._max_models = max_models
        self._max_owners = max_owners
        self._total: Counter[str] = Counter()
        self._owners: OrderedDict[str, Counter[str]] = OrderedDict()
        self._models: dict[str, set[str]] = {}
        self._all_models: set[str] = set()
        self._noted: list[Receipt] = []

    def note(self, receipt: Receipt) -> None:
        """Count one ended stream by the time somebody asks: several together take half the time."""
        self._noted.append(receipt)
        if len(self._noted) >= _TOGETHER:
            self._settle()

    def _settle(self) -> None:
        noted, self._noted = self._noted, []
        for receipt in noted:
            self._add(receipt)

    def add(self, receipt: Receipt) -> tuple[dict[str, int], dict[str, int]]:
        """Count one ended stream; returns the increments of the total and of its owner, with bounded labels."""
        self._settle()
        return self._add(receipt)

    def _add(self, receipt: Receipt) -> tuple[dict[str, int], dict[str, int]]:
        owner = self._owner(receipt.owner)
        label, own = (
            self._label(self._all_models, receipt.model),
            self._label(self._models[receipt.owner], receipt.model),
        )
        for_all = for_owner = fields(receipt, label)
        if own != label:
            for_owner = fields(receipt, own)
        for total, increments in ((self._total, for_all), (owner, for_owner)):
            get = total.get
            for name, more in increments.items():
                total[name] = get(name, 0) + more
        return for_all, for_owner

    def counts(self, owner: str | None) -> Fields:
        """The sum so far, of an owner (None: all)."""
        self._settle()
        return self._total if owner is None else self._owners.get(owner, Counter())

    def _owner(self, owner: str) -> Counter[str]:
        counter = self._owners.get(owner)
        if counter is None:
            counter, self._models[owner] = self._owners.setdefault(owner, Counter()), set()
        self._owners.move_to_end(owner)
        while len(self._owners) > self._max_owners:
            gone, _ = self._owners.popitem(last=False)
            del self._models[gone]
        return counter

    def _label(self, known: set[str], model: str) -> str:
        if model in known:
            return model
        if len(known) >= self._max_models:
            return OTHER
        known.add(model)
        return model
