"""What OpenAI-compatible drivers write and read beyond plain chat, and what each of them can express."""

from __future__ import annotations

import base64
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest

from backends import catalog
from backends.base import Driver, HttpRequest
from backends.contract.errors import BackendError, ErrorCode
from backends.contract.events import (
    Citation,
    Event,
    Failed,
    Finish,
    ReasoningDelta,
    Start,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from backends.contract.fit import Feature, fit
from backends.contract.request import (
    AudioPart,
    ChatRequest,
    FilePart,
    ImagePart,
    Message,
    Part,
    ReasoningPart,
    TextPart,
    Tool,
    ToolCall,
)
from config.schema import Backend
from config.values import Secret

ROOT = Path(__file__).parent.parent / "transcripts"
SCHEMA = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}


def build(kind: str, url: str = "http://h:1", **options: Any) -> Driver:
    return catalog.build("b", Backend(driver=kind, url=url, api_key=Secret("sk-secret"), options=options))


def body_of(request: HttpRequest | None) -> Any:
    assert request is not None
    return msgspec.json.decode(request.body)


def asked(kind: str, *messages: Message, **fields: Any) -> Any:
    """The body this driver writes for a request that was fitted to it."""
    driver = build(kind)
    request = ChatRequest("m", messages or (Message("user", "hi"),), **fields)
    return body_of(driver.prepare(fit(request, driver.expresses, "b", driver.dialect)[0]))


def read(path: str, kind: str = "openai") -> list[Event]:
    return build(kind).decoder().feed((ROOT / path).read_bytes())


def parts(*said: Part, kind: str = "openai") -> Any:
    return asked(kind, Message("user", said))["messages"][0]["content"]


def test_parts_in_openais_words() -> None:
    """A file, a sound or an image would not reach the model."""
    pdf = FilePart(data="QQ==", media_type="application/pdf")
    assert parts(TextPart("a"), ImagePart(url="u", detail="low"), AudioPart("QQ==", "mp3"), pdf) == [
        {"type": "text", "text": "a"},
        {"type": "image_url", "image_url": {"url": "u", "detail": "low"}},
        {"type": "input_audio", "input_audio": {"data": "QQ==", "format": "mp3"}},
        {"type": "file", "file": {"filename": "document.pdf", "file_data": "data:application/pdf;base64,QQ=="}},
    ]
    assert parts(FilePart(file_id="f"), TextPart("a"))[0] == {"type": "file", "file": {"file_id": "f"}}


def test_text_documents_are_text() -> None:
    """OpenAI takes only PDF as a file, and would refuse a plain text."""
    note = FilePart(data=base64.b64encode("Zoë".encode()).decode(), media_type="text/plain", filename="n.txt")
    assert parts(note) == "Zoë"
    broken = FilePart(data="!", media_type="text/plain", filename="n.txt")
    assert parts(broken)[0]["file"]["filename"] == "n.txt"


def test_images_a_tool_returned_follow_it() -> None:
    """OpenAI refuses them in a tool's message; left out, the model would not see what the tool found."""
    picture = ImagePart(data="QQ==", media_type="image/png")
    said = asked(
        "openai",
        Message("user", "look"),
        Message("assistant", "", (ToolCall("c1", "shoot", "{}"), ToolCall("c2", "shoot", "{}"))),
        Message("tool", (TextPart("done"), picture), tool_call_id="c1"),
        Message("tool", "none", tool_call_id="c2"),
        Message("user", "well?"),
    )["messages"]
    assert [m["role"] for m in said] == ["user", "assistant", "tool", "tool", "user"]
    assert (said[2]["content"], said[4]["content"][0]["type"]) == ("done", "image_url")
    assert said[4]["content"][1:] == [{"type": "text", "text": "well?"}]  # templates refuse two user turns in a row


@pytest.mark.parametrize(("kind", "field"), [("vllm", "reasoning_content"), ("llamacpp", "reasoning_content")])
def test_reasoning_of_earlier_turns_goes_where_it_is_read(kind: str, field: str) -> None:
    """The model's template would show turns without their thoughts."""
    turn = Message("assistant", (ReasoningPart("hm", "sig", dialect="anthropic"), TextPart("so")))
    assert asked(kind, turn, Message("user", "go on"))["messages"][0] == {
        "role": "assistant", "content": "so", field: "hm",
    }  # fmt: skip
    assert asked("openai", turn)["messages"][0] == {"role": "assistant", "content": "so"}


