"""llama.cpp's server (protocol source: llama-server, 2026). Traits of its own:

it drops the connection after each finished stream while promising keep-alive, so connections are not reused; a
forwarded `X-Conversation-Id` would make generation outlive a cancel, so that header is never sent; it takes
a tool_choice that names a tool for `auto`; and it has Anthropic's Messages API beside OpenAI's.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec
from msgspec import Struct

from backends import wire
from backends.anthropic import Messages
from backends.anthropic_request import messages_body
from backends.base import Driver as BaseDriver
from backends.base import HttpRequest
from backends.contract.fit import Feature
from backends.contract.request import ChatRequest
from backends.contract.thinking import budget_of
from backends.openai import LocalDriver
from backends.openai_body import chat_body
from config.schema import Backend


class Driver(LocalDriver):
    """`url: http://host:8080`."""

    keepalive: ClassVar[bool] = False
    expresses: ClassVar[frozenset[Feature]] = LocalDriver.expresses - {
        Feature.FILES,
        Feature.FILE_IDS,
        Feature.USER,
    } | {Feature.REASONING_BUDGET, Feature.REASONING_HISTORY, Feature.TOP_K}
    history: ClassVar[str] = "reasoning_content"
    continues: ClassVar[str] = "chat and messages, by a last message of the assistant"

    def __init__(self, name: str, backend: Backend) -> None:
        super().__init__(name, backend)
        self._messages = _Messages(name, backend, self.options.body)

    def speaking(self, dialect: str) -> BaseDriver | None:
        return self._messages if dialect == self._messages.dialect else super().speaking(dialect)

    def count(self, request: ChatRequest) -> HttpRequest | None:
        return self._messages.count(request)

    def read_count(self, body: bytes) -> int:
        return self._messages.read_count(body)

    def prepare(self, request: ChatRequest) -> HttpRequest:
        """A tool demanded by name is the only one offered, and some tool is demanded."""
        choice = request.tool_choice or ""
        if choice.startswith("name:"):
            named = tuple(tool for tool in request.tools if tool.name == choice[5:])
            request = msgspec.structs.replace(request, tools=named, tool_choice="required")
        return super().prepare(request)

    def body(self, request: ChatRequest) -> dict[str, Any]:
        """Templates that know efforts are told the effort; a budget holds with any."""
        budget = request.reasoning_budget
        if budget is None:
            budget = budget_of(request.reasoning_effort or "")
        return {**super().body(request), **wire.drop_none(thinking_budget_tokens=budget)}

    def resume(self, request: ChatRequest, so_far: str, reasoning: str) -> HttpRequest | None:
        """The text is put after the template's own beginning of an answer, as it is. It refuses to do so for a model
        that is to think first: it has thought already."""
        body = chat_body(request, self.limit, self.history)
        turn = {"role": "assistant", "content": so_far, **({self.history: reasoning} if reasoning else {})}
        return self.forward(_unthinking({**body, "messages": [*body["messages"], turn]}), request.model)

    def load(self) -> HttpRequest | None:
        return wire.get(self.backend, "/slots", wire.bearer(self.backend))

    def read_load(self, body: bytes) -> int:
        try:
            return sum(1 for slot in msgspec.json.decode(body, type=list[_Slot]) if slot.is_processing)
        except msgspec.DecodeError:
            raise ValueError("no load") from None

    def _post(self, path: str, body: dict[str, Any]) -> HttpRequest:
        return _cancellable(super()._post(path, body))


class _Slot(Struct):
    is_processing: bool = False


def _unthinking(body: dict[str, Any]) -> dict[str, Any]:
    said = body.get("chat_template_kwargs")
    kwargs = {**(said if isinstance(said, dict) else {}), "enable_thinking": False}
    return {**body, "chat_template_kwargs": kwargs}


class _Messages(Messages):
    keepalive: ClassVar[bool] = False

    def resume(self, request: ChatRequest, so_far: str, reasoning: str) -> HttpRequest | None:
        """As chat does: its Messages API is the same server's, in other words."""
        if reasoning:
            return None
        body = messages_body(request, self.options.max_tokens, self.options.version)
        turn = {"role": "assistant", "content": so_far}
        return self.forward(_unthinking({**body, "messages": [*body["messages"], turn]}), request.model)

    def _post(self, path: str, body: dict[str, Any], accept: str) -> HttpRequest:
        return _cancellable(super()._post(path, body, accept))


def _cancellable(request: HttpRequest) -> HttpRequest:
    kept = tuple(header for header in request.headers if header[0] != "x-conversation-id")
    return msgspec.structs.replace(request, headers=kept)
