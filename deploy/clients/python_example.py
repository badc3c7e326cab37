"""Headgate from Python with aiohttp alone: a POST stream that survives a broken line, and cancel. Copy what you need.

    python python_example.py http://127.0.0.1:8080 "Tell me a story"

`stream` yields (number, event, data) of every frame once, in order. The id is chosen here, so that a request whose
answer never arrived is found again; frames are counted, so that what is missing can be asked for; what has ended is
answered with 204. Works for every path whose answer is server-sent events: native, OpenAI's, Anthropic's.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import uuid
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

LATER = {408, 416, 429, 500, 502, 503, 504}
LOST = (aiohttp.ClientError, TimeoutError, OSError)


class StreamError(Exception):
    """The stream cannot be gone on with. `status` is the gateway's HTTP status; 0: the answer itself failed."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{text} (HTTP {status})" if status else text)
        self.status = status


async def stream(
    session: aiohttp.ClientSession,
    url: str,
    path: str,
    body: dict[str, Any],
    *,
    stream_id: str = "",
    attempts: int = 10,
) -> AsyncIterator[tuple[int, str, str]]:
    """Every frame of the answer to a POST, through as many connections as it takes. `stream_id`: one of your own."""
    stream_id = stream_id or f"py_{uuid.uuid4().hex}"
    number = fruitless = 0
    asked = known = repeated = False  # the request was sent; the stream exists; the request was sent twice
    while fruitless < attempts:
        before, reading = number, asked
        try:
            if reading:
                query = {"protocol": "origin", "after": str(number)}
                request = session.get(f"{url}/api/streaming/{stream_id}", params=query)
            else:
                headers = {"X-Stream-Id": stream_id, "X-Stream-On-Disconnect": "grace=60s"}
                asked = True
                request = session.post(url + path, json={"stream": True, **body}, headers=headers)
            async with request as answer:
                if answer.status == 204:
                    return  # it has ended, and we have it all
                if answer.status == 404 and reading and not known:
                    asked, repeated = False, True  # our request never arrived: ask again, under the same id
                elif answer.status == 409 and repeated and not reading:
                    pass  # it did arrive
                elif answer.status in LATER and (known or "X-Stream-Id" not in answer.headers):
                    pass  # try later
                elif answer.status != 200:
                    raise StreamError(answer.status, await answer.text())
                else:
                    known = True
                    async for event, data in events(answer):
                        number += 1
                        yield number, event, data
                        if is_last(event, data):
                            return
        except LOST:
            pass
        fruitless = 0 if number > before else fruitless + 1
        await asyncio.sleep(random.uniform(0.5, 1) * min(10.0, 0.2 * 2**fruitless))
    raise StreamError(0, f"the connection was lost after {number} frames of {stream_id}")


async def cancel(session: aiohttp.ClientSession, url: str, stream_id: str) -> dict[str, Any]:
    """Stop a stream at its source, wherever it runs."""
    async with session.delete(f"{url}/api/streaming/{stream_id}") as answer:
        if answer.status >= 300:
            raise StreamError(answer.status, await answer.text())
        state: dict[str, Any] = await answer.json()
        return state


async def events(answer: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, str]]:
    """(event, data) of each server-sent event; what breaks off before its end is none."""
    rest = b""
    async for chunk in answer.content.iter_any():
        *blocks, rest = (rest + chunk).replace(b"\r\n", b"\n").split(b"\n\n")
        for block in blocks:
            lines = [line.partition(":") for line in block.decode("utf-8", "replace").split("\n")]
            data = [value.removeprefix(" ") for name, _, value in lines if name == "data"]
            if data:
                event = next((value.strip() for name, _, value in lines if name == "event"), "")
                yield event, "\n".join(data)


def is_last(event: str, data: str) -> bool:
    """Whether nothing comes after this frame. Raises StreamError for an error frame."""
    if data == "[DONE]":
        return True
    told = json.loads(data)
    kind = event or told.get("type", "")
    error = told.get("error") or (told if kind == "error" else None)
    if kind in ("", "error") and error:
        raise StreamError(0, error.get("message", "the answer failed"))
    return kind in ("done", "message_stop", "response.completed", "response.incomplete", "response.failed")


async def main(url: str, message: str) -> None:
    """Ask OpenAI's way, print the answer as it comes."""
    body = {"model": "demo", "messages": [{"role": "user", "content": message}]}
    limit = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)  # keepalives come more often than that
    async with aiohttp.ClientSession(timeout=limit) as session:
        async for _, _, data in stream(session, url.rstrip("/"), "/v1/chat/completions", body):
            choices = [] if data == "[DONE]" else json.loads(data).get("choices", [])
            print("".join(choice["delta"].get("content") or "" for choice in choices), end="", flush=True)
    print()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
