"""Two demo backends behind one route, the first of which breaks off: every client reads the whole answer."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import aiohttp
import pytest
from support.inprocess import client, events, running

from config.schema import Admin, Backend, Config, Route, Server, Target
from gateway.app import Gateway

DEMO = {"tokens_per_second": 0}


def config(**route: Any) -> Config:
    backends = {name: Backend(driver="demo", options=DEMO) for name in ("one", "two")}
    to = (Target("one"), Target("two"))
    routes = (Route(model="*", to=to, **{"policy": "ordered", **route}),)
    return Config(server=Server(port=0), admin=Admin(port=0), backends=backends, routes=routes)


async def said(gateway: Gateway, prompt: str, path: str, **more: Any) -> tuple[int, str]:
    body = {"model": "m", "messages": [{"role": "user", "content": prompt}], "stream": True, **more}
    async with client(gateway) as session, session.post(path, json=body) as answer:
        page = b""
        with contextlib.suppress(aiohttp.ClientPayloadError):  # an unclean close is how a failed answer ends
            async for part in answer.content.iter_any():
                page += part
        return answer.status, page.decode()


def text_of(path: str, page: str) -> str:
    out = []
    for line in page.splitlines():
        raw = line.removeprefix("data: ")
        if not raw.startswith("{"):
            continue
        data = json.loads(raw)
        if path == "/v1/chat/completions":
            out += [c["delta"].get("content") or "" for c in data.get("choices", ())]
        elif path == "/v1/messages":
            out.append(data["delta"].get("text", "") if data["type"] == "content_block_delta" else "")
        elif path == "/api/chat":
            out.append(data["message"]["content"])
        elif path.startswith("/api/v1/conv"):
            out.append(data["content"] if data["type"] == "message_chunk" else "")
        else:
            out.append(data["content"] if "tokenCount" in data and "content" in data else "")
    return "".join(out)


PATHS = ("/v1/chat/completions", "/v1/messages", "/api/chat", "/api/streaming/chat", "/api/v1/conversations/c/stream")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("fail", ["cut@5", "error@1", "cut@20"])
async def test_a_broken_answer_is_completed(path: str, fail: str) -> None:
    """Users would lose the answer, or a word of it, whenever a backend dies."""
    async with running(config(on_failure="continue")) as gateway:
        _, good = await said(gateway, "Tell me. [tokens=30]", path, max_tokens=100)
        status, page = await said(gateway, f"Tell me. [tokens=30] [fail={fail}]", path, max_tokens=100)
        assert status == 200
        assert text_of(path, page) == text_of(path, good) != ""
        assert "error" not in page
        (receipt,) = [r for r in gateway.services.registry._receipts._items.values() if r[1].tries]
        assert [(t.backend, t.kind) for t in receipt[1].tries] == [("one", "start")]
        assert receipt[1].attempts == 2


def all_texts(value: Any) -> str:
    """Every piece of text of an answer, whatever its shape."""
    if isinstance(value, dict):
        return "".join(said if key in ("text", "response") else all_texts(said) for key, said in value.items())
    return "".join(map(all_texts, value)) if isinstance(value, list) else ""


OTHERS = {
    "/v1/completions": {"model": "m", "stream": True, "prompt": "%s"},
    "/api/generate": {"model": "m", "prompt": "%s"},
    "/v1beta/models/m:streamGenerateContent?alt=sse": {"contents": [{"role": "user", "parts": [{"text": "%s"}]}]},
    "/v1beta/models/m:streamGenerateContent": {"contents": [{"role": "user", "parts": [{"text": "%s"}]}]},
}


@pytest.mark.parametrize("path", OTHERS)
async def test_other_apis_too(path: str) -> None:
    """Clients of the less usual APIs would lose their answers."""
    pages = []
    async with running(config(on_failure="continue")) as gateway, client(gateway) as session:
        for prompt in ("Hi. [tokens=30]", "Hi. [tokens=30] [fail=cut@7]"):
            body = json.loads(json.dumps(OTHERS[path]).replace("%s", prompt))
            async with session.post(path, json=body) as answer:
                page = await answer.text()
                assert answer.status == 200, page
            rows = [line.removeprefix("data: ") for line in page.splitlines()]
            whole = json.loads(page) if page.startswith("[") else [json.loads(r) for r in rows if r.startswith("{")]
            pages.append(all_texts(whole))
    assert pages[0] == pages[1] != ""


async def test_restart_is_for_those_who_have_a_word_for_it() -> None:
    """Protocols without `reset` would show two beginnings."""
    async with running(config(on_failure="restart")) as gateway:
        _, page = await said(gateway, "Hi [tokens=9] [fail=cut@5]", "/api/streaming/chat")
        kinds = [kind for _, kind, _ in events(page)]
        assert kinds.count("reset") == 2  # the demo breaks again, each time: three attempts
        assert kinds[-1] == "error"
        _, page = await said(gateway, "Hi [tokens=9] [fail=error@5]", "/v1/chat/completions")
        assert page.count("Hi") <= 1


@pytest.mark.parametrize("path", PATHS)
async def test_a_route_that_fails_fails_honestly(path: str) -> None:
    """`fail` is the default: nobody asked for another model's words."""
    async with running(config()) as gateway:
        _, page = await said(gateway, "Hi [tokens=9] [fail=error@5]", path)
        assert "error" in page
