"""How an answer can end otherwise than well, and what every client must see then: by its SDK, and on the wire."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import aiohttp
from support.answers import before, client
from support.clients import Client
from support.dialects import Said
from support.model_server import HELLO, ModelServer

_REASON = "the engine died"


def _bodies(dialect: str, kind: str, code: int, text: str) -> bytes:
    """An error before the first byte, as this kind of server words it."""
    said: dict[str, Any] = {"error": {"message": text, "type": kind, "param": None, "code": kind}}
    if dialect == "anthropic":
        said = {"type": "error", "error": {"type": kind, "message": text}}
    elif dialect == "google":
        said = {"error": {"code": code, "message": text, "status": "RESOURCE_EXHAUSTED"}}
    elif dialect.startswith("ollama"):
        said = {"error": text}
    elif dialect == "tgi":
        said = {"error": text, "error_type": "overloaded"}
    return json.dumps(said).encode()


def message_of(client_api: str, body: bytes) -> str:
    """The message of an error body, which must have the shape of this client's API."""
    said = json.loads(body)
    if client_api == "google_array" and isinstance(said, list):  # Google itself says it in an array of one
        [said] = said
    if client_api in ("ollama", "ollama_generate"):
        text = said["error"]
    elif client_api == "anthropic":
        assert (said["type"], set(said["error"])) == ("error", {"type", "message"})
        text = said["error"]["message"]
    elif client_api.startswith("google"):
        assert {"code", "message", "status"} <= set(said["error"])
        text = said["error"]["message"]
    elif client_api in ("native", "ndjson"):
        assert {"code", "message", "requestId"} <= set(said["error"])
        text = said["error"]["message"]
    else:
        assert set(said["error"]) == {"message", "type", "param", "code"}
        text = said["error"]["message"]
    assert isinstance(text, str)
    return text


