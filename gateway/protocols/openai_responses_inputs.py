"""The input items of a Responses request, as they are kept and as OpenAI lists them. Pure.

Law: an item is kept as its client sent it. What was sent without an id gets one that follows from its response and its
place alone, so that it is the same whenever, and on whichever node, it is asked for. No id is listed twice.
Protocol source: OpenAI's reference of `GET /v1/responses/{response_id}/input_items`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct

from gateway.protocols.parsing import invalid

Item = dict[str, Any]

_PREFIXES = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}
_STATED = frozenset(("message", "function_call", "function_call_output"))  # OpenAI lists these with a status
_MOST, _USUAL = 100, 20


class Page(Struct, frozen=True):
    """Which part of a list is wanted. `after`: the id before the first one; empty: from the beginning."""

    limit: int = _USUAL
    newest_first: bool = True
    after: str = ""


def read_page(query: Mapping[str, str]) -> Page:
    """`limit`, `order` and `after` of a query. `include` asks for what is always there. Raises INVALID_REQUEST."""
    limit, order = query.get("limit", str(_USUAL)), query.get("order", "desc")
    if not (limit.isascii() and limit.isdigit() and len(limit) <= 3 and 1 <= int(limit) <= _MOST):
        raise invalid("limit", f"a whole number from 1 to {_MOST}")
    if order not in ("asc", "desc"):
        raise invalid("order", "asc or desc")
    return Page(int(limit), order == "desc", query.get("after", ""))


def items_of(said: Any) -> list[Item]:
    """The items of an `input` that was found to be one: a string is the user's message."""
    if isinstance(said, str):
        return [{"type": "message", "role": "user", "content": said}]
    return list(said or ())


def identified(items: Iterable[Item], name: str) -> list[Item]:
    """Each with an id of its own, the others' the client's; `name`: what ids of this response's items have in common.
    A reference to an item that is there already is left out."""
    found: dict[str, Item] = {}
    for place, item in enumerate(items):
        given = item.get("id")
        if not isinstance(given, str) or not given or given in found:
            if item.get("type") == "item_reference":
                continue
            given = f"{_PREFIXES.get(_type_of(item), 'item')}_{name}_in_{place}"
        found[given] = item if item.get("id") == given else {**item, "id": given}
    return list(found.values())


def listing(items: list[Item], page: Page) -> dict[str, Any]:
    """A page of identified items, in the order they were given to the model or the other way. Raises INVALID_REQUEST:
    there is no such item to go on after."""
    ordered = [_listed(item) for item in (reversed(items) if page.newest_first else items)]
    start = 0
    if page.after:
        places = [place for place, item in enumerate(ordered) if item["id"] == page.after]
        if not places:
            raise invalid("after", "the id of an input item of this response")
        start = places[0] + 1
    data = ordered[start : start + page.limit]
    ends = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    more = start + len(data) < len(ordered)
    return {"object": "list", "data": data, "first_id": ends[0], "last_id": ends[1], "has_more": more}


def _type_of(item: Item) -> str:
    kind = item.get("type")
    return kind if isinstance(kind, str) and kind else "message"


def _listed(item: Item) -> Item:
    """In the long form of lists: what a client may leave out or write short is said."""
    kind = _type_of(item)
    said = {"id": item["id"], **item, "type": kind}
    if kind == "message" and isinstance(item.get("content"), str):
        said["content"] = [_text(item["content"], spoken=item.get("role") == "assistant")]
    if kind in _STATED and item.get("status") is None:
        said["status"] = "completed"
    return said


def _text(text: str, *, spoken: bool) -> Item:
    if spoken:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "input_text", "text": text}
