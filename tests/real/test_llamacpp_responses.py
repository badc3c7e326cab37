"""OpenAI's Responses API in front of a real llama.cpp: its own `/v1/responses` passed on, and its chat translated."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import openai
import pytest

pytest.importorskip("xllamacpp")

from support import llama
from support.gateway import Gateway, start_gateway
from support.script_text import TEXT, TOOL_ARGUMENTS, TOOL_NAME

pytestmark = pytest.mark.real

CONFIG = """
backends:
  text-own: {driver: llamacpp, url: "%(text)s"}
  text-chat: {driver: llamacpp, url: "%(text)s", options: {responses: false}}
  tool-own: {driver: llamacpp, url: "%(tool)s"}
  tool-chat: {driver: llamacpp, url: "%(tool)s", options: {responses: false}}
routes:
  - {model: text-own, to: text-own}
  - {model: text-chat, to: text-chat}
  - {model: tool-own, to: tool-own}
  - {model: tool-chat, to: tool-chat}
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder: Path = tmp_path_factory.mktemp("llama")
    with ExitStack() as stack:
        urls: dict[str, str] = {}
        for kind in ("text", "tool"):
            server = llama.start(kind, folder / f"{kind}.log")
            stack.callback(server.stop)
            urls[kind] = server.url
        running = start_gateway(CONFIG % urls)
        stack.callback(running.stop)
        yield running


@pytest.mark.parametrize("way", ["own", "chat"])
async def test_the_text_is_the_models(gateway: Gateway, way: str) -> None:
    """A token lost, doubled or misnumbered on the way, streamed, whole or resumed."""
    async with openai.AsyncOpenAI(api_key="k", base_url=f"{gateway.url}/v1", max_retries=0) as api:
        whole = await api.responses.create(model=f"text-{way}", input="Say it.")
        stream = await api.responses.create(model=f"text-{way}", input="Say it.", stream=True)
        events = [event async for event in stream]
        again = await api.responses.retrieve(events[0].response.id, stream=True, starting_after=40)  # type: ignore[union-attr]
        rest = [event async for event in again]
    assert whole.output_text == TEXT
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == TEXT
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert rest == events[41:]
    assert events[-1].type == "response.completed"
    assert events[-1].response.usage is not None


@pytest.mark.parametrize("way", ["own", "chat"])
async def test_the_call_is_the_models(gateway: Gateway, way: str) -> None:
    """Clients would call the wrong tool, or with broken arguments."""
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tool = {"type": "function", "name": TOOL_NAME, "parameters": schema, "strict": False}
    async with (
        openai.AsyncOpenAI(api_key="k", base_url=f"{gateway.url}/v1", max_retries=0) as api,
        api.responses.stream(model=f"tool-{way}", input="Weather?", tools=[tool]) as stream,  # type: ignore[list-item]
    ):
        final = await stream.get_final_response()
    (call,) = [item for item in final.output if item.type == "function_call"]
    assert (call.name, json.loads(call.arguments)) == (TOOL_NAME, TOOL_ARGUMENTS)
