"""Who belongs to the part of the users that a rollout lets in, and when a rollout has to be taken back. Pure.

Law: the same user and salt give the same answer everywhere and always; a higher percentage only adds users.
"""

from __future__ import annotations

import hashlib
from collections import deque
from typing import NamedTuple

_STEPS = 1_000_000
_MANY = 100_000  # outcomes kept at most
# What a terminal state says of the service. A client that left or cancelled says nothing of it.
_FAILED = frozenset({"upstream_error", "upstream_truncated", "node_lost"})
_SILENT = frozenset({"cancelled", "client_gone"})


def chosen(salt: str, percent: float, who: str) -> bool:
    """Whether a user (or, where none is named, an owner) is let in."""
    if percent >= 100:
        return True
    digest = hashlib.sha256(f"{salt}\0{who}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % _STEPS < percent / 100 * _STEPS


class Verdict(NamedTuple):
    """Rates of the streams counted, and why the rollout must be taken back; "" when it need not."""

    streams: int
    error_rate: float
    completion_rate: float
    reason: str = ""


def judged(
    completed: int, failed: int, other: int, *, error_rate: float, completion_rate: float, minimum: int
) -> Verdict:
    """`other`: ended, neither completed nor failed outright (timed out, shed). No verdict below `minimum` streams."""
    total = completed + failed + other
    if not total:
        return Verdict(0, 0.0, 1.0)
    errors, complete = failed / total, completed / total
    reason = ""
    if total >= minimum and errors > error_rate:
        reason = f"error rate {errors:.1%} above {error_rate:.1%}"
    elif total >= minimum and complete < completion_rate:
        reason = f"completion rate {complete:.1%} below {completion_rate:.1%}"
    return Verdict(total, errors, complete, reason)


def kind_of(state: str) -> int | None:
    """What a terminal state (its wire name) counts as: 0 completed, 1 failed, 2 other; None: it says nothing."""
    if state in _SILENT:
        return None
    return 0 if state == "completed" else 1 if state in _FAILED else 2


class Outcomes:
    """How the streams that a rollout let in ended, within a window. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._ended: deque[tuple[float, int]] = deque(maxlen=_MANY)
        self._counts = [0, 0, 0]  # completed, failed, other

    def add(self, state: str, now: float) -> None:
        """A stream ended in this state (its wire name)."""
        kind = kind_of(state)
        if kind is None:
            return
        if len(self._ended) == _MANY:
            self._counts[self._ended.popleft()[1]] -= 1
        self._ended.append((now, kind))
        self._counts[kind] += 1

    def clear(self) -> None:
        """Forget: the rollout was changed, what comes is judged anew."""
        self._ended.clear()
        self._counts = [0, 0, 0]

    def verdict(self, now: float, *, window: float, error_rate: float, completion_rate: float, minimum: int) -> Verdict:
        """What those of the last `window` seconds say."""
        while self._ended and self._ended[0][0] < now - window:
            self._counts[self._ended.popleft()[1]] -= 1
        return judged(*self._counts, error_rate=error_rate, completion_rate=completion_rate, minimum=minimum)