class Endings:
    """One client before one server; each method is a way to end and returns what is wrong, "" for nothing."""

    def __init__(self, asking: Client, server: ModelServer, base: str) -> None:
        self.asking = asking
        self.server = server
        self.base = base

    async def _noticed(self, *, says: str = "") -> str:
        for stream in (True, False):
            heard = await self.asking.ask(stream=stream)
            if not heard.error:
                return f"{'stream' if stream else 'whole'}: taken for a whole answer: {heard.text!r}"
            if says not in heard.error:
                return f"{heard.error} does not say {says!r}"
        return ""

    async def broken(self) -> str:
        """An error event inside the stream."""
        self.server.answer = Said(HELLO.steps, broken=_REASON)
        return await self._noticed(says=_REASON)

    async def cut(self) -> str:
        """The connection breaks before the end mark."""
        self.server.manner = "cut"
        return await self._noticed()

    async def short(self) -> str:
        """The body ends cleanly, but without the end mark."""
        self.server.manner = "short"
        return await self._noticed()

    async def limited(self) -> str:
        """429 with Retry-After."""
        return await self._refused(429, "rate_limit_error", "slow down", 429)

    async def overloaded(self) -> str:
        """503 with Retry-After."""
        return await self._refused(
            503, "overloaded_error", "try later", 529 if self.asking.name == "anthropic" else 503
        )

    async def unauthorized(self) -> str:
        """The gateway's own key is refused: not the client's fault, and no word of the key."""
        return await self._refused(401, "authentication_error", "bad key sk-123", 502, says="credentials")

    async def _refused(self, status: int, kind: str, text: str, expected: int, says: str = "") -> str:
        for stream in (True, False):
            self.server.frames(_path(self.server))
            body = _bodies(self.server.dialect, kind, status, text)
            self.server.refusal = (status, {"Retry-After": "7"}, body)
            found, headers, said = await self._post(stream)
            if found != expected:
                return f"status {found}, not {expected}: {said!r}"
            message = message_of(self.asking.name, said)
            if (says or text) not in message or "sk-123" in message:
                return f"message {message!r}"
            if expected != 502 and headers.get("Retry-After") != "7":
                return f"Retry-After {headers.get('Retry-After')}"
        return await self._noticed(says="" if says else text)

    async def _post(self, stream: bool) -> tuple[int, Any, bytes]:
        kind = type(self.asking)
        async with (
            aiohttp.ClientSession(self.base, headers=kind.headers) as http,
            http.post(kind.target(stream=stream), json=kind.body(stream=stream)) as answer,
        ):
            return answer.status, answer.headers, await answer.read()

    async def cancelled(self) -> str:
        """DELETE in the middle: the server is let go, and the client sees that the answer is not whole."""
        self.server.manner = "hold"
        kind = type(self.asking)
        async with (
            aiohttp.ClientSession(self.base, headers=kind.headers) as http,
            http.post(kind.target(stream=True), json=kind.body(stream=True)) as answer,
        ):
            said = await self._until_text(answer)
            stopped = await self._delete(http, answer.headers["X-Stream-Id"])
            try:
                said += await answer.content.read()
                clean = True
            except aiohttp.ClientError:
                clean = False
        if kind.name not in ("native", "ndjson"):
            return stopped or ("the body ended as if whole" if clean else "")
        return stopped or ("" if b'"cancelled"' in said else f"no word of the cancel: {said!r}")

    async def _until_text(self, answer: aiohttp.ClientResponse) -> bytes:
        said = b""
        async with asyncio.timeout(5):
            while b"you" not in said:
                said += await answer.content.readany()
        return said

    async def _delete(self, http: aiohttp.ClientSession, stream_id: str) -> str:
        """DELETE, then wait until the server has seen its client go."""
        before = len(self.server.closed_at)
        async with http.delete(f"/api/streaming/{stream_id}") as answer:
            if answer.status != 200:
                return f"DELETE {answer.status}"
        try:
            async with asyncio.timeout(2):
                while len(self.server.closed_at) == before:
                    await asyncio.sleep(0.002)
        except TimeoutError:
            return "the server was not let go"
        return ""

    async def cancelled_whole(self) -> str:
        """The same for a whole answer, by the id the client chose."""
        self.server.manner = "hold"
        kind, asked = type(self.asking), len(self.server.requests)
        async with aiohttp.ClientSession(self.base, headers={**kind.headers, "X-Stream-Id": "st_mine"}) as http:
            posting = asyncio.ensure_future(http.post(kind.target(stream=False), json=kind.body(stream=False)))
            async with asyncio.timeout(5):
                while len(self.server.requests) == asked:
                    await asyncio.sleep(0.002)
            stopped = await self._delete(http, "st_mine")
            async with await posting as answer:
                said = await answer.read()
        good = answer.status != 200 or b'"cancelled"' in said
        return stopped or ("" if good else f"taken for a whole answer: {said!r}")


def _path(server: ModelServer) -> str:
    """The path of the last request (the first way to end has asked one)."""
    return server.requests[-1][0].split(b" ", 2)[1].decode().partition("?")[0]


WAYS: dict[str, Callable[[Endings], Any]] = {
    "an error in mid-stream": Endings.broken,
    "a broken connection": Endings.cut,
    "an end without the end mark": Endings.short,
    "429 with Retry-After": Endings.limited,
    "503 with Retry-After": Endings.overloaded,
    "401: the gateway's key": Endings.unauthorized,
    "DELETE of a stream": Endings.cancelled,
    "DELETE of a whole answer": Endings.cancelled_whole,
}


async def explore(client_name: str, kind: str) -> dict[str, str]:
    """What is wrong with each way to end; "seen" where nothing is."""
    found: dict[str, str] = {}
    async with before(kind) as (server, base), client(client_name, base) as asking:
        for name, way in WAYS.items():
            server.answer, server.manner, server.refusal = HELLO, "whole", None
            found[name] = await way(Endings(asking, server, base)) or "seen"
    return found
