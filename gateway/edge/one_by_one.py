"""One client's connection, request by request.

Law: what aiohttp does here, but that a request is no task of its own: nothing of ours is kept in a task's context, and
two turns of the loop are saved with every request. Its client's leaving cancels the connection's task, and so the
handler.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, cast

from aiohttp import web
from aiohttp.http_writer import StreamWriter
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import _PAYLOAD_ACCESS_ERROR as _CONSUMED
from aiohttp.web_protocol import ERROR, _ErrInfo


class OneByOne(web.RequestHandler):
    """Its parser puts requests into `_messages`."""

    __slots__ = ()

    async def start(self) -> None:
        """Serve until the connection ends."""
        while not self._force_close:
            if not self._messages:
                self._waiter = self._loop.create_future()
                try:
                    await self._waiter
                finally:
                    self._waiter = None
            if not await self._serve(*self._messages.popleft()):
                break
            if not self._keepalive or self._close or self._force_close or self._ending():
                break
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
            if self._keepalive_handle is None:
                self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)
        if not self._force_close:
            self._task_handler = None
            if self.transport is not None:
                self.transport.close()

    def _ending(self) -> bool:
        """Whether an answer was broken off: what its client has asked behind it could not be answered."""
        return self.transport is None or self.transport.is_closing()

    async def _serve(self, message: Any, payload: StreamReader) -> bool:
        """Answer one request; False: nobody is left to answer another."""
        if self._parser is not None:
            self._parser.message_consumed()
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()
        assert self._manager is not None
        assert self._request_factory is not None
        assert self._request_handler is not None
        self._manager.requests_count += 1
        handler = self._request_handler
        if isinstance(message, _ErrInfo):
            handler, message = self._make_error_handler(message), ERROR
        writer = StreamWriter(self, self._loop)
        # no name for the task: its exception's traceback would keep it in memory
        request = self._request_factory(message, payload, self, writer, cast("asyncio.Task[None]", self._task_handler))
        try:
            answer, gone = await self._handle_request(request, None, handler)
            if gone:
                return False
            self._keepalive = bool(answer.keep_alive)
            if not payload.is_eof():
                await self._linger(payload)
            payload.set_exception(_CONSUMED)
        except ConnectionError:
            return False
        except asyncio.CancelledError:
            self.force_close()
            raise
        except Exception as error:
            self.log_exception("unhandled error", exc_info=error)
            self.force_close()
        finally:
            request._task = None  # type: ignore[assignment]  # likewise
        return True

    async def _linger(self, payload: StreamReader) -> None:
        """The rest of a body nobody read is read for a while, so that its sender gets to read the answer."""
        if not self._force_close and self._lingering_time:
            with contextlib.suppress(TimeoutError, web.RequestPayloadError):
                async with asyncio.timeout(self._lingering_time):
                    while not payload.is_eof():
                        await payload.readany()
        if not payload.is_eof() and not self._force_close:
            self.close()
