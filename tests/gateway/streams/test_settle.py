"""Receipts and last frames."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.base import Tap
from backends.contract.errors import BackendError, ErrorCode
from backends.contract.events import Usage
from gateway.streams.settle import ending, settle
from gateway.streams.stream import Identity, State, Stream

WHO = Identity(
    id="st_a", owner="acme", protocol="native", model="fast", backend="demo", upstream_model="m", node="n", started_ms=1
)
FAILURES = [State.UPSTREAM_ERROR, State.UPSTREAM_TRUNCATED, State.NODE_LOST, State.SHED, State.TIMED_OUT]


class Counted(Tap):
    """A tap that has already counted."""

    def feed(self, block: bytes) -> None:
        self.chars += len(block)


def told(
    state: State, *, marks: tuple[float, ...] = (), by: str = "backend", error: BackendError | None = None
) -> Stream:
    stream = Stream(WHO, 100.0)
    for count, mark in enumerate(marks, 1):
        stream.progress(count, mark)
    assert stream.end(state, 110.0, by=by, reason="because", error=error)
    return stream


def test_times_and_rate_come_from_the_marks() -> None:
    """Breaks when a receipt's first token, average gap, longest gap or rate is measured from the wrong marks."""
    stream = told(State.COMPLETED, marks=(101.0, 101.5, 103.0))
    receipt = settle(stream, tap=None, bytes_in=7, now=120.0, ended_ms=999, prompt_chars=9)
    assert (receipt.first_token_ms, receipt.average_gap_ms, receipt.max_gap_ms) == (1000.0, 1000.0, 1500.0)
    assert (receipt.tokens_per_second, receipt.duration_ms) == (1.0, 10_000.0)
    assert (receipt.bytes_in, receipt.ended_at, receipt.state, receipt.finish_reason) == (7, 999, "completed", "stop")


def test_the_backends_usage_is_not_estimated() -> None:
    """Breaks when a provider's own count is replaced by a guess, which would falsify the bill."""
    tap = Counted()
    tap.usage = Usage(prompt=9, completion=142, reasoning=3, cached=4)
    receipt = settle(told(State.COMPLETED, marks=(101.0,)), tap=tap, bytes_in=0, now=0, ended_ms=0, prompt_chars=4000)
    assert (receipt.prompt_tokens, receipt.completion_tokens, receipt.usage_estimated) == (9, 142, False)
    assert (receipt.reasoning_tokens, receipt.cached_tokens) == (3, 4)


def test_a_cancelled_stream_has_an_estimate_marked_as_such() -> None:
    """Breaks when a cancelled stream costs nothing, or its guess passes for a count."""
    tap = Counted()
    tap.tokens, tap.usage = 2, Usage(prompt=50)
    receipt = settle(told(State.CANCELLED, marks=(1.0, 2.0)), tap=tap, bytes_in=0, now=0, ended_ms=0, prompt_chars=1)
    assert (receipt.prompt_tokens, receipt.completion_tokens, receipt.usage_estimated) == (50, 2, True)
    assert receipt.finish_reason == "cancelled"


def test_one_stream_has_one_receipt() -> None:
    """Breaks when a second settle makes a second, different receipt."""
    stream = told(State.COMPLETED)
    first = settle(stream, tap=None, bytes_in=1, now=0, ended_ms=1, prompt_chars=0)
    assert settle(stream, tap=None, bytes_in=2, now=9, ended_ms=2, prompt_chars=9) is first is stream.receipt


def test_a_running_stream_has_no_receipt() -> None:
    """Breaks when a stream could be accounted for before it ended."""
    with pytest.raises(ValueError, match="still waiting"):
        settle(Stream(WHO, 0.0), tap=None, bytes_in=0, now=0, ended_ms=0, prompt_chars=0)


@pytest.mark.parametrize("state", FAILURES)
def test_a_failure_never_looks_like_a_completion(state: State) -> None:
    """Breaks when a failed stream's last frame could be a clean completion."""
    last = ending(told(state, marks=(101.0,)), None)
    assert last.error is not None
    assert last.finish in ("error", "timeout")


def test_the_given_error_is_said() -> None:
    """Breaks when the cause that was found is replaced by a general one."""
    error = BackendError(ErrorCode.OVERLOADED, "busy")
    stream = told(State.UPSTREAM_ERROR, error=error)
    assert ending(stream, None).error is error
    receipt = settle(stream, tap=None, bytes_in=0, now=0, ended_ms=0, prompt_chars=0)
    assert (receipt.error_code, receipt.error_message) == ("overloaded", "busy")


def test_a_kept_partial_answer_has_no_error() -> None:
    """Breaks when a time-out whose partial answer was kept on purpose is turned into a failure."""
    stream = Stream(WHO, 0.0)
    stream.end(State.TIMED_OUT, 1.0, by="gateway", reason="total", finish="timeout")
    last = ending(stream, None)
    assert (last.error, last.finish) == (None, "timeout")


@given(st.sampled_from([s for s in State if s.terminal]), st.lists(st.floats(0, 50), max_size=20))
def test_every_ending_folds(state: State, gaps: list[float]) -> None:
    """Breaks when some order of marks makes a receipt with a negative time or no receipt at all."""
    marks, at = [], 100.0
    for gap in gaps:
        at += gap
        marks.append(at)
    stream = Stream(WHO, 100.0)
    for count, mark in enumerate(marks, 1):
        stream.progress(count, mark)
    stream.end(state, at, by="gateway", reason="")
    receipt = settle(stream, tap=None, bytes_in=0, now=at, ended_ms=0, prompt_chars=0)
    assert receipt.token_count == len(gaps)
    assert receipt.duration_ms >= (receipt.first_token_ms or 0) >= 0
    assert receipt.average_gap_ms is None or 0 <= receipt.average_gap_ms <= (receipt.max_gap_ms or 0) + 0.001
