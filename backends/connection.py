"""One socket to a backend, one exchange at a time. The road of every token: bytes -> framing -> sink, nothing between.

Whatever happens to the socket becomes exactly one end of the exchange. What arrives without an exchange closes the
socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, cast

from backends.http1 import MAX_HEAD, BadResponse, Body, Head, Unheard, body_of, check_lines, parse_head

if TYPE_CHECKING:
    from collections.abc import Callable

    from backends.call import Call
    from backends.exchange import Express
    from backends.intake import Intake


def calm(transport: asyncio.BaseTransport | None, calmly: bool) -> None:
    """Acknowledge every other read from now on, or each, where the system can. That is a packet less per token, but not
    for what waits for an answer: a server that waits for them (Nagle) is kept waiting for up to 40 ms, once."""
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock and hasattr(socket, "TCP_QUICKACK"):
        with contextlib.suppress(OSError):  # not TCP, or gone
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, not calmly)


class _Often(asyncio.Protocol):
    """What a token touches, side by side in memory."""

    __slots__ = ("_intake", "road")


class Connection(_Often):
    """`reused` is True from its second exchange on; `usable` while the socket is open and idle."""

    __slots__ = (
        "_body",
        "_buffer",
        "_call",
        "_calm",
        "_eof",
        "_gone",
        "_limit",
        "_on_gone",
        "_reusable",
        "_seen",
        "_transport",
        "reused",
    )

    def __init__(self, on_gone: Callable[[Connection], None], limit: int) -> None:
        self._on_gone = on_gone
        self._limit = limit  # bytes of body; 0: none
        self._transport: asyncio.Transport | None = None
        self._call: Call | None = None
        self._body: Body | None = None
        self._buffer = b""
        self._seen = 0
        self._reusable = False
        self._gone = False
        self._eof = False
        self._calm = False
        self._intake: Intake | None = None  # keeps what is read, while there is a road
        self.road: Express | None = None
        self.reused = False

    @property
    def usable(self) -> bool:
        """Open, and nobody's."""
        transport = self._transport
        return transport is not None and not self._gone and not transport.is_closing() and self._call is None

    def start(self, call: Call, raw: bytes) -> None:
        """Begin an exchange: hand the whole request to the socket."""
        assert self._transport is not None
        self._call, self._body, self._buffer, self._seen = call, None, b"", 0
        self._leave_road()
        self._transport.write(raw)
        if self._calm:
            self._calm = False
            calm(self._transport, False)

    def pause(self) -> None:
        """Stop reading."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def express(self, road: Express) -> bool:
        """As `Exchange.express`: from the next read on, if that begins a chunk."""
        if self._body is None or not self._body.resting or self._limit:
            return False
        self.road, self._intake = road, road.intake
        if not self._calm:
            self._calm = True
            calm(self._transport, True)
        return True

    def _leave_road(self) -> None:
        self.road = self._intake = None

    def close(self) -> None:
        """Close the socket now; an exchange still on it hears nothing."""
        self._call = None
        self._leave_road()
        if self._transport is not None:
            self._transport.abort()  # close() would first flush a request nobody wants, or wait for TLS to say goodbye

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        intake = self._intake
        if intake is not None:
            if intake.busy:
                intake.keep(self, data)
                return
            self._settle()
            if self.road is not None and self.road.take(data):
                return
        self.feed(data)

    def feed(self, data: bytes) -> None:
        """What was read, by the ordinary road."""
        self._leave_road()
        call, body = self._call, self._body
        if body is None or call is None:
            self._head_bytes(data)
            return
        try:
            data = body.feed(data)
        except BadResponse as error:
            self._fail(str(error))
            return
        if data:
            self._seen += len(data)
            if self._limit and self._seen > self._limit:
                self._fail(f"more than {self._limit} bytes")
                return
            call.sink.data(data)
        if body.done and self._call is call:
            self._complete(call, body)

    def fault(self, error: Exception) -> None:
        """Reading this failed through us: the socket breaks, and what was read behind it is not heard."""
        asyncio.get_running_loop().call_exception_handler({"message": "a backend's bytes failed", "exception": error})
        self._leave_road()
        self._body = Unheard()
        if self._transport is not None:
            self._transport.abort()

    def _settle(self) -> None:
        """What was read before comes before."""
        if self._intake is not None and self._intake.late:
            self._intake.drain()

    def eof_received(self) -> None:
        self._settle()
        self._eof = True
        call, body = self._call, self._body
        if call is not None and body is not None and body.close():
            self._call = None
            call.completed(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._settle()
        self._gone = True
        call, self._call = self._call, None
        self._on_gone(self)
        if call is not None:
            call.dropped(
                seen=self._body is not None, silent=not self._buffer and self._body is None, reused=self.reused
            )

    # heads

    def _head_bytes(self, data: bytes) -> None:
        call = self._call
        if call is None:
            self.close()  # nobody asked
            return
        self._buffer += data
        try:
            while self._body is None:
                end = self._buffer.find(b"\r\n\r\n") + 4
                if end < 4 or end > MAX_HEAD:
                    self._check_partial()
                    return
                raw, self._buffer = self._buffer[:end], self._buffer[end:]
                self._accept(call, parse_head(raw))
        except BadResponse as error:
            self._fail(str(error))
            return
        rest, self._buffer = self._buffer, b""
        if self._call is call and (rest or self._body.done):
            self._first(call, self._body, rest)

    def _first(self, call: Call, body: Body, rest: bytes) -> None:
        """What came in one read with the head."""
        if not body.done:
            self.feed(rest)
            return
        body.extra = bool(rest)
        self._complete(call, body)

    def _check_partial(self) -> None:
        if len(self._buffer) > MAX_HEAD:
            raise BadResponse(f"a response head of more than {MAX_HEAD} bytes")
        check_lines(self._buffer)

    def _accept(self, call: Call, head: Head) -> None:
        if head.status == 101:
            raise BadResponse("a switch of protocols nobody asked for")
        if head.status < 200:
            return  # 100 Continue and its like precede the answer
        if head.headers.get("content-encoding", "identity").lower() not in ("identity", ""):
            raise BadResponse("a Content-Encoding nobody asked for: compressed answer refused")
        self._body = body_of(head, call.method)
        self._reusable = head.reusable and call.reusable
        call.sink.head(head.status, head.headers)

    # ends

    def _complete(self, call: Call, body: Body) -> None:
        self._call = None
        self._leave_road()
        transport = self._transport
        assert transport is not None
        keep = self._reusable and not body.extra and not self._eof and not transport.get_write_buffer_size()
        if not keep or transport.is_closing():
            transport.abort()
            call.completed(None)
            return
        self._body, self.reused = None, True
        transport.resume_reading()
        call.completed(self)

    def _fail(self, why: str) -> None:
        call, seen = self._call, self._body is not None
        self.close()
        if call is not None:
            call.failed(f"sent {why}", seen=seen)
