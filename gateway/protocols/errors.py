"""The one table from our error codes to every protocol's words. Pure.

Law: a status or an error type is looked up here, never chosen at the place of use. The native protocol prints
`ErrorCode.wire` and `ErrorCode.status`; the other columns are what the official SDKs expect.
"""

from __future__ import annotations

import math
from typing import Any

from msgspec import Struct

from backends.contract.errors import BackendError, ErrorCode
from gateway.protocols.base import Ending


class Words(Struct, frozen=True):
    """One row: OpenAI's type and code (empty: our wire code), Anthropic's type and status (0: ours)."""

    openai: str
    anthropic: str
    openai_code: str = ""
    anthropic_status: int = 0


TABLE: dict[ErrorCode, Words] = {
    ErrorCode.INVALID_REQUEST: Words("invalid_request_error", "invalid_request_error"),
    ErrorCode.UNAUTHENTICATED: Words("invalid_request_error", "authentication_error", "invalid_api_key"),
    ErrorCode.FORBIDDEN: Words("invalid_request_error", "permission_error"),
    ErrorCode.NOT_FOUND: Words("invalid_request_error", "not_found_error"),
    ErrorCode.STREAMING_OFF: Words("invalid_request_error", "not_found_error"),
    ErrorCode.BACKGROUND_OFF: Words("invalid_request_error", "not_found_error"),
    ErrorCode.UNKNOWN_MODEL: Words("invalid_request_error", "not_found_error", "model_not_found"),
    ErrorCode.METHOD_NOT_ALLOWED: Words("invalid_request_error", "invalid_request_error"),
    ErrorCode.CONFLICT: Words("invalid_request_error", "invalid_request_error"),
    ErrorCode.STREAM_EXPIRED: Words("invalid_request_error", "not_found_error"),
    ErrorCode.CURSOR_EXPIRED: Words("invalid_request_error", "not_found_error"),
    ErrorCode.CURSOR_AHEAD: Words("invalid_request_error", "invalid_request_error"),
    ErrorCode.KEY_REUSED: Words("invalid_request_error", "invalid_request_error"),
    ErrorCode.TOO_LARGE: Words("invalid_request_error", "request_too_large"),
    ErrorCode.UNSUPPORTED_ENCODING: Words("invalid_request_error", "invalid_request_error"),
    ErrorCode.RATE_LIMITED: Words("rate_limit_error", "rate_limit_error", "rate_limit_exceeded"),
    ErrorCode.CANCELLED: Words("server_error", "api_error"),
    ErrorCode.INTERNAL: Words("server_error", "api_error"),
    ErrorCode.UPSTREAM_REFUSED: Words("server_error", "api_error"),
    ErrorCode.UPSTREAM_FAILED: Words("server_error", "api_error"),
    ErrorCode.UPSTREAM_TRUNCATED: Words("server_error", "api_error"),
    ErrorCode.EVENT_TOO_LARGE: Words("server_error", "api_error"),
    ErrorCode.TRANSCRIPT_FULL: Words("server_error", "api_error"),
    ErrorCode.OVERLOADED: Words("service_unavailable_error", "overloaded_error", anthropic_status=529),
    ErrorCode.NO_UPSTREAM: Words("service_unavailable_error", "overloaded_error", anthropic_status=529),
    ErrorCode.SHED: Words("service_unavailable_error", "overloaded_error", anthropic_status=529),
    ErrorCode.REGISTRY_AWAY: Words("service_unavailable_error", "overloaded_error", anthropic_status=529),
    ErrorCode.MAINTENANCE: Words("service_unavailable_error", "overloaded_error", anthropic_status=529),
    ErrorCode.NODE_LOST: Words("server_error", "api_error"),
    ErrorCode.TIMED_OUT: Words("server_error", "timeout_error"),
}


def openai_error(error: BackendError) -> dict[str, Any]:
    """OpenAI's error object, for bodies and for frames within a stream. A backend's own code is kept, and its type with
    it: applications decide by `context_length_exceeded` and `insufficient_quota`."""
    words = TABLE[error.code]
    kind, code = words.openai, words.openai_code or error.code.wire
    if error.own_code and error.code is not ErrorCode.UPSTREAM_REFUSED:
        kind, code = error.kind or kind, error.own_code
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": code}}


# Anthropic's own error types, which its clients know: such a backend's word is kept instead of the table's.
_ANTHROPIC = frozenset(
    (
        *("invalid_request_error", "billing_error", "permission_error", "not_found_error", "request_too_large"),
        *("rate_limit_error", "timeout_error", "api_error", "overloaded_error"),
    )
)


def anthropic_error(error: BackendError) -> dict[str, Any]:
    """Anthropic's error object, for bodies and for `error` events."""
    own = error.kind in _ANTHROPIC and error.code is not ErrorCode.UPSTREAM_REFUSED
    return {"type": error.kind if own else TABLE[error.code].anthropic, "message": error.message}


# Google's word for a status (protocol source: google.rpc.Code).
_GOOGLE = {
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    409: "ALREADY_EXISTS",
    410: "NOT_FOUND",
    416: "OUT_OF_RANGE",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def google_error(error: BackendError) -> dict[str, Any]:
    """Google's error object, for bodies and for frames within a stream."""
    status = error.code.status
    said: dict[str, Any] = {
        "code": status,
        "message": error.message,
        "status": _GOOGLE.get(status, "INVALID_ARGUMENT"),
    }
    if error.retry_after is not None and math.isfinite(error.retry_after):
        wait = f"{max(1, math.ceil(error.retry_after))}s"
        said["details"] = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": wait}]
    return {"error": said}


def native_error(error: BackendError, request_id: str) -> dict[str, Any]:
    """The native error object of an answer that is not a stream."""
    return {"error": {"code": error.code.wire, "message": error.message, "requestId": request_id}}


def retry_after_header(error: BackendError) -> tuple[tuple[str, str], ...]:
    """`Retry-After` in whole seconds, rounded up, at least 1 (RFC 9110, 10.2.3): when the time is known, and always
    with 429 and 503. Empty otherwise. `x-should-retry: false`, which the SDKs heed, where retries are spent."""
    return _retry_after(error) + ((("x-should-retry", "false"),) if error.exhausted else ())


def _retry_after(error: BackendError) -> tuple[tuple[str, str], ...]:
    if error.retry_after is not None and math.isfinite(error.retry_after):
        return (("Retry-After", str(max(1, math.ceil(error.retry_after)))),)
    if error.code.status in (429, 503):
        return (("Retry-After", "1"),)
    return ()


_NO_ERROR = {
    "cancelled": (ErrorCode.CANCELLED, "the stream was cancelled"),
    "timeout": (ErrorCode.TIMED_OUT, "the stream took too long"),
}
_BROKEN = (ErrorCode.UPSTREAM_TRUNCATED, "the backend's answer ended before it was complete")


def error_of(ending: Ending) -> BackendError:
    """The error an ending stands for; endings without one (a cancel) get their own words."""
    if ending.error is not None:
        return ending.error
    return BackendError(*_NO_ERROR.get(ending.finish, _BROKEN))
