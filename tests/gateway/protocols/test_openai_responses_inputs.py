"""Input items: their ids, their pages, their long form."""

from __future__ import annotations

from typing import Any

import pytest

from backends.contract.errors import BackendError, ErrorCode
from gateway.protocols.openai_responses_inputs import Page, identified, items_of, listing, read_page

CALL = {"type": "function_call", "id": "fc_mine", "call_id": "c1", "name": "f", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "18"}]}
SIX = [{"role": "user", "content": str(number)} for number in range(6)]


def ids(items: list[dict[str, Any]]) -> list[str]:
    return [item["id"] for item in items]


def test_ids_follow_from_response_and_place() -> None:
    """A client that pages through the list would see other ids on another node, or after a restart of its loop."""
    given = [*items_of("hi"), CALL, RESULT, {"type": "reasoning", "summary": []}, {"type": "computer_call_output"}]
    found = identified(given, "a1")
    assert ids(found) == ["msg_a1_in_0", "fc_mine", "fco_a1_in_2", "rs_a1_in_3", "item_a1_in_4"]
    assert found == identified(given, "a1") == identified(found, "b2")
    assert "id" not in RESULT


def test_no_id_is_listed_twice() -> None:
    """A client that pages by the last id would never come to an end, or skip items."""
    again = [CALL, {**CALL, "call_id": "c2"}, {"type": "item_reference", "id": "fc_mine"}]
    found = identified([*again, {"type": "item_reference", "id": "msg_elsewhere"}], "a1")
    assert ids(found) == ["fc_mine", "fc_a1_in_1", "msg_elsewhere"]


def test_items_stand_as_they_were_sent() -> None:
    """An agent that builds its history from the list would lose images, results, or fields unknown here."""
    image = {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"}
    said = {"role": "user", "content": [image], "novel": 1}
    answer = {"role": "assistant", "content": "Hello"}
    shown = listing(identified([said, RESULT, answer, *items_of("hi")], "a1"), Page(newest_first=False))["data"]
    assert shown[0] == {**said, "id": "msg_a1_in_0", "type": "message", "status": "completed"}
    assert shown[1] == {**RESULT, "id": "fco_a1_in_1", "status": "completed"}
    assert [part["type"] for part in shown[2]["content"]] == ["output_text"]
    assert shown[3]["content"] == [{"type": "input_text", "text": "hi"}]


def test_pages_either_way() -> None:
    """A client would read an item twice, or stop too early."""
    items = identified(SIX, "a")
    for newest_first in (False, True):
        seen: list[str] = []
        more = True
        while more:
            page = listing(items, Page(4, newest_first, seen[-1] if seen else ""))
            seen += ids(page["data"])
            more = page["has_more"]
            assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
        assert seen == (ids(items)[::-1] if newest_first else ids(items))
    nothing = listing(items, Page(after=items[0]["id"]))
    assert nothing == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


@pytest.mark.parametrize("wrong", [{"limit": "0"}, {"limit": "101"}, {"limit": "x"}, {"limit": "٣"}, {"order": "up"}])
def test_a_wrong_query_is_named(wrong: dict[str, str]) -> None:
    """A typing error would silently give another page."""
    with pytest.raises(BackendError) as caught:
        read_page(wrong)
    assert (caught.value.code, caught.value.param) == (ErrorCode.INVALID_REQUEST, next(iter(wrong)))
    assert read_page({}) == Page(20, newest_first=True)
    with pytest.raises(BackendError):
        listing(identified(SIX, "a"), Page(after="msg_b_in_0"))
