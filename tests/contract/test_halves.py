"""Any answer, written down by the independent writers, read by the drivers' decoders: the same at every split.

The other direction, encoded by our client protocols and decoded by our drivers, is in `tests/gateway/protocols/`.
"""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.answers import SERVERS, replace_url, told_in
from support.dialects import Said, Step
from support.heard import Heard, meant
from support.model_server import PATHS

from backends.base import Driver
from backends.catalog import build
from backends.contract.events import Failed, Finish, Usage
from backends.contract.framing import NdjsonFramer, SseFramer
from gateway.protocols.answer import fold

HAS = {"openai_completions": "openai", "openai_responses": "openai", "ollama_generate": "ollama", "tgi": "tgi generate"}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
SPOKEN = st.lists(st.builds(Step, st.sampled_from(("text", "think")), TEXT), min_size=1, max_size=5)
OBJECTS = st.lists(st.dictionaries(TEXT, TEXT | st.integers(-9, 9), max_size=2), max_size=3)


@st.composite
def answers(draw: st.DrawFn) -> Said:
    """Words, thoughts, then calls told one after the other."""
    steps = draw(SPOKEN)
    for index, arguments in enumerate(draw(OBJECTS)):
        text = json.dumps(arguments)
        cut = draw(st.integers(0, len(text)))
        steps.append(Step("call", index=index, id=f"call_{index}", name="f"))
        steps += [Step("args", part, index) for part in (text[:cut], text[cut:]) if part]
    called = any(step.kind == "call" for step in steps)
    prompt, spoken, thought = draw(st.integers(1, 99)), draw(st.integers(1, 99)), draw(st.integers(0, 9))
    usage = (prompt, spoken + thought, thought, draw(st.integers(0, prompt)))
    return Said(tuple(steps), "tool_calls" if called else draw(st.sampled_from(("stop", "length"))), usage)


def driver(dialect: str) -> Driver:
    """A driver that reads this dialect."""
    name = HAS.get(dialect, dialect)
    found = build(name, replace_url(SERVERS[name], "http://127.0.0.1:9")).speaking(dialect)
    assert found is not None
    return found


def read(speaks: Driver, body: bytes, step: int) -> Heard:
    """What its decoder makes of the body in pieces of this size."""
    framer, decoder = (SseFramer(1 << 20) if speaks.framing == "sse" else NdjsonFramer(1 << 20)), speaks.decoder()
    blocks = (framer.feed(body[at : at + step]) for at in range(0, len(body), step))
    events = [event for block in blocks if block for event in decoder.feed(block)] + decoder.eof()
    assert decoder.done
    assert not any(isinstance(event, Failed) for event in events)
    answer = fold(events)
    heard = Heard(answer.text, answer.reasoning, finish=[e for e in events if isinstance(e, Finish)][-1].reason)
    for call in answer.tool_calls:
        heard.call(call.name, call.arguments, call.id)
    usage = [event for event in events if isinstance(event, Usage)][-1]
    heard.usage = (usage.prompt, usage.completion, usage.reasoning, usage.cached)
    return heard


@pytest.mark.parametrize(("dialect", "writer"), PATHS.values(), ids=[dialect for dialect, _ in PATHS.values()])
@settings(deadline=None, max_examples=15)
@given(said=answers(), step=st.integers(1, 40))
def test_what_a_server_says_is_read(dialect: str, writer: object, said: Said, step: int) -> None:
    """A word, a thought or an argument would be lost or doubled where two reads of the network meet."""
    assert callable(writer)
    body = b"".join(writer(said))
    due = told_in(meant(said), dialect)
    assert read(driver(dialect), body, step) == read(driver(dialect), body, len(body)) == due
