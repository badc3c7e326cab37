"""Exact bytes of OpenAI's two completion APIs where the backend speaks another dialect."""

from __future__ import annotations

import json

import pytest

from backends.contract.errors import BackendError, ErrorCode
from backends.contract.events import Citation, Event, Finish, ReasoningDelta, TextDelta, ToolCallDelta, Usage
from gateway.protocols import openai_chat, openai_completions
from gateway.protocols.answer import fold
from gateway.protocols.base import About, ClientProtocol, Ending

ABOUT = About("st_a", "m", "b", 1795260699000, "c1")
STOP = Ending("stop", Usage(9, 2, 1, 4), False, 2)
ITEM = {"token": "Hé", "logprob": -0.5, "bytes": None, "top_logprobs": []}
OWN = {"type": "file_citation", "file_citation": {"file_id": "f"}}
EVENTS: list[Event] = [
    ReasoningDelta("hm"),
    TextDelta("Hé", [ITEM]),
    Citation("https://h", "T", "words", 1, 2, {"type": "char_location"}, "anthropic"),
    Citation(source=OWN, dialect="openai"),
    Citation(title="a document without an address", dialect="anthropic", source={"x": 1}),
    TextDelta('"'),
]
NOTE = {
    "type": "url_citation",
    "url_citation": {"start_index": 1, "end_index": 2, "title": "T", "url": "https://h"},
}


def view(protocol: ClientProtocol, ending: Ending = STOP, about: About = ABOUT) -> str:
    encoder = protocol.encoder(about)
    return (encoder.start() + encoder.feed(EVENTS) + encoder.end(ending)).decode()


def chunks(text: str) -> list[dict[str, object]]:
    return [json.loads(frame[6:]) for frame in text.split("\n\n") if frame and frame != "data: [DONE]"]


def test_chat_tells_log_probabilities_and_citations() -> None:
    """What the backend said of its answer would end at the gateway."""
    choices = [chunk["choices"][0] for chunk in chunks(view(openai_chat.Protocol())) if chunk["choices"]]  # type: ignore[index]
    assert [choice["delta"] for choice in choices] == [  # type: ignore[index]
        {"role": "assistant", "content": ""},
        {"reasoning_content": "hm"},
        {"content": "Hé"},
        {"annotations": [NOTE]},
        {"annotations": [OWN]},
        {"content": '"'},
        {},
    ]
    assert [choice.get("logprobs") for choice in choices][2:4] == [{"content": [ITEM], "refusal": None}, None]  # type: ignore[attr-defined]


def test_a_whole_chat_tells_them_too() -> None:
    """Clients that do not stream would know less."""
    body = json.loads(openai_chat.Protocol().whole(ABOUT, fold([*EVENTS, Finish("stop")]), STOP))
    assert body["choices"][0] == {
        "index": 0,
        "message": {
            "role": "assistant",
            "content": 'Hé"',
            "refusal": None,
            "annotations": [NOTE, OWN],
            "reasoning_content": "hm",
        },
        "logprobs": {"content": [ITEM], "refusal": None},
        "finish_reason": "stop",
    }


def test_the_older_api_streamed() -> None:
    """Old clients build their text from these very fields, and stop at [DONE]."""
    head = 'data: {"id":"cmpl-a","object":"text_completion","created":1795260699,"model":"m","choices":['
    after = ',"index":0,"logprobs":null,"finish_reason":null}],"usage":null}\n\n'
    likely = '"logprobs":{"tokens":["Hé"],"token_logprobs":[-0.5],"top_logprobs":null,"text_offset":[0]}'
    assert view(openai_completions.Protocol()) == (
        head + '{"text":"Hé"' + after.replace('"logprobs":null', likely)
        + head + '{"text":"\\""' + after
        + head + '{"text":"","index":0,"logprobs":null,"finish_reason":"stop"}],"usage":null}\n\n'
        + head + '],"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11,'
        '"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":1}}}\n\n'
        "data: [DONE]\n\n"
    )  # fmt: skip
    quiet = About("st_a", "m", "b", 0, include_usage=False)
    assert "usage" not in view(openai_completions.Protocol(), about=quiet)


@pytest.mark.parametrize(("finish", "word"), [("length", "length"), ("tool_calls", "stop"), ("timeout", "length")])
def test_the_older_api_whole(finish: str, word: str) -> None:
    """It knows no other reasons than these, and no reasoning."""
    ending = Ending(finish, Usage(1, 2), False, 2)  # type: ignore[arg-type]
    events: list[Event] = [ReasoningDelta("hm"), TextDelta("Once"), ToolCallDelta(0, "c", "f", "{}")]
    body = json.loads(openai_completions.Protocol().whole(ABOUT, fold(events), ending))
    assert body["choices"] == [{"text": "Once", "index": 0, "logprobs": None, "finish_reason": word}]
    assert (body["object"], body["model"], body["usage"]["total_tokens"]) == ("text_completion", "m", 3)


@pytest.mark.parametrize("protocol", [openai_chat.Protocol(), openai_completions.Protocol()], ids=lambda p: p.name)
def test_a_broken_answer_ends_in_an_error_the_sdks_raise(protocol: ClientProtocol) -> None:
    """They take a mere EOF, and anything before [DONE], for success."""
    ending = Ending("error", Usage(), True, 1, BackendError(ErrorCode.UPSTREAM_TRUNCATED, "cut"))
    out = view(protocol, ending)
    assert chunks(out)[-1]["error"]["code"] == "upstream_truncated"  # type: ignore[index]
    assert "[DONE]" not in out
    assert protocol.error_frame(ABOUT, ending, 7).decode() == out.split("\n\n")[-2] + "\n\n"
    kept = protocol.error_frame(ABOUT, Ending("timeout", Usage(), True, 1), 7).decode()
    assert '"finish_reason":"length"' in kept
    assert kept.endswith("data: [DONE]\n\n")
