"""Accounting by decoding: what a read of several frames comes to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backends.openai_stream import OpenAIDecoder
from backends.tap import DecoderTap


def frame(inner: bytes) -> bytes:
    return b'data: {"id":"c","model":"m","choices":[{"index":0,"delta":{%b}}]}\n\n' % inner


SAID = [frame(b'"content":"%b"' % text) for text in (b"a", b"bc d", b"[DONE]", b"\\u00e9\\n", "ü".encode(), b"")]
OTHERS = [
    frame(b'"role":"assistant","content":""'),
    frame(b'"reasoning_content":"hm"'),
    frame(b'"tool_calls":[{"index":0,"id":"x","function":{"name":"f","arguments":"{"}}]'),
    b": a comment\n\n",
    b"event: message\ndata: {}\n\n",
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"length"}]}\n\n',
    b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":5}}\n\n',
    b'data: {"error":{"message":"no"}}\n\n',
    b"data: [DONE]\n\n",
    b"data: not json\r\n\r\n",
]


def told(tap: DecoderTap) -> tuple[object, ...]:
    failure = tap.failure.code if tap.failure else None
    return tap.tokens, tap.done, tap.finish, tap.usage, failure


@given(st.lists(st.sampled_from(SAID * 3 + OTHERS), min_size=1, max_size=12), st.data())
def test_frames_count_the_same_in_whatever_reads_they_come(frames: list[bytes], data: st.DataObject) -> None:
    """A backend that sends several tokens at once would be counted other tokens, another ending or no usage."""
    one_by_one, together = DecoderTap(OpenAIDecoder()), DecoderTap(OpenAIDecoder())
    at = 0
    while at < len(frames):
        size = data.draw(st.integers(1, len(frames) - at))
        together.feed(b"".join(frames[at : at + size]))
        for single in frames[at : at + size]:
            if not one_by_one.done and one_by_one.failure is None:
                one_by_one.feed(single)
        at += size
        assert told(together) == told(one_by_one)
        if together.done or together.failure is not None:
            return
