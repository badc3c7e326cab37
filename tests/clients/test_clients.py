"""Real clients of Node and LangChain before every kind of server (`make test-clients`): what each of them understands.

A client that cannot tell something (the AI SDK's chat model has no reasoning) is excused below, by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from support.answers import ANSWERS, SERVERS, before, told_in
from support.dialects import Said
from support.heard import Heard, meant
from support.model_server import HELLO
from support.runner import Runner, node_command, python_command

pytestmark = pytest.mark.clients

# client -> the API it speaks, and what it cannot tell
NODE = {
    "openai-node chat": ("openai", ()),
    "openai-node responses": ("openai_responses", ()),
    "anthropic-node": ("anthropic", ()),
    "ollama-js": ("ollama", ()),
    "google-genai-node": ("google", ()),
    "ai openai (responses)": ("openai_responses", ()),
    "ai openai chat": ("openai", ("reasoning",)),
    "ai openai-compatible": ("openai", ()),
    "ai anthropic": ("anthropic", ()),
}
PYTHON = {
    "langchain-openai": ("openai", ("reasoning",)),
    "langchain-anthropic": ("anthropic", ()),
    "langchain-ollama": ("ollama", ()),
    "google-genai": ("google", ()),
}
BROKEN = Said(HELLO.steps, broken="the engine died")


def _runner(command: list[str]) -> Iterator[Runner]:
    if not command:
        pytest.skip("not set up: make test-clients")
    with Runner(command) as run:
        yield run


@pytest.fixture(scope="module")
def node() -> Iterator[Runner]:
    yield from _runner(node_command())


@pytest.fixture(scope="module")
def python() -> Iterator[Runner]:
    yield from _runner(python_command())


def wrong(heard: Heard, said: Said, server_api: str, client_api: str, mute: tuple[str, ...]) -> str:
    """What the client should have understood and did not."""
    due = told_in(told_in(meant(said), server_api), client_api)
    if "reasoning" in mute:
        due = replace(due, reasoning="")
    if heard.error:
        return heard.error
    for name in ("text", "reasoning", "calls", "finish"):
        if getattr(heard, name) != getattr(due, name):
            return f"{name} {getattr(heard, name)!r}, not {getattr(due, name)!r}"
    counts = zip(heard.usage, due.usage, strict=True)
    return f"usage {heard.usage}" if any(n is not None and n != count for n, count in counts) else ""


async def check(run: Runner, client: str, api: str, mute: tuple[str, ...], server: str) -> dict[str, str]:
    """What is wrong, by answer."""
    found: dict[str, str] = {}
    tools = server != "tgi generate"  # which has none, and whoever offers some is refused
    async with before(server) as (up, base):
        for name, said in ANSWERS.items():
            if said.others:
                continue  # told to those who ask for several choices only
            up.answer = said
            found[name] = wrong(await run.ask(client, base, tools=tools), said, up.dialect, api, mute)
        up.answer = BROKEN
        found["an error in mid-stream"] = "" if (await run.ask(client, base, tools=tools)).error else "not noticed"
        up.answer, up.manner = HELLO, "cut"
        found["a broken connection"] = "" if (await run.ask(client, base, tools=tools)).error else "not noticed"
    return {name: text for name, text in found.items() if text}


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("client", NODE)
async def test_node(node: Runner, client: str, server: str) -> None:
    """An application in JavaScript would read something else than the model said, or half of it without noticing."""
    api, mute = NODE[client]
    assert await check(node, client, api, mute, server) == {}


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("client", PYTHON)
async def test_python(python: Runner, client: str, server: str) -> None:
    """An application on LangChain or Google's SDK would read something else than the model said, or half of it."""
    api, mute = PYTHON[client]
    assert await check(python, client, api, mute, server) == {}
