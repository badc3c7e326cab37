"""One client's connection: how long it may take to ask, how much a head may hold, and what it is told if it is wrong.

Law: who connects owes a whole request head within `server.header_timeout`, and its body within `server.body_timeout`;
time in which the gateway itself does not read is not counted. Answers of the parser are JSON in our words and close
the connection. What a client sent wrongly is no error of ours and is not logged: a broken header may hold a key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import ERROR, _ErrInfo

from backends.contract.errors import BackendError, ErrorCode
from backends.dial import tune
from gateway.edge.chunk_sizes import ChunkSizes
from gateway.edge.one_by_one import OneByOne
from gateway.edge.output import HIGH_WATER, StreamHead
from gateway.edge.services import request_id

if TYPE_CHECKING:
    from gateway.edge.peers import PublicServer

Refuse = Callable[[web.BaseRequest, BackendError], web.Response]

MAX_HEAD = 32 * 1024  # bytes of a request line and its headers together
MAX_HEADERS = 64
MAX_LINE = 8190  # bytes of the request line, and of one header
SEND_BUFFER = 256 * 1024  # bytes the kernel may hold for a client that does not read (Linux doubles it)
_LINE = 256  # bytes of a request line that are kept, to know whose path it is
_LINGER = 1.0  # seconds in which a refused peer may still send, so that it gets to read why


class BodyTimeout(TimeoutError):
    """A request's body did not come in time; raised where the body is read."""


class BodyTooLarge(web.RequestPayloadError):
    """The chunks of a body are to hold more than it may; likewise."""


