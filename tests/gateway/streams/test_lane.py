"""The short road from socket to socket: the same bytes and the same account as the ordinary one, whatever happens."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.base import HttpRequest
from backends.call import Call
from backends.catalog import build as build_driver
from backends.connection import Connection
from backends.exchange import Exchange, Sink
from backends.http1 import ChunkedBody
from backends.transport import Transport
from config.schema import Backend, OnDisconnect, Streams
from config.values import Secret
from gateway.edge.output import ClientOutput
from gateway.protocols.base import About
from gateway.protocols.catalog import build
from gateway.streams.course import Opener
from gateway.streams.pacer import Pacer
from gateway.streams.plan import Plan
from gateway.streams.producer import Producer
from gateway.streams.reader import Reader
from gateway.streams.stream import Identity, State, Stream
from gateway.streams.views import make_view

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
STEPS = st.one_of(
    st.tuples(st.just("say"), st.text(st.characters(codec="utf-8"), min_size=1, max_size=6), st.integers(0, 4)),
    st.tuples(st.sampled_from(["join", "leave", "ask", "slow", "drain", "turn"]), st.just(""), st.just(0)),
)


class Socket:
    """A transport that keeps what is written, and its peer's flow control."""

    def __init__(self) -> None:
        self.text = b""
        self.closed = False
        self.writing_paused = False
        self.drained = asyncio.Event()

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.text += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    async def _drain_helper(self) -> None:
        await self.drained.wait()

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: 0

    def body(self) -> bytes:
        """What the client read, without the transfer coding."""
        body = ChunkedBody()
        return body.feed(self.text)


class Network(Opener):
    """The network: a real connection whose socket the test writes to."""

    connection: Connection

    async def open(self, request: HttpRequest, sink: Sink) -> Exchange:
        self.connection = Connection(lambda _: None, 0)
        self.connection.connection_made(cast("asyncio.Transport", Socket()))
        call = Call("up", "POST", b"", sink, reusable=False, take=cast("Any", None), over=lambda *_: None)
        call.start(self.connection)
        return call


