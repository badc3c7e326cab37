"""Reads of a busy worker: kept for a turn, dealt with in order, written at its end, and never for ever."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from backends.intake import Intake


class Line:
    """A client's socket, and the road to it; also the connection that reads for it, where it is not `plain`."""

    def __init__(self, log: list[str], name: str, *, plain: bool = True) -> None:
        self.log, self.name, self.plain = log, name, plain
        self.road = self if plain else None
        self.wire = self
        self.closing = False
        self.fails = False

    def fit(self, data: bytes, now: float) -> bytes | None:
        self.log.append(f"{self.name} fits {data.decode()}")
        if self.fails:
            raise ValueError("of this stream")
        if data == b"odd":
            return None
        return b"" if data == b"none" else data

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: bytes) -> None:
        self.log.append(f"{self.name} writes {data.decode()}")

    def feed(self, data: bytes) -> None:
        self.log.append(f"{self.name} feeds {data.decode()}")
        if self.fails:
            raise ValueError("of this stream")

    def fault(self, error: Exception) -> None:
        self.log.append(f"{self.name} fails")


def make() -> tuple[Intake, list[Callable[[], None]], list[int], list[str]]:
    soon: list[Callable[[], None]] = []
    told: list[int] = []
    return Intake(soon.append, lambda: 1.0, told.append), soon, told, []


def test_all_is_worked_on_before_anything_is_written() -> None:
    """The kernel's code would come between two tokens again, and a token would cost half as much more."""
    intake, soon, told, log = make()
    one, two = Line(log, "1"), Line(log, "2")
    intake.keep(one, b"a")
    intake.keep(two, b"b")
    assert not log
    assert len(soon) == 1
    soon[0]()
    assert log == ["1 fits a", "2 fits b", "1 writes a", "2 writes b"]
    assert told == [2]
    intake.keep(one, b"c")
    assert len(soon) == 2


def test_what_takes_the_ordinary_road_comes_behind_what_was_read_before() -> None:
    """A client would read its tokens out of order."""
    intake, soon, told, log = make()
    one, two = Line(log, "1"), Line(log, "2", plain=False)
    for connection, data in ((one, b"a"), (one, b"odd"), (one, b"b"), (two, b"c")):
        intake.keep(connection, data)
    soon[0]()
    assert log == ["1 fits a", "1 fits odd", "1 writes a", "1 feeds odd", "1 fits b", "1 writes b", "2 feeds c"]
    assert told == [2]


@pytest.mark.parametrize("plain", [True, False])
def test_one_stream_does_not_take_the_others_down(plain: bool) -> None:
    """A fault in one answer would lose the tokens of all that were read in the same turn, and stop the worker."""
    intake, soon, _, log = make()
    bad, good = Line(log, "bad", plain=plain), Line(log, "good")
    bad.fails = True
    intake.keep(bad, b"x")
    intake.keep(good, b"y")
    soon[0]()
    assert log == [f"bad {'fits' if plain else 'feeds'} x", "bad fails", "good fits y", "good writes y"]


def test_nothing_is_written_to_who_has_left_or_for_nothing() -> None:
    """A closed socket would raise in the middle of everybody's tokens."""
    intake, soon, told, log = make()
    gone, still = Line(log, "gone"), Line(log, "still")
    gone.closing = True
    intake.keep(gone, b"a")
    intake.keep(still, b"none")
    soon[0]()
    assert not [line for line in log if "writes" in line]
    assert told == [1]


def test_no_more_is_kept_than_a_handful() -> None:
    """A turn with thousands of reads would hold them all, and the first would wait for the last."""
    intake, soon, told, log = make()
    one = Line(log, "1")
    for _ in range(150):
        intake.keep(one, b"a")
        assert len(intake.late) < 64
    assert len(soon) == 1
    soon[0]()
    assert log.count("1 writes a") == 150
    assert told == [150]
