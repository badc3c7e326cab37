"""The model's name in frames that pass through: the client's where the route asks for another, else untouched."""

from __future__ import annotations

import pytest

from backends.contract.framing import NdjsonFramer, SseFramer
from gateway.streams.naming import ModelName, name_in

CHUNK = b'data: {"id":"c","model":"up-1","choices":[{"delta":{"content":"%b"}}]}\n\n'


@pytest.mark.parametrize(
    ("block", "wanted"),
    [
        (CHUNK % b"a", CHUNK.replace(b"up-1", b"nice") % b"a"),
        (CHUNK % b"a" + CHUNK % b"b", (CHUNK % b"a" + CHUNK % b"b").replace(b"up-1", b"nice")),
        (
            b'event: message_start\ndata: {"type":"message_start","message":{"id":"m", "model" : "up-1"}}\n\n',
            b'event: message_start\ndata: {"type":"message_start","message":{"id":"m", "model" : "nice"}}\n\n',
        ),
        (b'data: {"modelVersion":"up-1"}\n\n', b'data: {"modelVersion":"nice"}\n\n'),
        (b'data: {"id":"c"}\n\n', b'data: {"id":"c"}\n\n'),
    ],
    ids=["openai", "two frames", "anthropic", "google", "nameless"],
)
def test_the_member_that_names_the_model_changes_and_nothing_else(block: bytes, wanted: bytes) -> None:
    """A client would see which model stands behind a name, or get bytes nobody sent."""
    assert ModelName("nice", SseFramer(0).split).put(block) == wanted


def test_what_a_model_says_of_models_is_not_touched() -> None:
    """A tool would be called with other arguments than the model gave."""
    name = ModelName("nice", NdjsonFramer(0).split)
    line = b'{"model":"up-1","message":{"tool_calls":[{"function":{"arguments":{"model":"up-1"}}}]}}\n'
    told = b'{"model":"nice","message":{"tool_calls":[{"function":{"arguments":{"model":"up-1"}}}]}}\n'
    assert name.put(line + line) == told + told
    assert name.put(line) == told
    quoted = CHUNK % rb"\"model\":\"up-1\""
    assert name.put(quoted).count(b"up-1") == 1  # in the text


def test_an_empty_name_at_the_beginning_is_not_the_models() -> None:
    """Azure's first chunk names no model."""
    name = ModelName("nice", SseFramer(0).split)
    assert name.put(b'data: {"model":""}\n\n') == b'data: {"model":""}\n\n'
    assert name.put(CHUNK % b"a") == CHUNK.replace(b"up-1", b"nice") % b"a"


def test_the_name_is_read_as_json() -> None:
    """A whole answer would name the model otherwise than its stream."""
    assert name_in(rb'data: {"model":"a\"b"}') == 'a"b'
    assert name_in(b"data: [DONE]") == ""