class Connection(OneByOne):
    """One client connection. `server` watches over its deadlines."""

    __slots__ = ("_begun", "_body", "_deaf", "_end", "_head", "_late", "_refuse", "_server", "_sizes")

    def __init__(self, server: PublicServer, refuse: Refuse, **kwargs: Any) -> None:
        super().__init__(server, **kwargs)
        self._server = server
        self._refuse = refuse
        self._body: StreamReader | None = None  # of the last request, while it is incomplete
        self._head = 0  # bytes of a head that is incomplete
        self._begun = b""  # how that head began, or one that cannot be read
        self._late = False  # the body did not come in time
        self._deaf = False  # a head was malformed or too large, or a body is to be: nothing more is read
        self._end = b""  # of a head that is incomplete
        self._sizes: ChunkSizes | None = None  # of that body, where it comes in chunks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Watched from the first moment; beyond `server.max_connections` it is told so and closed."""
        if self._server.full():
            self._force_close = True
            refused = cast("asyncio.Transport", transport)  # uvloop's is none by its class
            text = "this gateway node has as many connections as it may"
            refused.write(_bare(b"503 Service Unavailable", "shed", text, b"Retry-After: 1\r\n"))
            refused.close()
            return
        tune(transport, send_buffer=SEND_BUFFER)
        cast("asyncio.Transport", transport).set_write_buffer_limits(high=HIGH_WATER)
        super().connection_made(transport)
        self._server.expect(self, self._server.limits.header_timeout)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Nothing is owed any more."""
        self._server.settled(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """To aiohttp's parser; what it made of the bytes decides what is owed next."""
        if self._deaf:
            return
        before, between = self._request_count, self._body is None
        if not self._head and between:
            self._begun = data[:_LINE]
        super().data_received(data)
        if self._request_count == before:
            self._part(len(data))
            if between:
                self._end = (self._end + data)[-3:]
            elif self._sizes is not None:
                self._follow(data)
        else:
            self._heads(self._request_count - before, len(data))
            if self._body is not None and between and self._request_count == before + 1:
                self._chunks(self._end + data)
            self._end = b""

    def _chunks(self, data: bytes) -> None:
        """A body has begun, behind the head in `data`."""
        head = self._messages[-1][0]
        if not isinstance(head, _ErrInfo) and head.chunked:
            self._sizes = ChunkSizes(self._server.limits.max_body)
            self._follow(data.partition(b"\r\n\r\n")[2])

    def _follow(self, data: bytes) -> None:
        """So much more of it came: a body that is to be too large is not waited for."""
        if self._sizes is not None and self._body is not None and self._sizes.beyond(data):
            self._body.set_exception(BodyTooLarge())  # the handler answers
            self._body = self._sizes = None
            self._stop_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Nothing while nothing is held back: aiohttp would parse again, and ask the loop, at every body it reads."""
        if self._reading_paused or self._buffer_paused:
            super().resume_reading(resume_parser)

    def _part(self, size: int) -> None:
        """Bytes came that complete no head."""
        if self._body is not None:
            if self._body.is_eof():
                self._body = None
                self._server.settled(self)
            return
        if not size or self._upgraded or self._buffer_paused:  # a declined upgrade, or a queue that is full
            return
        self._head += size
        self._server.expect_first(self, self._server.limits.header_timeout)
        if self._head > MAX_HEAD:
            self._messages.append(_too_long())
            self._request_count += 1
            self._stop_reading()

    def _heads(self, count: int, size: int) -> None:
        """So many heads are complete, in a read of `size` bytes."""
        if self._head + size > MAX_HEAD:
            for i in range(len(self._messages) - count, len(self._messages)):
                if _size_of(self._messages[i][0]) > MAX_HEAD:
                    self._messages[i] = _too_long()
        self._head = 0
        if isinstance(self._messages[-1][0], _ErrInfo):
            self._stop_reading()
            return
        payload = self._messages[-1][1]
        if payload.is_eof():
            self._body = None
            self._server.settled(self)
        else:
            self._body, self._sizes = payload, None
            self._server.expect(self, self._server.limits.body_timeout)

    def _stop_reading(self) -> None:
        self._deaf = True
        self._server.settled(self)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def overdue(self) -> None:
        """What was owed did not come: 408 to who has begun a request, and the end."""
        body, limits = self._body, self._server.limits
        if self._messages or (self._reading_paused if body is not None else self._request_in_progress):
            # the gateway is not reading, or still busy with what was asked before: no fault of the client's
            self._server.expect(self, limits.header_timeout if body is None else limits.body_timeout)
        elif body is not None:
            self._late, self._body = True, None
            body.set_exception(BodyTimeout())  # the handler answers
        elif self._head and self.transport is not None:
            self._deaf = True
            text = "the request head did not come in time"
            self.transport.write(_bare(b"408 Request Timeout", "invalid_request", text))
            self.transport.write_eof()
            self._loop.call_later(_LINGER, self.force_close)
        else:
            self.force_close()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """As aiohttp does; the answer to a body that came too late is 408 and the last. After a head that could not be
        read, the peer may still be sending: closing at once would reset the connection before it has read the answer.
        """
        if type(resp) is StreamHead and resp.unsent and not self._upgraded and not self._deaf:
            return resp, False  # all of it was written: nothing is left to do
        if self._late and not resp.prepared:
            resp.set_status(408)
            resp.force_close()
        elif (self._server.closing or (self._deaf and not self._messages)) and not resp.prepared:
            resp.force_close()  # its client, or a proxy's pool, goes to another node then
        done = await super().finish_response(request, resp, start_time)
        if self._deaf and not self._messages and self.transport is not None and not self.transport.is_closing():
            self.transport.write_eof()
            await asyncio.sleep(_LINGER)  # ends at once when the peer closes: the handler is cancelled then
        return done

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Refuse in JSON. Raises ConnectionError when an answer has begun: it can only be broken off."""
        if status >= 500:
            self.log_exception("unhandled error", exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun already")
        if request._message is ERROR:  # nothing was made of the head; its path may still say whose words are understood
            request._message = request._message._replace(path=_target(self._begun))
        answer = self._refuse(request, _error(status, message or ""))
        if isinstance(exc, LineTooLong) or "Too many headers" in (message or ""):
            answer.set_status(431)
        answer.force_close()
        return answer


def _target(line: bytes) -> str:
    """The path of a request line, as far as it can be read."""
    words = line.split(b" ", 2)
    return words[1].decode("latin-1") if len(words) > 1 and words[1].startswith(b"/") else "/"


def _bare(status: bytes, code: str, message: str, more: bytes = b"") -> bytes:
    """A whole native refusal, for a connection without a request to answer."""
    name = request_id()
    body = msgspec.json.encode({"error": {"code": code, "message": message, "requestId": name}})
    head = b"HTTP/1.1 %b\r\nServer: headgate\r\nContent-Type: application/json\r\nX-Request-Id: %b\r\n%b"
    return head % (status, name.encode(), more) + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def _size_of(message: Any) -> int:
    if isinstance(message, _ErrInfo):
        return 0
    return len(message.path) + sum(len(name) + len(value) + 4 for name, value in message.raw_headers)


def _too_long() -> tuple[_ErrInfo, StreamReader]:
    """Stands in the queue for a request whose head is too large."""
    error = LineTooLong(b"", MAX_HEAD)
    return _ErrInfo(status=431, exc=error, message="the headers are too large"), EMPTY_PAYLOAD


def _error(status: int, message: str) -> BackendError:
    if status >= 500:
        return BackendError(ErrorCode.INTERNAL, "the gateway failed; its log says more")
    what = message.strip().split("\n", 1)[0].split(":", 1)[0][:100]  # what follows is the client's own bytes
    return BackendError(ErrorCode.INVALID_REQUEST, f"not a well-formed HTTP/1.1 request: {what}")
