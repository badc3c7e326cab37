"""Attempts: who leads, who takes over, and that readers of any protocol see one unbroken answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any, cast

import pytest
from msgspec.structs import replace

from backends.base import Driver, HttpRequest
from backends.catalog import build as build_driver
from backends.contract.errors import BackendError, ErrorCode
from backends.exchange import Exchange, Sink
from backends.transport import Transport
from config.schema import Backend, OnDisconnect, Streams
from gateway.protocols.base import Answer
from gateway.protocols.catalog import build
from gateway.streams.course import Leg, Opener
from gateway.streams.pacer import Pacer
from gateway.streams.plan import Plan
from gateway.streams.producer import Producer
from gateway.streams.reader import Reader
from gateway.streams.stream import Identity, State, Stream
from gateway.streams.views import about_of, make_view

FAMILIES = ("native", "openai", "anthropic", "ollama", "google")
NAMES = ("native", "ndjson", "openai", "anthropic", "ollama", "google")
WORDS = ["Once ", "upon ", "a ", "time ", "there ", "was ", "é☕."]
BROKEN = BackendError(ErrorCode.UPSTREAM_TRUNCATED, "cut")


class Page:
    """An output that keeps what it is given."""

    def __init__(self) -> None:
        self.blocked = False
        self.text = b""

    def write(self, data: bytes) -> None:
        self.text += data

    def close(self, clean: bool) -> None:
        self.text += b"<clean>" if clean else b"<cut>"


class Wire(Opener):
    """The network to one backend: the test is the backend."""

    def __init__(self) -> None:
        self.sinks: list[Sink] = []
        self.aborted = 0

    async def open(self, request: HttpRequest, sink: Sink) -> Exchange:
        self.sinks.append(sink)
        sink.head(200, {})
        return cast("Exchange", self)

    def abort(self) -> None:
        self.aborted += 1

    def __getattr__(self, name: str) -> Any:
        return lambda *args: None


def openai_frames(words: Sequence[str], *, end: bool, id_: str) -> list[bytes]:
    def frame(delta: dict[str, str], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return b"data: " + json.dumps({"id": id_, "created": 7, "model": "x", "choices": [choice]}).encode() + b"\n\n"

    frames = [frame({"role": "assistant", "content": ""}), *(frame({"content": word}) for word in words)]
    return [*frames, frame({}, "stop"), b"data: [DONE]\n\n"] if end else frames


def anthropic_frames(words: Sequence[str], *, end: bool, id_: str) -> list[bytes]:
    def event(kind: str, **rest: object) -> bytes:
        return f"event: {kind}\ndata: {json.dumps({'type': kind, **rest})}\n\n".encode()

    message = {"id": id_, "type": "message", "role": "assistant", "model": "x", "content": [], "usage": {}}
    frames = [
        event("message_start", message=message),
        event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        *(event("content_block_delta", index=0, delta={"type": "text_delta", "text": word}) for word in words),
    ]
    last = [
        event("content_block_stop", index=0),
        event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 3}),
        event("message_stop"),
    ]
    return [*frames, *last] if end else frames


FRAMES = {"openai": openai_frames, "anthropic": anthropic_frames}


class Way:
    """A course over a list of backends that says yes to everything, and remembers what it was told."""

    hedge_after: float | None = None

    def __init__(self, legs: list[Leg], kind: str = "continue") -> None:
        self.legs = legs
        self.kind = kind
        self.told: list[str] = []
        self.answers: list[Answer] = []

    def first(self) -> Leg:
        return self.legs.pop(0)

    def more(self) -> bool:
        return bool(self.legs)

    def next(self, error: BackendError) -> Leg | None:
        return self.legs.pop(0) if self.legs else None

    def hedge(self) -> Leg | None:
        return self.next(BROKEN)

    def resume(self, error: BackendError, answer: Answer) -> Leg | None:
        self.answers.append(answer)
        return replace(self.legs.pop(0), kind=self.kind) if self.legs else None

    def began(self, leg: Leg, seconds: float) -> None:
        self.told.append(f"{leg.backend} began")

    def failed(self, leg: Leg, error: BackendError) -> None:
        self.told.append(f"{leg.backend} failed")

    def over(self, leg: Leg, *, completed: bool) -> None:
        self.told.append(f"{leg.backend} {'completed' if completed else 'dropped'}")


class Scene:
    """A producer over several backends, and readers of one protocol."""

    def __init__(self, protocol: str, drivers: Sequence[str], kind: str = "continue") -> None:
        self.loop = asyncio.get_running_loop()
        self.protocol = build(FAMILIES)[protocol]
        self.wires = [Wire() for _ in drivers]
        legs = []
        for number, (name, wire) in enumerate(zip(drivers, self.wires, strict=True)):
            main: Driver = build_driver(f"b{number}", Backend(driver=name, url="http://127.0.0.1:9/v1"))
            driver = main.speaking(self.protocol.dialect) or main
            request = HttpRequest("POST", "/", (), b"")
            legs.append(Leg(f"b{number}", f"m{number}", driver, request, cast("Transport", wire)))
        self.way = Way(list(legs), kind)
        plan = Plan(legs[0].driver, legs[0].request, Streams(), OnDisconnect("continue"), 3, course=self.way)
        identity = Identity("st_a", "o", protocol, "m", "b0", "m0", "n", 9_000)
        self.producer = Producer(Stream(identity, self.loop.time()), plan, legs[0].transport, lambda _: None)
        self.pages: list[Page] = []

    def join(self) -> Page:
        producer, page = self.producer, Page()
        about = about_of(producer.stream.identity, include_usage=True, dialect=producer.driver.dialect)
        view = make_view(producer.driver, self.protocol, about)
        reader = Reader(producer.transcript, view, page, Pacer(self.loop, "immediate"), polite=True)
        page.write(view.start())
        producer.attach(reader)
        self.pages.append(page)
        return page


async def settled() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def text_of(protocol: str, page: bytes) -> str:
    """What a client of the protocol reads as the answer."""
    said = []
    for line in page.replace(b"<clean>", b"").decode().splitlines():
        raw = line.removeprefix("data: ")
        if not raw.startswith("{"):
            continue
        data = json.loads(raw)
        match protocol:
            case "native":
                said.append(data.get("content", "") if "tokenCount" in data and "fullText" not in data else "")
            case "ndjson":
                said.append(data["content"] if data["type"] == "message_chunk" else "")
            case "openai":
                said += [choice["delta"].get("content") or "" for choice in data["choices"]]
            case "anthropic":
                said.append(data["delta"].get("text", "") if data["type"] == "content_block_delta" else "")
            case "ollama":
                said.append(data["message"]["content"])
            case "google":
                said += [part.get("text", "") for part in data["candidates"][0]["content"].get("parts", [])]
    return "".join(said)


@pytest.mark.parametrize("first", ["openai", "anthropic"])
@pytest.mark.parametrize("second", ["openai", "anthropic"])
@pytest.mark.parametrize("name", NAMES)
async def test_another_backend_goes_on_at_every_token(name: str, first: str, second: str) -> None:
    """A backend that dies in mid-answer would cost its users the answer, or a word of it, or give them one twice."""
    for cut in range(1, len(WORDS)):
        scene = Scene(name, [first, second])
        scene.producer.start()
        await settled()
        for frame in FRAMES[first](WORDS[:cut], end=False, id_="one"):
            scene.wires[0].sinks[0].data(frame)
        live = scene.join()
        scene.wires[0].sinks[0].lost(BROKEN)
        await settled()
        later = scene.join()
        for frame in FRAMES[second](WORDS[cut:], end=True, id_="two"):
            scene.wires[1].sinks[0].data(frame)
        last = scene.join()
        assert scene.way.answers[0].text == "".join(WORDS[:cut])
        assert scene.producer.stream.state is State.COMPLETED
        assert live.text == later.text == last.text
        assert text_of(name, live.text) == "".join(WORDS)
        assert b"two" not in live.text
        assert live.text.endswith(b"<clean>")
        assert [t.outcome for t in scene.producer.stream.tries] == ["upstream_truncated"]
        assert (scene.producer.stream.tokens, scene.producer.stream.attempts) == (len(WORDS), 2)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("second", ["openai", "anthropic"])
async def test_before_the_first_token_nobody_sees_the_change(name: str, second: str) -> None:
    """The role chunk of a backend that died would be followed by another one's."""
    scene = Scene(name, ["openai", second])
    scene.producer.start()
    await settled()
    scene.wires[0].sinks[0].data(openai_frames([], end=False, id_="one")[0])
    scene.wires[0].sinks[0].lost(BROKEN)
    await settled()
    for frame in FRAMES[second](WORDS, end=True, id_="two"):
        scene.wires[1].sinks[0].data(frame)
    page = scene.join()
    assert text_of(name, page.text) == "".join(WORDS)
    assert b'"one"' not in page.text
    assert scene.producer.stream.identity.backend == "b1"
    assert scene.way.told == ["b0 failed", "b1 began", "b1 completed"]


