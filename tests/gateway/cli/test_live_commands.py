"""The commands that talk to a running gateway, as processes of their own, over lines that break."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from support.cutter import Cutter
from support.inprocess import client, config_for, running
from support.upstream import RESET, Upstream, chunk, head

from config.schema import Key, Server
from gateway.access.keys import hash_of
from gateway.app import Gateway
from gateway.cli.figures import Measured, percentile, report

ROOT = Path(__file__).resolve().parents[3]
WORDS = [f"wört{n} ☕ " for n in range(30)]
TEXT = "".join(WORDS)


def script(gap: float = 0.01, *, end: bool = True) -> list[Any]:
    def data(delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return chunk(b"data: " + json.dumps({"id": "c", "model": "m", "choices": [choice]}).encode() + b"\n\n")

    steps: list[Any] = [head()]
    for word in WORDS:
        steps += [data({"content": word}), gap]
    return [*steps, data({}, "stop"), chunk(b"data: [DONE]\n\n"), b"0\r\n\r\n"] if end else [*steps, RESET]


async def headgate(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway",
        *arguments,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), 40)
    except TimeoutError:
        process.kill()
        raise
    return process.returncode or 0, out.decode(), err.decode()


def at(gateway: Gateway) -> str:
    return f"http://127.0.0.1:{gateway.public_port}"


async def test_chat_goes_on_when_its_line_breaks() -> None:
    """An answer would end in the middle with a traceback, or its beginning would be printed twice."""
    async with Upstream(script()) as up, running(config_for(up.url)) as gateway:
        async with Cutter(gateway.public_port, [2500, 500, 0]) as line:
            code, out, err = await headgate("chat", "hi", "--model", "m", "--url", line.url)
        assert (code, out) == (0, TEXT), err
        assert "the line broke" in err
        assert line.cut == 3
        assert len(up.requests) == 1


async def test_chat_resumes_an_answer_that_was_left() -> None:
    """An answer that was left could only be paid for again."""
    async with Upstream(script()) as up, running(config_for(up.url)) as gateway, client(gateway) as session:
        ask = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        headers = {"X-Stream-Id": "left", "X-Stream-On-Disconnect": "continue"}
        answer = await session.post("/v1/chat/completions", json=ask, headers=headers)
        await answer.content.readuntil(b"\n\n")
        answer.close()
        async with Cutter(gateway.public_port, [1500]) as line:
            code, out, err = await headgate("chat", "--resume", "left", "--url", line.url)
        assert (code, out) == (0, TEXT), err
        assert "30 tokens; left" in err
        code, _, err = await headgate("chat", "--resume", "nowhere", "--url", at(gateway))
        assert code == 1
        assert "404" in err


async def test_watch_follows_a_stream_to_its_end() -> None:
    """Watching would miss events, count some twice, stop the stream, or call a failure a success."""
    async with Upstream(script()) as up, running(config_for(up.url)) as gateway, client(gateway) as session:
        up.scripts = [script(), script(end=False)]
        ask = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        async with session.post("/api/streaming/chat", json=ask, headers={"X-Stream-Id": "one"}) as answer:
            await answer.content.readuntil(b"\n\n")
            async with Cutter(gateway.public_port, [1200, 400]) as line:
                code, out, _ = await headgate("streams", "watch", "one", "--json", "--url", line.url)
        events = [json.loads(text) for text in out.splitlines()]
        assert code == 0
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        assert (events[0]["event"], events[-1]["event"]) == ("start", "done")
        assert "".join(e["data"]["content"] for e in events if e["event"] == "token") == TEXT
        async with session.post("/api/streaming/chat", json=ask, headers={"X-Stream-Id": "two"}) as answer:
            await answer.content.readuntil(b"event: token")
        code, out, _ = await headgate("streams", "watch", "two", "--url", at(gateway))
        assert code == 1
        assert out.splitlines()[-1].split()[1] == "error"


async def test_top_once() -> None:
    """A script could not read what runs, or an operator would see one owner's streams only."""
    keys = (Key(id="k", owner="o", hash=hash_of("hg_one")), Key(id="l", owner="p", hash=hash_of("hg_two")))
    ask = {"model": "some-model", "messages": [{"role": "user", "content": "hi"}]}
    async with (
        Upstream(script(0.2)) as up,
        running(config_for(up.url, keys=keys, server=Server(port=0))) as gateway,
        client(gateway, Authorization="Bearer hg_one") as session,
    ):
        async with session.post("/api/streaming/chat", json=ask) as answer:
            await answer.content.readuntil(b"event: token")
            own = await headgate("top", "--once", "--url", at(gateway), "--key", "hg_one")
            other = await headgate("top", "--once", "--url", at(gateway), "--key", "hg_two")
            every = await headgate("top", "--once", "--admin", f"http://127.0.0.1:{gateway.admin_port}")
        for code, out, err in (own, every):
            assert code == 0, err
            assert "1 running" in out
            assert "some-model" in out
            assert "active 1" in out
        assert "0 running" in other[1]
        down = await headgate("top", "--once", "--url", "http://127.0.0.1:9")
        assert (down[0], "no gateway at" in down[2]) == (1, True)


