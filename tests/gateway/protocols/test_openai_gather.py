"""Whole answers put together from a stream of the client's own dialect: nothing of it may be lost."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.contract.events import Usage
from gateway.protocols.base import About, Ending
from gateway.protocols.openai_gather import ChatGatherer, TextGatherer

ABOUT = About("st_a", "as-asked", "b", 1795260699000)
STOP = Ending("stop", Usage(1, 2), True, 2)
USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}


def frame(chunk: Any) -> bytes:
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


def gathered(*chunks: Any, kind: type[ChatGatherer | TextGatherer] = ChatGatherer, ending: Ending = STOP) -> Any:
    gatherer = kind()
    for chunk in chunks:
        gatherer.feed(chunk if isinstance(chunk, bytes) else frame(chunk))
    gatherer.feed(b"data: [DONE]\n\n")
    return msgspec.json.decode(gatherer.body(ABOUT, ending))


def delta(said: dict[str, Any], index: int = 0, **choice: Any) -> dict[str, Any]:
    head = {"id": "up-1", "object": "chat.completion.chunk", "created": 7, "model": "real", "obfuscation": "xy"}
    return {**head, "choices": [{"index": index, "delta": said, "finish_reason": None, **choice}], "usage": None}


def test_every_choice_and_every_field() -> None:
    """`n: 2` would come back as one answer, or without what only this backend says."""
    body = gathered(
        delta({"role": "assistant", "content": ""}),
        delta({"content": "He"}, mood="odd"),
        delta({"role": "assistant", "content": "Ho"}, index=1),
        delta({"content": "y"}, token_ids=[1]),
        delta({"reasoning_content": "h"}),
        delta({"reasoning_content": "m", "spice": 1}),
        delta({}, finish_reason="stop", content_filter_results={"hate": False}),
        delta({}, index=1, finish_reason="length"),
        {"choices": [], "usage": USAGE, "system_fingerprint": "fp", "timings": {"ms": 1}},
    )
    assert (body["id"], body["object"], body["created"], body["model"]) == ("up-1", "chat.completion", 7, "as-asked")
    assert (body["usage"], body["system_fingerprint"], body["timings"]) == (USAGE, "fp", {"ms": 1})
    assert "obfuscation" not in body
    first, second = body["choices"]
    assert (first["index"], first["finish_reason"]) == (0, "stop")
    assert (second["index"], second["finish_reason"]) == (1, "length")
    assert first["message"] == {
        "role": "assistant", "content": "Hey", "refusal": None, "reasoning_content": "hm", "spice": 1,
    }  # fmt: skip
    assert (first["mood"], first["token_ids"], first["content_filter_results"]) == ("odd", [1], {"hate": False})
    assert second["message"]["content"] == "Ho"


def test_tool_calls_by_their_index_or_by_their_name() -> None:
    """Two calls would be one, with arguments nobody can read."""

    def call(index: int | None, **said: Any) -> dict[str, Any]:
        return delta({"tool_calls": [{**({} if index is None else {"index": index}), **said}]})

    body = gathered(
        delta({"role": "assistant", "content": None}),
        call(0, id="c1", type="function", function={"name": "f", "arguments": ""}),
        call(1, id="c2", type="function", function={"name": "g", "arguments": "{"}, extra=5),
        call(0, function={"arguments": '{"a":1}'}),
        call(1, id=None, function={"name": None, "arguments": "}"}),
        call(0, id="c3", function={"name": "f", "arguments": {"b": 2}}),
        call(None, id="c4", function={"name": "h", "arguments": "{"}),
        call(None, function={"arguments": "}"}),
        delta({}, finish_reason="tool_calls"),
    )
    message = body["choices"][0]["message"]
    calls = [(c["id"], c["function"]["name"], c["function"]["arguments"]) for c in message["tool_calls"]]
    assert calls == [("c1", "f", '{"a":1}'), ("c2", "g", "{}"), ("c3", "f", '{"b":2}'), ("c4", "h", "{}")]
    assert message["content"] is None
    assert message["tool_calls"][1]["extra"] == 5
    assert "index" not in message["tool_calls"][0]


def test_log_probabilities_annotations_refusals_and_sound_are_joined() -> None:
    """Only the last piece of each would be left."""
    one, two = {"token": "a", "logprob": -1}, {"token": "b", "logprob": -2}
    body = gathered(
        delta({"content": "a"}, logprobs={"content": [one], "refusal": None}),
        delta({"content": "b", "annotations": [{"type": "x"}]}, logprobs={"content": [two], "refusal": None}),
        delta({"annotations": [{"type": "y"}], "audio": {"id": "au", "transcript": "a"}}),
        delta({"audio": {"transcript": "b", "data": "QQ=="}}),
        delta({"function_call": {"name": "f", "arguments": "{"}}),
        delta({"function_call": {"arguments": "}"}}),
    )
    choice = body["choices"][0]
    assert choice["logprobs"] == {"content": [one, two], "refusal": None}
    assert choice["message"]["annotations"] == [{"type": "x"}, {"type": "y"}]
    assert choice["message"]["audio"] == {"id": "au", "transcript": "ab", "data": "QQ=="}
    assert choice["message"]["function_call"] == {"name": "f", "arguments": "{}"}
    refused = gathered(delta({"refusal": "I "}), delta({"refusal": "won't"}))["choices"][0]["message"]
    assert (refused["refusal"], refused["content"]) == ("I won't", None)


def test_content_in_parts_stays_in_parts() -> None:
    """Of an answer of Mistral's reasoning models all but the last piece would be lost."""
    thinking = [{"type": "thinking", "thinking": [{"type": "text", "text": text}]} for text in ("h", "m")]
    said = gathered(
        *(delta({"content": [part]}) for part in thinking), delta({"content": "a"}), delta({"content": "b"})
    )
    assert said["choices"][0]["message"]["content"] == [
        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "ab"},
    ]  # fmt: skip