class Scene:
    """One stream with one client at the end of a socket."""

    def __init__(self, name: str, mode: str, *, wired: bool, model: str = "m", key: str = "") -> None:
        loop, self.wired, self.head = asyncio.get_running_loop(), wired, HEAD
        self.driver = build_driver("up", Backend(driver="openai", url="http://127.0.0.1:9/v1", api_key=Secret(key)))
        self.protocol = build(("native", "openai", "ollama"))[name]
        plan = Plan(self.driver, HttpRequest("POST", "/", (), b""), Streams(), OnDisconnect("continue"), 3)
        identity = Identity("st_a", "o", name, "m", "up", model, "n", 0)
        self.network = Network()
        self.producer = Producer(Stream(identity, loop.time()), plan, cast("Transport", self.network), lambda _: None)
        self.busy = mode == "busy"
        self.pacer = Pacer(loop, "balanced" if self.busy else mode, dozes=False)
        self.others: list[Reader] = []

    async def begin(self) -> None:
        self.producer.start()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        self.hear(self.head)
        self.client = self.join(wired=self.wired)

    def join(self, *, wired: bool = False) -> tuple[Socket, ClientOutput, Reader]:
        socket, output = Socket(), ClientOutput(b"", Streams())
        view = make_view(self.driver, self.protocol, About("st_a", "m", "up", 0, renamed=self.renamed))
        reader = Reader(self.producer.transcript, view, output, self.pacer, polite=True)
        output._transport, output._protocol = cast("Any", socket), cast("Any", socket)
        output.blocked = False
        output.on_drain = reader.flush
        if wired:
            reader.wired, output.wire = output, cast("asyncio.Transport", socket)
        if begun := view.start():
            output.write(begun)
        self.producer.attach(reader)
        return socket, output, reader

    @property
    def renamed(self) -> bool:
        return self.producer.stream.identity.upstream_model != "m"

    def hear(self, data: bytes) -> None:
        """A read of the backend's socket."""
        self.pacer.intake.busy = self.busy
        self.network.connection.data_received(data)

    @property
    def short(self) -> bool:
        """Whether a lane is open."""
        return self.network.connection.road is not None and self.client[2].lane is not None

    async def act(self, kind: str, text: str, how: int) -> None:
        socket = self.client[0]
        if kind == "say":
            self.say(text, how)
        elif kind == "join":
            self.others.append(self.join()[2])
        elif kind == "leave" and self.others:
            self.producer.detach(self.others.pop())
        elif kind == "ask":
            assert self.producer.stream.tokens == self.producer.tap.tokens  # type: ignore[union-attr]
        elif kind == "slow":
            socket.writing_paused = True
            socket.drained.clear()
        elif kind == "drain":
            socket.writing_paused = False
            socket.drained.set()
            for _ in range(3):
                await asyncio.sleep(0)
        elif kind == "turn":
            await asyncio.sleep(0)

    def say(self, text: str, how: int) -> None:
        frame = token(text)
        if how == 1:
            self.hear(framed(frame) + framed(token(text[::-1])) + framed(frame))
        elif how == 2:
            whole = framed(frame)
            self.hear(whole[:7])
            self.hear(whole[7:])
        elif how == 3:
            self.hear(framed(frame).replace(b"%x" % len(frame), b"%X" % len(frame), 1))
        else:
            self.hear(b"0" * (how // 4) + framed(frame))  # how 4: a size line that no lane takes


def token(text: str) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    said = {"id": "c", "model": "theirs", "choices": [choice]}
    return b"data: " + json.dumps(said, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


def framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def story(name: str, steps: list[tuple[str, str, int]], *, wired: bool, mode: str, model: str) -> tuple[Any, ...]:
    """(what the client read, the transcript, tokens by the receipt's count, frames, bytes, the finish)"""
    scene = Scene(name, mode, wired=wired, model=model)
    await scene.begin()
    for step in [("say", "a", 0), ("say", "b", 0), *steps]:
        await scene.act(*step)
        if mode != "immediate" and step[0] == "ask":
            await asyncio.sleep(0.01)
    await scene.act("drain", "", 0)
    scene.hear(framed(END) + b"0\r\n\r\n")
    await asyncio.sleep(0)
    producer, (socket, _, reader) = scene.producer, scene.client
    transcript = producer.transcript
    counted = producer.stream.tokens, reader.view.frames, transcript.total, transcript.size
    return socket.body(), b"".join(transcript.blocks), *counted, producer.stream.finish, producer.bytes_in


@settings(max_examples=15, deadline=None)
@given(steps=st.lists(STEPS, max_size=24))
@pytest.mark.parametrize("mode", ["immediate", "balanced", "busy"])
@pytest.mark.parametrize(("name", "model"), [("openai", "m"), ("openai", "theirs"), ("native", "m"), ("ollama", "m")])
def test_the_short_road_tells_what_the_long_one_does(
    name: str, model: str, mode: str, steps: list[tuple[str, str, int]]
) -> None:
    """A token would be lost, doubled or counted wrongly where roads meet: at a quote in the text, a second reader, a
    slow client, a read of half a chunk or of three, a worker that reads for all before it writes."""
    short = asyncio.run(story(name, steps, wired=True, mode=mode, model=model))
    assert short[0]
    assert short[2]
    assert short == asyncio.run(story(name, steps, wired=False, mode=mode, model=model))


async def test_it_is_taken_and_left() -> None:
    """Nobody would notice that every token goes the long way, or that a reader was forgotten on the short one."""
    scene = Scene("openai", "immediate", wired=True)
    await scene.begin()
    for text in ("a", "b", "c"):
        scene.say(text, 0)
    assert scene.short
    scene.say('"', 0)
    assert not scene.short
    scene.say("d", 0)
    scene.say("e", 0)
    assert scene.short
    other = scene.join()
    assert not scene.short
    scene.say("f", 0)
    assert not scene.short
    assert other[0].body() == scene.client[0].body()
    scene.producer.detach(other[2])
    scene.say("g", 0)
    assert scene.short
    assert scene.producer.stream.tokens == 8


@pytest.mark.parametrize("wired", [True, False])
async def test_no_road_is_so_short_that_our_key_goes_out_by_it(wired: bool) -> None:
    """A backend that repeats our credentials as text, in mid-answer, would hand them to whoever asks it to."""
    scene = Scene("openai", "immediate", wired=wired, key="sk-canary-0123456789")
    await scene.begin()
    for text in ("a", "b", "c"):
        scene.say(text, 0)
    assert scene.short is wired
    for text in ("as sk-canary-0123456789 says", "d", "e"):
        scene.say(text, 0)
    assert b"canary" not in scene.client[0].text + b"".join(scene.producer.transcript.blocks)
    assert b"as *** says" in scene.client[0].body()
    assert scene.producer.stream.tokens == 6


@pytest.mark.parametrize("over", ["connection_lost", "eof_received"])
async def test_what_was_read_before_the_end_comes_before_it(over: str) -> None:
    """The last tokens of an answer that breaks off would be lost with the socket, though they were read."""
    scene = Scene("openai", "busy", wired=True)
    await scene.begin()
    for text in "abcdef":
        scene.say(text, 0)
        await asyncio.sleep(0)
    assert scene.short
    for text in "gh":
        scene.say(text, 0)
    connection = scene.network.connection
    connection.eof_received() if over == "eof_received" else connection.connection_lost(None)
    assert scene.producer.stream.tokens == 8
    assert scene.client[0].body().startswith(b"".join(token(text) for text in "abcdefgh"))


async def test_a_cancelled_stream_hears_no_more() -> None:
    """Tokens that were read and not yet dealt with would come to a stream that has ended."""
    scene = Scene("openai", "busy", wired=True)
    await scene.begin()
    for text in "abcd":
        scene.say(text, 0)
        await asyncio.sleep(0)
    scene.say("e", 0)
    scene.network.connection.close()
    await asyncio.sleep(0)
    assert scene.producer.stream.tokens == 4


async def test_a_pause_does_not_close_the_lane() -> None:
    """After a stall every read holds several chunks: by the long road they cost so much that the stall would last."""
    scene = Scene("openai", "immediate", wired=True)
    await scene.begin()
    for text in "abc":
        scene.say(text, 0)
    scene.say("d", 1)
    assert scene.short
    assert (scene.producer.stream.tokens, scene.producer.transcript.tip) == (6, 6)


async def test_a_plain_text_is_held_without_its_frame() -> None:
    """A token would take several times its memory, and the time to touch it."""
    scene = Scene("openai", "immediate", wired=True)
    await scene.begin()
    for _ in range(100):
        scene.say("a", 0)
    transcript = scene.producer.transcript
    assert sum(map(len, transcript.held)) < transcript.size / 5
    assert transcript.memory < transcript.size * 0.7
    assert transcript.blocks == [token("a")] * 100


async def test_what_the_lane_leaves_is_counted_once() -> None:
    """Tokens of a server that writes its chunks otherwise would be billed twice, and missed by who resumes."""
    scene = Scene("openai", "immediate", wired=True)
    await scene.begin()
    for text in "abc":
        scene.say(text, 0)
    assert scene.short
    for text in "defg":
        scene.hear(b"0" + framed(token(text)))
    for text in "hij":
        scene.say(text, 0)
    assert scene.short
    assert (scene.producer.stream.tokens, scene.producer.transcript.tip) == (10, 10)
    scene.client[2].rest()
    assert scene.client[2].view.frames == 10


async def test_a_body_without_chunks_is_counted_once() -> None:
    """mlx_lm answers in HTTP/1.0, where nothing can be taken by a lane: its tokens would be billed twice."""
    scene = Scene("openai", "immediate", wired=True)
    scene.head = b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    await scene.begin()
    for text in "abcdef":
        scene.hear(token(text))
    scene.client[2].rest()
    assert (scene.producer.stream.tokens, scene.client[2].view.frames) == (6, 6)


async def test_a_client_that_does_not_read_is_left_alone() -> None:
    """What it does not read would pile up in its socket's buffer without a bound."""
    scene = Scene("openai", "immediate", wired=True)
    await scene.begin()
    for text in "abc":
        scene.say(text, 0)
    socket, output, _ = scene.client
    socket.writing_paused = True
    for _ in range(100):
        scene.say("x", 0)
    assert output.blocked
    assert len(socket.body()) < 40 * len(token("x"))
    assert scene.producer.stream.tokens == 103
    await scene.act("drain", "", 0)
    assert socket.body() == b"".join(scene.producer.transcript.blocks)


async def test_its_memory_is_bounded_as_the_transcript_says() -> None:
    """A long answer would fill the worker: blocks of the short road are trimmed too."""
    scene = Scene("openai", "immediate", wired=True)
    await scene.begin()
    scene.producer.transcript.cap = 4096
    for _ in range(500):
        scene.say("a", 0)
    assert scene.short
    transcript = scene.producer.transcript
    assert sum(len(block) for block in transcript.blocks) < 4096 + 40 * len(token("a"))
    assert transcript.tip == scene.producer.stream.tokens == 500


async def test_behind_a_fault_of_ours_nothing_is_heard() -> None:
    """An answer would go on with a hole: what failed is lost, and what was read behind it in the same turn is told."""
    scene = Scene("openai", "busy", wired=True)
    await scene.begin()
    for text in "abcd":
        scene.say(text, 0)
        await asyncio.sleep(0)
    told: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["message"]))

    def fails(block: bytes) -> None:
        raise ValueError("of ours")

    tap = scene.producer.tap
    assert tap is not None
    tap.feed = fails  # type: ignore[method-assign]
    for text in '"ef':
        scene.say(text, 0)
    await asyncio.sleep(0)
    scene.network.connection.connection_lost(None)
    assert told == ["a backend's bytes failed"]
    assert scene.producer.stream.state is State.UPSTREAM_TRUNCATED
    assert b"".join(scene.producer.transcript.blocks) == b"".join(map(token, "abcd"))
    assert b'"e"' not in scene.client[0].body()


async def test_another_mode_does_not_turn_tokens_round() -> None:
    """What waits for a window's end would come behind what is said after it, when operators change the mode."""
    scene = Scene("openai", "balanced", wired=True)
    await scene.begin()
    for text in "abc":
        scene.say(text, 0)
    assert scene.short
    scene.pacer.written = scene.pacer.burst
    scene.say("d", 0)
    scene.pacer.set_mode("immediate")
    scene.say("e", 0)
    assert scene.client[0].body() == b"".join(map(token, "abcde"))


async def test_acknowledgements_wait_only_while_an_answer_flows() -> None:
    """A server that waits for them would be kept waiting before every later answer on its connection."""
    scene = Scene("openai", "immediate", wired=True)
    await scene.begin()
    connection, done = scene.network.connection, []

    class Wire(Socket):
        def get_extra_info(self, name: str) -> Any:
            return self

        def setsockopt(self, level: int, name: int, value: int) -> None:
            done.append(bool(value))

        def write(self, data: bytes) -> None:
            done.append(data)

    connection._transport = cast("asyncio.Transport", Wire())
    for text in "abc":
        scene.say(text, 0)
    assert done == [False]
    connection.start(cast("Call", None), b"again")
    assert done == [False, b"again", True]


async def test_silence_is_counted_from_the_last_token() -> None:
    """A client's keepalive would come seconds late, as its lane tells of tokens seldom."""
    scene = Scene("openai", "immediate", wired=True)
    await scene.begin()
    for text in "abc":
        scene.say(text, 0)
    assert scene.short
    socket, output, _ = scene.client
    output._keepalive = b": still here\n\n"
    last = scene.pacer.time()
    output.sweep(last + 1)
    output.sweep(last + 1.5)
    scene.say("d", 0)
    scene.producer.settle()
    last, due = scene.pacer.time(), output._limits.keepalive
    output.sweep(last + due - 0.5)
    assert output.look_at <= last + due
    assert b"still" not in socket.text
    output.sweep(last + due + 0.01)
    assert socket.text.count(b"still") == 1
    output.sweep(output.look_at)
    assert socket.text.count(b"still") == 1


async def test_a_stuck_client_of_a_lane_is_given_up_in_time() -> None:
    """A client that reads no more would be noticed only with the lane's account, seconds later."""
    scene = Scene("openai", "immediate", wired=True)
    await scene.begin()
    for text in "abc":
        scene.say(text, 0)
    socket, output, _ = scene.client
    socket.writing_paused = True
    now = scene.pacer.time()
    output.sweep(now)
    assert output.blocked
    output.sweep(now + output._limits.write_timeout - 0.1)
    assert not output.stuck
    assert output.look_at <= scene.pacer.time() + output._limits.write_timeout
    output.sweep(now + output._limits.write_timeout + 0.1)
    assert output.stuck


async def test_a_backend_that_is_held_back_is_looked_at() -> None:
    """It would be read on seconds after its clients have caught up: the watchdog had not been told."""
    scene = Scene("openai", "immediate", wired=True)
    await scene.begin()
    producer = scene.producer
    scene.client[1].blocked = True
    producer.look_at = scene.pacer.time() + 2
    producer.transcript.cap = 600
    for _ in range(4):
        scene.say('"', 0)
    producer.press()
    assert producer.paused
    assert producer.look_at <= scene.pacer.time()


async def test_who_looks_at_a_lane_changes_nothing() -> None:
    """Who resumes would read old tokens again in the place of new ones, once somebody had asked how much is held."""
    scene = Scene("openai", "immediate", wired=True)
    await scene.begin()
    transcript, said = scene.producer.transcript, b""
    transcript.cap = 600
    for i in range(150):
        text = "x\u2028y" if i % 50 == 49 else f"a{i}"  # no lane takes a separator of lines
        scene.say(text, 0)
        said += token(text)
        assert scene.short or i < 2 or i % 50 in (49, 0)
        if i % 16 == 10:
            assert scene.producer.bytes_in == len(said)
        assert said.endswith(b"".join(transcript.blocks))
    assert transcript.total == len(said)
    assert scene.client[0].body() == said


async def test_the_last_word_has_all_of_them() -> None:
    """`done` would leave out what the cap had taken before the reader's view was told of it."""
    scene = Scene("native", "immediate", wired=True)
    await scene.begin()
    transcript, texts = scene.producer.transcript, [f"a{i}" for i in range(100)]
    transcript.cap = 300
    for text in texts:
        scene.say(text, 0)
        assert transcript.size
    assert scene.short
    assert transcript.trimmed
    scene.hear(framed(END) + b"0\r\n\r\n")
    done = json.loads(scene.client[0].body().rsplit(b"data: ", 1)[1])
    assert (done["fullText"], done["tokenCount"]) == ("".join(texts), 100)
