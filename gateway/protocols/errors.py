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
    ErrorCode.UNKNOWN_MODEL: Words("invalid_request_error", "not_found_error", "model_not_found"),
    ErrorCode.METHOD_NOT_ALLOWED: Words("invalid_request_error", "invalid_request_error"),
    ErrorCode.CONFLICT: Words("invalid_request_error", "invalid_request_error"),
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
    ErrorCode.NODE_LOST: Words("server_error", "api_error"),
    ErrorCode.TIMED_OUT: Words("server_error", "api_error"),
}


def openai_error(error: BackendError) -> dict[str, Any]:
    """OpenAI's error object, for bodies and for frames within a stream."""
    words = TABLE[error.code]
    code = words.openai_code or error.code.wire
    return {"error": {"message": error.message, "type": words.openai, "param": error.param, "code": code}}


def native_error(error: BackendError, request_id: str) -> dict[str, Any]:
    """The native error object of an answer that is not a stream."""
    return {"error": {"code": error.code.wire, "message": error.message, "requestId": request_id}}


def retry_after_header(error: BackendError) -> tuple[tuple[str, str], ...]:
    """`Retry-After` in whole seconds, rounded up, at least 1 (RFC 9110, 10.2.3): when the time is known, and always
    with 429 and 503. Empty otherwise."""
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
