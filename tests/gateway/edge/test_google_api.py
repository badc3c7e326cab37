"""Google's clients at the gateway: in front of the demo, of another provider and of Google itself, byte by byte."""

# ruff: noqa: SIM117  # the server around a request, and the request, are two things

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest
from support.inprocess import client, config_for, running
from support.upstream import CLOSE, Step, Upstream, chunk, head

from config.schema import Config, Key, Server
from gateway.access.keys import hash_of

ASK = {"contents": [{"role": "user", "parts": [{"text": "hi [tokens=5]"}]}]}
CHUNKS = (
    b'data: {"candidates":[{"content":{"parts":[{"text":"H\xc3\xa9"}],"role":"model"},"index":0,"new":[1]}],'
    b'"responseId":"r"}\r\n\r\n'
    b'data: {"candidates":[{"content":{"parts":[{"text":"!","thoughtSignature":"s"}],"role":"model"},'
    b'"finishReason":"STOP","index":0}],"usageMetadata":{"promptTokenCount":3,"candidatesTokenCount":2,'
    b'"totalTokenCount":5},"responseId":"r"}\r\n\r\n'
)
FIRST = CHUNKS[: CHUNKS.index(b"\r\n\r\n") + 4]
FAILS = b'data: {"error":{"code":503,"message":"overloaded","status":"UNAVAILABLE"}}\r\n\r\n'


def prompt(text: str) -> dict[str, Any]:
    return {"contents": [{"parts": [{"text": text}]}]}


def google(up: Upstream) -> Config:
    return config_for(up.url, driver="google")


def reply(body: bytes, status: bytes = b"200 OK") -> list[Step]:
    return [head(b"Content-Length: %d\r\n" % len(body), status) + body]


def frames(body: bytes) -> list[Any]:
    assert body.endswith(b"\r\n\r\n")
    return [json.loads(frame.removeprefix(b"data: ")) for frame in body.split(b"\r\n\r\n")[:-1]]


def text_of(chunks: list[Any]) -> str:
    return "".join(p.get("text", "") for c in chunks for p in c["candidates"][0]["content"]["parts"])


@pytest.mark.parametrize("version", ["v1", "v1beta"])
async def test_whole_streamed_and_as_an_array(version: str) -> None:
    """Half of Google's clients ask below /v1, the other half below /v1beta; those without alt=sse expect an array."""
    base = f"/{version}/models/demo:"
    async with running(config_for()) as gateway, client(gateway, **{"x-goog-api-key": "any"}) as http:
        async with http.post(base + "generateContent", json=ASK) as response:
            whole = await response.json()
        async with http.post(base + "streamGenerateContent?alt=sse", json=ASK) as response:
            assert response.content_type == "text/event-stream"
            streamed = frames(await response.read())
        async with http.post(base + "streamGenerateContent", json=ASK) as response:
            assert response.content_type == "application/json"
            array = await response.json()
    assert text_of([whole]) == text_of(streamed) == text_of(array) == "You said: “hi”. What a "
    for last in (whole, streamed[-1], array[-1]):
        assert last["candidates"][0]["finishReason"] == "STOP"
        assert last["usageMetadata"]["candidatesTokenCount"] == 5
    assert not any("finishReason" in c["candidates"][0] for c in streamed[:-1])


async def test_a_model_is_whatever_stands_in_the_path() -> None:
    """Models of other providers have slashes and colons in their names."""
    sse = b'data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    names = ("meta-llama/Llama-3:8b", "models/gpt-5")
    async with Upstream([head(), chunk(sse), chunk(b"")]) as up, running(config_for(up.url)) as gateway:
        async with client(gateway) as http:
            for name in names:
                path = f"/v1beta/models/{name.removeprefix('models/')}:generateContent"
                async with http.post(path, json=ASK) as response:
                    assert text_of([await response.json()]) == "x"
    assert [json.loads(body)["model"] for _, body in up.requests] == ["meta-llama/Llama-3:8b", "gpt-5"]


