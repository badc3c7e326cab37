"""Google's driver: signatures, media, tools of its own, sources, embeddings and counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from backends import catalog
from backends.base import Driver, HttpRequest
from backends.contract.errors import BackendError, ErrorCode
from backends.contract.events import Citation, Event, ReasoningDelta, TextDelta, ToolCallDelta, ToolResult, Usage
from backends.contract.request import (
    AudioPart,
    ChatRequest,
    FilePart,
    ImagePart,
    Message,
    ReasoningPart,
    TextPart,
    Tool,
    ToolCall,
)
from config.schema import Backend
from config.values import Secret

TRANSCRIPTS = Path(__file__).parent.parent / "transcripts/google"
ASK = ChatRequest("gemini-2.5-pro", (Message("user", "hi"),))


def build() -> Driver:
    return catalog.build("b", Backend(driver="google", api_key=Secret("key-secret")))


def body_of(request: HttpRequest | None) -> Any:
    assert request is not None
    return msgspec.json.decode(request.body)


def asked(**changes: Any) -> Any:
    return body_of(build().prepare(msgspec.structs.replace(ASK, **changes)))


def read(name: str) -> list[Event]:
    return build().decoder().feed((TRANSCRIPTS / name).read_bytes())


def test_signatures_come_and_go_back_where_they_were() -> None:
    """Gemini 3 answers 400 when a call comes back without its signature."""
    events = read("signatures.sse")
    calls = [e for e in events if isinstance(e, ToolCallDelta)]
    assert [c.signature for c in calls] == ["c2ln", ""]
    assert [e for e in events if isinstance(e, ReasoningDelta)] == [
        ReasoningDelta("plan"),
        ReasoningDelta("", "bGFzdA=="),
    ]
    turn = Message(
        "assistant",
        (ReasoningPart("plan", "s1", dialect="google"), ReasoningPart("", "s2", dialect="google")),
        tuple(ToolCall(c.id, c.name, c.arguments, c.signature) for c in calls),
    )
    parts = asked(messages=(turn,))["contents"][0]["parts"]
    assert parts == [
        {"text": "plan", "thought": True, "thoughtSignature": "s1"},
        {"text": "", "thoughtSignature": "s2"},
        {"functionCall": {"name": "f", "args": {"a": 1}}, "thoughtSignature": "c2ln"},
        {"functionCall": {"name": "g", "args": {}}},
    ]


def test_calls_of_other_models_are_marked_for_gemini_3_only() -> None:
    """A conversation that another model began could not go on with Gemini 3."""
    calls = (ToolCall("1", "f", "{}"), ToolCall("2", "g", "{}"))
    turn = Message("assistant", (ReasoningPart("x", "theirs", dialect="anthropic"),), calls)
    old, new = (asked(model=m, messages=(turn,))["contents"][0]["parts"] for m in ("gemini-2.5-pro", "gemini-3-pro"))
    assert [sorted(part) for part in old] == [["functionCall"], ["functionCall"]]
    assert [sorted(part) for part in new] == [["functionCall", "thoughtSignature"], ["functionCall"]]


def test_every_kind_of_part_has_its_place() -> None:
    """A picture or a document by URL would be refused, or lost."""
    content = (
        TextPart("see"),
        ImagePart(url="https://x.example/a.png?q"),
        FilePart(url="https://x.example/b.pdf"),
        FilePart(data="QQ==", media_type="text/plain"),
        AudioPart("UklG", "mp3"),
    )
    assert asked(messages=(Message("user", content),))["contents"][0]["parts"] == [
        {"text": "see"},
        {"fileData": {"fileUri": "https://x.example/a.png?q", "mimeType": "image/png"}},
        {"fileData": {"fileUri": "https://x.example/b.pdf", "mimeType": "application/pdf"}},
        {"inlineData": {"mimeType": "text/plain", "data": "QQ=="}},
        {"inlineData": {"mimeType": "audio/mp3", "data": "UklG"}},
    ]


def test_failed_tools_say_so() -> None:
    """The model would take an error message for the tool's result."""
    turns = (Message("assistant", "", (ToolCall("1", "f", "{}"),)), Message("tool", "no", (), "1", failed=True))
    assert asked(messages=turns)["contents"][1]["parts"][0]["functionResponse"]["response"] == {"error": "no"}