def test_fields_of_a_request() -> None:
    """The client's knobs would do nothing."""
    body = asked(
        "openai", tools=(Tool("f", strict=True),), tool_choice="required", parallel_tool_calls=False, logprobs=True,
        top_logprobs=2, reasoning_effort="low", response_format=SCHEMA, top_k=5, metadata={"a": "b"}, user="u",
    )  # fmt: skip
    assert body["tools"] == [{"type": "function", "function": {"name": "f", "strict": True}}]
    assert (body["logprobs"], body["top_logprobs"], body["reasoning_effort"]) == (True, 2, "low")
    assert (body["tool_choice"], body["parallel_tool_calls"], body["user"]) == ("required", False, "u")
    assert "top_k" not in body
    assert "metadata" not in body
    assert "tool_choice" not in asked("openai", tool_choice="auto", parallel_tool_calls=True)


def test_each_server_has_a_truth_of_its_own() -> None:
    """A field it refuses would fail the request; one it ignores would be promised in vain."""
    assert asked("vllm", top_k=5)["top_k"] == 5
    thinking = asked("llamacpp", reasoning_effort="low")
    assert (thinking["reasoning_effort"], thinking["thinking_budget_tokens"]) == ("low", 1024)
    named = asked("llamacpp", tools=(Tool("f"), Tool("g")), tool_choice="name:g")
    assert ([t["function"]["name"] for t in named["tools"]], named["tool_choice"]) == (["g"], "required")
    assert asked("tgi", response_format=SCHEMA)["response_format"] == {"type": "json", "value": {"type": "object"}}


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        ("vllm", FilePart(file_id="f")),
        ("llamacpp", FilePart(data="QQ==")),
        ("tgi", AudioPart("QQ==")),
        ("openai", FilePart(url="https://h/a.pdf")),
    ],
)
def test_what_a_server_cannot_do_is_refused(kind: str, part: Part) -> None:
    """The model would answer without having seen it."""
    with pytest.raises(BackendError, match="cannot do"):
        parts(part, kind=kind)


def test_tgis_own_endpoint_only_generates() -> None:
    """Tools and formats would be dropped from its prompt without a word."""
    driver = build("tgi", api="generate")
    for fields in ({"tools": (Tool("f"),)}, {"response_format": SCHEMA}):
        with pytest.raises(BackendError, match="cannot do"):
            fit(ChatRequest("m", (Message("user", "hi"),), **fields), driver.expresses, "b", driver.dialect)
    assert Feature.TOOLS in build("tgi").expresses


def test_one_choice_is_read_of_many() -> None:
    """The second answer would be mixed into the first."""
    events = read("openai/choices.sse")
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == "One é!"
    assert [e for e in events if isinstance(e, Finish)] == [Finish("stop")]


def test_fields_of_another_form_do_not_cost_the_answer() -> None:
    """Mistral tells thoughts as parts; some servers count in floats or number their answers."""
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    chunks = (
        {"id": 7, "choices": [{"delta": {"content": [thought, {"type": "reference", "reference_ids": [1]}]}}]},
        {"choices": [{"delta": {"content": [{"type": "text", "text": "Hello"}]}}]},
        {"choices": [], "usage": {"prompt_tokens": 3.0, "completion_tokens": 2.0}},
    )
    decoder = build("openai").decoder()
    events = [e for chunk in chunks for e in decoder.feed(b"data: " + msgspec.json.encode(chunk) + b"\n\n")]
    assert events == [Start(), ReasoningDelta("hm"), TextDelta("Hello"), Usage(3, 2)]


def test_the_oldest_form_of_a_tool_call_is_read() -> None:
    """A call that older servers put into `function_call` would be missing for readers of other protocols, beside a
    finish reason that promises it; odd values there would cost the answer."""
    said: list[Any] = [
        {"function_call": {"name": "f", "arguments": ""}},
        *({"function_call": {"arguments": piece}} for piece in ('{"a"', ":1}")),
        *({"content": "x", "function_call": odd} for odd in (None, "", [], {}, 5)),
    ]
    chunks = (b"data: " + msgspec.json.encode({"choices": [{"delta": delta}]}) + b"\n\n" for delta in said)
    events = build("openai").decoder().feed(b"".join(chunks))
    calls = [event for event in events if isinstance(event, ToolCallDelta)]
    assert [(call.index, call.name, call.arguments) for call in calls] == [
        (0, "f", ""),
        (0, "", '{"a"'),
        (0, "", ":1}"),
    ]
    assert calls[0].id
    assert sum(isinstance(event, TextDelta) for event in events) == 5


def test_tgis_word_for_a_failure_stands_beside_its_message() -> None:
    """An overloaded server would be told as a broken one."""
    for kind, code in (("overloaded", ErrorCode.OVERLOADED), ("generation", ErrorCode.UPSTREAM_FAILED)):
        frame = b'data: {"error":"Model is overloaded","error_type":"%s"}\n\n' % kind.encode()
        (event,) = build("tgi").decoder().feed(frame)
        assert isinstance(event, Failed)
        assert event.error.code is code
        assert event.error.message == "Model is overloaded"


