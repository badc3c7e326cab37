"""Events as the choreography of a Responses stream. Pure.

Law: frames are numbered without a gap from 0 by `sequence_number`; every item is added before it is spoken of and, in
an answer that ended well, done before the last frame, which is `response.completed` or `response.incomplete`. Any other
ending is `response.failed` and then `error`: SDKs do not raise at the first. Reasoning is told as a summary, the form
every SDK shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec

from backends.contract.events import Citation, Event, ReasoningDelta, TextDelta, ToolCallDelta
from backends.contract.payload import sse_events
from gateway.protocols import openai_responses_object as words
from gateway.protocols.base import About, Encoder, Ending
from gateway.protocols.errors import error_of, openai_error
from gateway.protocols.openai_responses_items import seal
from gateway.protocols.openai_responses_open import Call, Item, Reasoning, Text

_json = msgspec.json.Encoder().encode


class _Opening(msgspec.Struct):
    response: dict[str, Any] = {}


_opening = msgspec.json.Decoder(_Opening).decode


class ResponsesEncoder(Encoder):
    """One reader's view. `items` are the output so far, in order; at most one text or reasoning item is open."""

    def __init__(self, about: About, first: int = 0) -> None:
        self.about = about
        self._name = words.suffix(about)
        self._first = first  # sequence_number of the first frame
        self._count = 0
        self._own: dict[str, Any] = {}  # fields of the Response the client has read in the backend's own frames
        self._items: list[Item] = []
        self._spoken: Text | Reasoning | None = None
        self._calls: dict[int, Call] = {}

    @property
    def frames(self) -> int:
        """Frames so far. Set by a view that goes on where the backend's own frames ended: what was open there under the
        backend's names is not spoken of again, the next word opens an item of ours."""
        return self._count

    @frames.setter
    def frames(self, count: int) -> None:
        self._count, self._spoken = count, None

    def adopt(self, block: bytes) -> bool:
        for _, data in sse_events(block):
            with suppress(msgspec.DecodeError):
                said = _opening(data).response
                self._own |= {name: said[name] for name in ("id", "created_at", "model") if name in said}
        return bool(self._own)

    def start(self) -> bytes:
        whole = words.response(self.about, "in_progress", [])
        return self._frame("response.created", response=whole) + self._frame("response.in_progress", response=whole)

    def feed(self, events: Sequence[Event]) -> bytes:
        """Results of tools that ran at the provider have no place in this view and are left out."""
        out: list[bytes] = []
        for event in events:
            kind = type(event)
            if kind is TextDelta:
                self._text(event, out)  # type: ignore[arg-type]  # the cheapest test first
            elif isinstance(event, ReasoningDelta):
                self._reasoning(event, out)
            elif isinstance(event, ToolCallDelta):
                self._call(event, out)
            elif isinstance(event, Citation):
                self._citation(event, out)
        return out[0] if len(out) == 1 else b"".join(out)

    def plain(self, text: str) -> bytes:
        item = self._spoken
        if not isinstance(item, Text):
            return self.feed((TextDelta(text),))
        item.pieces.append(text)
        return item.delta % (self._number(), b'"%b"' % text.encode(), b"[]")

    def end(self, ending: Ending) -> bytes:
        out: list[bytes] = []
        if not words.ended_well(ending):
            return self._failure(ending)
        status = words.status_of(ending)
        self._close(out, status)
        for call in self._calls.values():
            if call.open:
                self._done(call, out, status)
        whole = words.final(self.about, ending, [item.whole("completed") for item in self._items], **self._own)
        out.append(self._frame(f"response.{status}", response=whole))
        return b"".join(out)

    def _failure(self, ending: Ending) -> bytes:
        output = [item.whole("incomplete") for item in self._items]
        said = openai_error(error_of(ending))["error"]
        flat = {name: said[name] for name in ("code", "message", "param")}
        last = self._frame("response.failed", response=words.failed(self.about, ending, output) | self._own)
        return last + self._frame("error", **flat, error=said)

    # -- items ---------------------------------------------------------------------------------------------------------

    def _text(self, event: TextDelta, out: list[bytes]) -> None:
        item = self._spoken
        if not isinstance(item, Text):
            item = self._open_text(out)
        item.add(event.text, event.logprobs)
        logprobs = _json(event.logprobs) if event.logprobs else b"[]"
        out.append(item.delta % (self._number(), _json(event.text), logprobs))

    def _open_text(self, out: list[bytes]) -> Text:
        self._close(out, "completed")
        item = Text(f"msg_{self._name}_{len(self._items)}", len(self._items))
        self._spoken = item
        self._add(item, out)
        part = words.text_part("", [], [])
        out.append(self._frame("response.content_part.added", **item.place, content_index=0, part=part))
        return item

    def _reasoning(self, event: ReasoningDelta, out: list[bytes]) -> None:
        sealed = seal(self.about.dialect, event.signature or event.redacted)
        item = self._spoken
        if event.text or sealed:
            if not isinstance(item, Reasoning) or (event.redacted and item.pieces):
                item = self._open_reasoning(out)
            if event.text:
                self._think(item, event.text, out)
            item.sealed = sealed
        if (event.signature or event.redacted) and isinstance(item, Reasoning):
            self._close(out, "completed")  # both end their block

    def _open_reasoning(self, out: list[bytes]) -> Reasoning:
        self._close(out, "completed")
        item = Reasoning(f"rs_{self._name}_{len(self._items)}", len(self._items))
        self._spoken = item
        self._add(item, out)
        return item

    def _think(self, item: Reasoning, text: str, out: list[bytes]) -> None:
        place = {**item.place, "summary_index": 0}
        if not item.pieces:
            out.append(self._frame("response.reasoning_summary_part.added", **place, part=words.summary_part("")))
        item.pieces.append(text)
        out.append(self._frame("response.reasoning_summary_text.delta", **place, delta=text))

    def _call(self, event: ToolCallDelta, out: list[bytes]) -> None:
        call = self._calls.get(event.index)
        if call is None:
            self._close(out, "completed")
            call = Call(f"fc_{self._name}_{len(self._items)}", len(self._items), event)
            self._calls[event.index] = call
            self._finish_calls(out)
            self._add(call, out)
        if event.arguments and call.open:
            call.pieces.append(event.arguments)
            out.append(self._frame("response.function_call_arguments.delta", **call.place, delta=event.arguments))

    def _finish_calls(self, out: list[bytes]) -> None:
        """Another call begins: those before it whose arguments are a whole object are done."""
        for call in list(self._calls.values())[:-1]:
            if call.open and call.complete():
                self._done(call, out, "completed")

    def _citation(self, event: Citation, out: list[bytes]) -> None:
        item = self._spoken if isinstance(self._spoken, Text) else None
        annotation = words.annotation(event, sum(map(len, item.pieces)) if item else 0)
        if annotation is None:
            return
        item = item or self._open_text(out)
        where = {**item.place, "content_index": 0, "annotation_index": len(item.annotations)}
        item.annotations.append(annotation)
        out.append(self._frame("response.output_text.annotation.added", **where, annotation=annotation))

    # -- frames --------------------------------------------------------------------------------------------------------

    def _add(self, item: Item, out: list[bytes]) -> None:
        self._items.append(item)
        begun = item.begun()
        out.append(self._frame("response.output_item.added", output_index=item.index, item=begun))

    def _close(self, out: list[bytes], status: str) -> None:
        """The open text or reasoning item, if any, is done."""
        item, self._spoken = self._spoken, None
        if item is not None:
            self._done(item, out, status)

    def _done(self, item: Item, out: list[bytes], status: str) -> None:
        item.open = False
        item.status = status
        for kind, said in item.last_words():
            out.append(self._frame(kind, **item.place, **said))
        out.append(self._frame("response.output_item.done", output_index=item.index, item=item.whole(status)))

    def _number(self) -> int:
        number = self._first + self._count
        self._count += 1
        return number

    def _frame(self, kind: str, **said: Any) -> bytes:
        data = {"type": kind, "sequence_number": self._number(), **said}
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), _json(data))
