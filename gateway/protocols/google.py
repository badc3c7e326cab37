"""Google's client protocol: `:generateContent` and `:streamGenerateContent` of `/v1` and `/v1beta`. Pure.

Law: after a failure an error object is the last one; google-genai raises it. No keepalive: a comment breaks that SDK.
The paths are routed by `gateway.edge.google_api`, which also tells from the query which of these two is spoken.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from backends.contract.errors import BackendError
from gateway.protocols.base import About, Answer, Asked, ClientProtocol, Encoder, Ending, Gatherer, Refusal
from gateway.protocols.errors import google_error, retry_after_header
from gateway.protocols.google_chunks import ArrayChunks, Chunks, whole
from gateway.protocols.google_gather import Gathered
from gateway.protocols.google_request import read_request
from gateway.protocols.lines import to_json
from gateway.protocols.parsing import decode_object, encodable


class Protocol(ClientProtocol):
    """Whole answers, and streams with `alt=sse`. `parse` wants the path's `model` and `call`."""

    name: ClassVar[str] = "google"
    family: ClassVar[str] = "google"
    paths: ClassVar[tuple[str, ...]] = ()
    dialect: ClassVar[str] = "google"
    content_type: ClassVar[str] = "text/event-stream"
    framing: ClassVar[Literal["sse", "ndjson"]] = "sse"
    keepalive: ClassVar[bytes] = b""
    on_disconnect: ClassVar[str] = "cancel"

    def parse(self, body: bytes, params: Mapping[str, str]) -> Asked:
        model = encodable("model", params.get("model", "")).removeprefix("models/")
        data = decode_object(body)
        stream = params.get("call") == "streamGenerateContent"
        return Asked(request=read_request(data, model), stream=stream, body=data)

    def encoder(self, about: About) -> Encoder:
        return Chunks(about)

    def whole(self, about: About, answer: Answer, ending: Ending) -> bytes:
        return whole(about, answer, ending)

    def gatherer(self) -> Gatherer | None:
        return Gathered()

    def failure(self, error: BackendError, request_id: str) -> Refusal:
        return Refusal(error.code.status, retry_after_header(error), to_json(google_error(error)))

    def error_frame(self, about: About, ending: Ending, seq: int) -> bytes:
        """Also closes an answer kept on purpose (timeout, partial)."""
        return self.encoder(about).end(ending)


class Array(Protocol):
    """Streams without `alt=sse`: one JSON array. A dialect of its own, so that it is always encoded here."""

    name: ClassVar[str] = "google_array"
    dialect: ClassVar[str] = "google_array"
    content_type: ClassVar[str] = "application/json"
    framing: ClassVar[Literal["sse", "ndjson"]] = "ndjson"  # an element a line
    keepalive: ClassVar[bytes] = b" "  # between two elements JSON allows it

    def encoder(self, about: About) -> Encoder:
        return ArrayChunks(about)

    def gatherer(self) -> Gatherer | None:
        return None

    def failure(self, error: BackendError, request_id: str) -> Refusal:
        refusal = super().failure(error, request_id)
        return Refusal(refusal.status, refusal.headers, b"[" + refusal.body + b"]")
