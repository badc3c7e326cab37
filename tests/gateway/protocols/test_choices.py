"""Several choices of one answer (`n`): carried between the APIs that have a word for them, left out by the others."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends import catalog
from backends.base import Decoder
from backends.contract.events import (
    Event,
    Failed,
    Finish,
    FinishReason,
    OtherChoice,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from backends.contract.framing import SseFramer
from config.schema import Backend
from gateway.protocols.answer import fold
from gateway.protocols.base import About, Answer, ClientProtocol, Ending
from gateway.protocols.catalog import build, families

PROTOCOLS = build(families())
SEVERAL = {"openai": "openai", "openai_completions": "openai", "google": "google"}  # protocol -> its driver
ABOUT = About("st_a", "m", "b", 0)
USAGE = Usage(3, 9)
DONE = Ending("stop", USAGE, False, 2)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9)
REASONS: tuple[FinishReason, ...] = ("stop", "length", "content_filter")
SAID = st.builds(TextDelta, TEXT) | st.builds(ReasoningDelta, TEXT)
CALL = st.tuples(TEXT, st.dictionaries(TEXT, TEXT, max_size=2))


def likely(text: str) -> TextDelta:
    """A text with log probabilities, one token."""
    item = {"token": text, "logprob": -0.5, "bytes": list(text.encode())}
    return TextDelta(text, [{**item, "top_logprobs": [item]}])


@st.composite
def tellings(draw: st.DrawFn) -> list[Event]:
    """What three choices say, side by side; each of the others ends for a reason of its own."""
    tracks: list[list[Event]] = []
    for choice in range(3):
        said: list[Any] = draw(st.lists(SAID | st.builds(likely, TEXT), max_size=4))
        for number, (name, arguments) in enumerate(draw(st.lists(CALL, max_size=2))):
            said.append(ToolCallDelta(number, f"c{number}", name, json.dumps(arguments)))
        if choice:
            said.append(Finish(draw(st.sampled_from(REASONS))))
        tracks.append([OtherChoice(choice, one) for one in said] if choice else said)
    told: list[Event] = []
    while any(tracks):
        told.append(draw(st.sampled_from([track for track in tracks if track])).pop(0))
    return told


def driver(protocol: str) -> Any:
    """The driver half of a protocol."""
    found = catalog.build("b", Backend(driver=SEVERAL[protocol], url="http://h:1"))
    return found.speaking(protocol)


def written(protocol: ClientProtocol, events: list[Event]) -> bytes:
    encoder, again = protocol.encoder(ABOUT), protocol.encoder(ABOUT)
    body = encoder.start() + encoder.feed(events) + encoder.end(DONE)
    assert body == b"".join([again.start(), *(again.feed([event]) for event in events), again.end(DONE)])
    assert encoder.frames == len(SseFramer(1 << 20).split(body))
    return body


def read(decoder: Decoder, parts: list[bytes]) -> list[Event]:
    framer, events = SseFramer(1 << 20), []
    for part in parts:
        events += decoder.feed(framer.feed(part))
    events += decoder.eof()
    assert decoder.done
    return events


def summary(answer: Answer, protocol: str) -> Any:
    """What this protocol can say of a choice."""
    says_all = protocol != "openai_completions"
    finish = answer.finish
    if answer.tool_calls and finish == "stop" and protocol == "google":
        finish = "tool_calls"  # Google's word for both is the same
    calls = [(call.id, call.name, json.loads(call.arguments)) for call in answer.tool_calls] if says_all else []
    return answer.text, answer.reasoning if says_all else "", calls, answer.logprobs, finish


@pytest.mark.parametrize("name", SEVERAL)
@given(events=tellings(), step=st.integers(1, 60))
@settings(max_examples=40, deadline=None)
def test_what_is_written_is_read_at_every_split(name: str, events: list[Event], step: int) -> None:
    """A word of one choice would turn up in another, or get lost where two reads of the network meet."""
    body = written(PROTOCOLS[name], events)
    due = fold([*events, Finish("stop")])
    for parts in ([body], [body[at : at + step] for at in range(0, len(body), step)]):
        got = fold(read(driver(name).decoder(), parts))
        assert summary(got, name) == summary(due, name)
        assert {n: summary(other, name) for n, other in got.others.items()} == {
            n: summary(other, name) for n, other in due.others.items()
        }


@pytest.mark.parametrize("name", SEVERAL)
@given(events=tellings())
@settings(max_examples=20, deadline=None)
def test_a_whole_answer_has_them_too(name: str, events: list[Event]) -> None:
    """Clients that do not stream would get one choice of those they pay for."""
    answer = fold([*events, Finish("stop")])
    body = json.loads(PROTOCOLS[name].whole(ABOUT, answer, DONE))
    found = body["candidates" if name == "google" else "choices"]
    assert [one["index"] for one in found] == [0, *answer.others]
    for one, due in zip(found, [answer, *answer.others.values()], strict=True):
        assert due.text == _text_of(one)


def _text_of(choice: Any) -> str:
    if "message" in choice:
        return choice["message"]["content"] or ""
    if "text" in choice:
        return str(choice["text"])
    return "".join(part.get("text", "") for part in choice["content"]["parts"] if not part.get("thought"))


def test_each_choice_of_a_chat_begins_with_its_role_and_ends_with_its_reason() -> None:
    """The official SDKs put a message together from these very chunks."""
    events: list[Event] = [OtherChoice(1, TextDelta("b")), OtherChoice(1, Finish("length"))]
    chunks = [
        json.loads(frame[6:])["choices"]
        for frame in written(PROTOCOLS["openai"], events).decode().split("\n\n")
        if frame.startswith("data: {")
    ]
    told = [(choice["index"], choice["delta"], choice["finish_reason"]) for choices in chunks for choice in choices]
    role = {"role": "assistant", "content": ""}
    assert told == [(0, role, None), (1, role, None), (1, {"content": "b"}, None), (0, {}, "stop"), (1, {}, "length")]


@pytest.mark.parametrize("name", sorted(set(PROTOCOLS) - set(SEVERAL) - {"google_array"}))
def test_others_tell_the_first_choice(name: str) -> None:
    """Whoever reads along in such a protocol would see two answers mixed."""
    events: list[Event] = [OtherChoice(1, TextDelta("b")), OtherChoice(1, ToolCallDelta(0, "c", "f", "{}"))]
    alone, beside = PROTOCOLS[name].encoder(ABOUT), PROTOCOLS[name].encoder(ABOUT)
    spoken: list[Event] = [TextDelta("a"), Finish("stop")]
    due = alone.start() + alone.feed(spoken) + alone.end(DONE)
    assert beside.start() + beside.feed([*events, *spoken, OtherChoice(1, Finish("length"))]) + beside.end(DONE) == due


@pytest.mark.parametrize("name", SEVERAL)
def test_a_choice_that_did_not_finish_is_a_broken_answer(name: str) -> None:
    """Where the end of the body is the end mark, half a choice would pass for a whole one."""
    first: list[Event] = [TextDelta("a"), OtherChoice(1, TextDelta("b"))]
    body = written(PROTOCOLS[name], [*first, OtherChoice(1, Finish("stop"))])
    frames = SseFramer(1 << 20).split(body)
    known = catalog.build("b", Backend(driver=SEVERAL[name], url="http://h:1", options=_BY_EOF[name])).speaking(name)
    assert known is not None
    for kept, done in ((frames, True), ([f for f in frames if not _finishes(f, 1)], False)):
        decoder = known.decoder()
        decoder.feed(b"".join(f for f in kept if b"[DONE]" not in f))
        decoder.eof()
        assert decoder.done is done


_BY_EOF: dict[str, dict[str, Any]] = {
    "openai": {"done_marker": False},
    "openai_completions": {"done_marker": False},
    "google": {},
}


def _finishes(frame: bytes, choice: int) -> bool:
    said = json.loads(frame[6:]) if frame.startswith(b"data: {") else {}
    ends = [one["index"] for one in said.get("choices") or () if one["finish_reason"]]
    ends += [one["index"] for one in said.get("candidates") or () if "finishReason" in one]
    return choice in ends


@pytest.mark.parametrize("name", SEVERAL)
def test_the_short_cut_never_takes_one_choice_for_another(name: str) -> None:
    """The road of plain tokens would put the words of all choices into the first."""
    first, other = (TextDelta("a"), TextDelta("b"), TextDelta("c")), OtherChoice(1, TextDelta("d"))
    events: list[Event] = [*first, other, other]
    tap = driver(name).tap()
    encoder = PROTOCOLS[name].encoder(ABOUT)
    blocks = [encoder.start(), *(encoder.feed([event]) for event in events)]
    plain = []
    for block in filter(None, blocks):
        plain.append(tap.likeness.text(block))
        tap.feed(block)
    known = None if name == "google" else "c"  # Google ends its lines otherwise than the short cut knows
    assert plain[-3:] == [known, None, None]
    assert tap.tokens == len(events)
    tap.feed(encoder.end(DONE))
    assert (tap.finish, tap.usage) == ("stop", USAGE)


def test_a_candidate_that_broke_off_breaks_the_answer() -> None:
    """The client would get fewer choices than it asked for, and no word of it."""
    broken = {"candidates": [{"index": 1, "content": {"parts": [{"text": "b"}]}, "finishReason": "MALFORMED_RESPONSE"}]}
    events = driver("google").decoder().feed(b"data: " + json.dumps(broken).encode() + b"\r\n\r\n")
    assert isinstance(events[-1], Failed)
    assert events[1] == OtherChoice(1, TextDelta("b"))