async def test_bench_measures_a_gateway() -> None:
    """Its figures would be made up, or a gateway that fails would look fine."""
    options = ("--streams", "5", "--seconds", "1", "--tokens", "20", "--rate", "200", "--json")
    async with running(config_for()) as gateway:
        code, out, err = await headgate("bench", "--url", at(gateway), *options)
        assert code == 0, err
        told = json.loads(out)
        assert told["completed"] >= 5
        assert told["tokens"] == told["completed"] * 20
        assert told["errors"] == {}
        assert 0 < told["firstTokenP50"] <= told["firstTokenP99"]
        code, out, _ = await headgate("bench", "--url", at(gateway), *options, "--message", "[fail=cut@3] [rate=0]")
        assert code == 1
        assert json.loads(out)["completed"] == 0
        assert json.loads(out)["errors"]
    code, _, err = await headgate("bench", "--url", "http://127.0.0.1:9", *options)
    assert (code, "no gateway at" in err) == (1, True)


async def test_bench_brings_its_own_gateway() -> None:
    """Without a gateway there would be nothing to measure, or one would be left running."""
    code, out, err = await headgate("bench", "--streams", "3", "--seconds", "1", "--tokens", "10", "--rate", "100")
    assert code == 0, err
    assert "errors: none" in out
    assert "tokens " in out


def test_figures_count_what_came() -> None:
    """Tokens cut by a read in two, or lost on the way, would be counted wrongly."""
    body = b"".join(b'id: s.%d\nevent: token\ndata: {"content":"a"}\n\n' % n for n in range(1, 11))
    whole = Measured(0.0)
    data = body + b'event: done\ndata: {"tokenCount":10}\n\n'
    for n in range(0, len(data), 7):
        whole.take(data[n : n + 7], 1.0 + n / 1000)
    whole.close(2.0)
    assert (whole.tokens, whole.error, len(whole.pauses)) == (10, "", 9)
    lost, cut = Measured(0.0), Measured(0.0)
    lost.take(body + b'event: done\ndata: {"tokenCount":11}\n\n', 1.0)
    cut.take(body, 1.0)
    for one in (lost, cut):
        one.close(2.0)
    told = report([whole, lost, cut], 2.0, unfinished=0)
    assert told["errors"] == {"tokens lost": 1, "no end": 1}
    assert (told["completed"], told["tokensPerSecond"]) == (1, 15.0)


@pytest.mark.parametrize(("share", "wanted"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.0, 1)])
def test_percentiles(share: float, wanted: float) -> None:
    """A percentile would be off by one."""
    assert percentile(range(1, 101), share) == wanted
    assert percentile([], share) is None
