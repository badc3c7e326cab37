"""What is asked in other words than llama.cpp's own, of a real one: several choices, log probabilities, budgets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("xllamacpp")

from support import llama
from support.inprocess import running
from support.plain_clients import CLIENTS
from support.script_text import TEXT, THOUGHT

from config.schema import Admin, Backend, Config, Route, Server, Target

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[llama.Llama]:
    started = llama.start("think", Path(tmp_path_factory.mktemp("llama")) / "think.log")
    try:
        yield started
    finally:
        started.stop()


async def heard(url: str, client: str, *, stream: bool, thinks: bool, **more: Any) -> Any:
    """What this client understands of the answer."""
    options = {} if thinks else {"body": {"chat_template_kwargs": {"enable_thinking": False}}}
    backends = {"up": Backend(driver="llamacpp", url=url, options=options)}
    config = Config(server=Server(port=0), admin=Admin(port=0), backends=backends,
                    routes=(Route(model="*", to=(Target("up"),)),))  # fmt: skip
    async with running(config) as gateway:
        asking = CLIENTS[client](f"http://127.0.0.1:{gateway.public_port}")
        try:
            return await asking.ask(stream=stream, **more)
        finally:
            await asking.close()


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("client", ["google", "google_array"])
async def test_several_choices(server: llama.Llama, client: str, stream: bool) -> None:
    """A client of Google's would get one candidate of those it asked for, or the words of both in one."""
    said = await heard(server.url, client, stream=stream, thinks=False, generationConfig={"candidateCount": 2})
    assert (said.error, said.text, said.finish) == ("", TEXT, "stop")
    assert said.others == {1: (TEXT, "stop")}


@pytest.mark.parametrize("stream", [True, False])
async def test_log_probabilities(server: llama.Llama, stream: bool) -> None:
    """They would end at the gateway for whoever does not speak OpenAI's API."""
    config = {"responseLogprobs": True, "logprobs": 1}
    said = await heard(server.url, "google", stream=stream, thinks=False, generationConfig=config)
    assert (said.error, said.text) == ("", TEXT)
    assert said.logprobs > 150


@pytest.mark.parametrize("client", ["native", "google"])
async def test_a_budget_holds(server: llama.Llama, client: str) -> None:
    """The model would think as long as it likes, at the client's cost."""
    budget: dict[str, Any] = {"reasoningBudget": 5}
    if client == "google":
        budget = {"generationConfig": {"thinkingConfig": {"thinkingBudget": 5}}}
    said = await heard(server.url, client, stream=True, thinks=True, **budget)
    assert (said.error, said.reasoning, said.text) == ("", "".join(THOUGHT[:5]), TEXT)
    free = await heard(server.url, client, stream=True, thinks=True)
    assert free.reasoning == "".join(THOUGHT)


async def test_no_effort_is_no_thought(server: llama.Llama) -> None:
    """A client that wants its answer at once would wait for the model to think."""
    said = await heard(server.url, "native", stream=True, thinks=True, reasoning_effort="none")
    assert (said.error, said.reasoning, said.text) == ("", "", TEXT)
