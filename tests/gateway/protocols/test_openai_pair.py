"""Our OpenAI encoder and our OpenAI decoder are mirror halves."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from backends import openai
from backends.contract.events import Event, Finish, ReasoningDelta, Start, TextDelta, ToolCallDelta, Usage
from config.schema import Backend
from gateway.protocols import openai_chat
from gateway.protocols.base import About, Ending

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
DELTA = st.builds(TextDelta, TEXT) | st.builds(ReasoningDelta, TEXT)
CALLS = st.lists(TEXT, max_size=4).map(
    lambda pieces: [ToolCallDelta(0, "c0", "f", "")] + [ToolCallDelta(0, arguments=p) for p in pieces]
)


@settings(deadline=None)
@given(st.lists(DELTA, max_size=8), CALLS, st.builds(Usage, *[st.integers(0, 9)] * 4))
def test_what_we_encode_we_decode(deltas: list[Event], calls: list[Event], usage: Usage) -> None:
    """If the halves disagree, one of them is wrong about OpenAI's format."""
    encoder = openai_chat.Protocol().encoder(About("st_a", "m", "b", 0))
    decoder = openai.Driver("x", Backend(driver="openai", url="http://x/v1")).decoder()
    sent = [*deltas, *calls]
    got = decoder.feed(encoder.start() + encoder.feed(sent) + encoder.end(Ending("tool_calls", usage, False, 1)))
    assert [e for e in got if not isinstance(e, Start)] == [*sent, Finish("tool_calls"), usage]
    assert decoder.done
