"""Servers of a kind do not all have every API of that kind: a client gets its answer by another one."""

from __future__ import annotations

import json

import pytest
from support.inprocess import client, config_for, running
from support.upstream import Step, Upstream, chunk, head

CHUNK = {"id": "c", "model": "m", "choices": [{"index": 0, "delta": {"content": "Hello"}, "finish_reason": None}]}
STOP = {"id": "c", "model": "m", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
CHAT: tuple[Step, ...] = (
    head(),
    *(chunk(b"data: " + json.dumps(one).encode() + b"\n\n") for one in (CHUNK, STOP)),
    chunk(b"data: [DONE]\n\n"),
    b"0\r\n\r\n",
)
ASKS = {
    "/v1/responses": {"model": "m", "input": "hi"},
    "/v1/completions": {"model": "m", "prompt": "hi"},
    "/v1/messages": {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]},
}


def refusal(status: bytes, body: bytes) -> tuple[Step, ...]:
    return (b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body),)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "driver"), [("/v1/responses", "openai"), ("/v1/completions", "openai"), ("/v1/messages", "vllm")]
)
@pytest.mark.parametrize(
    "said", [refusal(b"404 Not Found", b'{"detail":"Not Found"}'), refusal(b"405 Method Not Allowed", b"")]
)
async def test_a_server_without_the_clients_api_is_asked_by_its_main_one(
    path: str, driver: str, stream: bool, said: tuple[Step, ...]
) -> None:
    """A Responses client of a server that only has chat completions would get that server's 404."""
    async with (
        Upstream(said, CHAT, CHAT) as up,
        running(config_for(up.url + "/v1", driver=driver)) as gateway,
        client(gateway) as session,
    ):
        for _ in range(2):
            async with session.post(path, json=ASKS[path] | {"stream": stream}) as answer:
                assert answer.status == 200
                assert "Hello" in await answer.text()
        targets = [request.split(b" ", 2)[1] for request, _ in up.requests]
        assert targets == [path.encode(), b"/v1/chat/completions", b"/v1/chat/completions"]


async def test_an_unknown_model_is_no_missing_api() -> None:
    """A mistyped model would be asked for twice, and from then on by the wrong API."""
    said = refusal(b"404 Not Found", b'{"error":{"message":"The model `m` does not exist","code":"model_not_found"}}')
    async with (
        Upstream(said, CHAT) as up,
        running(config_for(up.url + "/v1")) as gateway,
        client(gateway) as session,
    ):
        async with session.post("/v1/responses", json=ASKS["/v1/responses"]) as answer:
            assert answer.status == 404
        assert len(up.requests) == 1
