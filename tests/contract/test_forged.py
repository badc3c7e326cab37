"""A model that writes what a protocol is made of: ends of lines, events, ids, chunks, closing marks (B 11)."""

from __future__ import annotations

import json
import random

import pytest
from support.answers import SERVERS, before, client, outcome
from support.dialects import Said, Step
from support.plain_clients import CLIENTS

# Pieces of SSE, NDJSON, chunked bodies and JSON, and all that one reader or another takes for the end of a line.
ENDS = ["\n", "\r", "\r\n", "\n\n", "\r\n\r\n"]
PIECES = [
    *ENDS, "event: done", "event: error", "event: message_stop", "id: st_1.99", "data: [DONE]", "data: {}", ": ping",
    "retry: 1",
    '{"done":true,"done_reason":"stop"}', '{"type":"complete_state"}', '{"error":{"code":"x"}}', "0\r\n\r\n",
    "a\r\nforged\r\n", '"}}]}', '"finish_reason":"stop"', "\\", "\\u000a", "\\n", "</s>", "<|im_end|>", "\ufeff",
    "\x00",
    "\x0b\x0c\x1c\x1d\x1e", "é–☕𝄞",
]  # fmt: skip
SEPARATORS = ["\x85", "\u2028", "\u2029"]  # the ends of lines of Python's `str.splitlines` that JSON need not escape


def forged(seed: int, pieces: list[str]) -> Said:
    """An answer of such pieces, all of them in thoughts and text, some in a call's arguments."""
    chance = random.Random(seed)
    chance.shuffle(pieces := pieces * 2)
    half = len(pieces) // 2
    thoughts = [Step("think", "".join(pieces[i : i + 4])) for i in range(0, half, 4)]
    texts = [Step("text", "".join(pieces[i : i + 3])) for i in range(half, len(pieces), 3)]
    said = json.dumps({"city": "".join(pieces[:9])}, ensure_ascii=seed % 2 == 0)
    return Said((*thoughts, *texts, Step("call", id="call_1", name="weather"), Step("args", said)), "tool_calls")


async def heard_as_said(name: str, kind: str, seeds: range) -> None:
    """Every answer comes as it was given, streamed and whole."""
    async with before(kind) as (server, base), client(name, base) as asking:
        for seed in seeds:
            # between two of the same dialect bytes stay as they are: its server has to escape what its clients need
            untouched = (kind, name.partition("_")[0]) == ("ollama", "ollama")
            server.answer = forged(seed, PIECES if untouched else PIECES + SEPARATORS)
            for stream in (True, False):
                heard = await asking.ask(stream=stream)
                found = outcome(heard, server.answer, server.dialect, name)
                assert found in ("exact", "client", "server"), (seed, stream, found)


@pytest.mark.parametrize("kind", ["vllm", "ollama"])
@pytest.mark.parametrize("name", CLIENTS)
async def test_no_event_is_forged(name: str, kind: str) -> None:
    """A model, or who told it what to repeat, could end a stream, forge its events or break its client's reading."""
    await heard_as_said(name, kind, range(2))


@pytest.mark.soak
@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize("name", CLIENTS)
async def test_no_event_is_forged_by_whatever_order(name: str, kind: str) -> None:
    """The same, for every server and in a hundred orders."""
    await heard_as_said(name, kind, range(100))
