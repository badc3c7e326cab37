"""What is said of a stream that cannot be read: unknown, no longer kept, or cut off with its node.

Law: unknown, malformed and foreign ids have one answer, so that nobody learns which of them it was; 410 is for streams
that were the caller's own.
"""

from __future__ import annotations

from aiohttp import web

from backends.contract.errors import BackendError, ErrorCode
from gateway.edge.health_handlers import answer
from gateway.edge.services import request_id
from gateway.streams.archive import Gone
from gateway.streams.stream import State

CUT = "the beginning of this stream is no longer kept (streams.transcript_cap)"


def unknown_stream() -> BackendError:
    """The one answer to unknown, malformed and foreign ids."""
    return BackendError(
        ErrorCode.NOT_FOUND, "no stream with this id (it never was, has been forgotten, or is not yours)"
    )


def gone_answer(gone: Gone) -> web.Response:
    """410: what is left of a stream. `earliestSeq` null: none of its frames can be read any more."""
    if gone.code == "cursor_expired":
        return _lost(ErrorCode.CURSOR_EXPIRED, CUT, gone.state, None, None)
    return _lost(ErrorCode.STREAM_EXPIRED, "this stream has ended and is no longer kept", gone.state, None, None)


def tail_lost(seen: int) -> web.Response:
    """410, and not 204, at the end of what a lost node left: whether the client's last frame was the error that stands
    there, or one the node sent and did not copy any more, its number does not tell."""
    text = "the node of this stream was lost, and what it had not yet shared with it"
    return _lost(ErrorCode.CURSOR_EXPIRED, text, State.NODE_LOST.wire, 1, seen)


def _lost(code: ErrorCode, message: str, state: str, earliest: int | None, tail: int | None) -> web.Response:
    error = {"code": code.wire, "message": message, "requestId": request_id()}
    return answer({"error": error, "state": state, "earliestSeq": earliest, "tailSeq": tail}, 410)