def test_log_probabilities_and_citations_are_read() -> None:
    """Clients of other protocols would not get what the backend said of its answer."""
    events = read("openai/logprobs.sse")
    said = [(e.text, [item["token"] for item in e.logprobs or ()]) for e in events if isinstance(e, TextDelta)]
    assert said == [("Hey", ["Hey"]), ("☕", ["\\xe2\\x98", "\\x95"]), ("!", [])]
    [text] = [e for e in read("vllm/logprobs_reasoning.sse", "vllm") if isinstance(e, TextDelta)]
    assert [item["token"] for item in text.logprobs] == ["so"]
    cited = [e for e in events if isinstance(e, Citation)]
    assert (cited[0].url, cited[0].title, cited[0].start, cited[0].end) == ("https://h/a", "A", 0, 4)
    assert (cited[1].url, cited[1].dialect, cited[1].source["type"]) == ("", "openai", "file_citation")


@pytest.mark.parametrize(
    ("kind", "url", "path"),
    [
        ("openai", "http://h/v1", "/completions"),
        ("vllm", "http://h/v1", "/v1/completions"),
        ("llamacpp", "http://h", "/v1/completions"),
        ("tgi", "http://h", "/v1/completions"),
    ],
)
def test_the_older_api_beside_chat(kind: str, url: str, path: str) -> None:
    """Clients of completions would get a chat's answer, or none."""
    driver = build(kind, url)
    sibling = driver.speaking("openai_completions")
    assert sibling is not None
    assert sibling is driver.speaking("openai_completions")
    sent = sibling.forward({"model": "x", "prompt": ["a", "b"], "echo": True, "stream": False}, "real")
    assert (sent.path, dict(sent.headers)["authorization"]) == (path, "Bearer sk-secret")
    assert body_of(sent) == {
        "model": "real", "prompt": ["a", "b"], "echo": True, "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    plain = body_of(sibling.prepare(ChatRequest("m", (Message("user", "hi"),), max_tokens=3)))
    assert (plain["prompt"], plain["max_tokens"]) == ("hi", 3)
    assert sibling.failure(401, {}, b"").upstream_status == 401


def test_the_older_api_is_read_and_counted() -> None:
    """Receipts and watchers would see an empty answer."""
    sibling = build("vllm").speaking("openai_completions")
    assert sibling is not None
    block = (ROOT / "vllm/completions.sse").read_bytes()
    tap, decoder = sibling.tap(), sibling.decoder()
    tap.feed(block)
    assert [e for e in decoder.feed(block) if isinstance(e, TextDelta)] == list(map(TextDelta, ("On", "ce", ' "upon"')))
    assert (tap.tokens, tap.finish, tap.usage, tap.done) == (3, "length", Usage(2, 3), True)


def test_servers_without_the_older_api_are_asked_by_chat() -> None:
    """The demo's script is a chat: a prompt would be answered with silence."""
    assert build("demo", "").speaking("openai_completions") is None
    assert build("openai", completions=False).speaking("openai_completions") is None
    assert build("tgi", api="generate").speaking("openai_completions") is None


def test_embeddings() -> None:
    """Vectors out of order would belong to other texts."""
    sent = build("vllm").embed({"model": "x", "input": ["a"], "dimensions": 2, "user": "u"}, "real")
    assert sent is not None
    assert sent.path == "/v1/embeddings"
    assert body_of(sent) == {"model": "real", "input": ["a"], "dimensions": 2, "user": "u"}
    packed = base64.b64encode(struct.pack("<2f", 0.5, -1.0)).decode()
    rows = [{"index": 1, "embedding": packed}, {"index": 0, "embedding": [1, 2.5]}]
    answer = msgspec.json.encode({"data": rows, "usage": {"prompt_tokens": 7, "total_tokens": 7}})
    assert build("openai").read_embeddings(answer) == ([[1.0, 2.5], [0.5, -1.0]], Usage(prompt=7))
    for odd in (b"{}", b"<html>", b'{"data":[{"embedding":"!"}]}', b'{"data":[{"embedding":"QUI="}]}'):
        with pytest.raises(ValueError, match="embedding"):
            build("openai").read_embeddings(odd)
    assert build("demo", "").embed({"input": "a"}, "m") is None
    assert build("tgi").embed({"input": "a"}, "m") is None


def test_vllm_counts_by_its_tokenizer() -> None:
    """Counting clients would be refused, or get a guess."""
    driver = build("vllm", "http://h/v1")
    call = driver.count(ChatRequest("m", (Message("user", "hi"),), tools=(Tool("f"),), max_tokens=3))
    assert call is not None
    assert driver.url + call.path == "http://h/tokenize"
    assert sorted(body_of(call)) == ["add_generation_prompt", "messages", "model", "tools"]
    assert driver.read_count(b'{"count":7,"max_model_len":9,"tokens":[1]}') == 7
