"""The token path's short cut of every protocol writes what the long way writes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.contract.events import TextDelta
from gateway.protocols.base import About
from gateway.protocols.catalog import build, families

PROTOCOLS = build(families())
PLAIN = st.text(min_size=1, max_size=9).filter(lambda text: text.isprintable() and not {'"', "\\"} & set(text))


@pytest.mark.parametrize("name", PROTOCOLS)
@settings(deadline=None, max_examples=30)
@given(st.lists(PLAIN, min_size=1, max_size=4))
def test_the_short_cut_is_the_same_road(name: str, texts: list[str]) -> None:
    """The n-th frame would depend on which road a token took, and who resumes would read another answer."""
    short, long = (PROTOCOLS[name].encoder(About("st_a", "m", "b", 0)) for _ in range(2))
    assert short.start() == long.start()
    for text in texts:
        assert short.plain(text) == long.feed((TextDelta(text),))
    assert short.frames == long.frames
