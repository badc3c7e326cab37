"""Repairs through the whole gateway: scripted servers with each one's faults, read by the official SDK and by bytes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from msgspec.structs import replace
from support.inprocess import client, config_for, events, running
from support.upstream import CLOSE, Upstream, chunk, head

from config.repairs import REPAIRS
from config.schema import Config
from gateway.app import Gateway

TRANSCRIPTS = Path(__file__).parents[2] / "transcripts"
ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
PATH = "/v1/chat/completions"


def data(**said: Any) -> bytes:
    return b"data: " + json.dumps(said, separators=(",", ":")).encode() + b"\n\n"


def delta(finish: str | None = None, **said: Any) -> bytes:
    return data(id="c", created=1, model="m", choices=[{"index": 0, "delta": said, "finish_reason": finish}])


FIRST = delta(role="assistant", content="")
STOP = delta("stop")
DONE = b"data: [DONE]\n\n"


def said_by(*frames: bytes) -> tuple[Any, ...]:
    """A script: the frames, each its own chunk, and a proper end."""
    return (head(), *(chunk(frame) for frame in frames), b"0\r\n\r\n", CLOSE)


@asynccontextmanager
async def behind(
    driver: str,
    frames: tuple[bytes, ...],
    *,
    repairs: dict[str, bool] | None = None,
    options: dict[str, Any] | None = None,
) -> AsyncIterator[Gateway]:
    async with Upstream(said_by(*frames)) as up:
        config: Config = config_for(up.url, driver=driver)
        backend = replace(config.backends["up"], repairs=repairs or {}, options=options or {})
        async with running(replace(config, backends={"up": backend})) as gateway:
            yield gateway


async def body_of(gateway: Gateway, path: str = PATH, ask: dict[str, Any] = ASK) -> bytes:
    async with client(gateway) as session, session.post(path, json={**ask, "stream": True}) as answer:
        assert answer.status == 200, await answer.text()
        found = b""
        try:
            async for part in answer.content.iter_any():
                found += part
        except Exception:  # an error frame is followed by a break
            return found
        return found


def sdk(gateway: Gateway) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(api_key="k", base_url=f"http://127.0.0.1:{gateway.public_port}/v1", max_retries=0)


async def test_a_missing_done_is_added_and_counts_as_a_frame() -> None:
    """transformers serve sends none: clients that wait for it hang or take the answer for cut."""
    frames = (FIRST, delta(content="a"), STOP)
    async with behind("openai", frames, options={"done_marker": False}) as gateway:
        assert await body_of(gateway) == b"".join(frames) + DONE
    async with behind("openai", frames, options={"done_marker": False}, repairs={"done_marker": False}) as gateway:
        assert await body_of(gateway) == b"".join(frames)


async def test_done_after_an_error_is_withheld() -> None:
    """vLLM says [DONE] after a crash: clients that stop there call half an answer whole."""
    broken = data(error={"message": "EngineCore died", "type": "InternalServerError", "code": 500})
    async with behind("vllm", (FIRST, delta(content="a"), broken, DONE)) as gateway:
        assert await body_of(gateway) == FIRST + delta(content="a") + broken
        async with sdk(gateway) as api:
            with pytest.raises(openai.APIError, match="EngineCore died"):
                async for _ in await api.chat.completions.create(**ASK, stream=True):
                    pass


async def test_vllm_reasoning_and_its_last_word_reach_every_client() -> None:
    """One SDK reads `reasoning_content` only, another stops at the finish reason; the plain tokens stay as they are."""
    frames = (FIRST, delta(reasoning="hm"), delta(content="a"), delta(content="b"), delta("stop", content="c"), DONE)
    async with behind("vllm", frames) as gateway:
        body = await body_of(gateway)
        assert delta(content="a") + delta(content="b") + delta(content="c") in body
        assert b'"reasoning":"hm","reasoning_content":"hm"' in body
        async with sdk(gateway) as api:
            chunks = [c async for c in await api.chat.completions.create(**ASK, stream=True)]
        assert "".join(c.choices[0].delta.content or "" for c in chunks) == "abc"
        assert [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason] == ["stop"]
        assert chunks[-1].choices[0].delta.content is None
    off = {"reasoning_name": False, "split_finish": False}
    async with behind("vllm", frames, repairs=off) as gateway:
        assert await body_of(gateway) == b"".join(frames)


async def test_tgi_tool_calls_are_one_call_to_the_sdk() -> None:
    """Its helper opens a new call at every repeated id: the arguments end up in pieces."""
    raw = (TRANSCRIPTS / "tgi/tools.sse").read_bytes()
    async with behind("tgi", (raw,)) as gateway, sdk(gateway) as api:
        async with api.chat.completions.stream(**ASK) as stream:
            whole = await stream.get_final_completion()
        calls = whole.choices[0].message.tool_calls
        assert calls is not None
        assert [(c.id, c.function.name, c.function.arguments) for c in calls] == [("0", "f", '{"a":1}')]
        answer = await api.chat.completions.create(**ASK)
        assert answer.choices[0].message.tool_calls is not None
        assert [c.function.arguments for c in answer.choices[0].message.tool_calls] == ['{"a":1}']


async def test_a_textual_error_is_raised_by_the_sdk() -> None:
    """mlx and transformers report errors as text; the SDK would find no message in it."""
    broken = b'data: {"error": "GPU "gone""}\n\n'
    async with behind("openai", (FIRST, delta(content="a"), broken)) as gateway, sdk(gateway) as api:
        with pytest.raises(openai.APIError, match='GPU "gone"'):
            async for _ in await api.chat.completions.create(**ASK, stream=True):
                pass


@pytest.mark.parametrize(("driver", "said"), [("llamacpp", {}), ("openai", {"first_role": True})])
async def test_a_missing_role_is_said_once(driver: str, said: dict[str, bool]) -> None:
    """Clients build a message from the first delta: without a role it is nobody's."""
    frames = (delta(content="a"), delta(content="b"), STOP, DONE)
    async with behind(driver, frames, repairs=said) as gateway:
        assert await body_of(gateway) == delta(content="a", role="assistant") + delta(content="b") + STOP + DONE
    async with behind(driver, frames, repairs={"first_role": False}) as gateway:
        assert await body_of(gateway) == b"".join(frames)


