"""Our OpenAI encoders and our OpenAI decoder are mirror halves."""

from __future__ import annotations

from itertools import accumulate

from hypothesis import given, settings
from hypothesis import strategies as st

from backends import openai
from backends.base import Decoder
from backends.contract.events import (
    Citation,
    Event,
    Finish,
    FinishReason,
    ReasoningDelta,
    Start,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from backends.contract.framing import SseFramer
from config.schema import Backend
from gateway.protocols import openai_chat, openai_completions
from gateway.protocols.base import About, ClientProtocol, Ending

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
NAME = st.text("abcdef_", min_size=1, max_size=6)
ITEMS = st.lists(st.fixed_dictionaries({"token": TEXT, "logprob": st.integers(-9, 0)}), min_size=1, max_size=2)
NOTE = st.builds(
    lambda url, title, start: {"type": "url_citation", "url_citation": {
        "url": url, "title": title, "start_index": start, "end_index": start + 1}},
    TEXT, TEXT, st.integers(0, 9),
)  # fmt: skip
CITATION = NOTE.map(
    lambda note: Citation(
        note["url_citation"]["url"], note["url_citation"]["title"], "", note["url_citation"]["start_index"],
        note["url_citation"]["end_index"], note, "openai",
    )
)  # fmt: skip
DELTA = st.builds(TextDelta, TEXT) | st.builds(TextDelta, TEXT, ITEMS) | st.builds(ReasoningDelta, TEXT) | CITATION
CALLS = st.lists(st.tuples(NAME, st.lists(TEXT, max_size=3)), max_size=3).map(
    lambda calls: [
        delta
        for i, (name, pieces) in enumerate(calls)
        for delta in (ToolCallDelta(i, f"c{i}", name), *(ToolCallDelta(i, arguments=piece) for piece in pieces))
    ]
)
REASON: st.SearchStrategy[FinishReason] = st.sampled_from(["stop", "length", "tool_calls", "content_filter"])
USAGE = st.builds(Usage, *[st.integers(0, 9)] * 4)


def decoder() -> Decoder:
    return openai.Driver("x", Backend(driver="openai", url="http://x/v1")).decoder()


def encoded(protocol: ClientProtocol, events: list[Event], ending: Ending) -> bytes:
    encoder = protocol.encoder(About("st_a", "m", "b", 0))
    return encoder.start() + b"".join(encoder.feed([event]) for event in events) + encoder.end(ending)


def decoded(parts: list[bytes]) -> tuple[list[Event], bool]:
    reading, framer, events = decoder(), SseFramer(1 << 20), []
    for part in parts:
        block = framer.feed(part)
        if block:
            events += reading.feed(block)
    return [event for event in events if not isinstance(event, Start)], reading.done


@settings(deadline=None, max_examples=60)
@given(st.lists(DELTA, max_size=6), CALLS, USAGE, REASON, st.data())
def test_what_we_encode_we_decode_at_every_split(
    deltas: list[Event], calls: list[Event], usage: Usage, reason: FinishReason, data: st.DataObject
) -> None:
    """If the halves disagree, one of them is wrong about OpenAI's format."""
    sent = [*deltas, *calls]
    wire = encoded(openai_chat.Protocol(), sent, Ending(reason, usage, False, 1))
    expected = ([*sent, Finish(reason), usage], True)
    assert decoded([wire]) == expected
    at = data.draw(st.integers(1, len(wire) - 1))
    assert decoded([wire[:at], wire[at:]]) == expected
    step = data.draw(st.integers(1, 9))
    ends = list(accumulate([step] * (len(wire) // step + 1)))
    assert decoded([wire[end - step : end] for end in ends]) == expected


@settings(deadline=None)
@given(st.lists(TEXT, max_size=6), USAGE)
def test_the_older_api_too(texts: list[str], usage: Usage) -> None:
    """Completions clients would read another text than the tap counts."""
    sent: list[Event] = [TextDelta(text) for text in texts]
    wire = encoded(openai_completions.Protocol(), sent, Ending("stop", usage, False, 1))
    assert decoded([wire]) == ([*sent, Finish("stop"), usage], True)


@settings(deadline=None)
@given(TEXT.filter(lambda text: text.isprintable() and '"' not in text and "\\" not in text))
def test_the_short_cut_writes_the_same_bytes(text: str) -> None:
    """The n-th frame would depend on which road a token took."""
    for protocol in (openai_chat.Protocol(), openai_completions.Protocol()):
        short, long = (protocol.encoder(About("st_a", "m", "b", 0)) for _ in range(2))
        assert short.plain(text) == long.feed([TextDelta(text)])
        assert short.frames == long.frames == 1