def test_tools_that_run_at_google_are_for_its_own_clients() -> None:
    """Another provider's search tool would be sent to Google in words it does not know."""
    tool = Tool("googleSearch", hosted={"googleSearch": {}})
    assert asked(tools=(tool, Tool("f")), dialect="google")["tools"] == [
        {"functionDeclarations": [{"name": "f"}]},
        {"googleSearch": {}},
    ]
    with pytest.raises(BackendError, match="web_search"):
        asked(tools=(Tool("web_search", hosted={"type": "web_search"}),), dialect="openai")


def test_thinking_logprobs_and_own_fields_are_written() -> None:
    """A client's budget, safety settings or speech settings would be lost in translation."""
    extra = {"safetySettings": [1], "generationConfig.responseModalities": ["TEXT"], "toolConfig.x": 1}
    body = asked(reasoning_budget=77, logprobs=True, top_logprobs=2, dialect="google", extra=extra)
    assert body["generationConfig"] == {
        "responseModalities": ["TEXT"],
        "responseLogprobs": True,
        "logprobs": 2,
        "thinkingConfig": {"thinkingBudget": 77, "includeThoughts": True},
    }
    assert (body["safetySettings"], body["toolConfig"]) == ([1], {"x": 1})
    assert asked(reasoning_effort="none")["generationConfig"]["thinkingConfig"]["includeThoughts"] is False


def test_sources_code_and_logprobs_are_read() -> None:
    """A grounded answer would lose where it comes from."""
    events = read("grounded.sse")
    found = [(e.url, e.text, e.start, e.end) for e in events if isinstance(e, Citation)]
    assert found == [
        ("https://a.example", "Spain won.", 0, 10),
        ("https://b.example", "Spain won.", 0, 10),
        ("https://c.example", "", 0, 5),
    ]
    ran = {"language": "PYTHON", "code": "print(1)", "outcome": "OUTCOME_OK", "output": "1\n"}
    assert ToolResult("code_0", "code_execution", ran) in events
    assert Usage(10, 5) in events
    (text,) = (e for e in read("logprobs.sse") if isinstance(e, TextDelta))
    assert text.logprobs[0]["logprob"] == -0.25
    assert [t["token"] for t in text.logprobs[0]["top_logprobs"]] == ["Hi", "Ho"]


def test_positions_are_told_where_bytes_are_characters_and_never_twice() -> None:
    """A link would be set around the wrong words, or a source be listed again with every chunk."""
    chunk = (
        b'data: {"candidates":[{"content":{"parts":[{"text":"Spain"}]},"citationMetadata":{"citationSources":'
        b'[{"endIndex":5,"uri":"u"}]}}]}\n\n'
    )
    later = chunk.replace(b"Spain", "é!".encode()).replace(b":5", b":12")
    decoder = build().decoder()
    found = [e for e in decoder.feed(chunk + chunk) + decoder.feed(later) if isinstance(e, Citation)]
    assert [(c.start, c.end) for c in found] == [(0, 5), (None, None)]


def test_embeddings_and_counts_are_asked_and_read() -> None:
    """Clients could not embed with Google's models, nor know what a prompt costs."""
    driver = build()
    call = driver.embed({"input": ["a", "b"], "dimensions": 8}, "models/gemini-embedding-001")
    assert call is not None
    assert call.path == "/v1beta/models/gemini-embedding-001:batchEmbedContents"
    one = {"model": "models/gemini-embedding-001", "content": {"parts": [{"text": "a"}]}, "outputDimensionality": 8}
    assert body_of(call)["requests"][0] == one
    assert driver.read_embeddings(b'{"embeddings":[{"values":[1]},{"values":[0.5]}]}') == ([[1.0], [0.5]], Usage())
    count = driver.count(msgspec.structs.replace(ASK, messages=(Message("system", "s"), *ASK.messages)))
    assert count is not None
    assert count.path == "/v1beta/models/gemini-2.5-pro:countTokens"
    assert body_of(count)["generateContentRequest"]["systemInstruction"] == {"parts": [{"text": "s"}]}
    assert driver.read_count(b'{"totalTokens":31,"promptTokensDetails":[]}') == 31
    for bad in (b"", b"{}", b"[]"):
        with pytest.raises(ValueError, match=r".+"):
            driver.read_count(bad)
        with pytest.raises(ValueError, match=r".+"):
            driver.read_embeddings(bad)


@pytest.mark.parametrize("call", ["embed", "count"])
def test_a_name_never_leads_out_of_its_path(call: str) -> None:
    """A model's name could reach another resource with the gateway's key."""
    driver = build()
    with pytest.raises(BackendError) as caught:
        driver.embed({"input": "x"}, "../x") if call == "embed" else driver.count(ChatRequest("a/b", ()))
    assert caught.value.code is ErrorCode.UNKNOWN_MODEL
