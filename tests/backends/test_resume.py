"""What each driver asks for when it is to go on with an answer, and when it rather does not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace

from backends.base import Driver
from backends.catalog import build
from backends.contract.events import ReasoningDelta
from backends.contract.request import ChatRequest, Message
from backends.wire import gauges
from config.schema import Backend
from config.values import Secret

ASK = ChatRequest(model="m", messages=(Message("system", "Be."), Message("user", "Go.")), max_tokens=20)
SO_FAR = "Once upon"
LAST = {"role": "assistant", "content": SO_FAR}


def driver(name: str, **options: Any) -> Driver:
    return build("b", Backend(driver=name, url="http://127.0.0.1:1", api_key=Secret("key"), options=options))


def asked(which: Driver | None, request: ChatRequest = ASK, so_far: str = SO_FAR, reasoning: str = "") -> Any:
    assert which is not None
    call = which.resume(request, so_far, reasoning)
    return None if call is None else (call.path, json.loads(call.body))


def test_vllm_says_so_in_its_own_words() -> None:
    """Without them the template would close the answer and begin another."""
    path, body = asked(driver("vllm"), reasoning="Hm.")
    assert path == "/v1/chat/completions"
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert body["messages"][-1] == {**LAST, "reasoning_content": "Hm."}
    assert asked(driver("vllm"), so_far="Once ") is None


def test_llamacpp_goes_on_by_the_last_message() -> None:
    """It refuses a prefill for a model that is to think first; and clients of Messages have their own road."""
    path, body = asked(driver("llamacpp"))
    assert (path, body["messages"][-1]) == ("/v1/chat/completions", LAST)
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    path, body = asked(driver("llamacpp").speaking("anthropic"))
    assert (path, body["messages"][-1]) == ("/v1/messages", LAST)
    assert asked(driver("llamacpp").speaking("anthropic"), reasoning="Hm.") is None


def test_ollama_goes_on_by_the_last_message() -> None:
    """Its other API has no turns, and no way to go on."""
    path, body = asked(driver("ollama"))
    assert (path, body["messages"][-1]) == ("/api/chat", LAST)
    assert asked(driver("ollama"), reasoning="Hm.")[1]["think"] is False
    assert asked(driver("ollama").speaking("ollama_generate")) is None


@pytest.mark.parametrize(
    ("options", "model", "more", "so_far", "goes"),
    [
        ({}, "claude-sonnet-4-5", {}, SO_FAR, True),
        ({}, "claude-3-opus", {}, SO_FAR, True),
        ({}, "claude-opus-4-6", {}, SO_FAR, False),
        ({}, "claude-opus-4-6-20260205", {}, SO_FAR, False),
        ({"version": "2026-10-21"}, "claude-sonnet-4-5", {}, SO_FAR, False),
        ({}, "claude-sonnet-4-5", {}, "Once ", False),
        ({}, "claude-sonnet-4-5", {"extra": {"thinking": {"type": "enabled"}}, "dialect": "anthropic"}, SO_FAR, False),
    ],
)
def test_anthropic_takes_a_prefill_where_it_does(
    options: dict[str, Any], model: str, more: dict[str, Any], so_far: str, goes: bool
) -> None:
    """A refused request would cost an attempt; thinking would begin in the middle of the answer."""
    found = asked(driver("anthropic", **options), replace(ASK, model=model, **more), so_far)
    assert (found is not None) is goes
    if found:
        assert found[1]["messages"][-1] == LAST


def test_tgi_goes_on_by_its_prompt_only() -> None:
    """Its chat endpoint would begin a new answer."""
    path, body = asked(driver("tgi", api="generate"))
    assert (path, body["inputs"]) == ("/generate_stream", "system: Be.\nuser: Go.\nassistant:Once upon")
    assert asked(driver("tgi")) is None


def test_completions_go_on_by_their_prompt() -> None:
    """A prompt would be put into a chat, and answered instead of continued."""
    request = ChatRequest(
        model="m",
        messages=(Message("user", "It was"),),
        top_k=3,
        dialect="openai_completions",
        extra={"ignore_eos": True},
    )
    path, body = asked(driver("vllm").speaking("openai_completions"), request, " a dark")
    assert (path, body["prompt"], body["top_k"], body["ignore_eos"]) == ("/v1/completions", "It was a dark", 3, True)
    assert asked(driver("vllm").speaking("openai_completions")) is None


def test_a_compatible_server_is_trusted_when_told() -> None:
    """OpenAI itself would answer the prefill as if it were a turn of long ago."""
    assert asked(driver("openai")) is None
    assert asked(driver("openai", continue_answers=True))[1]["messages"][-1] == LAST
    assert asked(driver("openai", continue_answers=True), reasoning="Hm.") is None


@pytest.mark.parametrize("told", [None, True, False])
def test_a_server_that_loses_a_space_is_not_asked(told: bool | None) -> None:
    """mlx_lm would glue the rest of an answer to its last word."""
    request = ChatRequest(model="m", messages=(Message("user", "It was"),), dialect="openai_completions")
    raw = driver("openai", continue_answers=told).speaking("openai_completions")
    assert (asked(raw, request, " a dark") is None) is (told is False)


@pytest.mark.parametrize("name", ["google", "tgi"])
def test_who_cannot_says_so(name: str) -> None:
    """An answer would begin anew in the middle of another."""
    assert asked(driver(name)) is None


@pytest.mark.parametrize("name", ["vllm", "llamacpp", "ollama", "anthropic", "demo", "openai", "google"])
def test_who_continues_says_how(name: str) -> None:
    """The documentation's table is made of it."""
    assert bool(driver(name).continues) is (name != "google")


def test_load_is_read() -> None:
    """A server busy with others' requests would look idle."""
    metrics = b'# TYPE x gauge\nvllm:num_requests_running{engine="0"} 3.0\nvllm:num_requests_waiting{engine="0"} 2.0\n'
    assert driver("vllm").read_load(metrics) == 5
    assert driver("llamacpp").read_load(b'[{"id":0,"is_processing":true},{"id":1,"is_processing":false}]') == 1
    with pytest.raises(ValueError, match="no load"):
        gauges(b"nothing_here 1\n", "x")
    with pytest.raises(ValueError, match="no load"):
        driver("llamacpp").read_load(b"{}")


def test_vllm_signs_for_the_forms_sake() -> None:
    """An answer of vLLM's Messages API that had thoughts would be taken for sealed, and could not be gone on with."""
    block = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":%b}\n\n'
    said = b'{"type":"signature_delta","signature":"6f1e"}'
    theirs = driver("vllm").speaking("anthropic")
    assert theirs is not None
    assert theirs.decoder().feed(block % said) == []
    assert driver("anthropic").decoder().feed(block % said) == [ReasoningDelta("", "6f1e")]
