"""What a route changes in a request: the same in every dialect that has words for it, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.inprocess import client, running
from support.upstream import Upstream

from backends.catalog import names
from backends.contract.request import ChatRequest, Message
from config.parameters import PARAMETERS
from config.schema import Admin, Backend, Config, Route, Server, Target
from gateway.routing.rewriting import PLACES, rewritten, rewritten_body

ROUTE = Route(
    model="*",
    to=(Target("up", "real"),),
    defaults={"temperature": 0.5},
    force={"max_tokens": 7, "stop": ["END"]},
    system_prompt="Be brief.",
)


def test_every_word_has_a_place() -> None:
    """`check` would accept a parameter that nothing ever sends."""
    for name in PARAMETERS:
        assert name in PLACES["openai"]
        assert hasattr(ChatRequest(model="m", messages=()), name)
    assert all(set(places) <= set(PARAMETERS) for places in PLACES.values())
    assert names()


def test_the_neutral_request() -> None:
    """A default would win over the client, or a forced value lose."""
    said = ChatRequest(model="m", messages=(Message("user", "x"),), temperature=1.0, max_tokens=99)
    found = rewritten(said, ROUTE)
    assert (found.temperature, found.max_tokens, found.stop) == (1.0, 7, ("END",))
    assert found.messages[0] == Message("system", "Be brief.")
    assert rewritten(ChatRequest(model="m", messages=()), ROUTE).temperature == 0.5


@pytest.mark.parametrize(
    ("dialect", "body", "wanted"),
    [
        (
            "openai",
            {"messages": [1], "max_completion_tokens": 9, "x": 1},
            {"temperature": 0.5, "max_tokens": 7, "stop": ["END"], "x": 1,
             "messages": [{"role": "system", "content": "Be brief."}, 1]},
        ),
        (
            "anthropic",
            {"system": "Own.", "temperature": 1},
            {"system": "Be brief.\n\nOwn.", "temperature": 1, "max_tokens": 7, "stop_sequences": ["END"]},
        ),
        (
            "anthropic",
            {"system": [{"type": "text", "text": "Own."}], "temperature": 1},
            {"system": [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Own."}], "temperature": 1,
             "max_tokens": 7, "stop_sequences": ["END"]},
        ),
        (
            "ollama",
            {"messages": [], "options": {"seed": 1}},
            {"messages": [{"role": "system", "content": "Be brief."}],
             "options": {"seed": 1, "temperature": 0.5, "num_predict": 7, "stop": ["END"]}},
        ),
        (
            "google",
            {"generationConfig": {"topK": 1}},
            {"generationConfig": {"topK": 1, "temperature": 0.5, "maxOutputTokens": 7, "stopSequences": ["END"]},
             "systemInstruction": {"parts": [{"text": "Be brief."}]}},
        ),
        (
            "openai_responses",
            {"instructions": "Own."},
            {"instructions": "Be brief.\n\nOwn.", "temperature": 0.5, "max_output_tokens": 7},
        ),
        ("openai_completions", {"prompt": "x"}, {"prompt": "x", "temperature": 0.5, "max_tokens": 7, "stop": ["END"]}),
    ],
)  # fmt: skip
def test_a_clients_own_body(dialect: str, body: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Passthrough would get around the operator's rules, or lose fields nobody named."""
    before = json.dumps(body)
    assert rewritten_body(body, ROUTE, dialect) == wanted
    assert json.dumps(body) == before


def test_the_limit_has_the_backends_name() -> None:
    """OpenAI's newer models refuse `max_tokens`."""
    assert rewritten_body({"max_tokens": 3}, ROUTE, "openai", "max_completion_tokens")["max_completion_tokens"] == 7


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/api/streaming/chat"])
async def test_the_backend_gets_what_the_route_says(path: str) -> None:
    """Through the whole gateway: the same rules whichever API the client speaks."""
    async with Upstream([b"HTTP/1.1 400 X\r\nContent-Length: 2\r\n\r\n{}"]) as up:
        backends = {"up": Backend(driver="vllm", url=up.url)}
        config = Config(server=Server(port=0), admin=Admin(port=0), backends=backends, routes=(ROUTE,))
        async with running(config) as gateway, client(gateway) as session:
            body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True, "max_tokens": 50}
            await session.post(path, json=body)
        said = json.loads(up.requests[0][1])
        assert (said["model"], said["temperature"], said["max_tokens"]) == ("real", 0.5, 7)
        assert (said.get("stop") or said["stop_sequences"]) == ["END"]
        assert "Be brief." in json.dumps(said)
