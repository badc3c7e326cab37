"""A model server of any kind: it says one prescribed answer in whatever API its path belongs to, and keeps what it was
asked. `answer` may be changed between requests; `refusal` answers instead of it; `manner` is how the body ends."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

from support.dialect_responses import responses
from support.dialects import Said, Step, Writer, chat, completions, messages
from support.dialects_other import contents, generated, lines
from support.upstream import CLOSE, HOLD, Upstream, chunk, head
from support.upstream import Step as Wire

HELLO = Said((Step("text", "Hello"), Step("text", " you")))

# The driver of gateway.yaml, and by which path it is asked: the kinds of server there are.
PATHS: dict[str, tuple[str, Writer]] = {
    "/chat/completions": ("openai", chat),
    "/completions": ("openai_completions", completions),
    "/responses": ("openai_responses", responses),
    "/v1/messages": ("anthropic", messages),
    "/api/chat": ("ollama", lines),
    "/api/generate": ("ollama_generate", partial(lines, generate=True)),
    ":streamGenerateContent": ("google", contents),
    "/generate_stream": ("tgi", generated),
}


class ModelServer(Upstream):
    """`kind` is a driver's name (vLLM calls reasoning otherwise than the rest)."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.answer = HELLO
        self.refusal: tuple[int, dict[str, str], bytes] | None = None
        self.manner = "whole"  # whole; cut and short: without the last frame, uncleanly and cleanly; hold: so too, and
        # then silence until the peer goes
        self.scripted: Sequence[Wire] = ()  # sent instead of the answer, when there is any
        self.dialect = ""  # of the last request

    @property
    def asked(self) -> Any:
        """The JSON of the last request."""
        return json.loads(self.requests[-1][1])

    def frames(self, path: str) -> list[bytes]:
        """The answer in the API of this path."""
        for end, (dialect, writer) in PATHS.items():
            if path.endswith(end):
                self.dialect = dialect
                spoken = partial(chat, thinks="reasoning") if self.kind == "vllm" and dialect == "openai" else writer
                return spoken(self.answer)
        raise ValueError(f"no API has the path {path}")

    def script(self, raw: bytes, body: bytes) -> Sequence[Wire]:
        path = raw.split(b" ", 2)[1].decode().partition("?")[0]
        frames = self.frames(path)
        if self.scripted:
            return self.scripted
        if self.refusal is not None:
            status, headers, said = self.refusal
            extra = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            return [f"HTTP/1.1 {status} No\r\n{extra}Content-Length: {len(said)}\r\n\r\n".encode() + said]
        told = [chunk(frame) for frame in (frames if self.manner == "whole" else frames[:-1])]
        ending: dict[str, Wire] = {"cut": CLOSE, "hold": HOLD}
        return [head(), b"".join(told), ending.get(self.manner, b"0\r\n\r\n")]
