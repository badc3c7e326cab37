"""The JavaScript module under a real Node, over lines that break."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from typing import Any

import pytest
from support.cutter import Cutter
from support.inprocess import client, config_for, running
from support.upstream import RESET, Upstream, chunk, head

from config.schema import Key, Registry, Server
from config.values import Duration
from gateway.access.keys import hash_of
from gateway.edge.clients import MODULE

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="needs Node 18 or later")

WORDS = [f"wört{n} ☕ " for n in range(40)]
TEXT = "".join(WORDS)
PRELUDE = """
import { stream, attach, cancel, newStreamId, HeadgateError, StreamGoneError, StreamFailedError } from %s;
const gateway = process.argv[1];
const quick = { backoff: 20, maxBackoff: 100, attempts: 6 };
const say = (value) => console.log(JSON.stringify(value));
const facts = (e) => ({ name: e.name, code: e.code, status: e.status, received: e.received, retryable: e.retryable });
async function read(source) {
  const seen = [];
  let text = "";
  try {
    for await (const event of source) { seen.push(event.seq); text += event.text; }
  } catch (e) {
    return { text, seen, connections: source.connections, id: source.id, error: facts(e) };
  }
  return { text, seen, connections: source.connections, id: source.id };
}
"""


def _body(events: list[Any], gap: float) -> list[Any]:
    script: list[Any] = [head()]
    for event in events:
        script += [chunk(event), gap]
    return [*script, b"0\r\n\r\n"]


def openai_script(gap: float = 0.002) -> list[Any]:
    def data(delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return b"data: " + json.dumps({"id": "c", "model": "m", "choices": [choice]}).encode() + b"\n\n"

    return _body([*(data({"content": w}) for w in WORDS), data({}, "stop"), b"data: [DONE]\n\n"], gap)


def anthropic_script(gap: float = 0.002) -> list[Any]:
    def event(kind: str, **more: Any) -> bytes:
        return f"event: {kind}\ndata: {json.dumps({'type': kind, **more})}\n\n".encode()

    usage = {"input_tokens": 1, "output_tokens": 1}
    message = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": [], "usage": usage}
    return _body(
        [
            event("message_start", message=message),
            event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
            *(event("content_block_delta", index=0, delta={"type": "text_delta", "text": w}) for w in WORDS),
            event("content_block_stop", index=0),
            event("message_delta", delta={"stop_reason": "end_turn"}, usage=usage),
            event("message_stop"),
        ],
        gap,
    )


async def node(script: str, url: str) -> Any:
    """Run a script; the JSON it said last."""
    source = PRELUDE % json.dumps(MODULE.as_uri()) + script
    process = await asyncio.create_subprocess_exec(
        str(NODE),
        "--input-type=module",
        "-e",
        source,
        url,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), 30)
    except TimeoutError:
        process.kill()
        raise
    assert process.returncode == 0, err.decode()
    return json.loads(out.decode().splitlines()[-1])


ASK = '{ model: "m", messages: [{ role: "user", content: "hi" }], max_tokens: 99 }'
ROADS = [
    pytest.param("native", "openai", openai_script, id="native"),
    pytest.param("openai", "openai", openai_script, id="openai"),
    pytest.param("anthropic", "anthropic", anthropic_script, id="anthropic"),
    pytest.param("anthropic", "openai", openai_script, id="anthropic over openai"),
    pytest.param("openai_responses", "anthropic", anthropic_script, id="responses over anthropic"),
    pytest.param("ollama", "openai", openai_script, id="ollama"),
]


@pytest.mark.parametrize(("protocol", "driver", "script"), ROADS)
async def test_every_frame_once_over_a_line_that_breaks(protocol: str, driver: str, script: Any) -> None:
    """Words would be lost or doubled at each break, or the answer asked for, and paid, again."""
    async with Upstream(script()) as up, running(config_for(up.url, driver=driver)) as gateway:
        limits = [1300, 400, 3, 1000, 0, 700]
        async with Cutter(gateway.public_port, limits) as line:
            body = '{ model: "m", input: "hi" }' if protocol == "openai_responses" else ASK
            call = f'say(await read(stream(gateway, {{ protocol: "{protocol}", body: {body}, ...quick }})));'
            told = await node(call, line.url)
        assert told.get("error") is None, told
        assert told["text"] == TEXT
        assert told["seen"] == list(range(1, len(told["seen"]) + 1))
        assert line.cut >= 5
        assert told["connections"] == line.made
        assert len(up.requests) == 1


async def test_lines_that_break_anywhere() -> None:
    """There would be a byte (in a head, in a chunk's length, in half of a character) where a break loses a word."""
    seed = random.randrange(1 << 30)
    dice = random.Random(seed)
    limits = [dice.choice([0, dice.randrange(700), dice.randrange(500, 2500)]) for _ in range(200)]
    script = f"""
    const told = [];
    const protocols = ["native", "openai", "anthropic", "ollama"];
    for (let n = 0; n < 24; n++) {{
      const options = {{ protocol: protocols[n % 4], body: {ASK}, backoff: 2, maxBackoff: 5, attempts: 200 }};
      told.push(await read(stream(gateway, options)));
    }}
    say(told);
    """
    async with (
        Upstream(openai_script(0)) as up,
        running(config_for(up.url)) as gateway,
        Cutter(gateway.public_port, limits) as line,
    ):
        told = await node(script, line.url)
        assert [(one["text"], one.get("error")) for one in told] == [(TEXT, None)] * 24, seed
        assert all(one["seen"] == list(range(1, len(one["seen"]) + 1)) for one in told), seed
        assert line.cut > 24
        assert len(up.requests) == 24, seed


async def test_ndjson_of_a_conversation() -> None:
    """NDJSON lines would be cut in two where a chunk ends, or the conversation's own path not be understood."""
    async with Upstream(openai_script()) as up, running(config_for(up.url)) as gateway:
        async with Cutter(gateway.public_port, [1200, 333, 50]) as line:
            call = f'say(await read(stream(gateway + "/api/v1/conversations/c1/stream", {{ body: {ASK}, ...quick }})));'
            told = await node(call, line.url)
        assert (told["text"], told.get("error")) == (TEXT, None)
        assert len(up.requests) == 1


@pytest.mark.parametrize("first", [[0], [-1], [0, 0, -1], [-1, -1]])
async def test_a_request_whose_answer_never_came_is_found_again(first: list[int]) -> None:
    """A line that breaks before the head would end the answer for good, or begin it twice."""
    async with Upstream(openai_script()) as up, running(config_for(up.url)) as gateway:
        async with Cutter(gateway.public_port, [*first, 900]) as line:
            told = await node(
                f'say(await read(stream(gateway, {{ protocol: "openai", body: {ASK}, ...quick }})));', line.url
            )
        assert (told["text"], told.get("error")) == (TEXT, None)
        assert len(up.requests) == 1
        assert told["id"].startswith("st_")
        assert len(told["id"]) == 35


async def test_what_is_gone_is_said_and_not_tried_for_ever() -> None:
    """An app would wait on a stream that is not there any more, or take its end for a success."""
    async with Upstream(openai_script()) as up:
        config = config_for(up.url, registry=Registry(replay=Duration(0)))
        async with running(config) as gateway:
            url = f"http://127.0.0.1:{gateway.public_port}"
            unknown = await node('say(await read(attach("st_nowhere", { base: gateway, ...quick })));', url)
            assert unknown["error"] == {
                "name": "StreamGoneError",
                "code": "not_found",
                "status": 404,
                "received": 0,
                "retryable": False,
            }
            assert unknown["connections"] == 1
            script = f"""
            const first = stream(gateway, {{ protocol: "native", body: {ASK}, ...quick }});
            await first.text();
            await new Promise((go) => setTimeout(go, 100));
            say(await read(attach(first.id, {{ base: gateway, after: 3, ...quick }})));
            """
            gone = await node(script, url)
            assert gone["error"]["name"] == "StreamGoneError"
            assert gone["error"]["status"] in (404, 410)


async def test_a_failed_answer_is_an_error_after_its_words() -> None:
    """A truncated answer would look like a whole one."""
    cut = [*openai_script()[:21], RESET]
    async with Upstream(cut) as up, running(config_for(up.url)) as gateway:
        url = f"http://127.0.0.1:{gateway.public_port}"
        for protocol in ("native", "openai", "anthropic"):
            told = await node(
                f'say(await read(stream(gateway, {{ protocol: "{protocol}", body: {ASK}, ...quick }})));', url
            )
            assert told["text"] == "".join(WORDS[:10])
            assert told["error"]["name"] == "StreamFailedError", told
            assert told["connections"] == 1


async def test_refusals_are_typed_and_not_repeated() -> None:
    """A wrong key or a wrong body would be sent again and again."""
    script = f"""
    const headers = {{ Authorization: "Bearer hg_secret" }};
    const options = {{ protocol: "native", body: {ASK}, ...quick }};
    say([await read(stream(gateway, options)), await read(stream(gateway, {{ ...options, headers }})),
         await read(stream(gateway, {{ ...options, headers, body: {{}} }}))]);
    """
    key = Key(id="k", owner="o", hash=hash_of("hg_secret"))
    async with (
        Upstream(openai_script()) as up,
        running(config_for(up.url, keys=(key,))) as gateway,
        Cutter(gateway.public_port) as line,
    ):
        unknown, good, bad = await node(script, line.url)
    assert (unknown["error"]["name"], unknown["error"]["status"]) == ("HeadgateError", 401)
    assert good["text"] == TEXT
    assert bad["error"]["status"] == 400
    assert [told["connections"] for told in (unknown, good, bad)] == [1, 1, 1]


async def test_cancel_attach_and_leaving() -> None:
    """Cancel would not reach the source, a second reader would not see the same, leaving would stop the stream."""
    script = f"""
    const source = stream(gateway, {{ protocol: "openai", body: {ASK}, onDisconnect: "continue", ...quick }});
    let seq = 0, text = "";
    for await (const event of source) {{ text += event.text; seq = event.seq; if (seq === 5) break; }}
    const rest = await attach(source.id, {{ base: gateway, after: seq, ...quick }}).text();
    const native = await read(attach(source.id, {{ base: gateway, protocol: "native", ...quick }}));
    const slow = stream(gateway, {{ protocol: "native", body: {ASK}, ...quick }});
    let stopped, last;
    for await (const event of slow) {{ if (event.seq === 4) stopped = await slow.cancel(); last = event; }}
    const again = await cancel(slow.id, {{ base: gateway }});
    const missing = await cancel("st_none", {{ base: gateway }}).catch(facts);
    const controller = new AbortController();
    const left = await (async () => {{
      try {{
        const third = stream(gateway, {{ protocol: "native", body: {ASK}, signal: controller.signal }});
        for await (const event of third) controller.abort(new Error("enough"));
      }} catch (e) {{ return e.message; }}
    }})();
    say({{ whole: text + rest, native: native.text, stopped: stopped.state, reason: last.data.finishReason,
          again: again.state, missing, left }});
    """
    async with Upstream(openai_script()) as up, running(config_for(up.url)) as gateway:
        up.scripts = [openai_script(0.01), openai_script(0.05), openai_script(0.05)]
        told = await node(script, f"http://127.0.0.1:{gateway.public_port}")
        assert told["whole"] == TEXT
        assert told["native"] == TEXT
        assert (told["stopped"], told["reason"], told["again"]) == ("cancelled", "cancelled", "cancelled")
        assert (told["missing"]["name"], told["missing"]["status"]) == ("StreamGoneError", 404)
        assert told["left"] == "enough"


async def test_a_dead_line_is_given_up_and_a_dead_gateway_too() -> None:
    """A line that says nothing would hold the app for ever; so would a gateway that is not there."""
    script = f"""
    const options = {{ protocol: "native", body: {ASK}, ...quick }};
    const silent = await read(stream(gateway, {{ ...options, silence: 150 }}));
    const nobody = await read(stream("http://127.0.0.1:9", {{ ...options, attempts: 3 }}));
    say({{ silent, nobody }});
    """
    pause = openai_script()
    pause.insert(20, 0.5)
    async with Upstream(pause) as up, running(config_for(up.url)) as gateway:
        told = await node(script, f"http://127.0.0.1:{gateway.public_port}")
        assert told["silent"]["text"] == TEXT
        assert told["silent"]["connections"] > 1
        assert told["nobody"]["error"]["code"] == "connection_lost"
        assert told["nobody"]["connections"] == 3
        assert len(up.requests) == 1


async def test_the_gateway_serves_the_module() -> None:
    """A page could not import it, or would fetch it anew each time."""
    async with running(config_for()) as gateway, client(gateway) as session:
        async with session.get("/headgate.js") as answer:
            assert answer.status == 200
            assert answer.headers["Content-Type"] == "text/javascript; charset=utf-8"
            assert await answer.read() == MODULE.read_bytes()
            tag = answer.headers["ETag"]
        async with session.get("/headgate.js", headers={"If-None-Match": tag}) as again:
            assert (again.status, await again.read()) == (304, b"")
        async with session.get("/headgate.d.ts") as types:
            assert "declare" not in await types.text()
            assert types.headers["Content-Type"].startswith("text/plain")
    async with running(config_for(server=Server(port=0, page=False))) as gateway, client(gateway) as session:
        for path in ("/headgate.js", "/headgate.d.ts", "/resume", "/"):
            async with session.get(path) as answer:
                assert answer.status == 404


def test_the_published_copies_are_the_served_files() -> None:
    """Somebody who copies the module from the repository would get another one than the gateway serves."""
    published = MODULE.parents[3] / "deploy" / "clients"
    for file in MODULE.parent.iterdir():
        assert (published / file.name).read_bytes() == file.read_bytes()
