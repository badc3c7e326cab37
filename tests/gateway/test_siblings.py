"""A request its backend's main API has no word for: another API of the same backend answers it."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest
from support.answers import before, client
from support.asks import ASKS
from support.model_server import HELLO
from support.plain_clients import CLIENTS

PAPER, SEARCH = "files by URL", "tools at the provider"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("feature", [PAPER, SEARCH])
@pytest.mark.parametrize("name", ["anthropic", "google"])
async def test_openai_is_asked_by_its_responses_api(name: str, feature: str, stream: bool) -> None:
    """An application would be turned away though its backend can do what it asks."""
    async with before("openai") as (server, base), client(name, base) as asking:
        heard = await asking.ask(stream=stream, **ASKS[name][feature])
        assert (heard.error, heard.text, heard.finish) == ("", "Hello you", "stop")
        assert heard.usage[:2] == HELLO.usage[:2]
        assert server.dialect == "openai_responses"
        await asking.ask(stream=stream)
        assert server.dialect == "openai"


async def test_a_server_without_it_is_asked_once() -> None:
    """Its clients would read of a path they never asked for, again and again, instead of what they may not ask."""
    async with before("openai") as (server, base), aiohttp.ClientSession(base) as http:
        server.refusal = (404, {}, b'{"error":{"message":"no such path"}}')
        for _ in range(2):
            status, said = await _post(http, PAPER)
            assert (status, said["type"]) == (400, "error")
            assert said["error"]["type"] == "invalid_request_error"
            assert "cannot do files by URL" in said["error"]["message"]
        assert len(server.requests) == 1


async def test_what_neither_can_say_is_refused_in_the_main_ones_name() -> None:
    """A file by URL and stop sequences: the sibling would leave out the latter, the main one the former."""
    async with before("openai") as (server, base), aiohttp.ClientSession(base) as http:
        status, said = await _post(http, PAPER, stop_sequences=["END"])
        assert (status, len(server.requests)) == (400, 0)
        assert "cannot do files by URL" in said["error"]["message"]


async def _post(http: aiohttp.ClientSession, feature: str, **more: Any) -> tuple[int, Any]:
    asking = CLIENTS["anthropic"]
    body = {**asking.body(stream=True), **ASKS["anthropic"][feature], **more}
    async with http.post(asking.path, json=body, headers=asking.headers) as answer:
        return answer.status, await answer.json()