async def test_an_error_event_after_tokens_is_not_shown_to_those_who_can_go_on() -> None:
    """The client would read the error and stop, although the answer goes on."""
    scene = Scene("openai", ["openai", "openai"])
    scene.producer.start()
    await settled()
    page = scene.join()
    frames = openai_frames(WORDS[:2], end=False, id_="one")
    scene.wires[0].sinks[0].data(b"".join(frames) + b'data: {"error":{"message":"engine died"}}\n\ndata: [DONE]\n\n')
    await settled()
    for frame in openai_frames(WORDS[2:], end=True, id_="two"):
        scene.wires[1].sinks[0].data(frame)
    assert text_of("openai", page.text) == "".join(WORDS)
    assert b"engine died" not in page.text


async def test_nothing_is_added_to_a_finished_answer() -> None:
    """An answer that lacks only its end mark would get a second ending from another model."""
    scene = Scene("openai", ["openai", "openai"])
    scene.producer.start()
    await settled()
    for frame in openai_frames(WORDS, end=True, id_="one")[:-1]:
        scene.wires[0].sinks[0].data(frame)
    scene.wires[0].sinks[0].lost(BROKEN)
    assert scene.producer.stream.state is State.UPSTREAM_TRUNCATED


async def test_a_restart_is_said_in_the_native_protocol() -> None:
    """Two beginnings would be read as one answer."""
    scene = Scene("native", ["openai", "openai"], kind="restart")
    scene.producer.start()
    await settled()
    page = scene.join()
    for frame in openai_frames(WORDS[:3], end=False, id_="one"):
        scene.wires[0].sinks[0].data(frame)
    scene.wires[0].sinks[0].lost(BROKEN)
    await settled()
    for frame in openai_frames(WORDS, end=True, id_="two"):
        scene.wires[1].sinks[0].data(frame)
    assert page.text.count(b"event: reset\n") == 1
    done = json.loads(page.text.rsplit(b"data: ", 1)[1].split(b"\n")[0])
    assert (done["fullText"], done["tokenCount"]) == ("".join(WORDS), len(WORDS))
    assert scene.join().text == page.text


