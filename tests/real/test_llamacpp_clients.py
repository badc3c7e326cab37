"""Every client before a real llama.cpp: the model's own words, its thoughts and its call, exactly; and a cancel."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("xllamacpp")

from support import llama
from support.plain_clients import CLIENTS
from support.script_text import TEXT, THINK, TOOL_ARGUMENTS, TOOL_NAME
from support.scripted import CALLERS, behind, cancel, hear, offering

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, llama.Llama]]:
    folder = tmp_path_factory.mktemp("llama")
    running: dict[str, llama.Llama] = {}
    try:
        for kind in ("text", "tool", "endless"):
            running[kind] = llama.start(kind, folder / f"{kind}.log")
        yield running
    finally:
        for server in running.values():
            server.stop()


@pytest.mark.parametrize("client", CLIENTS)
async def test_every_word(servers: dict[str, llama.Llama], client: str) -> None:
    """An application would read another text than the model wrote, or none of its thoughts."""
    async with behind("llamacpp", servers["text"].url, "m") as base:
        for stream in (True, False):
            heard = await hear(client, base, stream=stream)
            thoughts = "" if client == "openai_completions" else THINK
            assert (heard.error, heard.text, heard.reasoning, heard.finish) == ("", TEXT, thoughts, "stop")
            assert (heard.usage[1] or 0) > 200


@pytest.mark.parametrize("client", CALLERS)
async def test_its_call(servers: dict[str, llama.Llama], client: str) -> None:
    """An agent could not run its tool, or would run it with other arguments."""
    async with behind("llamacpp", servers["tool"].url, "m") as base:
        for stream in (True, False):
            heard = await hear(client, base, stream=stream, **offering(client))
            assert (heard.error, heard.calls) == ("", [(TOOL_NAME, TOOL_ARGUMENTS)])
            assert (heard.finish, heard.reasoning, heard.text.strip()) == ("tool_calls", THINK, "")


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_cancel(servers: dict[str, llama.Llama], client: str) -> None:
    """The server would go on writing for nobody."""
    endless = servers["endless"]
    async with behind("llamacpp", endless.url, "m") as base:
        await cancel(client, base, lambda busy: endless.wait_busy(busy, 3))