@pytest.mark.parametrize("cut", [1, 50, 10_000])
async def test_googles_own_stream_passes_unchanged(cut: int) -> None:
    """A field that only client and Google know would be lost, or a signature change on the way."""
    pieces = [chunk(CHUNKS[i : i + cut]) for i in range(0, len(CHUNKS), cut)]
    ask = {**ASK, "brandNew": {"a": 1}, "generation_config": {"top_k": 3}}
    async with Upstream([head(), *pieces, chunk(b"")]) as up, running(google(up)) as gateway, client(gateway) as http:
        async with http.post("/v1/models/gemini-x:streamGenerateContent?alt=sse", json=ask) as response:
            assert await response.read() == CHUNKS
        async with http.post("/v1/models/gemini-x:generateContent", json=ask) as response:
            whole = await response.json()
        async with http.post("/v1/models/gemini-x:streamGenerateContent", json=ask) as response:
            array = await response.json()
    assert up.requests[0][0].startswith(b"POST /v1beta/models/gemini-x:streamGenerateContent?alt=sse ")
    assert json.loads(up.requests[0][1]) == ask
    assert whole["candidates"] == [
        {"content": {"parts": [{"text": "Hé"}, {"text": "!", "thoughtSignature": "s"}], "role": "model"},
         "index": 0, "new": [1], "finishReason": "STOP"}
    ]  # fmt: skip
    assert json.loads(up.requests[2][1])["brandNew"] == {"a": 1}
    assert text_of(array) == "Hé!"
    assert "thoughtSignature" in json.dumps(array)


@pytest.mark.parametrize(
    "steps", [[CLOSE], [chunk(b"")], [chunk(FAILS), chunk(b"")], [chunk(CHUNKS[len(FIRST) :]), CLOSE]]
)
async def test_a_stream_that_breaks_off_ends_in_an_error(steps: list[Step]) -> None:
    """Google's SDK takes a mere end for success."""
    path = "/v1/models/g:streamGenerateContent?alt=sse"
    async with Upstream([head(), chunk(FIRST), *steps]) as up, running(google(up)) as gateway, client(gateway) as http:
        async with http.post(path, json=ASK) as response:
            body, whole = await read(response)
    assert not whole
    assert frames(body)[-1]["error"]["status"] == "UNAVAILABLE"


async def read(response: aiohttp.ClientResponse) -> tuple[bytes, bool]:
    """What came, and whether the body ended as it should."""
    body = b""
    try:
        async for piece in response.content.iter_any():
            body += piece
    except aiohttp.ClientPayloadError:
        return body, False
    return body, True


async def test_errors_have_googles_shape_and_status() -> None:
    """A client could not tell a wrong model from a full one."""
    async with running(config_for()) as gateway, client(gateway) as http:
        for text, status, word in (
            ("[fail=http429]", 429, "RESOURCE_EXHAUSTED"),
            ("[fail=http500]", 502, "UNAVAILABLE"),
        ):
            async with http.post("/v1beta/models/demo:generateContent", json=prompt(text)) as response:
                assert (response.status, (await response.json())["error"]["status"]) == (status, word)
        async with http.post("/v1beta/models/demo:streamGenerateContent", json={"contents": []}) as response:
            assert (response.status, (await response.json())[0]["error"]["status"]) == (400, "INVALID_ARGUMENT")
        async with http.get("/v1beta/models/nobody") as response:
            assert (response.status, (await response.json())["error"]["status"]) == (404, "NOT_FOUND")
        async with http.post("/v1beta/models/demo:embedContent", json={"content": {"parts": []}}) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (400, 400)