async def test_the_first_of_two_to_speak_wins() -> None:
    """A hedged request would be answered twice, or its loser would go on generating."""
    scene = Scene("native", ["openai", "openai"])
    scene.way.hedge_after = 0.0
    scene.producer.start()
    await asyncio.sleep(0.01)
    assert len(scene.wires[1].sinks) == 1
    for frame in openai_frames(WORDS, end=True, id_="two"):
        scene.wires[1].sinks[0].data(frame)
    assert scene.producer.stream.state is State.COMPLETED
    assert scene.wires[0].aborted == 1
    assert scene.way.told == ["b0 dropped", "b1 began", "b1 completed"]
    scene.wires[0].sinks[0].data(b"".join(openai_frames(["late"], end=True, id_="one")))
    assert b"late" not in scene.join().text


async def test_a_stream_that_nobody_can_save_ends_once() -> None:
    """After the last backend failed the client would wait for ever."""
    scene = Scene("openai", ["openai", "openai"])
    ended: list[State] = []
    scene.producer._on_end = lambda producer: ended.append(producer.stream.state)
    scene.producer.start()
    await settled()
    scene.wires[0].sinks[0].lost(BROKEN)
    await settled()
    scene.wires[1].sinks[0].lost(BROKEN)
    scene.producer.expire("too late")
    assert ended == [State.UPSTREAM_TRUNCATED]
