"""Following a stream from the command line: attach, read its frames, come back when the line breaks.

Law: every frame once and in order; frames are counted, and what is missing is asked for by number. The standard library
is enough for it, so a small command stays a small command.
"""

from __future__ import annotations

import http.client
import json
import random
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from msgspec import Struct

from gateway.cli.http import Remote, Unreachable, error_text

SILENCE = 60.0  # seconds without a byte after which a line counts as dead; keepalives come more often
TRIES = 8  # connections in a row that brought nothing
_LATER = frozenset({408, 416, 429, 500, 502, 503, 504})


class Frame(Struct, frozen=True):
    """One frame: its number from 1, its SSE event name (or ""), its data (decoded where it is JSON)."""

    number: int
    event: str
    data: Any

    @property
    def text(self) -> str:
        """The piece of answer it carries, in the native and in OpenAI's protocol."""
        if not isinstance(self.data, dict):
            return ""
        if self.event:
            return str(self.data.get("content") or "") if self.event == "token" else ""
        choices = self.data.get("choices") or [{}]
        return str((choices[0].get("delta") or {}).get("content") or "")

    @property
    def failure(self) -> str:
        """What an error frame says; "" for all others."""
        if not isinstance(self.data, dict):
            return ""
        error = self.data if self.event == "error" else self.data.get("error")
        return "" if not error else str(error.get("message") if isinstance(error, dict) else error)

    @property
    def last(self) -> bool:
        """Whether nothing comes after it."""
        return self.event in ("done", "error") or self.data == "[DONE]" or bool(self.failure)


def follow(gateway: Remote, stream_id: str, *, after: int = 0, protocol: str = "native") -> Iterator[Frame]:
    """The frames behind the first `after` ones, until the stream ends. Raises Unreachable: there is no such stream, it
    is gone, or the gateway is."""
    fruitless, number = 0, after
    problem: Exception = Unreachable(f"{stream_id}: the line broke")
    while fruitless < TRIES:
        before = number
        try:
            with _open(gateway, stream_id, number, protocol) as answer:
                if answer.status == 204:
                    return
                for event, data in _events(answer):
                    number += 1
                    frame = Frame(number, event, _decoded(data))
                    yield frame
                    if frame.last:
                        return
        except (OSError, http.client.HTTPException) as broken:
            if isinstance(broken, urllib.error.HTTPError):
                _refused(broken, stream_id)
            problem = broken
        fruitless = 0 if number > before else fruitless + 1
        time.sleep(random.uniform(0.5, 1) * min(5.0, 0.1 * 2**fruitless))
    raise Unreachable(f"{stream_id}: given up after {number} frames: {getattr(problem, 'reason', problem)}")


def _open(gateway: Remote, stream_id: str, after: int, protocol: str) -> http.client.HTTPResponse:
    path = f"/api/streaming/{quote(stream_id, safe='')}?protocol={protocol}&after={after}"
    headers = {"Authorization": f"Bearer {gateway.key}"} if gateway.key else {}
    try:
        # `remote` let only http and https through
        request = urllib.request.Request(gateway.url + path, headers=headers)  # noqa: S310
        answer: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=SILENCE)  # noqa: S310
    except ValueError:
        raise Unreachable(f"{gateway.url} is not the address of a gateway") from None
    return answer


def _refused(answer: urllib.error.HTTPError, stream_id: str) -> None:
    if answer.code in _LATER:
        return
    raise Unreachable(f"{stream_id}: {error_text(answer.code, _decoded(answer.read().decode('utf-8', 'replace')))}")


def _events(answer: http.client.HTTPResponse) -> Iterator[tuple[str, str]]:
    """(event, data) of each server-sent event with data; one that breaks off in the middle is none."""
    event, data = "", list[str]()
    for raw in answer:
        line = raw.decode("utf-8", "replace").rstrip("\r\n")
        if not line and raw.endswith(b"\n"):
            if data:
                yield event, "\n".join(data)
            event, data = "", []
            continue
        name, _, value = line.partition(":")
        if name == "data" and raw.endswith(b"\n"):
            data.append(value.removeprefix(" "))
        elif name == "event":
            event = value.removeprefix(" ")


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
