"""The official SDK reads what we encode: it is the definition of the format."""

from __future__ import annotations

from collections.abc import Callable

import httpx2
import openai
import pytest

from backends.contract.errors import BackendError, ErrorCode
from backends.contract.events import Event, Finish, TextDelta, ToolCallDelta, Usage
from gateway.protocols import openai_chat
from gateway.protocols.answer import fold
from gateway.protocols.base import About, Ending

ABOUT = About("st_a", "m", "b", 1795260699000)
PROTOCOL = openai_chat.Protocol()
EVENTS: list[Event] = [
    TextDelta("He"),
    TextDelta("y"),
    ToolCallDelta(0, "c", "f", '{"a"'),
    ToolCallDelta(0, "", "", ":1}"),
]


def client(answer: Callable[[httpx2.Request], httpx2.Response]) -> openai.OpenAI:
    transport = httpx2.MockTransport(answer)
    return openai.OpenAI(api_key="k", base_url="http://x/v1", http_client=httpx2.Client(transport=transport))


def streamed(ending: Ending) -> openai.OpenAI:
    encoder = PROTOCOL.encoder(ABOUT)
    frames = [encoder.start(), *(encoder.feed([e]) for e in EVENTS), encoder.end(ending)]
    body = PROTOCOL.keepalive.join(frames)
    return client(lambda _: httpx2.Response(200, content=body, headers={"content-type": PROTOCOL.content_type}))


def test_the_sdk_reads_a_stream_with_keepalives() -> None:
    """A keepalive with a blank line, or an `id:`, would crash it."""
    sdk = streamed(Ending("tool_calls", Usage(3, 4), False, 4))
    chunks = list(sdk.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}], stream=True))
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == "Hey"
    calls = [call for delta in deltas for call in delta.tool_calls or []]
    assert "".join((c.function.arguments or "") if c.function else "" for c in calls) == '{"a":1}'
    assert chunks[-2].choices[0].finish_reason == "tool_calls"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 7


@pytest.mark.parametrize(
    "ending",
    [
        Ending("cancelled", Usage(), True, 1),
        Ending("error", Usage(), True, 1, BackendError(ErrorCode.UPSTREAM_TRUNCATED, "cut")),
    ],
)
def test_the_sdk_raises_when_a_stream_did_not_complete(ending: Ending) -> None:
    """It takes a mere EOF for success."""
    sdk = streamed(ending)
    stream = sdk.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}], stream=True)
    with pytest.raises(openai.APIError):
        list(stream)


def test_the_sdk_reads_a_whole_answer() -> None:
    """Clients that do not stream get the same answer."""
    body = PROTOCOL.whole(ABOUT, fold([*EVENTS, Finish("tool_calls")]), Ending("tool_calls", Usage(3, 4), False, 4))
    sdk = client(lambda _: httpx2.Response(200, content=body, headers={"content-type": "application/json"}))
    whole = sdk.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
    assert whole.choices[0].message.content == "Hey"
    assert whole.choices[0].finish_reason == "tool_calls"


def test_the_sdk_does_not_retry_what_cannot_succeed() -> None:
    """It retries every 5xx unless told otherwise: our own refused key would be tried three times."""
    asked: list[httpx2.Request] = []
    refusal = PROTOCOL.failure(BackendError(ErrorCode.UPSTREAM_REFUSED, "our key was refused"), "r")

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        return httpx2.Response(refusal.status, headers=list(refusal.headers), content=refusal.body)

    with pytest.raises(openai.APIStatusError, match="our key was refused"):
        client(answer).chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
    assert len(asked) == 1
