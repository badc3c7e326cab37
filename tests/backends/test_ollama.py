"""Ollama's driver: what it writes beyond the plain question, and what it reads beyond text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from backends import catalog
from backends.base import Driver, HttpRequest
from backends.contract.events import Event, Finish, ReasoningDelta, TextDelta, Usage
from backends.contract.request import ChatRequest, Message, ReasoningPart, TextPart, ToolCall
from config.schema import Backend

TRANSCRIPTS = Path(__file__).parent.parent / "transcripts/ollama"
ASK = ChatRequest("m", (Message("user", "hi"),))


def build(**options: Any) -> Driver:
    return catalog.build("b", Backend(driver="ollama", options=options))


def body_of(request: HttpRequest | None) -> Any:
    assert request is not None
    return msgspec.json.decode(request.body)


def read(name: str) -> list[Event]:
    return build().decoder().feed((TRANSCRIPTS / name).read_bytes())


@pytest.mark.parametrize(("model", "effort", "think"), [
    ("gpt-oss:20b", "minimal", "low"), ("gpt-oss:20b", "high", "high"), ("gpt-oss:120b", "none", "low"),
    ("qwen3", "high", True), ("qwen3", "none", False), ("qwen3", None, None),
])  # fmt: skip
def test_effort_is_a_level_only_where_the_model_has_levels(model: str, effort: str | None, think: object) -> None:
    """Ollama answers 400 to a level for models that only think or do not."""
    request = msgspec.structs.replace(ASK, model=model, reasoning_effort=effort)
    assert body_of(build().prepare(request)).get("think") == think


def test_thoughts_and_results_of_earlier_turns_go_back() -> None:
    """The model would forget why it called a tool, and not know which tool answered."""
    request = msgspec.structs.replace(
        ASK,
        messages=(
            Message("assistant", (ReasoningPart("why"), TextPart("so")), (ToolCall("c9", "f", '{"a":1}'),)),
            Message("tool", "42", tool_call_id="c9"),
        ),
    )
    first, second = body_of(build().prepare(request))["messages"]
    assert (first["thinking"], first["content"], first["tool_calls"][0]["id"]) == ("why", "so", "c9")
    assert (second["tool_name"], second["tool_call_id"]) == ("f", "c9")


def test_each_client_path_is_forwarded_to_its_own() -> None:
    """A client of /api/generate would get chat lines, which it cannot read."""
    chat, generate = build().speaking("ollama"), build().speaking("ollama_generate")
    assert chat is not None
    assert generate is not None
    assert chat.forward({"messages": [], "x": 1}, "real").path == "/api/chat"
    sent = generate.forward({"prompt": "p", "raw": True}, "real")
    assert (sent.path, body_of(sent)) == (
        "/api/generate",
        {"prompt": "p", "raw": True, "model": "real", "stream": True},
    )
    assert build().speaking("openai") is None


def test_fields_only_ollama_knows_come_through_a_translation() -> None:
    """An Ollama client's num_ctx would be lost where its request is read and written again."""
    extra = {"options.num_ctx": 8192, "keep_alive": "5m"}
    request = msgspec.structs.replace(ASK, dialect="ollama", extra=extra, max_tokens=3)
    body = body_of(build(model_options={"num_ctx": 1, "num_gpu": 2}).prepare(request))
    assert body["options"] == {"num_ctx": 8192, "num_gpu": 2, "num_predict": 3}
    assert body["keep_alive"] == "5m"
    assert "options" not in body_of(
        build().prepare(msgspec.structs.replace(request, dialect="openai", max_tokens=None))
    )


def test_thinking_logprobs_and_length_are_read() -> None:
    """Reasoning would look like the answer, or a cut answer like a whole one."""
    events = read("thinking.ndjson")
    assert [e.text for e in events if isinstance(e, ReasoningDelta)] == ["let me", " see ☕"]
    texts = [e for e in events if isinstance(e, TextDelta)]
    assert texts[0].logprobs[0]["top_logprobs"][1] == {"token": "Nein", "logprob": -1.5, "bytes": list(b"Nein")}
    assert events[-2:] == [Finish("length"), Usage(11, 18)]


def test_embeddings_are_asked_and_read() -> None:
    """OpenAI's clients could not embed with a local model."""
    call = build().embed({"input": ["a", "b"], "dimensions": 2, "encoding_format": "float", "user": "u"}, "nomic")
    assert call is not None
    assert (call.path, body_of(call)) == ("/api/embed", {"model": "nomic", "input": ["a", "b"], "dimensions": 2})
    vectors, usage = build().read_embeddings(b'{"embeddings":[[1,0.5],[0,1]],"prompt_eval_count":4,"new":1}')
    assert (vectors, usage) == ([[1.0, 0.5], [0.0, 1.0]], Usage(prompt=4))
    for bad in (b"", b"[]", b'{"error":"no"}'):
        with pytest.raises(ValueError, match=r".+"):
            build().read_embeddings(bad)
