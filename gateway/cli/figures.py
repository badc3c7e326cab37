"""What `headgate bench` makes of the bytes it reads: counts, percentiles, a few lines. Pure; the clock is an argument.

Law: a stream counts as good only when it said so itself (`done`) and the tokens it counted are those that came.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

_TOKEN = b"event: token\n"
_DONE = b"event: done\n"
_ERROR = b"event: error\n"


class Measured:
    """One stream as its client saw it. Times in seconds of the caller's clock."""

    __slots__ = ("_rest", "_said", "began", "bytes", "ended", "error", "first", "last", "pauses", "tokens")

    def __init__(self, began: float) -> None:
        self.began = began
        self.ended = began
        self.first: float | None = None
        self.last = began
        self.tokens = 0
        self.bytes = 0
        self.pauses: list[float] = []
        self.error = ""
        self._rest = b""
        self._said: int | None = None

    def take(self, data: bytes, now: float) -> None:
        """One read from the socket."""
        self.bytes += len(data)
        *frames, self._rest = (self._rest + data).split(b"\n\n")
        count = 0
        for frame in frames:
            if _TOKEN in frame:
                count += 1
            elif _DONE in frame:
                self._said = _field(frame, "tokenCount")
            elif _ERROR in frame:
                self.error = str(_field(frame, "code"))
        if not count:
            return
        if self.first is None:
            self.first = now
        else:
            self.pauses.append(now - self.last)
        self.last = now
        self.tokens += count

    def close(self, now: float) -> None:
        """The body has ended."""
        self.ended = now
        if not self.error and self._said is None:
            self.error = "no end"
        elif not self.error and self._said != self.tokens:
            self.error = "tokens lost"


def report(streams: Sequence[Measured], elapsed: float, *, unfinished: int) -> dict[str, Any]:
    """The figures of a run of `elapsed` seconds; milliseconds unless their names say otherwise."""
    good = [s for s in streams if not s.error]
    firsts = [(s.first - s.began) * 1000 for s in good if s.first is not None]
    pauses = [p * 1000 for s in good for p in s.pauses]
    tokens = sum(s.tokens for s in streams)
    return {
        "seconds": round(elapsed, 2),
        "completed": len(good),
        "unfinished": unfinished,
        "errors": dict(Counter(s.error for s in streams if s.error)),
        "tokens": tokens,
        "tokensPerSecond": round(tokens / elapsed, 1) if elapsed > 0 else 0.0,
        "firstTokenP50": percentile(firsts, 0.50),
        "firstTokenP99": percentile(firsts, 0.99),
        "pauseP50": percentile(pauses, 0.50),
        "pauseP99": percentile(pauses, 0.99),
        "pauseMax": percentile(pauses, 1.0),
        "bytes": sum(s.bytes for s in streams),
    }


def percentile(values: Iterable[float], share: float) -> float | None:
    """The smallest value that so large a share of all does not exceed; None of none."""
    ordered = sorted(values)
    return round(ordered[max(math.ceil(share * len(ordered)), 1) - 1], 2) if ordered else None


def lines(told: dict[str, Any]) -> list[str]:
    """A report for people."""

    def ms(name: str) -> str:
        return "-" if told[name] is None else f"{told[name]:.1f} ms"

    errors = ", ".join(f"{n} × {name}" for name, n in told["errors"].items()) or "none"
    shown = [
        f"{told['url']}: {told['streams']} streams at a time for {told['seconds']} s",
        f"streams       {told['completed']} completed, {told['unfinished']} unfinished, errors: {errors}",
        f"tokens        {told['tokens']}, {told['tokensPerSecond']} per second",
        f"first token   p50 {ms('firstTokenP50')}, p99 {ms('firstTokenP99')}",
        f"pauses        p50 {ms('pauseP50')}, p99 {ms('pauseP99')}, max {ms('pauseMax')}",
    ]
    cpu = told.get("gatewayCpuSeconds")
    if cpu is not None and told["tokens"]:
        share = cpu / told["tokens"] * 1e6
        shown.append(f"gateway CPU   {cpu} s, {share:.0f} µs per token (with the demo backend that makes them)")
    return [*shown, "measured at the clients; they run on this machine, and take their share of it"]


def _field(frame: bytes, name: str) -> Any:
    for line in frame.split(b"\n"):
        if line.startswith(b"data: "):
            try:
                return json.loads(line[6:]).get(name)
            except ValueError:
                return None
    return None
