"""Ollama's client protocol: `POST /api/chat` and `POST /api/generate`, as ollama-python reads them. Pure.

Law: a stream is the default; a broken one ends in a line `{"error": ...}`, which its SDKs raise, because they take a
mere end for success. The paths are routed by `gateway.edge.ollama_api`: a request without a prompt is no stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from backends.contract.errors import BackendError
from backends.contract.request import ChatRequest
from gateway.protocols.base import About, Answer, Asked, ClientProtocol, Encoder, Ending, Gatherer, Refusal
from gateway.protocols.errors import error_of, retry_after_header
from gateway.protocols.ollama_lines import Gathered, Lines, error_line, whole
from gateway.protocols.ollama_request import read_chat, read_generate
from gateway.protocols.parsing import Fields, decode_object


class Protocol(ClientProtocol):
    """`/api/chat`."""

    name: ClassVar[str] = "ollama"
    family: ClassVar[str] = "ollama"
    paths: ClassVar[tuple[str, ...]] = ()
    dialect: ClassVar[str] = "ollama"
    content_type: ClassVar[str] = "application/x-ndjson"
    framing: ClassVar[Literal["sse", "ndjson"]] = "ndjson"
    # A lone space becomes the beginning of the next line, where JSON allows it; a blank line breaks ollama-python.
    keepalive: ClassVar[bytes] = b" "
    on_disconnect: ClassVar[str] = "cancel"
    chat: ClassVar[bool] = True

    def parse(self, body: bytes, params: Mapping[str, str]) -> Asked:
        fields = Fields(decode_object(body))
        request = self.read(fields)
        return Asked(request=request, stream=fields.flag("stream") is not False, body=fields.data)

    def read(self, fields: Fields) -> ChatRequest:
        """The request of a body. Raises BackendError INVALID_REQUEST."""
        return read_chat(fields)

    def encoder(self, about: About) -> Encoder:
        return Lines(about, chat=self.chat)

    def whole(self, about: About, answer: Answer, ending: Ending) -> bytes:
        return whole(about, answer, ending, chat=self.chat)

    def gatherer(self) -> Gatherer | None:
        return Gathered()

    def failure(self, error: BackendError, request_id: str) -> Refusal:
        return Refusal(error.code.status, retry_after_header(error), error_line(error))

    def error_frame(self, about: About, ending: Ending, seq: int) -> bytes:
        """Also closes an answer kept on purpose (timeout, partial)."""
        if ending.error is None and ending.finish == "timeout":
            return Lines(about, chat=self.chat).end(ending)
        return error_line(error_of(ending)) + b"\n"


class Generate(Protocol):
    """`/api/generate`: a prompt instead of messages, `response` instead of a message."""

    name: ClassVar[str] = "ollama_generate"
    dialect: ClassVar[str] = "ollama_generate"
    chat: ClassVar[bool] = False

    def read(self, fields: Fields) -> ChatRequest:
        return read_generate(fields)
