"""The same dialect on both sides: what either says goes through as it is, whatever it is, in both directions."""

from __future__ import annotations

import json

import aiohttp
import pytest
from support.answers import ANSWERS, before
from support.plain_clients import CLIENTS
from support.upstream import Step, chunk, head

PAIRS = [
    ("openai", "openai"), ("openai", "tgi"), ("openai_completions", "vllm"), ("openai_completions", "openai"),
    ("openai_responses", "openai"), ("anthropic", "anthropic"), ("anthropic", "vllm"), ("anthropic", "llamacpp"),
    ("ollama", "ollama"), ("ollama_generate", "ollama"), ("google", "google"),
]  # fmt: skip
_STRANGE = {"x_new": {"deep": [1, 2.5, None, "é☕"]}, "x_flag": True, "x_empty": {}}
_SSE = (
    b': a comment\n\nevent: x.new\ndata: {"type": "x.new", "x_new":  {"\\u00e9": [1 , 2]}}\n\n'
    b'id: 7\nretry: 10\ndata: {"type":"x.other","object":"x"}\n\n'
)
_LINE = b'{"model":"m" ,"x_new":{"\\u00e9":[1 , 2]},"message":{"role":"assistant","content":""},"done":false}\n'


def strange(dialect: str) -> bytes:
    """Frames nobody knows, in this dialect's framing."""
    if dialect == "google":  # its one kind of frame, with fields nobody knows
        return b'data: {"x_new" : {"\\u00e9": [1 , 2]}}\r\n\r\n'
    return _LINE if dialect.startswith("ollama") else _SSE


@pytest.mark.parametrize(("client", "server"), PAIRS)
async def test_bytes_of_an_answer(client: str, server: str) -> None:
    """An application would lose what its provider added yesterday and the gateway has never heard of."""
    asking = CLIENTS[client]
    async with before(server) as (up, base), aiohttp.ClientSession(base) as http:
        for name, said in ANSWERS.items():
            up.answer = said
            frames = up.frames(_path(client))
            frames.insert(1, strange(client))
            up.scripted = [head(), *map(chunk, frames), b"0\r\n\r\n"]
            body = asking.body(stream=True)
            async with http.post(asking.target(stream=True), json=body, headers=asking.headers) as answer:
                assert await answer.read() == b"".join(frames), name


@pytest.mark.parametrize("cut", [1, 7, 4096])
@pytest.mark.parametrize(("client", "server"), PAIRS)
async def test_bytes_in_whatever_pieces(client: str, server: str, cut: int) -> None:
    """A frame that comes in two reads would be changed, doubled or lost."""
    asking = CLIENTS[client]
    async with before(server) as (up, base), aiohttp.ClientSession(base) as http:
        up.answer = ANSWERS["text of any characters"]
        whole = b"".join(up.frames(_path(client)))
        pieces: list[Step] = [chunk(whole[at : at + cut]) for at in range(0, len(whole), cut)]
        up.scripted = [head(), *pieces, b"0\r\n\r\n"]
        body = asking.body(stream=True)
        async with http.post(asking.target(stream=True), json=body, headers=asking.headers) as answer:
            assert await answer.read() == whole


@pytest.mark.parametrize(("client", "server"), PAIRS)
async def test_fields_of_a_request(client: str, server: str) -> None:
    """A new feature of a provider could not be used until the gateway knew it."""
    asking = CLIENTS[client]
    async with before(server) as (up, base), aiohttp.ClientSession(base) as http:
        body = {**asking.body(stream=True), **_STRANGE}
        async with http.post(asking.target(stream=True), json=body, headers=asking.headers) as answer:
            assert (answer.status, await answer.read()) == (200, b"".join(up.frames(_path(client))))
            assert "X-Headgate-Dropped" not in answer.headers
        arrived = json.loads(up.requests[-1][1])
    assert {name: arrived.get(name) for name in body} == body
    assert set(arrived) - set(body) <= {"stream_options"}


def _path(client: str) -> str:
    """The end of the path under which a server of this dialect is asked."""
    return {
        "openai": "/chat/completions", "openai_completions": "/completions", "openai_responses": "/responses",
        "anthropic": "/v1/messages", "ollama": "/api/chat", "ollama_generate": "/api/generate",
        "google": ":streamGenerateContent",
    }[client]  # fmt: skip
