"""Every client before vLLM, transformers and mlx (`make test-real`): the scripted model's own words, thoughts and call.

One server at a time; each takes seconds (mlx, transformers) or a minute (vLLM) to start.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager

import pytest
from support import real_servers
from support.plain_clients import CLIENTS
from support.script_text import TEXT, THINK, TOOL_ARGUMENTS, TOOL_NAME
from support.scripted import CALLERS, behind, cancel, hear, offering

pytestmark = [pytest.mark.servers, pytest.mark.timeout(400)]

# What it makes of the script: white space around the thoughts is the server's own.
SAYS = {
    ("mlx", "text"): ("\n\n" + TEXT, THINK.lstrip()),
    ("transformers", "text"): (TEXT, ""),
    ("vllm", "think"): ("\n\n" + TEXT, THINK),
}
Running = tuple[str, str, real_servers.Server]


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    kind, model = request.param
    lacking = real_servers.missing(kind)
    if lacking:
        pytest.skip(lacking)
    running = real_servers.start(kind, model, tmp_path_factory.mktemp(kind) / "log")
    try:
        yield kind, model, running
    finally:
        running.stop()


def gateway(running: Running) -> AbstractAsyncContextManager[str]:
    """A gateway before it."""
    driver, path, options = real_servers.DRIVERS[running[0]]
    return behind(driver, running[2].url + path, running[2].model, **options)


@pytest.mark.parametrize("server", SAYS, indirect=True, ids="-".join)
@pytest.mark.parametrize("client", CLIENTS)
async def test_every_word(server: Running, client: str) -> None:
    """An application would read another text than the model wrote, or none of its thoughts."""
    kind, model, _ = server
    text, thoughts = SAYS[kind, model]
    if client == "openai_completions":  # a prompt without the template that opens the thoughts
        if model == "think":
            pytest.skip("the bare model writes its thoughts as text")
        text, thoughts = TEXT, ""
    async with gateway(server) as base:
        for stream in (True, False):
            heard = await hear(client, base, stream=stream)
            assert (heard.error, heard.text, heard.reasoning, heard.finish) == ("", text, thoughts, "stop")
            assert (heard.usage[1] or 0) > 200


@pytest.mark.parametrize("server", [("vllm", "tool")], indirect=True, ids="-".join)
@pytest.mark.parametrize("client", CALLERS)
async def test_its_call(server: Running, client: str) -> None:
    """An agent could not run its tool, or would run it with other arguments."""
    async with gateway(server) as base:
        for stream in (True, False):
            heard = await hear(client, base, stream=stream, **offering(client))
            assert (heard.error, heard.calls) == ("", [(TOOL_NAME, TOOL_ARGUMENTS)])
            assert (heard.finish, heard.text.strip()) == ("tool_calls", "")


@pytest.mark.parametrize("server", [(kind, "endless") for kind in real_servers.PACKAGES], indirect=True, ids="-".join)
@pytest.mark.parametrize("client", CLIENTS)
async def test_a_cancel(server: Running, client: str) -> None:
    """The server would go on writing for nobody."""
    async with gateway(server) as base:
        await cancel(client, base, lambda busy: server[2].wait_busy(busy, 5))
