"""What drivers write: bodies, paths, headers; the catalog; the demo's script."""

from __future__ import annotations

import time
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pytest

from backends import catalog
from backends.base import Driver, HttpRequest, Play
from backends.contract.errors import BackendError, ErrorCode
from backends.contract.events import Failed, Finish, ReasoningDelta, TextDelta, ToolCallDelta, Usage
from backends.contract.payload import sse_events
from backends.contract.request import ChatRequest, ImagePart, Message, TextPart, Tool, ToolCall
from config.schema import Backend
from config.values import Secret

ASK = ChatRequest(
    model="m",
    messages=(
        Message("system", "be kind"),
        Message("user", (TextPart("look"), ImagePart(data="QUJD", media_type="image/png"))),
        Message("assistant", "", (ToolCall("c1", "f", '{"a":1}'),)),
        Message("tool", "42", tool_call_id="c1"),
    ),
    max_tokens=7,
    stop=("END",),
    tools=(Tool("f", "does f", {"type": "object"}),),
    tool_choice="name:f",
)


def build(kind: str, url: str = "http://h:1", **options: Any) -> Driver:
    return catalog.build("b", Backend(driver=kind, url=url, api_key=Secret("sk-secret"), options=options))


def body_of(request: HttpRequest) -> Any:
    return msgspec.json.decode(request.body)


def test_openai_body_says_everything_and_streams() -> None:
    """The backend would answer another question, or not stream, or not count."""
    request = build("openai", "http://h:1/v1").prepare(ASK)
    body = body_of(request)
    assert (request.path, dict(request.headers)["authorization"]) == ("/chat/completions", "Bearer sk-secret")
    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True}
    assert body["messages"][1]["content"][1] == {
        "type": "image_url",
        "image_url": {"url": "data:image/png;base64,QUJD"},
    }
    assert body["messages"][2]["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a":1}'}
    assert body["messages"][3] == {"role": "tool", "content": "42", "tool_call_id": "c1"}
    assert (body["max_tokens"], body["tool_choice"]["function"]["name"]) == (7, "f")


def test_forward_keeps_unknown_fields() -> None:
    """Passthrough would lose what only the backend understands."""
    sent = build("vllm").forward({"model": "x", "min_p": 0.1, "stream_options": {"y": 1}, "messages": []}, "real")
    assert sent.path == "/v1/chat/completions"
    assert body_of(sent) == {
        "model": "real", "min_p": 0.1, "stream": True, "messages": [],
        "stream_options": {"y": 1, "include_usage": True},
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["vllm", "llamacpp", "tgi"])
@pytest.mark.parametrize("url", ["http://h:1", "http://h:1/", "http://h:1/v1"])
def test_local_servers_are_found_with_and_without_v1(kind: str, url: str) -> None:
    """Half of all users would get 404."""
    driver = build(kind, url)
    assert driver.url + driver.prepare(ASK).path == "http://h:1/v1/chat/completions"
    with pytest.raises(ValueError, match="needs a url"):
        build(kind, "")


def test_llamacpp_never_sends_a_conversation_id() -> None:
    """Its generation would outlive a cancel."""
    headers = {"X-Conversation-Id": Secret("c"), "X-Other": Secret("o")}
    driver = catalog.build("b", Backend(driver="llamacpp", url="http://h", headers=headers))
    names = [name for name, _ in driver.prepare(ASK).headers]
    assert "x-other" in names
    assert "x-conversation-id" not in names
    assert driver.keepalive is False


