"""OpenAI Responses: `POST /v1/responses` as its official SDKs and the Vercel AI SDK read it. Pure.

Law: `response.completed` and `response.incomplete` end an answer and nothing else does; every other ending says
`response.failed` and then `error`, because SDKs do not raise at the first. The choreography is in
`openai_responses_encoder`, the objects are in `openai_responses_object`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import msgspec

from backends.contract.errors import BackendError
from gateway.protocols import openai_responses_object as words
from gateway.protocols.base import About, Answer, Asked, ClientProtocol, Encoder, Ending, Gatherer, Refusal
from gateway.protocols.errors import openai_error, retry_after_header
from gateway.protocols.openai_responses_encoder import ResponsesEncoder
from gateway.protocols.openai_responses_gatherer import ResponsesGatherer
from gateway.protocols.openai_responses_items import DIALECT
from gateway.protocols.openai_responses_request import read_request
from gateway.protocols.parsing import Fields, decode_object

_json = msgspec.json.Encoder().encode


class Protocol(ClientProtocol):
    """OpenAI Responses."""

    name: ClassVar[str] = "openai_responses"
    family: ClassVar[str] = "openai"
    paths: ClassVar[tuple[str, ...]] = ("/v1/responses",)
    dialect: ClassVar[str] = DIALECT
    content_type: ClassVar[str] = "text/event-stream"
    framing: ClassVar[Literal["sse", "ndjson"]] = "sse"
    keepalive: ClassVar[bytes] = b": ping\n"  # one line only: openai-python reads a blank line after it as an event
    head_wait: ClassVar[float] = 5.0
    on_disconnect: ClassVar[str] = "cancel"

    def parse(self, body: bytes, params: Mapping[str, str]) -> Asked:
        fields = Fields(decode_object(body))
        request = read_request(fields)
        return Asked(
            request=request,
            stream=fields.flag("stream") is True,
            body=fields.data,
            user_id=request.user,
            background=fields.flag("background") is True,
            echo=words.echo_of(fields.data),
        )

    def encoder(self, about: About) -> Encoder:
        return ResponsesEncoder(about)

    def whole(self, about: About, answer: Answer, ending: Ending) -> bytes:
        return _json(words.final(about, ending, words.output_of(about, answer, words.status_of(ending))))

    def pending(self, about: About) -> bytes:
        return _json(words.response(about, "queued", [], background=True))

    def gatherer(self) -> Gatherer:
        return ResponsesGatherer()

    def failure(self, error: BackendError, request_id: str) -> Refusal:
        """`x-should-retry: false` keeps the SDKs, which retry by status, from repeating what cannot succeed."""
        retry = () if error.code.retryable else (("x-should-retry", "false"),)
        return Refusal(error.code.status, retry_after_header(error) + retry, _json(openai_error(error)))

    def error_frame(self, about: About, ending: Ending, seq: int) -> bytes:
        """Numbered on from the backend's own frames. Also closes an answer kept on purpose (timeout, partial)."""
        return self.break_off(about, ending, seq, b"")

    def break_off(self, about: About, ending: Ending, seq: int, began: bytes) -> bytes:
        """openai-python raises RuntimeError, not its own error, at a Response of another id."""
        encoder = ResponsesEncoder(about, seq - 1)
        encoder.adopt(began)
        return encoder.end(ending)
