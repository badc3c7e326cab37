"""`/v1/embeddings` on every kind of backend: who may ask, what is sent, what comes back."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import msgspec
import pytest
from support.inprocess import client, config_for, running
from support.upstream import CLOSE, HOLD, Upstream

from backends.contract.errors import BackendError, ErrorCode
from backends.contract.events import Usage
from config.schema import Config, Key, Server, Streams
from gateway.access.keys import Caller, create
from gateway.edge.embeddings import embed

ASK = {"model": "m", "input": ["a", "b"]}
OLLAMA = {"model": "real", "embeddings": [[0.5, 1.0], [0.25, -1.0]], "prompt_eval_count": 4}
ANYBODY = Caller(owner="o")


def says(body: Any, status: str = "200 OK") -> list[Any]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n"
    return [head.encode() + raw]


async def asked(config: Config, body: Any, path: str = "/v1/embeddings", **headers: str) -> tuple[int, Any]:
    async with running(config) as gateway, client(gateway, **headers) as http:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with http.post(path, data=data) as response:
            assert response.content_type == "application/json"
            return response.status, json.loads(await response.read())


async def test_another_kind_of_backend_answers_in_openais_shape() -> None:
    """An OpenAI client could only embed with OpenAI."""
    async with Upstream(says(OLLAMA)) as up:
        status, body = await asked(config_for(up.url, driver="ollama"), ASK)
        assert (status, json.loads(up.requests[0][1])["input"]) == (200, ["a", "b"])
        assert body == {
            "object": "list",
            "model": "m",
            "data": [
                {"object": "embedding", "index": 0, "embedding": [0.5, 1.0]},
                {"object": "embedding", "index": 1, "embedding": [0.25, -1.0]},
            ],
            "usage": {"prompt_tokens": 4, "total_tokens": 4},
        }
        _, packed = await asked(config_for(up.url, driver="ollama"), {**ASK, "encoding_format": "base64"})
        assert struct.unpack("<2f", base64.b64decode(packed["data"][1]["embedding"])) == (0.25, -1.0)


async def test_an_openai_backends_answer_passes_byte_for_byte() -> None:
    """What only this server says of its vectors would be lost."""
    raw = b'{"data": [ {"embedding":"AAAAPw==","index":0} ], "extra": 1.50}'
    async with Upstream(says(raw)) as up, running(config_for(up.url)) as gateway, client(gateway) as http:
        async with http.post("/v1/embeddings", json={**ASK, "extra": 1}) as response:
            assert await response.read() == raw
        assert json.loads(up.requests[0][1]) == {**ASK, "extra": 1}


async def test_other_protocols_ask_by_a_function() -> None:
    """Their own embedding paths would each need a way of their own to every backend."""
    packed = base64.b64encode(struct.pack("<1f", 2.0)).decode()
    answer = {"data": [{"index": 0, "embedding": packed}], "usage": {"prompt_tokens": 3}}
    async with Upstream(says(answer)) as up, running(config_for(up.url)) as gateway:
        vectors, usage, choice = await embed(gateway.services, ANYBODY, {"input": "a"}, "m")
        assert (vectors, usage, choice.backend) == ([[2.0]], Usage(prompt=3), "up")
        assert json.loads(up.requests[0][1]) == {"model": "m", "input": "a", "encoding_format": "float"}


@pytest.mark.parametrize("found", [[], [[1.0]], [[1.0]] * 3])
async def test_another_number_of_vectors_is_a_failure(found: list[list[float]]) -> None:
    """A client that pairs texts and vectors by number would store each under another text."""
    async with Upstream(says({**OLLAMA, "embeddings": found})) as up:
        status, body = await asked(config_for(up.url, driver="ollama"), ASK)
        assert (status, body["error"]["message"].rpartition("answered ")[2]) == (
            502,
            f"with {len(found)} embeddings to 2 inputs",
        )


async def test_usage_nobody_gave_is_an_estimate() -> None:
    """A client would book its embeddings as free."""
    async with (
        Upstream(says({"embeddings": OLLAMA["embeddings"]}), says(OLLAMA)) as up,
        running(config_for(up.url, driver="ollama")) as gateway,
        client(gateway) as http,
    ):
        async with http.post("/v1/embeddings", json={**ASK, "input": ["a" * 9, "b"]}) as response:
            assert response.headers["X-Headgate-Estimated"] == "true"
            assert (await response.json())["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
        async with http.post("/v1/embeddings", json=ASK) as response:
            assert "X-Headgate-Estimated" not in response.headers


async def test_only_callers_with_a_key_and_only_their_models() -> None:
    """Embeddings would be free for everybody, on every model."""
    secret, key = create("k", "acme")
    key = msgspec.structs.replace(key, models=("open-*",))
    async with Upstream(says(OLLAMA)) as up:
        config = config_for(up.url, driver="ollama", keys=(Key(id="x", owner="x", hash="sha256:" + "0" * 64), key))
        status, body = await asked(config, ASK)
        assert (status, body["error"]["code"]) == (401, "invalid_api_key")
        status, body = await asked(config, ASK, Authorization=f"Bearer {secret}")
        assert (status, body["error"]["code"]) == (403, "forbidden")
        status, _ = await asked(config, {**ASK, "model": "open-1"}, Authorization=f"Bearer {secret}")
        assert (status, len(up.requests)) == (200, 1)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{", None),
        ({"input": "a"}, "model"),
        ({"model": "m"}, "input"),
        ({"model": "m", "input": 5}, "input"),
        ({**ASK, "encoding_format": "morse"}, "encoding_format"),
        ({"model": "m", "input": [[1, 2]]}, "input"),
    ],
)
async def test_bad_requests_are_refused_before_anybody_is_asked(body: Any, param: str | None) -> None:
    """The backend's complaint would name fields the client never sent."""
    async with Upstream(says(OLLAMA)) as up:
        status, said = await asked(config_for(up.url, driver="ollama"), body)
        assert (status, said["error"]["param"], up.requests) == (400, param, [])
        assert said["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("script", "status", "code"),
    [
        (says({"error": "model 'm' not found"}, "404 Not Found"), 404, "model_not_found"),
        (says(b"<html>", "500 Oops"), 502, "upstream_error"),
        (says({"embeddings": "none"}), 502, "upstream_error"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", CLOSE], 502, "upstream_truncated"),
        ([HOLD], 504, "timeout"),
    ],
)
async def test_failures_of_the_backend(script: list[Any], status: int, code: str) -> None:
    """A broken answer would be taken for vectors, or the client would wait for ever."""
    async with Upstream(script) as up:
        config = config_for(up.url, driver="ollama", streams=Streams(total_timeout=0.5))  # type: ignore[arg-type]
        got, said = await asked(config, ASK)
        assert (got, said["error"]["code"]) == (status, code)


async def test_a_body_too_large_and_a_prefix() -> None:
    """One client could fill the memory; a family moved by `server.prefixes` would lose this path."""
    server = Server(port=0, max_body=100, prefixes={"openai": "/oai"})  # type: ignore[arg-type]
    async with Upstream(says(OLLAMA)) as up:
        config = config_for(up.url, driver="ollama", server=server)
        status, _ = await asked(config, ASK, "/oai/v1/embeddings")
        assert status == 200
        status, body = await asked(config, {**ASK, "user": "u" * 100}, "/oai/v1/embeddings")
        assert (status, body["error"]["type"]) == (413, "invalid_request_error")


async def test_a_node_that_drains_takes_no_more() -> None:
    """A request that began while it stops would be cut."""
    async with Upstream(says(OLLAMA)) as up, running(config_for(up.url, driver="ollama")) as gateway:
        gateway.services.draining = True
        with pytest.raises(BackendError) as caught:
            await embed(gateway.services, ANYBODY, {"input": "a"}, "m")
        assert caught.value.code is ErrorCode.SHED