@pytest.mark.parametrize("driver", ["llamacpp", "openai"])
async def test_the_sdk_puts_llamacpp_responses_together(driver: str) -> None:
    """Without indices its accumulator raises, and Vercel's SDK rejects each event."""
    raw = (TRANSCRIPTS / "llamacpp/responses.sse").read_bytes()
    async with (
        behind(driver, (raw,)) as gateway,
        sdk(gateway) as api,
        api.responses.stream(model="m", input="hi") as stream,
    ):
        events = [event async for event in stream]
        whole = await stream.get_final_response()
    assert whole.output_text == "Hello babe babi"
    assert [e.sequence_number for e in events] == sorted(e.sequence_number for e in events)
    assert [e.delta for e in events if e.type == "response.output_text.delta"] == ["Hello", " babe", " babi"]


async def test_responses_repair_can_be_switched_off() -> None:
    """Who debugs a server wants to see what it sent."""
    raw = (TRANSCRIPTS / "llamacpp/responses.sse").read_bytes()
    async with behind("llamacpp", (raw,), repairs={"responses_fields": False}) as gateway:
        body = await body_of(gateway, "/v1/responses", {"model": "m", "input": "hi"})
    assert b"sequence_number" not in body


async def test_a_sound_stream_passes_byte_for_byte() -> None:
    """All default repairs together must not change what OpenAI itself sends."""
    raw = (TRANSCRIPTS / "openai/text.sse").read_bytes()
    ask = {**ASK, "stream_options": {"include_usage": True}}
    async with behind("openai", (raw,)) as gateway:
        assert await body_of(gateway, ask=ask) == raw


BARE_CALL = delta(tool_calls=[{"index": 0, "id": "", "function": {"name": "f", "arguments": "{}"}}])
FAULTY: dict[str, tuple[str, tuple[bytes, ...], str]] = {
    "no role": ("llamacpp", (delta(content="ab"), STOP, DONE), "ab stop"),
    "content with finish": ("vllm", (FIRST, delta(content="a"), delta("stop", content="b"), DONE), "ab stop"),
    "another name": ("vllm", (FIRST, delta(reasoning="r"), delta(content="ab"), STOP, DONE), "rab stop"),
    "error then done": ("vllm", (FIRST, delta(content="ab"), data(error={"message": "x"}), DONE), "ab upstream_error"),
    "textual error": ("openai", (FIRST, delta(content="ab"), data(error="x")), "ab upstream_error"),
    "bare call": ("tgi", (FIRST, BARE_CALL, delta("tool_calls"), DONE), "call_0:f tool_calls"),
}


@pytest.mark.parametrize("fault", FAULTY)
async def test_clients_of_another_protocol_need_no_repair(fault: str) -> None:
    """Decoders must read the same faults by themselves: nothing is mended on that road."""
    driver, frames, expected = FAULTY[fault]
    async with behind(driver, frames, repairs=dict.fromkeys(REPAIRS, False)) as gateway:
        body = await body_of(gateway, "/api/streaming/chat")
    said = ""
    for _, name, text in events(body.decode()):
        event = json.loads(text)
        if name in ("token", "reasoning"):
            said += event["content"]
        elif name == "tool_call":
            said += f"{event['id']}:{event['name']}"
        elif name in ("done", "error"):
            said += " " + (event.get("finishReason") or event["code"])
    assert said == expected
