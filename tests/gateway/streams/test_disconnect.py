"""Disconnect policies: what is written is what happens."""

from __future__ import annotations

import pytest

from config.scalars import parse_on_disconnect
from config.schema import OnDisconnect
from config.values import Duration
from gateway.streams.disconnect import choose


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cancel", OnDisconnect("cancel")),
        ("continue", OnDisconnect("continue")),
        ("grace 45s", OnDisconnect("grace", Duration(45))),
        ("grace=2m", OnDisconnect("grace", Duration(120))),
    ],
)
def test_every_written_form(text: str, expected: OnDisconnect) -> None:
    """The header and the YAML form of the same policy would differ."""
    assert parse_on_disconnect(text) == expected


@pytest.mark.parametrize("text", ["", "stop", "grace", "grace=soon", "cancel now", "grace=-1s", "continue=5s"])
def test_anything_else_is_refused(text: str) -> None:
    """A typo would silently become some policy."""
    with pytest.raises(ValueError, match=r"expected"):
        parse_on_disconnect(text)


def test_the_most_particular_word_counts() -> None:
    """A request could not override its route."""
    one, two, three = OnDisconnect("cancel"), OnDisconnect("continue"), OnDisconnect("grace", Duration(1))
    assert choose(one, two, three, "cancel") is one
    assert choose(None, two, three, "cancel") is two
    assert choose(None, None, three, "cancel") is three
    assert choose(None, None, None, "grace 30s") == OnDisconnect("grace", Duration(30))
