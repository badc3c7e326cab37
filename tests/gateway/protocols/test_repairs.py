"""Repairs: each mends what its server gets wrong, touches nothing else, and can be switched off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from backends.contract.framing import SseFramer
from config.repairs import REPAIRS
from gateway.protocols.base import About
from gateway.protocols.repair_chat import FirstRole, ReasoningName, SplitFinish, StringError
from gateway.protocols.repair_frame import Rule
from gateway.protocols.repair_responses import ResponsesFields
from gateway.protocols.repair_tools import ToolCallIds
from gateway.protocols.repairs import DEFAULTS, FITTING, Mender, chosen

TRANSCRIPTS = Path(__file__).parents[2] / "transcripts"
ABOUT = About("st_a", "m", "b", 1795260699000)
SPLIT = SseFramer(0).split


def mend(rule: Rule, block: bytes) -> bytes:
    return Mender(frozenset(), [rule], SPLIT).mend(block)


def frame(**chunk: Any) -> bytes:
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


def delta(finish: str | None = None, **said: Any) -> bytes:
    return frame(id="c", choices=[{"index": 0, "delta": said, "finish_reason": finish}])


def objects(block: bytes) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in block.split(b"\n") if line.startswith(b"data: {")]


def deltas(block: bytes) -> list[dict[str, Any]]:
    return [chunk["choices"][0]["delta"] for chunk in objects(block)]


RULES = [FirstRole, SplitFinish, StringError, ToolCallIds, lambda: ReasoningName(True), lambda: ResponsesFields(ABOUT)]


@pytest.mark.parametrize("make", RULES)
@pytest.mark.parametrize(
    "name", ["openai/text.sse", "anthropic/tools.sse", "openai/length_crlf.sse", "openai/spaced.sse"]
)
def test_a_sound_stream_is_not_touched(make: Any, name: str) -> None:
    """Passthrough promises the backend's own bytes: a repair may not even copy what needs none."""
    raw = (TRANSCRIPTS / name).read_bytes()
    block = SseFramer(1 << 20).feed(raw)
    assert mend(make(), block) is block


@pytest.mark.parametrize("make", RULES)
def test_no_rule_trips_over_garbage(make: Any) -> None:
    """A rule that raised would break a stream its decoder could still judge."""
    for payload in (b"{", b"[]", b"null", b"[DONE]", b'{"choices":3,"error":null}', b'{"choices":[1,{"delta":2}]}'):
        block = b"data: " + payload + b"\n\n: tool_calls\n\nevent: x\ndata: {\ndata: }\n\n"
        assert mend(make(), block) is block
    odd = b'data: {"choices":[{"delta":{"tool_calls":[1,{"function":"x"}]}}],"type":"response.created"}\n\n'
    assert mend(make(), odd).count(b"\n\n") == 1


def test_the_first_chunk_gets_a_role_and_no_other() -> None:
    """Clients that build messages from deltas would have one that nobody said."""
    rule = FirstRole()
    assert deltas(mend(rule, delta(content="a")))[0] == {"content": "a", "role": "assistant"}
    later = delta(content="b")
    assert mend(rule, later) is later


def test_content_and_finish_in_one_chunk_become_two() -> None:
    """Clients that stop at the finish reason lose the last word of every vLLM answer."""
    block = frame(id="c", choices=[{"index": 0, "delta": {"content": "."}, "finish_reason": "stop", "stop_reason": 7}])
    first, last = objects(mend(SplitFinish(), block))
    assert first["choices"] == [{"index": 0, "delta": {"content": "."}, "finish_reason": None, "stop_reason": None}]
    assert last["choices"] == [{"index": 0, "delta": {}, "finish_reason": "stop", "stop_reason": 7}]
    assert (first["id"], last["id"]) == ("c", "c")


@pytest.mark.parametrize("payload", [b'{"error": "CUDA \\"lost\\""}', b'{"error": "CUDA "lost""}'])
def test_a_textual_error_becomes_an_object(payload: bytes) -> None:
    """Vercel's SDK fails to validate it, openai-python finds no message, and JSON that is none crashes both."""
    (said,) = objects(mend(StringError(), b"data: " + payload + b"\n\n"))
    assert said["error"]["message"] == 'CUDA "lost"'
    assert said["error"]["type"] == "server_error"


def test_reasoning_gets_the_name_clients_read() -> None:
    """vLLM and mlx say `reasoning`; most clients read `reasoning_content` and would show nothing."""
    text = 'hm "\\ \n é'
    said = mend(ReasoningName(False), delta(reasoning=text) + delta(content="x"))
    assert deltas(said) == [{"reasoning": text, "reasoning_content": text}, {"content": "x"}]
    assert said.endswith(delta(content="x"))
    assert (
        deltas(mend(ReasoningName(False), delta(reasoning="a", reasoning_content=None)))[0]["reasoning_content"] == "a"
    )


def test_the_other_way_only_when_asked() -> None:
    """`reasoning_content` is what nearly all clients know: such streams stay as they are unless YAML says otherwise."""
    block = delta(reasoning_content="a")
    assert mend(ReasoningName(False), block) is block
    assert deltas(mend(ReasoningName(True), block)) == [{"reasoning_content": "a", "reasoning": "a"}]
    about = delta(content='"reasoning":"x"')
    assert mend(ReasoningName(True), about) is about


