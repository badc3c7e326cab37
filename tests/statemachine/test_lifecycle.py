"""Any interleaving of clients that come and go, backends that end or fail, a Redis that freezes, dies or forgets, and
nodes that are killed or restarted keeps the life-cycle invariants (`support/invariants.py` numbers them)."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest
import structlog
import uvloop
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from support.awake import Awake
from support.invariants import at_rest
from support.lifecycle import OWNERS, POLICIES, PROTOCOLS, RUNS, Reading, Stream, World
from support.mortal import quicken
from support.plainly import BACKEND
from support.redis_server import BINARY, RedisServer

pytestmark = pytest.mark.skipif(BINARY is None, reason="redis-server is not installed")

WHERE = st.integers(0, 1)
ANY = st.integers(0, 1_000_000)
FATE = st.tuples(st.integers(0, 19), st.integers(1, 10), st.integers(0, 5))
PARTS = 25
NUMBERS = iter(range(1, 1_000_000_000))
TROUBLE = {  # what may happen in a run besides clients and backends; most have none: it takes the longest
    "test": ("",) * 17 + ("redis", "node", "redis and node"),
    "soak": ("",) * 13 + ("redis",) * 3 + ("node",) * 3 + ("redis and node",),
}
SEEN: Counter[str] = Counter()  # how often each rule ran, and how streams ended
LOG: deque[str] = deque(maxlen=400)  # the last lines, for whom a run fails


class Lifecycle(RuleBasedStateMachine):
    """`runner`, `redis`, `awake` and `trouble` are the test's; `world` stays from one run to the next."""

    runner: asyncio.Runner
    redis: RedisServer
    awake: Awake
    trouble: tuple[str, ...]
    worlds: list[World]

    def __init__(self) -> None:
        super().__init__()
        self.bad = False
        self.may, self.steps, self.when, self.how = "", 0, 0, 0
        if self.worlds and self.worlds[0].runs < RUNS:
            self.world = self.worlds[0]
            self.world.begin()
            return
        if self.worlds:
            self.do(self.worlds.pop().close())
        self.world = World(self.redis, self.awake)
        self.do(self.world.open(), "worlds")
        self.worlds.append(self.world)

    def do(self, work: Coroutine[Any, Any, Any], name: str = "") -> Any:
        """One step, in the loop; then as much time as what it set going needs to begin."""

        async def step() -> Any:
            found = await work
            await asyncio.sleep(0.001)
            return found

        if name:
            SEEN[name] += 1
        try:
            return self.runner.run(step())
        except BaseException:
            self.bad = True
            raise

    def stream(self, pick: int) -> Stream:
        return self.world.streams[pick % len(self.world.streams)]

    def going(self) -> list[Stream]:
        """Those nobody has ended yet. Known from the rules alone: which rule may follow must not depend on time."""
        return [s for s in self.world.streams if not s.stopped]

    def reading(self, pick: int) -> Reading:
        found = [reading for stream in self.world.streams for reading in stream.readings]
        return found[pick % len(found)]

    @initialize(at=WHERE, protocol=st.sampled_from(PROTOCOLS), words=st.integers(1, 4), fate=FATE)
    def first(self, at: int, protocol: str, words: int, fate: tuple[int, int, int]) -> None:
        """There is a stream to do something with, and what is to come is settled."""
        may, self.when, self.how = fate
        self.may = self.trouble[may]
        self.begin(at, "alice", protocol, "continue", words)

    @precondition(lambda self: len(self.world.streams) < 8)
    @rule(
        at=WHERE,
        owner=st.sampled_from(OWNERS),
        protocol=st.sampled_from(PROTOCOLS),
        policy=st.sampled_from(POLICIES),
        words=st.sampled_from((0, 1, 2, 3, 1, 2)),
    )
    def start(self, at: int, owner: str, protocol: str, policy: str, words: int) -> None:
        """A client asks; two owners may use the same id."""
        self.begin(at, owner, protocol, policy, words)

    def begin(self, at: int, owner: str, protocol: str, policy: str, words: int) -> None:
        """A stream and its first reader."""
        owner = self.world.owner(owner)
        name = f"s{sum(s.owner == owner for s in self.world.streams)}"
        stream = Stream(self.world, name, owner, protocol, policy, f"canary{next(NUMBERS)}x")
        stream.home = self.world.nodes[at]
        stream.hurt = self.world.state != "well"
        self.world.streams.append(stream)
        reading = Reading(self.world, stream, protocol)
        stream.readings.append(reading)
        self.world.stage.act(stream.canary).say(words)

        async def begin() -> None:
            reading.start(at)
            hub = self.world.nodes[at].gateway.hub
            await self.world.until(lambda: hub.find(name, owner) or reading.task.done(), 4)

        self.do(begin(), "start")

    @precondition(going)
    @rule(pick=ANY, count=st.integers(1, 5))
    def say(self, pick: int, count: int) -> None:
        """The backend goes on; 11: whoever reads where the stream runs gets it, Redis or not."""
        going = self.going()
        stream = going[pick % len(going)]
        act = self.world.stage.act(stream.canary)
        act.say(count)

        async def heard() -> None:
            def served() -> bool:
                if (
                    not act.words
                    or act.over
                    or not act.open
                    or not stream.home.gateway.hub.find(stream.name, stream.owner)
                ):
                    return True
                here = [
                    r for r in stream.readings if r.task and not r.task.done() and self.world.nodes[r.at] is stream.home
                ]
                return all(act.words[-1].strip().encode() in r.body for r in here)

            await self.world.until(served, 3)

        self.do(heard(), "say")

    @precondition(going)
    @rule(pick=ANY, how=st.sampled_from(["finish", "finish", "fail", "cut", "reset"]))
    def over(self, pick: int, how: str) -> None:
        """The backend ends: well, with an error, or by breaking off."""
        going = self.going()
        stream = going[pick % len(going)]
        stream.stopped += 1

        async def end() -> None:
            self.world.stage.act(stream.canary).end(how)

        self.do(end(), how)

    @precondition(going)
    @rule(pick=ANY)
    def timeout(self, pick: int) -> None:
        """Its time is over."""
        going = self.going()
        stream = going[pick % len(going)]
        stream.stopped += 1

        async def late() -> None:
            producer = stream.home.gateway.hub.find(stream.name, stream.owner)
            if producer is not None:
                life = producer.stream
                life.accepted, life.last_progress = life.accepted - 1_000, life.last_progress - 1_000
                life.first_token = None if life.first_token is None else life.first_token - 1_000
                producer.look_at -= 1_000
                await self.world.until(lambda: life.state.terminal, 2)

        self.do(late(), "timeout")

    def live(self) -> list[Reading]:
        return [r for stream in self.world.streams for r in stream.readings if r.task]

    @precondition(live)
    @rule(pick=ANY, keep=st.integers(0, 12))
    def drop(self, pick: int, keep: int) -> None:
        """A client is gone, and remembers some of what it read."""
        live = self.live()

        async def leave() -> None:
            live[pick % len(live)].drop(keep)

        self.do(leave(), "drop")

    @precondition(lambda self: self.world.streams)
    @rule(pick=ANY, at=WHERE, keep=st.integers(0, 12))
    def resume(self, pick: int, at: int, keep: int) -> None:
        """It comes back, here or there."""
        reading = self.reading(pick)

        async def again() -> None:
            if reading.task is not None and reading.task.done():
                reading.task.result()
            reading.drop(keep)
            reading.resume(at)

        self.do(again(), "resume")

    @precondition(lambda self: self.world.streams)
    @rule(pick=ANY, at=WHERE, protocol=st.sampled_from(PROTOCOLS))
    def attach(self, pick: int, at: int, protocol: str) -> None:
        """One reader more, in any protocol."""
        stream = self.stream(pick)
        if len(stream.readings) >= 5:
            return

        async def join() -> None:
            reading = Reading(self.world, stream, protocol)
            stream.readings.append(reading)
            reading.resume(at)

        self.do(join(), "attach")

    def cancellable(self) -> list[Stream]:
        """Those that were not ended twice yet."""
        return [s for s in self.world.streams if s.stopped < 2]

    @precondition(cancellable)
    @rule(pick=ANY, at=WHERE)
    def cancel(self, pick: int, at: int) -> None:
        """DELETE, here or there; 5: then the upstream is closed."""
        found = self.cancellable()
        stream = found[pick % len(found)]
        stream.stopped += 1

        async def delete() -> None:
            act = self.world.stage.act(stream.canary)
            for _ in range(20):
                status, body = await self.world.ask("DELETE", at, f"/api/streaming/{stream.name}", stream.owner)
                if status != 404 or stream.faulty or stream.missing:
                    break
                await asyncio.sleep(0.03)
            assert status in (200, 202, 503) or (status in (404, 410) and (stream.faulty or stream.missing)), (
                status,
                body,
            )
            if status == 200:
                assert body["state"] in (
                    "cancelled",
                    "completed",
                    "timed_out",
                    "client_gone",
                    "upstream_error",
                    "upstream_truncated",
                    "node_lost",
                    "shed",
                )
                if not stream.faulty:
                    await self.world.until(lambda: not act.open, 1)

        self.do(delete(), "cancel")

    @precondition(lambda self: self.world.streams)
    @rule(pick=ANY, at=WHERE, method=st.sampled_from(["GET", "DELETE"]))
    def stranger(self, pick: int, at: int, method: str) -> None:
        """10, 11: another owner's stream is as one that never was; without a key there is nothing at all."""
        stream = self.stream(pick)
        other = next(o for o in map(self.world.owner, OWNERS) if o != stream.owner)

        async def ask() -> None:
            assert (await self.world.ask(method, at, f"/api/streaming/{stream.name}", ""))[0] == 401
            if not any((s.name, s.owner) == (stream.name, other) for s in self.world.streams):
                status, _ = await self.world.ask(method, at, f"/api/streaming/{stream.name}", other)
                assert status in ((404,) if self.world.state == "well" and not stream.faulty else (404, 503)), status

        self.do(ask(), "stranger")

    @precondition(lambda self: "redis" in self.may and self.world.state == "well" and self.world.hurt < 2)
    @rule(how=st.sampled_from(["freeze", "flush", "kill"]))
    def hurt_redis(self, how: str) -> None:
        """Frozen, emptied, or dead."""
        self.hurt(how)

    def hurt(self, how: str) -> None:
        self.world.fault()
        self.world.hurt += 1

        async def hurt() -> None:
            if how == "freeze":
                self.redis.pause()
                self.world.state = "frozen"
                return
            if how == "flush":
                self.redis.command("FLUSHALL")
            else:
                self.redis.kill()
                self.world.state = "dead"
            self.world.empty()

        self.do(hurt(), how)

    @precondition(lambda self: self.world.state != "well")
    @rule()
    def heal(self) -> None:
        """Redis is there again."""
        self.do(self.world.heal(), "heal")

    @precondition(lambda self: "node" in self.may and len(self.world.buried) < 2)
    @rule(at=WHERE, how=st.sampled_from(["kill", "stop"]))
    def restart(self, at: int, how: str) -> None:
        """A node crashes, or is told to end; another takes its place."""
        self.replace(at, how)

    @invariant()
    def fate(self) -> None:
        """In a run that may have trouble, there is."""
        self.steps += 1
        if self.steps == self.when and "redis" in self.may and self.world.state == "well":
            self.hurt(("freeze", "flush", "kill")[self.how % 3])
        if self.steps == self.when and "node" in self.may:
            self.replace(self.how // 3, ("kill", "stop")[self.how % 2])

    def replace(self, at: int, how: str) -> None:
        self.do(self.world.restart(at, how), f"node {how}")

    def teardown(self) -> None:
        try:
            if not self.bad:
                self.do(at_rest(self.world), "runs with trouble" if self.may else "runs without trouble")
                SEEN.update(f"ended {s.state}" for s in self.world.streams)
                SEEN["disturbed runs"] += self.world.disturbed
                self.do(self.world.leave())
        finally:
            if self.bad:
                print(*LOG, sep="\n")
                self.worlds.clear()
                self.runner.run(self._away())

    async def _away(self) -> None:
        """A run failed: nothing of its world stays."""
        if self.world.state == "frozen":
            self.redis.resume()
        elif self.world.state == "dead":
            self.redis.start()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The quicker world; its log is kept as it comes, and rendered for whom a run fails only."""

    def keep(_logger: object, level: str, event: Any) -> Any:
        LOG.append(f"{time.monotonic():.3f} {level} {event}")
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[keep])
    quicken(monkeypatch)
    yield
    structlog.configure(**before)


def run(much: str, examples: int, steps: int) -> None:
    """So many runs, and what happened in them."""
    SEEN.clear()
    LOG.clear()
    how = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        derandomize=much == "test",
        database=None,
        backend=BACKEND,
        phases=(Phase.generate, Phase.shrink) if much == "soak" else (Phase.generate,),
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )
    began = time.monotonic()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, RedisServer() as redis, Awake() as awake:
        Lifecycle.runner, Lifecycle.redis, Lifecycle.awake = runner, redis, awake
        Lifecycle.trouble, Lifecycle.worlds = TROUBLE[much], []
        run_state_machine_as_test(Lifecycle, settings=how)
        for world in Lifecycle.worlds:
            runner.run(world.close())
    runs = SEEN["runs without trouble"] + SEEN["runs with trouble"]
    print(
        f"\n{runs} runs in {time.monotonic() - began:.0f} s: " + ", ".join(f"{n} {c}" for n, c in sorted(SEEN.items()))
    )
    assert runs >= examples


@pytest.mark.timeout(180)
def test_any_interleaving(quick: None) -> None:
    """A stream would end twice or never, a client would read a token twice or never, be told nothing, or another's."""
    run("test", 165, 12)


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("part", range(PARTS))
def test_ten_thousand_interleavings(quick: None, part: int) -> None:
    """The same, for what is rare; in parts, which workers take in turn."""
    run("soak", 330, 16)