async def test_models_are_listed_and_openai_keeps_its_own_path() -> None:
    """A frontend would show no models, or one protocol's list would hide the other's."""
    async with running(config_for()) as gateway, client(gateway) as http:
        async with http.get("/v1beta/models") as response:
            (row,) = (await response.json())["models"]
        assert (row["name"], "generateContent" in row["supportedGenerationMethods"]) == ("models/demo", True)
        async with http.get("/v1beta/models/demo") as response:
            assert await response.json() == row
        async with http.get("/v1/models", headers={"x-goog-api-key": "any"}) as response:
            assert (await response.json())["models"] == [row]
        async with http.get("/v1/models") as response:
            assert (await response.json())["data"][0]["id"] == "demo"


async def test_counting_is_googles_own_or_says_that_it_is_a_guess() -> None:
    """A client would cut its prompt by a number that looks exact and is not."""
    async with running(config_for()) as gateway, client(gateway) as http:
        async with http.post("/v1beta/models/demo:countTokens", json=prompt("a" * 40)) as response:
            assert (await response.json(), response.headers["X-Headgate-Estimated"]) == ({"totalTokens": 10}, "true")
    async with Upstream(reply(b'{"totalTokens":31}')) as up, running(google(up)) as gateway, client(gateway) as http:
        body = {
            "generateContentRequest": {
                "model": "models/x",
                "new": 1,
                **ASK,
                "systemInstruction": {"parts": [{"text": "s"}]},
            }
        }
        async with http.post("/v1beta/models/g:countTokens", json=body) as response:
            assert (await response.json(), "X-Headgate-Estimated" in response.headers) == ({"totalTokens": 31}, False)
    assert up.requests[0][0].startswith(b"POST /v1beta/models/g:countTokens ")
    assert json.loads(up.requests[0][1])["generateContentRequest"] == {
        **body["generateContentRequest"],
        "model": "models/g",
    }


async def test_embeddings_one_and_many() -> None:
    """Google's clients could not embed with other providers' models."""
    answer = b'{"data":[{"index":0,"embedding":[1.0]},{"index":1,"embedding":[2.0]}],"usage":{"prompt_tokens":3}}'
    one = {"content": {"parts": [{"text": "a"}]}, "outputDimensionality": 1, "taskType": "RETRIEVAL_QUERY"}
    async with Upstream(reply(answer)) as up, running(config_for(up.url)) as gateway, client(gateway) as http:
        async with http.post("/v1beta/models/e:batchEmbedContents", json={"requests": [one, one]}) as response:
            assert (await response.json()) == {"embeddings": [{"values": [1.0]}, {"values": [2.0]}]}
            assert response.headers["X-Headgate-Dropped"] == "taskType"
    sent = json.loads(up.requests[0][1])
    assert (sent["input"], sent["dimensions"]) == (["a", "a"], 1)
    own = reply(b'{"embeddings":[{"values":[0.5]}]}')
    async with Upstream(own) as up, running(google(up)) as gateway, client(gateway) as http:
        async with http.post("/v1/models/e:embedContent", json=one) as response:
            assert (await response.json()) == {"embedding": {"values": [0.5]}}


async def test_keys_are_read_where_google_clients_put_them() -> None:
    """They send no Authorization header; without this every one of them would be refused."""
    key = Key(id="k", owner="acme", hash=hash_of("goog-secret"), models=("demo",))
    server = Server(port=0, prefixes={"google": "/google"})
    path = "/google/v1beta/models/demo:generateContent"
    async with running(config_for(keys=(key,), server=server)) as gateway, client(gateway) as http:
        for url, headers, status in (
            (path, {}, 401),
            (path, {"x-goog-api-key": "goog-secret"}, 200),
            (path + "?key=goog-secret", {}, 200),
            (path.replace("demo", "other"), {"x-goog-api-key": "goog-secret"}, 403),
            ("/google/v1beta/models/demo:countTokens", {}, 401),
            ("/google/v1beta/models/demo:embedContent", {}, 401),
        ):
            async with http.post(url, json={**ASK, "content": {"parts": []}}, headers=headers) as response:
                assert response.status == status
                assert status == 200 or (await response.json())["error"]["code"] == status