def test_tgi_tool_calls_are_said_once() -> None:
    """TGI repeats id, type and an empty name in every delta: clients see a new call in each, or a call named null."""
    raw = SseFramer(1 << 20).feed((TRANSCRIPTS / "tgi/tools.sse").read_bytes())
    out = b"".join(SPLIT(mend(ToolCallIds(), raw))[:2])
    said = [d["tool_calls"][0] for d in deltas(out)]
    assert said == [
        {"index": 0, "id": "0", "type": "function", "function": {"name": "f", "arguments": '{"a"'}},
        {"index": 0, "function": {"arguments": ":1}"}},
    ]


def test_calls_get_ids_indices_and_text_of_their_own() -> None:
    """Without ids a result cannot be sent back; under the same index two calls flow into one."""
    rule = ToolCallIds()
    calls: list[dict[str, Any]] = [
        {"index": 0, "id": "", "function": {"name": "f", "arguments": {"a": 1}}},
        {"index": 0, "id": "x", "function": {"name": "g", "arguments": None}},
        {"index": 0, "function": {"arguments": "{}"}},
        {"id": "x", "function": {"name": "h"}},
    ]
    said = [deltas(mend(rule, delta(tool_calls=[call])))[0]["tool_calls"][0] for call in calls]
    assert said == [
        {"index": 0, "id": "call_0", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
        {"index": 1, "id": "x", "type": "function", "function": {"name": "g", "arguments": ""}},
        {"index": 1, "function": {"arguments": "{}"}},
        {"index": 2, "id": "call_2", "type": "function", "function": {"name": "h"}},
    ]


def test_llamacpp_responses_get_what_strict_clients_demand() -> None:
    """Vercel's AI SDK rejects every event without these; what llama.cpp did send must still be there."""
    raw = (TRANSCRIPTS / "llamacpp/responses.sse").read_bytes()
    rule, mender_input = ResponsesFields(ABOUT), SPLIT(raw)
    out = b"".join(mend(rule, block) for block in mender_input)
    events, before = objects(out), objects(raw)
    assert [event["sequence_number"] for event in events] == list(range(len(before)))
    assert all("output_index" in e for e in events if "item" in e or "item_id" in e)
    assert all("content_index" in e for e in events if "output_text" in e["type"] or "content_part" in e["type"])
    created = events[0]["response"]
    assert (created["created_at"], created["model"]) == (1795260699, "m")
    assert all(old.items() <= new.items() for old, new in zip(before, events, strict=True) if "response" not in old)
    assert out.count(b"event: ") == raw.count(b"event: ")
    assert events[-1]["response"]["model"] == before[-1]["response"]["model"]


def test_output_items_keep_their_places() -> None:
    """Deltas of two items under one index would be merged by every client."""
    rule = ResponsesFields(ABOUT)

    def said(**event: Any) -> dict[str, Any]:
        return objects(mend(rule, frame(**event)))[0]

    said(type="response.created", response={"id": "r"})
    first = said(type="response.output_item.added", item={"id": "a", "type": "reasoning"})
    second = said(type="response.output_item.added", item={"call_id": "b", "type": "function_call"})
    assert (first["output_index"], second["output_index"], second["item"]["id"]) == (0, 1, "b")
    assert said(type="response.reasoning_text.delta", item_id="a", delta="x")["output_index"] == 0
    assert said(type="response.function_call_arguments.delta", item_id="b", delta="x")["output_index"] == 1
    assert said(type="response.output_item.done", item={"id": "a"})["output_index"] == 0


def test_a_whole_responses_stream_is_left_alone() -> None:
    """After one look at its first event OpenAI's own stream costs nothing more."""
    rule = ResponsesFields(ABOUT)
    mender = Mender(frozenset(), [rule], SPLIT)
    first = frame(type="response.created", sequence_number=0, response={"created_at": 1, "model": "x"})
    assert mender.mend(first) is first
    assert mender.idle
    odd = frame(type="response.output_text.delta", delta="x")
    assert mender.mend(odd) is odd


def test_rendering_twice_gives_the_same_bytes() -> None:
    """Resume renders a view again and skips what the client has: any difference would garble the answer."""
    raw = SPLIT((TRANSCRIPTS / "llamacpp/responses.sse").read_bytes())
    whole = Mender(frozenset(), [ResponsesFields(ABOUT)], SPLIT).mend(b"".join(raw))
    piecewise = Mender(frozenset(), [ResponsesFields(ABOUT)], SPLIT)
    assert b"".join(piecewise.mend(block) for block in raw) == whole


def test_the_table_and_the_configuration_know_the_same_names() -> None:
    """A repair `headgate check` does not know could not be switched off; one it alone knows would do nothing."""
    assert frozenset().union(*FITTING.values()) == REPAIRS.keys()
    assert all(names <= FITTING[dialect] for (_, dialect), names in DEFAULTS.items())


def test_configuration_switches_each_repair() -> None:
    """An operator who wants the backend's bytes must get them, and one with a strange server its repair."""
    assert "reasoning_name" not in chosen("vllm", "openai", {"reasoning_name": False})
    assert "split_finish" in chosen("llamacpp", "openai", {"split_finish": True})
    assert chosen("vllm", "openai", dict.fromkeys(REPAIRS, False)) == frozenset()
    assert chosen("llamacpp", "openai_responses", {"split_finish": True}) == {"responses_fields"}
    assert chosen("anthropic", "anthropic", {"done_marker": True}) == frozenset()