def test_anthropic_body() -> None:
    """Anthropic answers 400 to system turns, missing limits and unpaired tool results."""
    request = build("anthropic", "").prepare(ASK)
    body, headers = body_of(request), dict(request.headers)
    assert (headers["x-api-key"], headers["anthropic-version"]) == ("sk-secret", "2023-06-01")
    assert (body["system"], body["max_tokens"], body["stop_sequences"]) == ("be kind", 7, ["END"])
    assert [m["role"] for m in body["messages"]] == ["user", "assistant", "user"]
    assert body["messages"][0]["content"][1]["source"]["type"] == "base64"
    assert body["messages"][1]["content"] == [{"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1}}]
    assert body["messages"][2]["content"][0]["tool_use_id"] == "c1"
    assert body["tool_choice"] == {"type": "tool", "name": "f"}
    plain = ChatRequest("m", (Message("user", "hi"),), temperature=0.5, reasoning_effort="low")
    thinking = body_of(build("anthropic", "").prepare(plain))
    assert thinking["max_tokens"] == 4096 + thinking["thinking"]["budget_tokens"]
    assert "temperature" not in thinking


def test_google_body_and_model_names() -> None:
    """A model's name is part of the path: it could lead to another resource."""
    request = build("google", "").prepare(msgspec.structs.replace(ASK, model="gemini-2.5-pro"))
    body = body_of(request)
    assert request.path == "/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse"
    assert [c["role"] for c in body["contents"]] == ["user", "model", "user"]
    assert body["contents"][2]["parts"][0]["functionResponse"] == {"name": "f", "response": {"result": "42"}}
    assert body["generationConfig"] == {"maxOutputTokens": 7, "stopSequences": ["END"]}
    for name in ("../x", "a/b", "m?key=1", "", ".."):
        with pytest.raises(BackendError) as caught:
            build("google", "").prepare(msgspec.structs.replace(ASK, model=name))
        assert caught.value.code is ErrorCode.UNKNOWN_MODEL


def test_ollama_body() -> None:
    """Ollama takes options apart, images as data and arguments as objects."""
    request = build("ollama", "").prepare(ASK)
    body = body_of(request)
    assert request.path == "/api/chat"
    assert body["stream"] is True
    assert body["options"] == {"num_predict": 7, "stop": ["END"]}
    assert body["messages"][1]["images"] == ["QUJD"]
    assert body["messages"][2]["tool_calls"][0]["function"]["arguments"] == {"a": 1}
    assert body["messages"][3]["tool_name"] == "f"


def test_tgi_generate_is_a_dialect_of_its_own() -> None:
    """Its frames would be passed to OpenAI clients as they are."""
    driver = build("tgi", api="generate")
    assert (driver.dialect, build("tgi").dialect) == ("tgi", "openai")
    request = driver.prepare(ChatRequest("m", (Message("user", "hi"),), max_tokens=3))
    assert request.path == "/generate_stream"
    assert body_of(request)["inputs"] == "hi"
    assert body_of(request)["parameters"]["max_new_tokens"] == 3


def test_model_lists_are_read() -> None:
    """/v1/models would be empty, or break on a strange answer."""
    assert build("openai").read_models(b'{"data":[{"id":"a"},{"id":"b"}]}') == ["a", "b"]
    assert build("google").read_models(b'{"models":[{"name":"models/g"}]}') == ["g"]
    assert build("ollama").read_models(b'{"models":[{"name":"l:1"}]}') == ["l:1"]
    assert build("anthropic").read_models(b"<html>") == ()


def test_the_catalog_is_the_folder() -> None:
    """A driver's file alone would not be enough, or a typing mistake would not be explained."""
    files = {p.stem for p in Path(catalog.__file__).parent.glob("*.py") if "\nclass Driver(" in p.read_text()} - {
        "base"
    }
    assert (
        set(catalog.names()) == files >= {"openai", "anthropic", "google", "ollama", "vllm", "tgi", "llamacpp", "demo"}
    )
    with pytest.raises(ValueError, match="did you mean ollama"):
        catalog.load("olama")
    with pytest.raises(ValueError, match=r"backends\.b\.options"):
        build("openai", nonsense=1)


def play(text: str, limit: int | None = None, **options: Any) -> tuple[int, list[Play]]:
    driver = catalog.build("d", Backend(driver="demo", options=options))
    script = driver.script(driver.prepare(ChatRequest("demo", (Message("user", text),), max_tokens=limit)))
    assert script is not None
    return script.status, list(islice(script.steps, 400))


def events_of(steps: list[Play]) -> tuple[list[Any], bool]:
    decoder = catalog.build("d", Backend(driver="demo")).decoder()
    return [e for s in steps if s.data for e in decoder.feed(s.data)], decoder.done


def test_the_demo_answers_its_prompt_the_same_way_each_time() -> None:
    """Trying the gateway without a key would show nothing, or a test of it would not repeat."""
    status, steps = play("tell me a story")
    events, done = events_of(steps)
    assert status == 200
    assert done
    assert steps[-1].end == "eof"
    assert "tell me a story" in "".join(e.text for e in events if isinstance(e, TextDelta))
    assert [e.reason for e in events if isinstance(e, Finish)] == ["stop"]
    assert any(isinstance(e, Usage) and e.completion > 20 for e in events)
    assert sum(s.delay for s in steps) == pytest.approx(sum(isinstance(e, TextDelta) for e in events) / 30)
    again, _ = events_of(play("tell me a story")[1])
    assert [e for e in again if isinstance(e, TextDelta)] == [e for e in events if isinstance(e, TextDelta)]
    assert play("tell me a story")[1][0].data != steps[0].data  # ids are of one answer


def test_the_demo_obeys_its_directives() -> None:
    """Failures could not be tried out."""
    events, done = events_of(play("hi [tokens=20] [rate=100] [reasoning]", limit=15)[1])
    assert done
    assert [e.reason for e in events if isinstance(e, Finish)] == ["length"]
    assert any(isinstance(e, ReasoningDelta) for e in events)
    tools, _ = events_of(play("[tool=search]")[1])
    assert "".join(e.arguments for e in tools if isinstance(e, ToolCallDelta)) == '{"query":"demo"}'
    failed, done = events_of(play("[fail=error@10]")[1])
    assert isinstance(failed[-1], Failed)
    assert not done
    assert sum(isinstance(e, TextDelta) for e in failed) == 10
    assert play("[fail=cut@3]")[1][-1].end == "cut"
    assert play("[fail=stall@3]")[1][-1].delay > 1e6
    assert play("[fail=refuse]")[1] == [Play(0.0, end="cut")]
    assert (play("[fail=http429]")[0], play("[fail=http500]")[0]) == (429, 500)
    assert len(play("[tokens=0]")[1]) == 400 == len(play("x", tokens=-1)[1])


def test_the_demo_gives_as_many_choices_as_asked_for() -> None:
    """`n` would be taken and nothing come of it."""
    body = {"model": "demo", "n": 2, "stream": True, "messages": [{"role": "user", "content": "hi [tokens=3]"}]}
    driver = catalog.build("demo", Backend(driver="demo"))
    script = driver.script(HttpRequest("POST", "/", (), msgspec.json.encode(body)))
    assert script is not None
    sent = [data for step in script.steps for _, data in sse_events(step.data)]
    chunks = [msgspec.json.decode(data) for data in sent if data != b"[DONE]"]
    said: dict[int, str] = {}
    for choice in (choice for one in chunks for choice in one["choices"]):
        said[choice["index"]] = said.get(choice["index"], "") + choice["delta"].get("content", "")
    assert said[0] == said[1] != ""
    assert len({one["id"] for one in chunks}) == 1
    assert all(abs(one["created"] - time.time()) < 60 for one in chunks)
    assert chunks[-1]["usage"]["completion_tokens"] == 6
