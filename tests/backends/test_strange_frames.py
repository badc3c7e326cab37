"""Ollama's and Google's decoders on frames in which anything may stand anywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import ValidationError, convert, to_builtins

from backends import catalog
from backends.contract.events import Event, Failed, OtherChoice
from config.schema import Backend

ROOT = Path(__file__).parent.parent / "transcripts"
_any = (
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(0, 1) | st.text(max_size=3) | st.just([]) | st.just({})
)
_json = (
    _any | st.lists(_any, max_size=2) | st.dictionaries(st.sampled_from(("text", "error", "name")), _any, max_size=2)
)


def frames(kind: str) -> list[Any]:
    found = []
    for path in sorted((ROOT / kind).iterdir()):
        for line in path.read_bytes().splitlines():
            text = line.removeprefix(b"data: ").strip()
            if text.startswith(b"{") and not path.name.startswith("truncated"):
                found.append(json.loads(text))
    return found


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(p for key, item in inner for p in places(item, (*path, key)))]


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = changed(value[path[0]], path[1:], new)
    return copy


def check(event: Event) -> None:
    if isinstance(event, OtherChoice):
        assert type(event.choice) is int
        check(event.event)
    elif not isinstance(event, Failed):
        try:
            convert(to_builtins(event), type(event))
        except ValidationError as error:
            raise AssertionError(event) from error


@pytest.mark.parametrize("kind", ["ollama", "google"])
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_whatever_a_frame_holds_it_becomes_events_or_a_failure(kind: str, data: st.DataObject) -> None:
    """A strange backend would break the stream of everybody on this worker, or put numbers where texts belong."""
    frame = data.draw(st.sampled_from(frames(kind)))
    strange = json.dumps(changed(frame, data.draw(st.sampled_from(places(frame))), data.draw(_json))).encode()
    block = strange + b"\n" if kind == "ollama" else b"data: " + strange + b"\r\n\r\n"
    driver = catalog.build("b", Backend(driver=kind))
    for event in driver.decoder().feed(block):
        check(event)
    driver.tap().feed(block)
