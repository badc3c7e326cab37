"""Anthropic Messages: `POST /v1/messages` as its official SDKs and Claude Code speak it. Pure.

Law: a comment line is the keepalive, not Anthropic's own `ping` event: a comment is nobody's frame, so cursors that
count frames stay right, and every SDK skips it. Both API versions are understood; which one it is only matters to a
backend that speaks this API, so the header goes on to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import msgspec

from backends.contract.errors import BackendError
from gateway.protocols.answer import arguments_of
from gateway.protocols.anthropic_encoder import MessageEncoder, message_id, stop_of, usage_of
from gateway.protocols.anthropic_gatherer import MessageGatherer
from gateway.protocols.anthropic_request import read_request
from gateway.protocols.base import About, Answer, Asked, ClientProtocol, Encoder, Ending, Gatherer, Refusal
from gateway.protocols.errors import TABLE, anthropic_error, retry_after_header
from gateway.protocols.parsing import Fields, decode_object

_json = msgspec.json.Encoder().encode


def _content(answer: Answer) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if answer.reasoning or answer.signature:
        blocks.append({"type": "thinking", "thinking": answer.reasoning, "signature": answer.signature})
    blocks += [{"type": "redacted_thinking", "data": data} for data in answer.redacted]
    if answer.text:
        cited = [citation.source for citation in answer.citations if citation.dialect == "anthropic"]
        blocks.append({"type": "text", "text": answer.text, "citations": cited or None})
    for call in answer.tool_calls:
        id_ = call.id or f"toolu_{call.index}"
        blocks.append({"type": "tool_use", "id": id_, "name": call.name, "input": arguments_of(call)})
    return blocks


class Protocol(ClientProtocol):
    """Anthropic Messages."""

    name: ClassVar[str] = "anthropic"
    family: ClassVar[str] = "anthropic"
    paths: ClassVar[tuple[str, ...]] = ("/v1/messages",)
    dialect: ClassVar[str] = "anthropic"
    content_type: ClassVar[str] = "text/event-stream"
    framing: ClassVar[Literal["sse", "ndjson"]] = "sse"
    keepalive: ClassVar[bytes] = b": ping\n"  # one line: after a blank one some readers deliver an event
    head_wait: ClassVar[float] = 5.0
    on_disconnect: ClassVar[str] = "cancel"
    forwarded: ClassVar[tuple[str, ...]] = ("anthropic-version", "anthropic-beta")

    def parse(self, body: bytes, params: Mapping[str, str]) -> Asked:
        fields = Fields(decode_object(body))
        request = read_request(fields)
        return Asked(request=request, stream=fields.flag("stream") is True, body=fields.data, user_id=request.user)

    def encoder(self, about: About) -> Encoder:
        return MessageEncoder(about)

    def gatherer(self) -> Gatherer:
        return MessageGatherer()

    def whole(self, about: About, answer: Answer, ending: Ending) -> bytes:
        body = {
            "id": message_id(about),
            "type": "message",
            "role": "assistant",
            "model": about.model,
            "content": _content(answer),
            **stop_of(ending.finish, answer.stop_sequence, bool(answer.tool_calls)),
            "usage": usage_of(ending),
        }
        return _json(body)

    def failure(self, error: BackendError, request_id: str) -> Refusal:
        """`x-should-retry: false` keeps the SDKs, which retry by status, from repeating what cannot succeed."""
        retry = () if error.code.retryable else (("x-should-retry", "false"),)
        headers = (("request-id", request_id), *retry_after_header(error), *retry)
        body = {"type": "error", "error": anthropic_error(error), "request_id": request_id}
        return Refusal(TABLE[error.code].anthropic_status or error.code.status, headers, _json(body))

    def error_frame(self, about: About, ending: Ending, seq: int) -> bytes:
        """Also closes an answer kept on purpose (timeout, partial): its stop reason, then `message_stop`."""
        return MessageEncoder(about).end(ending)
