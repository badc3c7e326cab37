"""The registry of one worker: claims, leases, receipts and their bounds."""

from __future__ import annotations

import pytest
from support.registry_nodes import entry, receipt

from config import schema
from gateway.registry.catalog import build
from gateway.registry.memory import MemoryRegistry
from gateway.streams.stream import Entry, Receipt


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_receipts_live_for_the_replay_window() -> None:
    """A receipt kept too short breaks resume; one kept for ever is a leak."""
    clock = Clock()
    registry = MemoryRegistry("a", 10, clock=clock)
    one = entry("s1")
    registry.opened(one)
    registry.closed(receipt(one), "")
    clock.now = 9.9
    assert isinstance(await registry.find("s1", "acme"), Receipt)
    assert await registry.find("s1", "other") is None
    clock.now = 10.1
    assert await registry.find("s1", "acme") is None


async def test_receipts_are_bounded_by_count() -> None:
    """A burst within the window must not grow memory without limit."""
    registry = MemoryRegistry("a", 10, max_receipts=5)
    for i in range(20):
        registry.closed(receipt(entry(f"s{i}")), "")
    assert registry.ended("s19@acme") is not None
    assert registry.ended("s14@acme") is None
    assert (await registry.statistics(None))["total"] == 20


async def test_a_stream_counts_once() -> None:
    """A second `closed` of the same stream would bill it twice."""
    registry = MemoryRegistry("a")
    one = entry("s1")
    registry.opened(one)
    registry.closed(receipt(one), "")
    registry.closed(receipt(one, "cancelled"), "")
    found = await registry.statistics("acme")
    assert (found["total"], found["completionRate"], found["active"], found["peakActive"]) == (1, 1.0, 0, 1)


async def test_cancel_is_idempotent_and_hides_foreign_streams() -> None:
    """Another owner's stream must look unknown; a second cancel must answer the first receipt."""
    registry = MemoryRegistry("a")
    one = entry("s1")

    def stop(stream_id: str, owner: str, by: str, reason: str) -> Receipt:
        ended = receipt(one, "cancelled")
        registry.closed(ended, "")
        return ended

    registry.attach(lambda: [one], stop)
    registry.opened(one)
    assert (await registry.cancel("s1", "other", by="client", reason="")).outcome == "unknown"
    first = await registry.cancel("s1", "acme", by="client", reason="")
    assert first.outcome == "done"
    assert first.state == "cancelled"
    assert await registry.cancel("s1", "acme", by="client", reason="") == first


async def test_leases_and_claims() -> None:
    """A lease given back twice, or asked for twice by one stream, must count once."""
    registry = MemoryRegistry("a")
    assert (await registry.admit("k", 1, "s1")).allowed
    assert (await registry.admit("k", 1, "s1")).allowed
    assert not (await registry.admit("k", 1, "s2")).allowed
    registry.release("k", "s1")
    registry.release("k", "s1")
    assert (await registry.admit("k", 1, "s2")).allowed
    assert await registry.claim("x", "acme")
    assert not await registry.claim("x", "acme")


async def test_an_id_given_back_after_the_end_is_free() -> None:
    """A refused request could not be repeated under its id; without that the receipt guards it."""
    registry = MemoryRegistry("a")
    for state, free in (("upstream_error", True), ("completed", False)):
        assert await registry.claim("mine", "acme")
        one = entry("mine")
        registry.opened(one)
        registry.closed(receipt(one, state), "")
        if free:
            await registry.unclaim("mine", "acme")
        found = await registry.find("mine", "acme")
        assert getattr(found, "ended_by", None) is not None
    assert not await registry.claim("mine", "acme")


async def test_ids_belong_to_their_owner() -> None:
    """One owner's stream would hide another's of the same id, or its end would end it."""
    registry = MemoryRegistry("a")
    assert await registry.claim("s", "acme")
    assert await registry.claim("s", "other")
    for owner in ("acme", "other"):
        registry.opened(entry("s", owner))
    registry.closed(receipt(entry("s", "acme")), "")
    assert isinstance(await registry.find("s", "acme"), Receipt)
    assert isinstance(await registry.find("s", "other"), Entry)
    assert isinstance(await registry.find("s", None), Entry)  # operators see a running one first
    assert not await registry.claim("s", "acme")  # within the replay window
    assert await registry.claim("t", "acme")
    await registry.unclaim("t", "acme")
    assert await registry.claim("t", "acme")


def test_build_knows_its_schemes() -> None:
    """A mistyped URL must be refused in words, not fall back to anything."""
    assert isinstance(build(schema.Registry(), "a"), MemoryRegistry)
    with pytest.raises(ValueError, match="unknown scheme 'http'"):
        build(schema.Registry(url="http://x"), "a")


@pytest.mark.parametrize(
    "url",
    ["rediss://h/0", "unix:///run/r.sock", "redis+sentinel://:pw@h1:1,h2:2/main/3", "redis+cluster://u:p@h1:1,h2:2"],
)
def test_build_reads_every_kind_of_url(url: str) -> None:
    """Each documented kind of URL must make a client without connecting."""
    assert build(schema.Registry(url=url), "a").health()["status"] == "degraded"


async def test_a_trial_is_one_workers_at_a_time() -> None:
    """A backend that has just come back would be met by every worker at once."""
    now = [0.0]
    registry = MemoryRegistry("n", clock=lambda: now[0])
    assert await registry.claim_probe("b", 30)
    assert not await registry.claim_probe("b", 30)
    assert await registry.claim_probe("other", 30)
    registry.unclaim_probe("b")
    assert await registry.claim_probe("b", 30)
    now[0] = 30.0
    assert await registry.claim_probe("b", 30)
