"""What one request may consist of: hostile bodies are told from large honest ones before they are decoded."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.inprocess import client, config_for, running

from backends.contract.errors import BackendError, ErrorCode
from gateway.protocols.amounts import MAX_EXPONENTS, MAX_ITEMS, MAX_PARTS, MAX_VALUES, check_amount
from gateway.protocols.parsing import Fields, decode_object
from gateway.protocols.turns import read_messages

TURN = {"role": "user", "content": "a"}


def text_of(data: Any) -> bytes:
    return json.dumps(data, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    "body",
    [
        {"stop": ["a"] * MAX_PARTS},
        {"zz": [[[]]] * (MAX_PARTS // 2)},
        {"metadata": {str(i): 1 for i in range(MAX_PARTS)}},
        {"messages": [TURN] * MAX_PARTS},
        {"input": [1] * (MAX_VALUES + 1)},
        {"x": ['\\"', *[{}] * MAX_PARTS]},
        {"x": ["\\", *[{}] * MAX_PARTS]},
    ],
    ids=["strings", "lists", "fields", "messages", "numbers", "behind a quote", "behind a backslash"],
)
def test_too_many_parts_are_refused(body: dict[str, Any]) -> None:
    """A worker would stand still for seconds, and all its streams with it, while it makes millions of objects."""
    with pytest.raises(BackendError, match=r"body: expected at most .* several requests") as raised:
        decode_object(text_of(body))
    assert raised.value.code is ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize("number", ["1e300", "1.5E+300", "1e0300"])
def test_numbers_that_take_long_to_read_are_counted(number: str) -> None:
    """20 MiB of `1e300` take a decoder 40 s."""
    for many in (MAX_EXPONENTS, MAX_EXPONENTS + 1):
        body = b'{"x":[' + b",".join([number.encode()] * many) + b"]}"
        if many <= MAX_EXPONENTS:
            decode_object(body)
        else:
            with pytest.raises(BackendError, match="1000 numbers with an exponent"):
                decode_object(body)


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": 'a, {b: "c"} [d], 1e300 \\ ' * 50_000},
        {"image": "data:image/png;base64," + "e0A/" * 1_000_000},
        {"input": [100_257] * 300_000},
        {"logit_bias": {str(i): 1e-7 for i in range(5000)}},
        {"flags": [True, False, None] * 5000},
        {"messages": [TURN] * 10_000},
        {"tools": [{"type": "function", "function": {"name": f"f{i}", "parameters": {}}} for i in range(10_000)]},
    ],
    ids=["prose", "image", "tokens", "biases", "flags", "turns", "tools"],
)
def test_large_honest_bodies_pass(body: dict[str, Any]) -> None:
    """A long text, a large image, or as much as any provider takes would be refused."""
    check_amount(text_of(body))


def test_one_list_has_its_own_limit() -> None:
    """What is read item by item would cost a worker a second where the whole body is just within bounds."""
    with pytest.raises(BackendError, match=r"stop: expected at most 10000 items"):
        Fields({"stop": ["a"] * (MAX_ITEMS + 1)}).stop()
    turn = Fields({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * (MAX_ITEMS + 1)}]})
    with pytest.raises(BackendError, match=r"messages\[0\]\.content: expected at most 10000 items"):
        read_messages(turn, lenient=True)


def test_arguments_of_calls_are_counted_together() -> None:
    """Drivers decode them: what a body may not hold would come in strings, a little in each."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "[" + "1e300," * 99 + "1]"}}
    turn = {"role": "assistant", "content": None, "tool_calls": [call]}
    assert len(read_messages(Fields({"messages": [turn] * 10}), lenient=True)) == 10
    with pytest.raises(BackendError, match="messages: expected at most 1000 numbers"):
        read_messages(Fields({"messages": [turn] * 11}), lenient=True)


PATHS = {
    "/api/streaming/chat": {"messages": [TURN]},
    "/api/v1/conversations/c/stream": {"messages": [TURN]},
    "/v1/chat/completions": {"model": "m", "messages": [TURN]},
    "/v1/completions": {"model": "m", "prompt": "a"},
    "/v1/responses": {"model": "m", "input": "a"},
    "/v1/embeddings": {"model": "m", "input": "a"},
    "/v1/messages": {"model": "m", "max_tokens": 9, "messages": [TURN]},
    "/v1/messages/count_tokens": {"model": "m", "messages": [TURN]},
    "/api/chat": {"model": "m", "messages": [TURN]},
    "/api/generate": {"model": "m", "prompt": "a"},
    "/api/embed": {"model": "m", "input": "a"},
    "/v1beta/models/m:generateContent": {"contents": [{"parts": [{"text": "a"}]}]},
    "/v1beta/models/m:countTokens": {"contents": [{"parts": [{"text": "a"}]}]},
}


async def test_every_protocol_refuses_in_its_words() -> None:
    """One road into a worker would be left open, or a client could not read why it was refused."""
    async with running(config_for()) as gateway, client(gateway) as session:
        for path, ask in PATHS.items():
            body = text_of({**ask, "zz": [[]] * (MAX_PARTS + 1)})
            async with session.post(path, data=body, headers={"Content-Type": "application/json"}) as answer:
                said = await answer.json()
            error = said["error"]
            assert answer.status == 400, path
            assert "at most 200000" in (error if isinstance(error, str) else error["message"]), path
