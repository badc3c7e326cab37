"""The thirteen life-cycle invariants, as far as they can be seen from outside, over a world at rest.

1 one terminal state; 2 one writer; 3 no gaps, nothing doubled; 4 the terminal event is last; 5 the upstream is closed;
6 one receipt; 7 the registry equals reality; 8 bounded; 9 back to baseline; 10 nothing foreign; 11 authentication fails
closed and relaying needs no Redis; 12 one request per stream; 13 refusals are explicit.
5, 11 and 13 are also asserted where they can be broken, in the rules.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from support.lifecycle import EXPLICIT, KIND, PROTOCOLS, Reading, Stream, World, foreign, is_last
from support.mortal import LEASE
from support.resuming import ends

_MAX_QUEUE = 10_000


async def at_rest(world: World) -> None:
    """Every stream ends, every client reads on until it knows how; then all invariants hold."""
    await world.heal()
    for i, stream in enumerate(world.streams):
        world.stage.act(stream.canary).end("finish" if i % 2 else "cut")
    readers = [_finish(world, r, i) for s in world.streams for i, r in enumerate(s.readings)]
    await world.awake.within(20, asyncio.gather(*readers))
    await world.until(lambda: not any(len(node.gateway.hub) for node in world.nodes), 3)
    await asyncio.gather(*(_registry_is_empty(world, o, at) for o in {s.owner for s in world.streams} for at in (0, 1)))
    await asyncio.gather(*(_stream(world, stream) for stream in world.streams))
    await _counts(world)
    await _baseline(world)


async def _finish(world: World, reading: Reading, i: int) -> None:
    """As a client with patience: again and again, anywhere, until the terminal event or a refusal for good."""
    at, end = i, world.awake.now() + 8
    while True:
        if reading.task is not None:
            await world.awake.within(10, asyncio.shield(reading.task))  # its assertions are raised here
            if reading.over:
                return
            assert reading.told != 204, _what(reading, "3: told that it has it all")
            if reading.told in (400, 404, 410) or (reading.told and reading.told not in EXPLICIT):
                return
            assert not reading.clean or not reading.frames or reading.stream.faulty, _what(
                reading, "4: a clean end that says nothing"
            )
            assert world.awake.now() < end, _what(reading, "13: never told how it ended")
            await asyncio.sleep(0.03)
        at += 1
        reading.resume(at % 2)


def _what(reading: Reading, says: str) -> str:
    stream = reading.stream
    tail = reading.body[-300:]
    return f"{says}: {stream.name} of {stream.owner}, {reading.protocol} at {reading.at}, told {reading.told}, {tail!r}"


async def _registry_is_empty(world: World, owner: str, at: int) -> None:
    end = world.awake.now() + LEASE * 2 + 2
    while True:
        status, body = await world.ask("GET", at, "/api/streaming/active", owner)
        if status == 200 and not body["count"]:
            return
        assert world.awake.now() < end, f"7: node {at} lists streams that have ended: {body}"
        await asyncio.sleep(0.02)


async def _stream(world: World, stream: Stream) -> None:
    act = world.stage.act(stream.canary)
    assert act.asked <= 1, f"12: {stream.name} was asked of the backend {act.asked} times"
    await _holds(world, lambda: not act.open, 2, f"5: {stream.name} is over and its upstream is open")
    await _receipts(world, stream)
    await asyncio.gather(*(_read(world, stream, protocol) for protocol in PROTOCOLS))


async def _holds(world: World, what: Callable[[], bool], seconds: float, else_: str) -> None:
    try:
        await world.until(what, seconds)
    except TimeoutError:
        raise AssertionError(else_) from None


async def _read(world: World, stream: Stream, protocol: str) -> None:
    wholes = await asyncio.gather(*(_whole(world, stream, protocol, at) for at in range(2)))
    bodies = [body for body in wholes if body is not None]
    assert len(bodies) == 2 or stream.faulty or stream.missing, f"3: {stream.name} cannot be read, {protocol}: {wholes}"
    bodies += [r.body for r in stream.readings if r.protocol == protocol]
    for body in set(bodies):
        check_body(world, stream, protocol, body)
    if not stream.faulty:
        assert len(set(filter(None, bodies))) <= 1, f"3: {stream.name} was read differently, {protocol}: {bodies}"
    _prefixes(stream, protocol, bodies)


async def _whole(world: World, stream: Stream, protocol: str, at: int) -> bytes | None:
    path = f"/api/streaming/{stream.name}?protocol={protocol}"
    status, body = await world.ask("GET", at, path, stream.owner, "text/event-stream, application/x-ndjson")
    assert status == 200 or status in EXPLICIT, f"13: {stream.name} at {at}: {status}"
    if status != 200:
        return None
    assert body, f"13: {stream.name} at {at}: 200 and nothing"
    return body  # type: ignore[no-any-return]


def check_body(world: World, stream: Stream, protocol: str, body: bytes) -> None:
    """3, 4 and 10 of one body; empty where its client was refused."""
    assert not foreign(body, stream.canary), f"10: {stream.name} reads {foreign(body, stream.canary)}"
    marks = ends(body, KIND[protocol])
    frames = [body[a:b] for a, b in zip([0, *marks], marks, strict=False)]
    lasts = [i for i, frame in enumerate(frames) if is_last(frame, protocol)]
    assert lasts in ([], [len(frames) - 1]), f"4: {stream.name}: terminal frames {lasts} of {len(frames)}: {body!r}"
    said, finish = text_of(frames, protocol)
    whole = world.stage.act(stream.canary).text
    assert whole.startswith(said), f"3: {stream.name}, {protocol}: {said!r} is no beginning of {whole!r}"
    if finish == "stop":
        assert said == whole, f"4: {stream.name} looks complete, {protocol}: {said!r} of {whole!r}"
        assert world.stage.act(stream.canary).over == "finish", f"4: {stream.name} looks complete: {body!r}"


def text_of(frames: list[bytes], protocol: str) -> tuple[str, str]:
    """What a body says, and its finish reason."""
    said, finish = "", ""
    for frame in frames:
        raw = frame if protocol == "ndjson" else frame.partition(b"data: ")[2]
        if not raw.strip().startswith(b"{"):
            continue
        data = json.loads(raw)
        if protocol == "openai":
            for choice in data.get("choices", []):
                said += choice["delta"].get("content") or ""
                finish = choice.get("finish_reason") or finish
        elif b"event: token" in frame or data.get("type") == "message_chunk":
            said += data["content"]
        else:
            finish = data.get("finishReason") or data.get("finish_reason") or finish
    return said, finish


def _prefixes(stream: Stream, protocol: str, bodies: list[bytes]) -> None:
    """Of any two bodies one is the beginning of the other, but for how they end."""
    lists: list[list[bytes]] = []
    for body in bodies:
        marks = ends(body, KIND[protocol])
        frames = [body[a:b] for a, b in zip([0, *marks], marks, strict=False)]
        lists.append([f for f in frames if b"canary" in f and not is_last(f, protocol)])
    longest = max(lists, key=len, default=[])
    for frames in lists:
        assert frames == longest[: len(frames)], f"3: {stream.name}, {protocol}: {frames} against {longest}"


async def _receipts(world: World, stream: Stream) -> None:
    found: list[dict[str, Any]] = []
    for at in (0, 1, 0):
        end = world.awake.now() + LEASE + 1  # news travels, within a lease
        while True:
            status, body = await world.ask("GET", at, f"/api/streaming/{stream.name}", stream.owner)
            if status == 200 and body["receipt"]["endedAt"]:
                break
            if (status != 200 and (stream.faulty or stream.missing)) or world.awake.now() > end:
                break
            await asyncio.sleep(0.02)
        assert status == 200 or status in EXPLICIT, f"13: {status} {body}"
        assert status == 200 or stream.faulty or stream.missing, (
            f"6: {stream.name} has no receipt at {at}: {status} {body}"
        )
        if status == 200:
            found.append(body["receipt"])
    states = {receipt["state"] for receipt in found}
    assert len(states) <= 1, f"1: {stream.name} ended as {states}"
    assert all(receipt == found[0] for receipt in found), f"6: {stream.name} has several receipts: {found}"
    if found:
        stream.state = found[0]["state"]
        assert found[0]["endedAt"], f"7: {stream.name} still runs"
        assert stream.state in ENDINGS, f"1: {stream.state}"


ENDINGS = {
    "completed", "cancelled", "timed_out", "client_gone", "upstream_error", "upstream_truncated", "node_lost", "shed",
}  # fmt: skip


async def _counts(world: World) -> None:
    owners = {stream.owner for stream in world.streams}
    for node in [*world.nodes, *world.buried]:
        twice = {who: n for who, n in node.receipts.items() if n > 1}
        assert not twice, f"6: more than one receipt: {twice}"
    await asyncio.gather(*(_count(world, owner) for owner in owners))


async def _count(world: World, owner: str) -> None:
    """Each is counted once. What a Redis that was emptied had counted it has not any more; and what a node that went
    could not tell a Redis that was away, or was killed before it did, nobody else knows: those may be missing, since
    only the log of that node has their receipts. They are not counted twice."""
    want = {who for node in [*world.nodes, *world.buried] for who in node.receipts if who[1] == owner}
    least = len(want - world.uncounted)
    end = world.awake.now() + 3
    while True:
        _, body = await world.ask("GET", 0, "/api/streaming/statistics", owner)
        if least <= body["total"] <= len(want):
            return
        assert world.awake.now() < end, f"6: {least} to {len(want)} streams of {owner}, counted {body}"
        await asyncio.sleep(0.02)


async def _baseline(world: World) -> None:
    """8 and 9, as far as a node says them."""
    for node in world.nodes:
        services = node.gateway.services
        await _holds(world, lambda services=services: len(services.outputs) == 1, 2, f"9: {services.outputs}")
        health = node.gateway.registry.health()
        assert health["queued"] < _MAX_QUEUE, f"8: {health}"
        for transport in services.transports.values():
            pool = getattr(transport, "pool", None) or getattr(transport, "_pool", None)
            assert pool is None or pool.count == 0, f"9: {pool.count} upstream connections"
