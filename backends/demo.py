"""A backend without a network or a key: it answers pleasantly, at a pace, and fails on request. Dialect `openai`.

Options in YAML: `tokens_per_second` (30), `tokens` (0: as long as the answer is; -1: endless), `fail` (`error@10`).
The last user message may hold directives in square brackets, see DIRECTIVES. Law: the same request, the same
text; ids and `created` are of each answer, as with a real server.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import msgspec
from msgspec import Struct

from backends import wire
from backends.base import Driver as BaseDriver
from backends.base import HttpRequest, Script
from backends.contract.fit import Feature
from backends.contract.request import ChatRequest
from backends.demo_script import SSE, Wish, number, refusal, steps
from backends.openai import Driver as OpenAIDriver
from backends.openai import prefilled
from backends.openai_body import chat_body
from config.schema import Backend

# What the last user message may say, and what it does.
DIRECTIVES = {
    "tokens=N": "answer with N tokens; 0: endless",
    "rate=N": "N tokens per second; 0: as fast as possible",
    "fail=error@N": "after N tokens, an error inside the stream",
    "fail=cut@N": "after N tokens, the connection breaks",
    "fail=stall@N": "after N tokens, silence",
    "fail=silent": "the head of the answer and nothing else",
    "fail=http500": "an HTTP error before the stream, any status",
    "fail=http429": "the same, with Retry-After: 2",
    "fail=refuse": "the connection breaks before the first byte of the body",
    "reasoning": "some visible reasoning first",
    "tool=NAME": "a call of the tool NAME instead of an answer",
}
_MOST_CHOICES = 128  # OpenAI's own limit
_DIRECTIVE = re.compile(r"\[(tokens|rate|fail|tool)=([^\]\s]{1,64})\]|\[(reasoning)\]")


class Options(Struct, frozen=True, forbid_unknown_fields=True):
    """How the demo answers when the request does not say. Units: tokens per second, tokens (-1: endless)."""

    tokens_per_second: float = 30.0
    tokens: int = 0
    fail: str = ""


class Driver(OpenAIDriver):
    """`driver: demo`. Takes whatever it is asked: its answer does not depend on it."""

    needs_key: ClassVar[bool] = False

    expresses: ClassVar[frozenset[Feature]] = frozenset(Feature) - {
        Feature.OTHER_PARTS,
        Feature.STORED_TURNS,
        Feature.TOOL_ERRORS,
    }
    ignores: ClassVar[frozenset[Feature]] = frozenset({Feature.IMAGES, Feature.IMAGE_URLS})

    clock: Callable[[], float] = staticmethod(time.time)  # Unix seconds

    def __init__(self, name: str, backend: Backend) -> None:
        own = wire.options(name, backend, Options)
        super().__init__(name, msgspec.structs.replace(backend, options={}))
        self._own = own

    continues: ClassVar[str] = "its answer is the same everywhere"

    def resume(self, request: ChatRequest, so_far: str, reasoning: str) -> HttpRequest | None:
        """The same answer without its beginning. A failure that was asked for at a token said before is past."""
        body = chat_body(request, self.limit, self.history)
        return self.forward(prefilled(body, so_far, "", ""), request.model)

    def siblings(self) -> dict[str, BaseDriver]:
        return {}  # its script is a chat

    def embed(self, body: dict[str, Any], model: str) -> HttpRequest | None:
        return None

    def script(self, request: HttpRequest) -> Script | None:
        body = msgspec.json.decode(request.body)
        wish = self._wish(body)
        if wish.fail.startswith("http"):
            return refusal(wish.fail)
        id_ = f"chatcmpl-demo-{secrets.token_hex(12)}"
        played = steps(wish, id_, str(body.get("model") or "demo"), int(self.clock()))
        return Script(200, SSE, played)

    def probe(self) -> HttpRequest | None:
        return None

    def list_models(self) -> HttpRequest | None:
        return None

    def read_models(self, body: bytes) -> Sequence[str]:
        return self.backend.models or ("demo",)

    def _wish(self, body: dict[str, Any]) -> Wish:
        prompt = _last_user(body.get("messages"))
        said = {m[1] or m[3]: m[2] or "" for m in _DIRECTIVE.finditer(prompt)}
        rate = number(said.get("rate"), self._own.tokens_per_second)
        own = {0: None, -1: 0}.get(self._own.tokens, self._own.tokens)
        fail, _, at = (said.get("fail") or self._own.fail).partition("@")
        limit = body.get("max_tokens") or body.get("max_completion_tokens")
        so_far, n = _so_far(body), body.get("n")
        return Wish(
            so_far=so_far,
            choices=n if isinstance(n, int) and 1 <= n <= _MOST_CHOICES else 1,
            prompt=_DIRECTIVE.sub("", prompt).strip(),
            gap=1.0 / rate if rate > 0 else 0.0,
            tokens=int(number(said["tokens"], 0)) if "tokens" in said else own,
            limit=limit if isinstance(limit, int) else None,
            fail=fail,
            fail_at=int(number(at, 0)),
            reasoning="reasoning" in said,
            tool=said.get("tool", ""),
        )


def _so_far(body: dict[str, Any]) -> str:
    """What `resume` put last."""
    turns = body.get("messages")
    last = turns[-1] if body.get("continue_final_message") is True and isinstance(turns, list) and turns else None
    said = last.get("content") if isinstance(last, dict) else None
    return said if isinstance(said, str) else ""


def _last_user(messages: Any) -> str:
    for message in reversed(messages if isinstance(messages, list) else []):
        if isinstance(message, dict) and message.get("role") == "user":
            content = message.get("content")
            if isinstance(content, list):
                return " ".join(wire.named(content, "text"))
            return content if isinstance(content, str) else ""
    return ""
