"""vLLM's server (protocol source: vLLM 0.32): OpenAI's API, and Anthropic's Messages API beside it.

Reasoning comes as `delta.reasoning`. After an engine crash it sends an error and then `[DONE]` in a 200: that is a
failure, see `openai_stream`.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec
from msgspec import Struct

from backends import wire
from backends.anthropic import Messages
from backends.base import Driver as BaseDriver
from backends.base import HttpRequest
from backends.contract.fit import Feature
from backends.contract.request import ChatRequest
from backends.openai import LocalDriver, prefilled
from backends.openai_body import chat_body
from config.schema import Backend


class _Tokenized(Struct):
    count: int


class Driver(LocalDriver):
    """`url: http://host:8000`."""

    expresses: ClassVar[frozenset[Feature]] = LocalDriver.expresses - {Feature.FILES, Feature.FILE_IDS} | {
        Feature.REASONING_HISTORY,
        Feature.TOP_K,
    }
    history: ClassVar[str] = "reasoning_content"
    continues: ClassVar[str] = "chat, by continue_final_message; not after white space"

    def __init__(self, name: str, backend: Backend) -> None:
        super().__init__(name, backend)
        self._messages = Messages(name, backend, self.options.body)

    def speaking(self, dialect: str) -> BaseDriver | None:
        return self._messages if dialect == self._messages.dialect else super().speaking(dialect)

    def resume(self, request: ChatRequest, so_far: str, reasoning: str) -> HttpRequest | None:
        """Not after white space: a chat template that cuts it off would make the model say it again."""
        if so_far[-1:].isspace():
            return None
        body = chat_body(request, self.limit, self.history)
        return self.forward(prefilled(body, so_far, reasoning, self.history), request.model)

    def load(self) -> HttpRequest | None:
        return wire.get(self.backend, "/metrics", wire.bearer(self.backend))

    def read_load(self, body: bytes) -> int:
        return wire.gauges(body, "vllm:num_requests_running", "vllm:num_requests_waiting")

    def count(self, request: ChatRequest) -> HttpRequest | None:
        """By `/tokenize`, which lies beside `/v1` and knows the model's template."""
        body = chat_body(request, self.limit, self.history)
        said = wire.drop_none(messages=body["messages"], tools=body.get("tools"))
        whole = {**said, "model": request.model, "add_generation_prompt": True}
        return wire.post(self.backend, "/tokenize", whole, wire.bearer(self.backend), accept="application/json")

    def read_count(self, body: bytes) -> int:
        return msgspec.json.decode(body, type=_Tokenized).count
