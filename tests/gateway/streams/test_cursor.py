"""Every way of saying a cursor."""

from __future__ import annotations

import pytest

from backends.contract.errors import BackendError, ErrorCode
from gateway.streams.cursor import names_cursor, read_cursor, split_event_id


@pytest.mark.parametrize(
    ("last", "after", "query", "wanted"),
    [
        (None, None, {}, 0),
        ("", None, {"after": "3"}, 3),
        ("s1.7", None, {"after": "3"}, 7),
        ("7", "5", {"after": "3"}, 7),
        (" s1.7 ", None, {}, 7),
        (None, "5", {"after": "3"}, 5),
        (None, None, {"after": "3", "starting_after": "9"}, 3),
        (None, None, {"starting_after": "9", "from": "2"}, 10),
        (None, None, {"startIndex": "4", "offset": "1"}, 4),
        (None, None, {"from": "2"}, 2),
        (None, None, {"offset": "6"}, 6),
    ],
)
def test_precedence_and_aliases(last: str | None, after: str | None, query: dict[str, str], wanted: int) -> None:
    """A client would get frames twice, or miss some."""
    assert read_cursor("s1", last, after, query) == wanted


@pytest.mark.parametrize(
    ("last", "after", "query"),
    [
        ("s2.7", None, {}),
        ("s1.", None, {}),
        ("s1.-1", None, {}),
        ("s1.x", None, {}),
        ("1.5", None, {}),
        (".3", None, {}),
        (" .3", None, {}),
        ("٣", None, {}),
        (None, "two", {}),
        (None, None, {"after": "-1"}),
        (None, None, {"from": "now"}),
        (None, None, {"offset": "9" * 30}),
    ],
)
def test_what_is_no_cursor_is_refused(last: str | None, after: str | None, query: dict[str, str]) -> None:
    """A guessed cursor would double or lose text without anybody noticing."""
    with pytest.raises(BackendError) as caught:
        read_cursor("s1", last, after, query)
    assert caught.value.code is ErrorCode.INVALID_REQUEST


def test_an_event_id_names_its_stream() -> None:
    """A reconnecting EventSource says nothing else: its stream could not be found."""
    assert split_event_id("st_ab-c.12") == ("st_ab-c", 12)
    assert split_event_id("12") == ("", 12)
    assert names_cursor("st_a.1", {})
    assert names_cursor(None, {"from": "0"})
    assert not names_cursor("", {"model": "m"})