def test_what_a_backend_leaves_out_is_said_anyway() -> None:
    """SDKs trip over a missing usage, id or finish reason."""
    body = gathered({"choices": [{"delta": {"content": "x"}}]}, ending=Ending("timeout", Usage(1, 2), True, 1))
    assert (body["id"], body["created"], body["usage"]["total_tokens"]) == ("chatcmpl-a", 1795260699, 3)
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "x", "refusal": None}


def test_the_older_api() -> None:
    """Several prompts and their log probabilities would be mixed up."""
    probs = {"tokens": ["a"], "token_logprobs": [-1.0], "top_logprobs": None, "text_offset": [0]}
    body = gathered(
        {"id": "cmpl-1", "choices": [{"index": 0, "text": "On", "logprobs": probs, "finish_reason": None}]},
        {"id": "cmpl-1", "choices": [{"index": 1, "text": "Two", "logprobs": None, "finish_reason": "length"}]},
        {"id": "cmpl-1", "choices": [{"index": 0, "text": "ce", "logprobs": probs, "finish_reason": "stop"}]},
        {"id": "cmpl-1", "choices": [], "usage": USAGE},
        kind=TextGatherer,
    )
    assert (body["id"], body["object"], body["model"]) == ("cmpl-1", "text_completion", "as-asked")
    assert body["usage"] == USAGE
    assert [(c["index"], c["text"], c["finish_reason"]) for c in body["choices"]] == [
        (0, "Once", "stop"), (1, "Two", "length"),
    ]  # fmt: skip
    assert body["choices"][0]["logprobs"]["tokens"] == ["a", "a"]
    assert body["choices"][1]["logprobs"] is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["choices", "delta", "index", "content", "tool_calls", "function", "name", "arguments", "logprobs", "audio",
         "text", "id", "usage", "finish_reason", "role", "annotations", "function_call", "type"]), inner),
    max_leaves=15,
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(JSON, max_size=4))
def test_whatever_comes_makes_an_answer(chunks: list[Any]) -> None:
    """An odd frame that the backend got away with would be a 500 here."""
    for kind in (ChatGatherer, TextGatherer):
        body = gathered(b"data: nonsense\n\n", *map(frame, chunks), kind=kind)
        assert body["model"] == "as-asked"


def test_a_frame_with_half_a_surrogate_pair_is_not_missing() -> None:
    """A chunk that JSON readers differ about would be gone from the answer, and nobody would know."""
    chunks = (b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n' % s for s in (b"so", rb"a\ud83d", b"b"))
    assert gathered(*chunks)["choices"][0]["message"]["content"] == "soa\ufffdb"
